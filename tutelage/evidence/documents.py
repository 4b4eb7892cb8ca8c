"""A user's documents, read from disk: text, Markdown and PDF.

What cannot be read is an error that names the file and says what to do: a document that is left out in silence would turn
what it says into claims that are found nowhere.
"""

import glob
import os
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
    found = {path.resolve(): path for pattern in patterns for path in _matching(pattern, folder)}
    documents = (read_document(path, _relative(path, folder)) for path in found.values())
    return sorted(documents, key=lambda document: document.path)


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
    """Whether an entry of a brief's `documents` names a file, and is not the text itself."""
    return "\n" not in entry and Path(entry).suffix.casefold() in KINDS


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
    path = folder / Path(pattern).expanduser()
    if path.is_dir():
        matches = [each for each in sorted(path.rglob("*")) if _is_readable(each.relative_to(path)) and each.is_file()]
    elif path.is_file():
        matches = [path]
    else:
        # `Path.glob` takes no pattern that is absolute, and each may be.
        matches = [Path(each) for each in sorted(glob.glob(str(path), recursive=True)) if Path(each).is_file()]  # noqa: PTH207
    if not matches:
        raise ConfigError(
            f"evidence.documents: {pattern!r} matches no file in {folder}; what is read ends in {', '.join(KINDS)}"
        )
    yield from matches


def _is_readable(path: Path) -> bool:
    return path.suffix.casefold() in KINDS and not any(part.startswith(".") for part in path.parts)


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
