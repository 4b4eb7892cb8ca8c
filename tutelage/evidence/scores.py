"""How factual a dialogue is, and how closely a lesson keeps to its document: formulas of the literature, no model.

All are functions of what a transcript holds: the claims of its accepted drafts with their verdicts, its turns, and the
passages that were shown. A claim counts as supported if it is; contradicted and not found both count as not.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tutelage.dialogue.turn import Claim, Turn

GAMMA: Final = 10
"""FActScore's gamma: an answer of fewer claims is scored lower, lest saying little be the best policy."""
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """How many claims there are of each verdict."""

    supported: int = 0
    contradicted: int = 0
    not_found: int = 0

    @classmethod
    def of(cls, claims: Iterable[Claim]) -> "Verdicts":
        """Counts claims."""
        said = [claim.verdict for claim in claims]
        return cls(**{verdict: said.count(verdict) for verdict in ("supported", "contradicted", "not_found")})

    @property
    def claims(self) -> int:
        """All of them."""
        return self.supported + self.contradicted + self.not_found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """How much of a text is taken from another, word for word (Grusky, Naaman and Artzi, NAACL 2018).

    Both are split into the longest pieces that they share, from left to right, without regard to case.
    """

    coverage: float
    """The share of the text's words that are in such a piece."""
    density: float
    """The mean, over the text's words, of the length of the piece that each is in."""


def claims_of(turns: Iterable[Turn], role: str | None = None) -> Iterator[Claim]:
    """The claims of what was said: of accepted drafts, by one role or by all."""
    for turn in turns:
        if role in (None, turn.role) and turn.accepted:
            yield from (claim for review in turn.accepted.reviews for claim in review.claims)


def factscore(verdicts: Verdicts, gamma: int = GAMMA) -> float | None:
    """The share of n claims that is supported, times exp(1 - gamma/n) where n is less than gamma (arXiv 2305.14251).

    Returns:
        From 0 to 1; None where nothing is claimed.
    """
    if not verdicts.claims:
        return None
    penalty = math.exp(1 - gamma / verdicts.claims) if verdicts.claims < gamma else 1.0
    return verdicts.supported / verdicts.claims * penalty


def f1_at(k: int, verdicts: Verdicts) -> float:
    """The harmonic mean of precision and of recall up to K supported claims: F1@K (SAFE, arXiv 2403.18802).

    Args:
        k: So many supported claims are wanted; more are worth no more.
        verdicts: Of the claims.

    Returns:
        From 0 to 1; 0 where none is supported.
    """
    if not verdicts.supported:
        return 0.0
    precision = verdicts.supported / verdicts.claims
    recall = min(verdicts.supported / k, 1.0)
    return 2 * precision * recall / (precision + recall)


def fragments(text: str, source: str) -> Fragments:
    """How much of a text is taken from a source; zero for an empty text."""
    words, others = _words(text), _words(source)
    lengths = list(_shared(words, others))
    if not words:
        return Fragments(coverage=0.0, density=0.0)
    return Fragments(
        coverage=sum(lengths) / len(words), density=sum(length * length for length in lengths) / len(words)
    )


def non_repetition(answers: Sequence[str]) -> float | None:
    """How little answers repeat earlier ones: 1 minus the mean overlap of each with all before it (Book2Dial).

    The overlap of two texts is the number of different words that they share, over that of the one that has more.

    Returns:
        From 0 to 1; None where there are fewer than two answers.
    """
    overlaps = []
    said: set[str] = set()
    for number, answer in enumerate(answers):
        words = set(_words(answer))
        if number:
            overlaps.append(len(words & said) / max(len(words), len(said), 1))
        said |= words
    return 1 - sum(overlaps) / len(overlaps) if overlaps else None


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _shared(words: Sequence[str], others: Sequence[str]) -> Iterator[int]:
    """The lengths of the pieces: at each word the longest that the source has, and on after it."""
    places: dict[str, list[int]] = {}
    for place, word in enumerate(others):
        places.setdefault(word, []).append(place)
    at = 0
    while at < len(words):
        longest = max((_alike(words, at, others, place) for place in places.get(words[at], ())), default=0)
        if longest:
            yield longest
        at += longest or 1


def _alike(words: Sequence[str], at: int, others: Sequence[str], place: int) -> int:
    length = 0
    while at + length < len(words) and place + length < len(others) and words[at + length] == others[place + length]:
        length += 1
    return length
