"""What a picture of a report is, and the words that pictures have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.reports.canvas import SERIES, words

Key = tuple[tuple[str, str], ...]
"""What the colours mean: each with its words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture with its words."""

    title: str
    """What it shows, in a sentence."""
    svg: str
    key: Key = ()
    note: str = ""
    """What must be known to read it."""
    run: str = ""
    """Whose it is, where it is of one run of several."""


def colour_of(role: str, roles: Sequence[str]) -> str:
    """The colour of a role, the same in all pictures of a page."""
    return SERIES[roles.index(role) % len(SERIES)]


def quantile(counted: Mapping[int, int], share: float) -> int:
    """The number that so large a share of those counted does not exceed."""
    total, below = sum(counted.values()), 0
    for number in sorted(counted):
        below += counted[number]
        if below >= share * total:
            return number
    return 0


def median(counted: Mapping[int, int]) -> int:
    """The number that half of those counted do not exceed."""
    return quantile(counted, 0.5)


def prose(name: str) -> str:
    """A name of a role or an ending as words."""
    return words(name.replace("_", " "))


def whose(role: str) -> str:
    """A role's, in words."""
    return f"the {prose(role)}'s"


def capital(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def many(count: int, what: str) -> str:
    """A number of things, in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
