"""What a draft claims: those of its sentences that say what is so.

Claims are whole sentences: to split them finer can hurt as much as it helps (arXiv 2411.02400), so only compound sentences
are split, and only where both halves can stand alone.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.evidence.sentences import sentences
from tutelage.evidence.speech_acts import is_question, points_back, says_what_is_so


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftClaim:
    """Something that a draft says is so."""

    text: str
    """Its words in one line."""
    span: str
    """Its words as they stand in the draft: `draft[start:end]`."""
    start: int
    end: int
    query: str
    """What evidence is searched with: the claim, after the sentence before it if it points back to that."""


def claims_in(draft: str) -> list[DraftClaim]:
    """The claims of a draft, in its order."""
    claims: list[DraftClaim] = []
    before = ""
    for start, end in sentences(draft):
        sentence = _in_one_line(draft[start:end])
        for first, last in _clauses(draft, start, end):
            text = _in_one_line(draft[first:last])
            if says_what_is_so(text) and not is_question(sentence):
                query = f"{before} {text}" if before and points_back(text) else text
                claims.append(DraftClaim(text=text, span=draft[first:last], start=first, end=last, query=query))
        before = sentence
    return claims


_SEMICOLON = re.compile(r";\s+")
# A clause that can stand alone: who or what, then a verb of a closed list.
_SUBJECT = "the|an?|it|they|he|she|this|that|these|those|its|their|der|die|das|ein|eine|er|sie|es"
_VERB = "is|are|was|were|has|have|had|can|cannot|does|do|makes?|takes?|gives?|needs?|ist|sind|war|waren|hat|haben|kann|können"
_AND = re.compile(rf",\s+(?:and|und)\s+(?=(?:{_SUBJECT})\s(?:[\w'-]+\s){{0,4}}?(?:{_VERB})\s)", re.IGNORECASE)
_DEPENDENT = re.compile(
    r"^(?:if|when|whenever|because|since|although|while|unless|not only|wenn|falls|weil|obwohl|während|sobald|da)\b"
    r"|\b(?:both|either|neither|between|sowohl|entweder|weder|zwischen)\b",
    re.IGNORECASE,
)
_QUOTING = re.compile(r"[(\"\u201c\u201e]")


def _clauses(draft: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a sentence that can be checked apart: the whole, if it is not sure that they can."""
    sentence, begin = draft[start:end], 0
    if not (_QUOTING.search(sentence) or _DEPENDENT.search(sentence)):
        for mark in sorted([*_SEMICOLON.finditer(sentence), *_AND.finditer(sentence)], key=re.Match.start):
            yield start + begin, start + mark.start()
            begin = mark.end()
    yield start + begin, end


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
