"""`tutelage export --push`, against a Hub on this machine: the library's own requests, and the bytes that arrive."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand_in.hub import TOKEN, Hub, hub_at
from tutelage import generate
from tutelage.errors import ExportError
from tutelage.exports.push import check_push
from tutelage.testing import ScriptedModel

pytest.importorskip("huggingface_hub", reason="the extra push is not installed")

ACCEPT = {"verdict": "accept", "issues": []}
SCRIPT: dict[str, Any] = {
    "tutor": ["Which size must the parts have?"],
    "student": ["I am not sure."],
    "critic": [ACCEPT],
    "fact_checker": [ACCEPT],
}
NAME = "me/fractions"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "briefs.jsonl").write_text('{"id": "halves", "question": "What is 1/2 + 1/3?", "answer": "5/6"}\n')
    config = {
        "run": "r",
        "graph": "lesson",
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": 4},
    }
    generate(config, out=folder / "run", models={"default": ScriptedModel(SCRIPT)})
    return folder / "run"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "chunks").mkdir()
    with hub_at(tmp_path / "chunks") as up:
        yield up


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def export(run: Path, out: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, with nothing of the user's own Hub settings."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-m", "tutelage", "export", str(run), "--format", "sft", "--out", str(out), *options],
        env={**plain, "HF_HOME": str(out.parent / "home"), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )


def push(run: Path, out: Path, hub: Hub, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, **environment}
    return export(run, out, "--push", NAME, *options, **settings)


def shards(out: Path) -> list[Path]:
    found = sorted((out / "data").iterdir())
    assert found
    return found


def test_what_is_on_disk_arrives_and_is_private(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub, "--files", "jsonl")
    assert done.returncode == 0, done.stderr
    assert hub.url in done.stdout and "private" in done.stdout
    on_disk = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {"README.md", "export.json"} < on_disk.keys()
    assert {name: content for name, content in hub.files.items() if name != ".gitattributes"} == on_disk
    assert hub.private is True
    assert hub.tokens == {TOKEN}


def test_large_files_go_to_the_store_of_chunks(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub)
    assert done.returncode == 0, done.stderr
    [shard] = shards(out)
    arrived = hub.files[f"data/{shard.name}"]
    assert isinstance(arrived, dict) and arrived["size"] == shard.stat().st_size
    assert sum(path.stat().st_size for path in hub.chunks.rglob("xorbs/default.*") if path.suffix != ".tagset") > 0


def test_large_files_are_put_by_http_where_the_store_is_off(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub, HF_HUB_DISABLE_XET="1")
    assert done.returncode == 0, done.stderr
    assert list(hub.large.values()) == [shard.read_bytes() for shard in shards(out)]


def test_rows_of_another_layout_are_not_left_beside_the_new_ones(run: Path, out: Path, hub: Hub) -> None:
    hub.make(NAME, private=True, files={"export.json": b"{}", "train/data/train-00000-of-00001.jsonl": b"{}"})
    before = dict(hub.files)
    done = push(run, out, hub)
    assert done.returncode == 2
    assert "would stay beside the new ones" in done.stderr and "(train)" in done.stderr
    assert hub.files == before


def test_an_export_that_is_there_is_sent_by_a_command_of_its_own(run: Path, out: Path, hub: Hub) -> None:
    assert export(run, out).returncode == 0
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", "push", str(out), NAME],
        env={**plain, "HF_HOME": str(out.parent / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "private" in done.stdout
    assert {"README.md", "export.json"} < hub.files.keys()


def test_only_public_makes_it_public(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub, "--public")
    assert done.returncode == 0, done.stderr
    assert hub.private is False
    assert "everybody can see it" in done.stdout


def test_a_data_set_that_everybody_sees_gets_nothing_unless_told(run: Path, out: Path, hub: Hub) -> None:
    hub.make(NAME, private=False, files={"export.json": b"{}"})
    done = push(run, out, hub)
    assert done.returncode == 2
    assert "everybody can see it" in done.stderr and "--public" in done.stderr
    assert hub.commits == 0
    assert push(run, out, hub, "--force", "--public").returncode == 0
    assert hub.commits == 1


def test_a_second_push_takes_the_place_of_the_first(run: Path, out: Path, hub: Hub) -> None:
    hub.make(
        NAME,
        private=True,
        files={"export.json": b"{}", "data/train-00001-of-00002.parquet": b"old", "notes.md": b"mine"},
    )
    done = push(run, out, hub)
    assert done.returncode == 0, done.stderr
    assert "data/train-00001-of-00002.parquet" not in hub.files
    assert "data/train-00000-of-00001.parquet" in hub.files
    assert hub.files["notes.md"] == b"mine"


def test_another_ones_data_set_is_not_touched(run: Path, out: Path, hub: Hub) -> None:
    hub.make(NAME, private=True, files={"data/train.csv": b"a,b"})
    done = push(run, out, hub)
    assert done.returncode == 2
    assert "no export of Tutelage's" in done.stderr
    assert hub.commits == 0


def test_without_a_token_nothing_is_exported(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub, HF_TOKEN="")
    assert done.returncode == 2
    assert "HF_TOKEN" in done.stderr
    assert not out.exists() and not hub.asked


@pytest.mark.parametrize("name", ["fractions", "me/", "me/a b", "me/a/b", "../me", "me/a--b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ExportError, match="my-name/my-dataset"):
        check_push(name)


def test_a_name_that_is_none_is_refused_before_anything_is_made(run: Path, out: Path) -> None:
    done = export(run, out, "--push", "fractions", HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "my-name/my-dataset" in done.stderr
    assert not out.exists()


def test_a_wrong_token_is_said_and_the_export_stays(run: Path, out: Path, hub: Hub) -> None:
    done = push(run, out, hub, HF_TOKEN="hf_wrong")
    assert done.returncode == 2
    assert "does not know the token" in done.stderr and str(out) in done.stderr
    assert shards(out)


def test_a_refusal_is_said_and_the_export_stays(run: Path, out: Path, hub: Hub) -> None:
    hub.refuses = 403
    done = push(run, out, hub)
    assert done.returncode == 2
    assert "may not write" in done.stderr and "Traceback" not in done.stderr
    assert shards(out)


@pytest.mark.parametrize("setting", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_network_the_export_stays(run: Path, out: Path, hub: Hub, setting: dict[str, str]) -> None:
    done = push(run, out, hub, **setting)
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr and "Traceback" not in done.stderr
    assert shards(out)


def test_public_alone_means_nothing(run: Path, out: Path) -> None:
    done = export(run, out, "--public")
    assert done.returncode == 2
    assert "--push" in done.stderr
