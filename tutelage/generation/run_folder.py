"""A run's folder: whose it is, who holds it, and what lies where in it."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO, Any, Final

import yaml

from tutelage.config import Config
from tutelage.errors import RunFolderError

IDENTITY: Final = ("run", "graph", "seed")
"""What a run folder cannot change: the dialogues' ids, their course and their seeds come from it."""


class RunFolder:
    """The folder of a run, held by this process alone until it is closed, or crashes.

    Args:
        path: Where it is; made if it is not there.
        config: The config that it is opened with.

    Raises:
        RunFolderError: It is another config's, another process holds it, or it cannot be made.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self._is_new = not path.exists()
        self.changed: list[str] = []
        """The config's keys that are not what they were when the folder was opened last."""
        check_run_folder(path, config)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"the run folder {str(path)!r} cannot be made: {error.strerror}") from error
        self._lock = lock(path)  # or no more: what is there is the other's, however new it looked to us
        try:
            self._claim(config)
        except RunFolderError:
            self._lock.close()
            raise

    @property
    def transcripts(self) -> Path:
        return self.path / "transcripts"

    @property
    def messages(self) -> Path:
        return self.path / "messages.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.db"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints.db"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def close(self) -> None:
        """Lets other processes have the folder. One that was made for nothing is taken away again, unless logs say why."""
        if self._is_new and not self.transcripts.exists() and not any(self.logs.glob("vllm-*.log")):
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def rewrite(self, config: Config) -> None:
        """Has the folder say that it is run with this config from now on."""
        text = yaml.safe_dump(config.as_written(), sort_keys=False, allow_unicode=True)
        write_whole(self.path / "run.yaml", text)

    def _claim(self, config: Config) -> None:
        file = self.path / "run.yaml"
        new = config.as_written()
        old = read_run_yaml(self.path) if file.exists() else new
        self.changed = [key for key, value in new.items() if old.get(key) != value]
        if self.changed or not file.exists():
            self.rewrite(config)


def lock(path: Path) -> IO[str]:
    """Holds a run folder for this process alone until what is returned is closed, or the process ends.

    Raises:
        RunFolderError: Another process holds it.
    """
    try:
        file = (path / ".lock").open("w")
    except OSError as error:
        raise RunFolderError(f"the run folder {str(path)!r} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunFolderError(
            f"the run folder {str(path)!r} is in use by another process: stop that one first"
        ) from error
    return file


def check_run_folder(path: Path, config: Config) -> None:
    """Makes sure that a folder is this config's, or may become it, and changes nothing.

    Raises:
        RunFolderError: It is a file, holds something else, or is another config's run.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"{str(path)!r} is a file, not a run folder: choose another --out")
    if not (path / "run.yaml").exists():
        if not {entry.name for entry in path.iterdir()} <= {".lock", "logs", "control.sock"}:
            raise RunFolderError(f"{str(path)!r} is not empty and no run folder: choose another --out")
        return
    old, new = read_run_yaml(path), config.as_written()
    for key in IDENTITY if any((path / "transcripts").glob("*.jsonl")) else ():
        if old.get(key) != new[key]:
            raise RunFolderError(
                f"the run folder {str(path)!r} is another config's: there `{key}` is {old.get(key)!r}, here it is "
                f"{new[key]!r}; take back the change, or choose another `run:` or --out"
            )


def find_run(run: Path | str) -> Path:
    """The folder of a run that was named on the command line: a run folder, or the name of one under runs/.

    Raises:
        RunFolderError: There is none.
    """
    for candidate in (Path(run), Path("runs") / run):
        if (candidate / "run.yaml").is_file():
            return candidate
    raise RunFolderError(f"there is no run {str(run)!r}: neither a run folder, nor the name of one under runs/")


def read_run_yaml(path: Path) -> dict[str, Any]:
    """The config that a run folder was last opened with, as plain data.

    Raises:
        RunFolderError: It cannot be read.
    """
    try:
        data = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path / 'run.yaml'} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunFolderError(f"{path / 'run.yaml'} is no config")
    return data


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a crash leaves either the old one or the new one, whole.

    Raises:
        RunFolderError: It could not be written (a full disk); the old one is untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written: {error.strerror}") from error
