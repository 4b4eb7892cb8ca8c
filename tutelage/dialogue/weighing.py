"""What is wrong with a draft, as far as it counts: which of its issues send it back, and which of two drafts is better."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final, TypeAlias

from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import vetoes
from tutelage.dialogue.pointing import points, seen_by
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue, Review

Sees = Mapping[str, frozenset[str]]
"""By the reviewer's role, the private fields of the brief that it is shown."""
Discards: TypeAlias = str | Callable[[Cast], str | None] | None
"""What a dialogue is discarded for if a reviewer refuses each draft; it may depend on the run. None: it refuses none."""
Refusals: TypeAlias = Mapping[str, str]
"""By the role of a reviewer whose blocking issues forbid a draft, what the dialogue is discarded for if none passes."""
NO_REFUSALS: Final[Refusals] = {}


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


def refusals_in(cast: Cast, discards: Mapping[str, Discards]) -> Refusals:
    """The reviewers that may refuse a draft for good in this run."""
    found = {role: reason(cast) if callable(reason) else reason for role, reason in discards.items()}
    return {role: reason for role, reason in found.items() if reason is not None}


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


def is_sound(draft: Attempt, refusals: Refusals = NO_REFUSALS) -> bool:
    """Whether no check has forbidden to say it, and no reviewer refused it for good."""
    return not any(vetoes(review) for review in draft.reviews) and refused_by(draft, refusals) is None


def refused_by(draft: Attempt, refusals: Refusals) -> str | None:
    """The role that refused a draft for good: a blocking issue says so, in a panel those of most of its members.

    It need not point at words, for it is a judgement of the whole draft.
    """
    for role in refusals:
        blocks = [_weight(_raised(review)).block for review in draft.reviews if review.role == role]
        if blocks and median_low(blocks) > 0:
            return role
    return None


def with_reviews(dialogue: Dialogue, order: Sequence[str]) -> list[Attempt]:
    """The attempts at the turn under way; the one under review has its reviews, in the given order of their roles."""
    *before, last = dialogue["attempts"]
    places = {role: place for place, role in enumerate(order)}
    reviews = sorted(dialogue.get("reviews", ()), key=lambda review: places.get(review.role, len(places)))
    return [*before, last.model_copy(update={"reviews": reviews, "status": "rejected"})]


def best_before(attempts: Sequence[Attempt], refusals: Refusals = NO_REFUSALS) -> int | None:
    """The index of the best draft before the last one, if there is one that nothing has forbidden.

    A revision that is no better ends its loop, so the best is always the latest.
    """
    tried = range(len(attempts) - 2, -1, -1)
    return next((n for n in tried if attempts[n].status != "superseded" and is_sound(attempts[n], refusals)), None)


def _raised(review: Review) -> list[Issue]:
    return [] if review.verdict == "accept" else list(review.issues)


def _that_count(review: Review, draft: Attempt, dialogue: Dialogue, sees: frozenset[str]) -> list[Issue]:
    issues = _raised(review)
    if not issues or review.call is None:  # without a call, code has found them
        return issues
    return [issue for issue in issues if points(issue, draft.text, seen_by(sees, dialogue))]


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
