"""The folder that an export takes: nothing of anyone else's is replaced, and nothing half-written is left."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tutelage.errors import ExportError
from tutelage.exports.manifest import read_manifest


def refuse_to_replace(out: Path, force: bool) -> None:
    """Makes sure that an export may be written there.

    Raises:
        ExportError: It is a file, or a folder that holds something, unless that is an export and `force` is given; or it
            is named by its place alone, as `.` is.
    """
    if out.name in ("", ".."):
        raise ExportError(f"{str(out)!r} cannot be replaced by an export: name a folder in it")
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{str(out)!r} is a file: choose another folder")
    entries = {entry.name for entry in out.iterdir()}
    if entries and not force:
        raise ExportError(f"{str(out)!r} is not empty: choose another folder, or replace it with force")
    if entries and (strangers := sorted(entries - set(read_manifest(out).files))):
        raise ExportError(f"{str(out)!r} holds more than an export ({', '.join(strangers[:3])}), so it is not replaced")


@contextmanager
def moved_when_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place in the end, or is gone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}.{secrets.token_hex(4)}.new")
    new.mkdir()
    try:
        yield new
        take_place(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def take_place(new: Path, out: Path) -> None:
    """Moves a folder to where another may be, which is then gone; if that fails, it is where it was."""
    old = out.with_name(f".{out.name}.{secrets.token_hex(4)}.old")
    try:
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
