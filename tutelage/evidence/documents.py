"""A user's documents, read from disk: text, Markdown and PDF.

What cannot be read is an error that names the file and says what to do: a document that is left out in silence would turn
what it says into claims that are found nowhere.
"""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tutelage.errors import ConfigError, DocumentError

Kind = Literal["text", "markdown", "pdf"]
KINDS: Final[dict[str, Kind]] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".pdf": "pdf",
}
"""What is read, by a file's suffix."""
PAGE_BREAK: Final = "\n\n"
"""What stands between the pages of a PDF in its text."""
_LIKE_A_PATH: Final = re.compile(r"(~|\.{1,2})?/.*|.*/\*{0,2}|.*\.[A-Za-z][A-Za-z0-9]{1,7}|\.{1,2}")
"""What begins at a folder, ends with one, or with a suffix."""
_SENTENCE_ENDS: Final = (".", "!", "?", "…", "。", "\uff01", "\uff1f")
_CLOSING: Final = "\"'”\u2019»)」』\uff09"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """A document, as text."""

    path: str
    """Relative to the folder that it was asked for from, with `/`: its passages' ids begin with it."""
    kind: Kind
    text: str
    pages: tuple[int, ...] = ()
    """Of a PDF, where each page begins in the text."""


def read_documents(patterns: Sequence[str], folder: Path) -> list[SourceDocument]:
    """Reads all documents that the patterns name, each once, in the order of their paths.

    Args:
        patterns: Files, folders (with all that is in them), or wildcards: `library/*.md`, `library/**/*.pdf`.
        folder: What they are relative to.

    Raises:
        ConfigError: A pattern matches nothing, or a PDF is there and nothing to read it with.
        DocumentError: A file cannot be read, or has no text.
    """
    try:
        found = files_named(patterns, folder)
    except DocumentError as error:
        raise ConfigError(f"evidence.documents: {error}") from error
    return sorted((read_document(path, name) for name, path in found.items()), key=lambda document: document.path)


def files_named(patterns: Sequence[str], folder: Path) -> dict[str, Path]:
    """The files that the patterns name, each once, in their order, by their paths relative to the folder.

    Args:
        patterns: As for `read_documents`.
        folder: What they are relative to.

    Raises:
        DocumentError: A pattern matches nothing.
    """
    found = {path.resolve(): path for pattern in patterns for path in _matching(pattern, folder)}
    return {_relative(path, folder): path for path in found.values()}


def read_document(path: Path, name: str) -> SourceDocument:
    """Reads one document.

    Args:
        path: The file.
        name: What it is called in the ids of its passages.

    Raises:
        ConfigError: It is a PDF, and there is nothing to read it with.
        DocumentError: It cannot be read, or has no text.
    """
    kind = KINDS.get(path.suffix.casefold())
    if kind is None:
        raise DocumentError(
            f"the document {name!r} is of no kind that is read ({', '.join(KINDS)}): save it as one of these, or "
            "leave it out"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"the document {name!r} cannot be read: {error.strerror}") from error
    if kind == "pdf":
        from tutelage.evidence.pdf import pages_of

        return _of_pages(name, pages_of(content, name))
    text = _decoded(content, name)
    if not text.strip():
        raise DocumentError(f"the document {name!r} is empty: leave it out, or fill it")
    return SourceDocument(path=name, kind=kind, text=text)


def is_path(entry: str) -> bool:
    """Whether an entry of a brief's `documents` names files, and is not the text itself.

    Files are named by one line that looks like a path (`~/my notes/`, `Book of 1905.pdf`), or by one word. What ends like a
    sentence is text: so is one word of a language that puts no spaces between words.
    """
    if len(entry.splitlines()) != 1:
        return False
    is_word = len(entry.split()) == 1 and not entry.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
    return is_word or _LIKE_A_PATH.fullmatch(entry) is not None


def _of_pages(name: str, pages: Sequence[str]) -> SourceDocument:
    starts, length = [], 0
    for page in pages:
        starts.append(length)
        length += len(page) + len(PAGE_BREAK)
    return SourceDocument(path=name, kind="pdf", text=PAGE_BREAK.join(pages), pages=tuple(starts))


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(
            f"the document {name!r} is not in UTF-8 (line {line}, byte 0x{content[error.start]:02x}): convert it, for one "
            "with `iconv -f WINDOWS-1252 -t UTF-8`"
        ) from error
    if "\0" in text:
        raise DocumentError(f"the document {name!r} is no text: it has NUL bytes in it")
    return text.replace("\r\n", "\n")


def _matching(pattern: str, folder: Path) -> Iterator[Path]:
    """The files that a pattern names; of a folder, those that can be read."""
    try:
        matches = _matches(folder / Path(pattern).expanduser())
    except (OSError, RuntimeError) as error:  # a folder that may not be entered, a name too long, a home of nobody
        raise DocumentError(f"{pattern!r} cannot be looked for in {folder}: {error}") from error
    if not matches:
        raise DocumentError(f"{pattern!r} matches no file in {folder}; what is read ends in {', '.join(KINDS)}")
    yield from matches


def _matches(path: Path) -> list[Path]:
    if path.is_dir():
        return [each for each in sorted(path.rglob("*")) if _is_readable(each.relative_to(path)) and each.is_file()]
    if path.is_file() or (path.suffix and not glob.has_magic(str(path))):
        return [path]  # if it is not there, reading it says so
    # `Path.glob` takes no pattern that is absolute, and each may be.
    return [Path(each) for each in sorted(glob.glob(str(path), recursive=True)) if Path(each).is_file()]  # noqa: PTH207


def _is_readable(path: Path) -> bool:
    return path.suffix.casefold() in KINDS and not any(part.startswith(".") for part in path.parts)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
