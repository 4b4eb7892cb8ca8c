"""Which preference pairs to leave out so that length says nothing: trainers pick it up before anything else.

Preference training rewards length where chosen texts are the longer ones (Park et al. 2024, arXiv 2403.19159). A pair in
which one text is more than twice as long as the other goes; of the rest so many, and no more, that the mean lengths of chosen
and rejected texts are within 5 % of each other.
"""

from collections.abc import Iterator, Sequence
from typing import Final

MOST: Final = 2.0
"""By how much one text of a pair may be longer than the other."""
TOLERANCE: Final = 0.05
"""By how much the longer mean may exceed the shorter."""
_ROUNDING: Final = 1e-6


def is_lopsided(chosen: int, rejected: int) -> bool:
    """Whether one of two texts of these lengths is too much longer than the other."""
    return max(chosen, rejected) > MOST * min(chosen, rejected)


def unbalanced(chosen: Sequence[int], rejected: Sequence[int]) -> set[int]:
    """The pairs to leave out so that the mean lengths are about the same, by index.

    Those go first that weigh most, so that few go: each pair is in excess by what its side that is longer on average has
    over the other and the tolerance, and the sum of excesses must not be above zero.

    Args:
        chosen: The lengths of the chosen texts, in any unit.
        rejected: Those of the rejected ones, pair by pair.
    """
    stay = list(range(len(chosen)))
    while excess := _in_excess(chosen, rejected, stay) or _in_excess(rejected, chosen, stay):
        gone = set(_weightiest(excess))
        stay = [pair for pair in stay if pair not in gone]
    return set(range(len(chosen))).difference(stay)


def _in_excess(longer: Sequence[int], shorter: Sequence[int], pairs: Sequence[int]) -> dict[int, float]:
    """By how much each pair is in excess, if together they are, else nothing."""
    excess = {pair: longer[pair] - (1 + TOLERANCE) * shorter[pair] for pair in pairs}
    return excess if sum(excess.values()) > _ROUNDING else {}


def _weightiest(excess: dict[int, float]) -> Iterator[int]:
    """The pairs without which the sum is not above zero; the last of them is one that just suffices."""
    total = sum(excess.values())
    order = sorted(excess, key=lambda pair: (-excess[pair], pair))
    for place, pair in enumerate(order):
        if excess[pair] >= total:
            yield next(each for each in reversed(order[place:]) if excess[each] >= total)
            return
        yield pair
        total -= excess[pair]
