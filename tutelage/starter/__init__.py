"""What `tutelage init` writes: a project of the user's own, with a graph, agents, prompts and briefs to change."""

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from tutelage.errors import ConfigError

_HIDDEN: Final = {"gitignore": ".gitignore"}
"""Files that a package cannot well hold under their own names."""


def start_project(folder: Path) -> list[Path]:
    """Writes a project that runs at once; nothing is written if any of its files is there already.

    Args:
        folder: Where to; made if it is not there.

    Returns:
        The files written, sorted.

    Raises:
        ConfigError: Some of the files are there, or the folder cannot be written to. Nothing has been written.
    """
    files = {folder / name: text for name, text in _files(resources.files(__name__) / "project", "")}
    if there := sorted(str(path.relative_to(folder)) for path in files if os.path.lexists(path)):
        raise ConfigError(f"{str(folder)!r} has {', '.join(there)} already: name another folder, or move them away")
    missing = [path for path in _folders(files) if not path.exists()]
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        _remove(list(files), missing)
        raise ConfigError(f"{str(folder)!r} cannot be written to: {error.strerror or error}") from error
    return sorted(files)


def _files(folder: Traversable, above: str) -> list[tuple[str, str]]:
    """The project's files, by their paths in it."""
    found = []
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            found += _files(entry, f"{above}{entry.name}/")
        elif entry.is_file():
            found.append((above + _HIDDEN.get(entry.name, entry.name), entry.read_text(encoding="utf-8")))
    return found


def _folders(files: dict[Path, str]) -> list[Path]:
    """All folders above the files, the deepest first."""
    return sorted({folder for path in files for folder in path.parents}, key=lambda folder: -len(folder.parts))


def _remove(files: list[Path], folders: list[Path]) -> None:
    """Takes back what was written before writing failed."""
    for path in files:
        if path.is_file():
            path.unlink()
    for folder in folders:
        if folder.is_dir():
            folder.rmdir()
