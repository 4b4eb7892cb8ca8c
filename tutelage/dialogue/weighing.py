"""What is wrong with a draft, as far as it counts: which of its issues send it back, and which of two drafts is better."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tutelage.dialogue.checking import vetoes
from tutelage.dialogue.pointing import points, seen_by
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue, Review

Sees = Mapping[str, frozenset[str]]
"""By the reviewer's role, the private fields of the brief that it is shown."""


@dataclass(frozen=True, slots=True, order=True)
class Weight:
    """How much is wrong with a draft. The less, the better: blocking issues come first."""

    block: int = 0
    serious: int = 0
    """Blocking and major issues."""

    def __add__(self, other: "Weight") -> "Weight":
        return Weight(self.block + other.block, self.serious + other.serious)

    @property
    def sends_back(self) -> bool:
        """Whether it is enough to send the draft back: minor issues are not."""
        return self.serious > 0


def weigh(draft: Attempt, dialogue: Dialogue, sees: Sees) -> Weight:
    """The weight of a draft by its reviews: the sum over the roles, and for a panel its median.

    So a panel sends back what most of its members do, and a tie sends nothing back.

    Args:
        draft: With its reviews.
        dialogue: In which it is a draft of the next turn.
        sees: What the reviewers are shown.
    """
    by_role: dict[str, list[Weight]] = {}
    for review in draft.reviews:
        counted = _that_count(review, draft, dialogue, sees.get(review.role, frozenset()))
        by_role.setdefault(review.role, []).append(_weight(counted))
    return sum(map(_median, by_role.values()), Weight())


def is_sound(draft: Attempt) -> bool:
    """Whether no check has forbidden to say it."""
    return not any(vetoes(review) for review in draft.reviews)


def with_reviews(dialogue: Dialogue, order: Sequence[str]) -> list[Attempt]:
    """The attempts at the turn under way; the one under review has its reviews, in the given order of their roles."""
    *before, last = dialogue["attempts"]
    places = {role: place for place, role in enumerate(order)}
    reviews = sorted(dialogue.get("reviews", ()), key=lambda review: places.get(review.role, len(places)))
    return [*before, last.model_copy(update={"reviews": reviews, "status": "rejected"})]


def best_before(attempts: Sequence[Attempt]) -> int | None:
    """The index of the best draft before the last one, if there is one that no check has forbidden.

    A revision that is no better ends its loop, so the best is always the latest.
    """
    tried = range(len(attempts) - 2, -1, -1)
    return next((n for n in tried if attempts[n].status != "superseded" and is_sound(attempts[n])), None)


def _that_count(review: Review, draft: Attempt, dialogue: Dialogue, sees: frozenset[str]) -> list[Issue]:
    if review.verdict == "accept" or not review.issues:
        return []
    if review.call is None:  # code has found it
        return list(review.issues)
    seen = seen_by(sees, dialogue)
    return [issue for issue in review.issues if points(issue, draft.text, seen)]


def _weight(issues: Iterable[Issue]) -> Weight:
    severities = [issue.severity for issue in issues]
    block = severities.count("block")
    return Weight(block, block + severities.count("major"))


def _median(weights: Sequence[Weight]) -> Weight:
    """Count by count; of an even number the lower one of the two in the middle."""
    middle = (len(weights) - 1) // 2
    return Weight(
        sorted(weight.block for weight in weights)[middle], sorted(weight.serious for weight in weights)[middle]
    )
