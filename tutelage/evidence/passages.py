"""Documents cut into passages: what is searched, shown to a model, and quoted from.

A passage's id is `path#section/number@hash`, where the section is its heading's (of a PDF its page's), the number counts the
section's passages, and the hash is of its text: `library/water.md#boiling/1@9f2c81d0`. It depends on nothing but its own
document, so that adding, changing or removing a document leaves all others' ids as they are; and a text that has changed
has another id, so that a quote always means the text that was quoted.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from tutelage.errors import ConfigError
from tutelage.evidence.documents import SourceDocument

if TYPE_CHECKING:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

CHARACTERS: Final = 800
"""The most that a passage has: two or three paragraphs, of which five still fit a small model's prompt."""
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
# Passages end where paragraphs do; then where lines, sentences, words do.
_SEPARATORS = [r"\n\n+", r"\n", r"(?<=[.!?…])\s+", r"\s+", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document."""

    id: str
    text: str
    """As it stands in the document: `document.text[start:end]`."""
    document: str
    """The document's path."""
    heading: str
    """The headings above it, outermost first; of a PDF, its page."""
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    slug: str
    heading: str
    start: int
    end: int


def passages_of(document: SourceDocument) -> list[Passage]:
    """Cuts a document: at its headings or pages, then into passages of at most `CHARACTERS` characters, without overlap.

    Raises:
        ConfigError: The extra `evidence` is not installed.
    """
    passages = []
    for section in _sections(document):
        text = document.text[section.start : section.end]
        if section.heading and not text.partition("\n")[2].strip() and document.kind == "markdown":
            continue  # a heading with nothing under it but further headings, which have it above them
        for number, piece in enumerate(_splitter().create_documents([text]), start=1):
            start = section.start + piece.metadata["start_index"]
            passages.append(_passage(document, section, number, start, piece.page_content))
    return passages


def _passage(document: SourceDocument, section: _Section, number: int, start: int, text: str) -> Passage:
    place = f"{section.slug}/{number}" if section.slug else str(number)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Passage(
        id=f"{document.path}#{place}@{digest}",
        text=text,
        document=document.path,
        heading=section.heading,
        start=start,
        end=start + len(text),
    )


def _sections(document: SourceDocument) -> Iterator[_Section]:
    if document.kind == "markdown":
        yield from _under_headings(document.text)
    elif document.pages:
        for number, (start, end) in enumerate(_spans(document.pages, len(document.text)), start=1):
            yield _Section(slug=f"page-{number}", heading=f"Page {number}", start=start, end=end)
    else:
        yield _Section(slug="", heading="", start=0, end=len(document.text))


def _under_headings(text: str) -> Iterator[_Section]:
    headings = list(_headings(text))
    if not headings or headings[0][0] > 0:
        yield _Section(slug="", heading="", start=0, end=headings[0][0] if headings else len(text))
    above: list[tuple[int, str]] = []
    slugs: dict[str, int] = {}
    spans = _spans([start for start, _, _ in headings], len(text))
    for (start, end), (_, level, title) in zip(spans, headings, strict=True):
        above = [*(each for each in above if each[0] < level), (level, title)]
        slug = re.sub(r"\W+", "-", title.casefold()).strip("-") or "section"
        slugs[slug] = again = slugs.get(slug, 0) + 1
        heading = " > ".join(title for _, title in above)
        yield _Section(slug=slug if again == 1 else f"{slug}-{again}", heading=heading, start=start, end=end)


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each heading begins, its level, and its words; what stands in code blocks is none."""
    position, fence = 0, ""
    for line in text.splitlines(keepends=True):
        if fenced := _FENCE.match(line):
            fence = "" if fenced[1] == fence else fence or fenced[1]
        elif not fence and (heading := _HEADING.match(line.rstrip("\n"))):
            yield position, len(heading[1]), heading[2]
        position += len(line)


def _spans(starts: "list[int] | tuple[int, ...]", end: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], end], strict=True)) if starts else []


@cache
def _splitter() -> "RecursiveCharacterTextSplitter":
    try:
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    except ImportError as error:
        raise ConfigError(
            "documents to check against are cut with langchain-text-splitters, which is not installed: install the extra "
            "`evidence` (pip install 'tutelage[evidence]')"
        ) from error
    return RecursiveCharacterTextSplitter(
        separators=_SEPARATORS,
        is_separator_regex=True,
        keep_separator="end",
        chunk_size=CHARACTERS,
        chunk_overlap=0,
        add_start_index=True,
    )
