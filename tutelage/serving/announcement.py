"""How `generate` and `daemon` find the servers of a `tutelage serve` that runs for the same config in another process.

It holds a lock on a file beside the config for as long as it lives, and writes into it what it serves. The file's name has
the machine's in it: a config may lie on a disk that several share.
"""

import asyncio
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import structlog
from pydantic import BaseModel, ConfigDict

from tutelage.config import Config, ModelConfig
from tutelage.errors import ConfigError

LOOK: Final = 0.5
"""Seconds between two looks whether servers that are being started are there."""
LOCK_PATIENCE: Final = 1.0
"""Seconds for which the lock is tried: somebody may be just looking."""

log = structlog.get_logger()


class ServedModel(BaseModel):
    """The servers of one model."""

    model_config = ConfigDict(frozen=True)

    settings: dict[str, Any]
    """What of the config they were launched with."""
    urls: tuple[str, ...]
    adapters: dict[str, str]
    """By name, the hash of the weights."""


class Announcement(BaseModel):
    """What a `tutelage serve` serves."""

    model_config = ConfigDict(frozen=True)

    pid: int
    models: dict[str, ServedModel] | None = None
    """By their names in the config; None while they are being started."""


class Announcer:
    """Announces servers while it is held. See `announcing`."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def announce(self, announcement: Announcement) -> None:
        """Has others find these servers."""
        text = announcement.model_dump_json() + "\n"
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


@contextmanager
def announcing(config: Config) -> Iterator[Announcer]:
    """Makes this process the one that serves the config's models.

    Raises:
        ConfigError: Another one does, or the file cannot be written.
    """
    path = _path(config)
    try:
        file = _locked(path)
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r}, by which others find these servers, cannot be written: {error.strerror}"
        ) from error
    if file is None:
        other = _read(path)
        process = f" (process {other.pid})" if other and other.pid else ""
        raise ConfigError(f"`tutelage serve` already runs for {config.run!r}{process}: end that one first")
    with file:
        announcer = Announcer(file)
        announcer.announce(Announcement(pid=os.getpid()))
        try:
            yield announcer
        finally:
            path.unlink(missing_ok=True)  # while we hold it: a file that is there and locked is somebody's


async def announced(config: Config, patience: float) -> Announcement | None:
    """What a `tutelage serve` of this config serves, if one runs. One that is just starting its servers is waited for.

    Raises:
        ConfigError: It has not come to an end with that within `patience` seconds.
    """
    path = _path(config)
    deadline, said = time.monotonic() + patience, False
    while (found := _running(path)) is not None:
        if found.models is not None:
            return found
        if not said:
            log.info("servers_awaited", pid=found.pid, note="`tutelage serve` is starting them")
            said = True
        if time.monotonic() > deadline:
            raise ConfigError(
                f"`tutelage serve` (process {found.pid}) has not started its servers within {patience:g} s"
            )
        await asyncio.sleep(LOOK)
    return None


def settings_of(model: ModelConfig) -> dict[str, Any]:
    """What of a model's config its servers depend on, as plain data; keys as references."""
    return {
        "serve": None if model.serve is None else model.serve.model_dump(mode="json"),
        "name": model.name,
        "api_key": model.api_key,
    }


def _path(config: Config) -> Path:
    return config.folder / f".tutelage-serve-{config.run}-{platform.node()}.json"


def _locked(path: Path) -> IO[str] | None:
    """The file, locked; None if another process holds it."""
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file  # and not one that was taken away while we waited for it
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                return None
        file.close()
        time.sleep(0.05)


def _running(path: Path) -> Announcement | None:
    """What is announced there, if the process that did is alive."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # it was not locked: a left-over of one that was killed
    except BlockingIOError:
        return _read(path)
    except OSError:
        return None


def _read(path: Path) -> Announcement | None:
    try:
        return Announcement.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return Announcement(pid=0) if path.exists() else None  # it is being written
