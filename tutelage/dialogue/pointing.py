"""Whether an issue points at something: at words of the draft, or at something that its reviewer was shown.

A critique that brings nothing from outside makes good answers worse (Huang et al. 2024, arXiv 2310.01798), so one that
names neither what is wrong nor what shows it sends nothing back. What is quoted is found again whatever its spaces,
quotation marks, case and markdown.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from tutelage.dialogue.judging import as_judged
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Issue
from tutelage.dialogue.view import brief_of, shortening

FEW_WORDS: Final = 3
"""Fewer words than this are evidence only where they are all that a turn or a field of the brief says."""

_TOKEN = re.compile(r"\w+|[^\w\s]")
_QUOTED = re.compile(r'["“”„«»]([^"“”„«»]+)["“”„«»]')
_LEFT_OUT = re.compile(r"\[?(?:\.{3}|…)\]?")
_ENDS = " .,;:!?"
_MARKS = frozenset("\"'`*_#~>\\\u00b4\u201a\u201e")
"""The marks of markdown that a judge may add or leave out, and quotation marks that Unicode does not name as such."""


def points(issue: Issue, draft: str, seen: Iterable[str]) -> bool:
    """Whether an issue's span stands in the draft, or its evidence in what its reviewer was shown.

    Args:
        issue: As the reviewer wrote it.
        draft: The text of the draft.
        seen: What else the reviewer was shown: fields of the brief and turns. Looked at only where the span does not do.
    """
    return _stands_in(issue.span, draft) or any(_shows(cited, text) for text in seen for cited in _cited(issue))


def seen_by(sees: frozenset[str], dialogue: Dialogue) -> Iterator[str]:
    """The texts that a role with such `sees` is shown: its fields of the brief, and the turns."""
    shortened = shortening(dialogue)
    turns = dialogue.get("turns", [])[shortened.turns if shortened else 0 :]
    fields = brief_of(dialogue).seen_by(sees)
    yield from (text for name, value in fields.items() if name != "id" for text in _texts(value))
    yield from (turn.text for turn in turns)


def still_stands(issue: Issue, text: str) -> bool:
    """Whether the words that an issue pointed at stand in another text, too."""
    return _stands_in(issue.span, text)


def _cited(issue: Issue) -> Iterator[str]:
    """What an issue gives as its evidence: the whole of it, and what it puts in quotation marks."""
    yield issue.evidence
    yield from _QUOTED.findall(issue.evidence)


def _shows(cited: str, text: str) -> bool:
    tokens = _tokens(cited)
    if len(tokens.split()) < FEW_WORDS:
        return bool(tokens) and tokens == _tokens(text)
    return _stands_in(cited, text)


def _stands_in(span: str, text: str) -> bool:
    """Whether the words of a span follow one another in a text; what `…` leaves out may lie between."""
    pieces = [piece for each in _LEFT_OUT.split(span) if (piece := _tokens(each))]
    within, start = f" {_tokens(text)} ", 0
    for piece in pieces:
        place = within.find(f" {piece} ", start)
        if place < 0:
            return False
        start = place + len(piece) + 1
    return bool(pieces)


@lru_cache(maxsize=8192)
def _tokens(text: str) -> str:
    """A text's words and signs with one space between them, in lower case; no quotation marks, no full stop at its end."""
    plain = unicodedata.normalize("NFKC", as_judged(text)).casefold()
    plain = plain.replace("\u2013", "-").replace("\u2014", "-").replace("_", " ")
    return " ".join(token for token in _TOKEN.findall(plain) if not _is_mark(token)).strip(_ENDS)


def _is_mark(token: str) -> bool:
    return token in _MARKS or (len(token) == 1 and unicodedata.category(token) in ("Pi", "Pf"))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        yield from _texts(value.model_dump())
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
