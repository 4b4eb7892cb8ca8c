"""Checks: code that looks at a draft before it is said. No model is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue, Review

Look: TypeAlias = Callable[[Dialogue, Attempt], Sequence[Issue]]
"""What is wrong with a draft of the dialogue's next turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Looks at each draft of a speaker: quick, and a pure function of the dialogue and the draft."""

    name: str
    """Stands in the transcript as the reviewer's role."""
    look: Look
    """An issue of severity `block` is a veto: the draft is never said, and no reviewer is asked about it. Others count as
    a reviewer's do."""
    discards: str | None = None
    """What a dialogue is discarded for if no draft passes; None: the best draft is said, and marked `forced`."""


def checked(checks: Sequence[Check], dialogue: Dialogue, draft: Attempt) -> list[Review]:
    """What the checks have against a draft: a review by each that has something."""
    found = ((check, list(check.look(dialogue, draft))) for check in checks)
    return [Review(role=check.name, verdict="revise", issues=issues) for check, issues in found if issues]


def is_vetoed(dialogue: Dialogue) -> bool:
    """Whether a check has forbidden the draft under way."""
    return any(vetoes(review) for review in dialogue.get("reviews", ()))


def vetoes(review: Review) -> bool:
    """Whether a review is a check's, and forbids the draft."""
    return review.call is None and any(issue.severity == "block" for issue in review.issues)
