"""The gate of a critique loop: it says a draft, sends it back, or keeps an earlier one that is better.

A revision replaces the draft before it only if less is wrong with it, or if an arbiter prefers it: revising without a
reason makes good answers worse (Huang et al. 2024, arXiv 2310.01798). One that is no better ends the loop.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from tutelage.dialogue.arbiter import prefers
from tutelage.dialogue.cast import Cast, Limits
from tutelage.dialogue.checking import Check, vetoes
from tutelage.dialogue.nodes import Update, accept
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import discarded
from tutelage.dialogue.turn import Attempt, Call, Step
from tutelage.dialogue.view import drafts
from tutelage.dialogue.weighing import Sees, best_before, is_sound, weigh, with_reviews

LONG_CALLS: Final = 8
"""Where `limits.turn_tokens` does not say what a turn may take, it is as much as so many of the longest calls."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A node that decides on the draft under review once all its reviewers have spoken. It calls no model."""

    sees: Sees
    """The reviewers by their roles, in their order, and what each is shown."""
    checks: tuple[Check, ...] = ()
    max_revisions: int | None = None

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Says the draft or a better one before it, or sends it back; discards the dialogue if none may be said."""
        attempts = with_reviews(state, [*(check.name for check in self.checks), *self.sees])
        last, best = len(attempts) - 1, best_before(attempts)
        if is_sound(attempts[last]) and not weigh(attempts[last], state, self.sees).sends_back:
            return _said(state, attempts, last)
        if best is not None and not self._replaces(state, attempts, best):
            return _said(state, attempts, best, forced=True)
        if self._may_go_back(attempts, state.get("steps", ()), runtime.context.limits):
            return {"attempts": Overwrite(attempts), "reviews": Overwrite([])}
        if is_sound(attempts[last]):
            return _said(state, attempts, last, forced=True)
        return self._none_passed(state, attempts)

    def _replaces(self, state: Dialogue, attempts: Sequence[Attempt], best: int) -> bool:
        """Whether the last draft is better than the best one before it."""
        *_, last = attempts
        if not is_sound(last):
            return False
        lighter = weigh(last, state, self.sees) < weigh(attempts[best], state, self.sees)
        return lighter or prefers(state.get("steps", ()), len(attempts) - 1, best)

    def _may_go_back(self, attempts: Sequence[Attempt], steps: Sequence[Step], limits: Limits) -> bool:
        """Whether a revision is left, and tokens for it: the next round is taken to need what the last one did."""
        revisions = limits.revisions if self.max_revisions is None else self.max_revisions
        budget = LONG_CALLS * limits.tokens if limits.turn_tokens is None else limits.turn_tokens
        spent = sum(_tokens(call) for attempt in attempts for call in _calls(attempt))
        spent += sum(_tokens(step.call) for step in steps)
        ahead = sum(map(_tokens, _calls(attempts[-1])))
        return len(drafts(attempts)) <= revisions and spent + ahead <= budget

    def _none_passed(self, state: Dialogue, attempts: list[Attempt]) -> Update:
        """Of drafts that are all vetoed, the best is said that no check discards; if there is none, the dialogue is lost."""
        against = {
            index: self._that_discards(each) for index, each in enumerate(attempts) if each.status != "superseded"
        }
        if harmless := [index for index, check in against.items() if check is None]:
            best = min(harmless, key=lambda index: (weigh(attempts[index], state, self.sees), -index))
            return _said(state, attempts, best, forced=True)
        name, reason = next((check.name, check.discards or "") for check in reversed(against.values()) if check)
        outcome = discarded(reason, f"none of {len(against)} drafts passed the check {name!r}")
        return {"attempts": Overwrite(attempts), "reviews": Overwrite([]), "outcome": outcome}

    def _that_discards(self, attempt: Attempt) -> Check | None:
        """The check that forbids a draft for good, rather than only while there may be a better one."""
        forbidding = {review.role for review in attempt.reviews if vetoes(review)}
        return next((check for check in self.checks if check.discards and check.name in forbidding), None)


def _said(state: Dialogue, attempts: list[Attempt], which: int, *, forced: bool = False) -> Update:
    said = attempts[which].model_copy(update={"status": "accepted", "forced": forced})
    return accept(state, state["speaker"], [*attempts[:which], said, *attempts[which + 1 :]], said)


def _calls(attempt: Attempt) -> Iterator[Call]:
    yield attempt.call
    yield from (review.call for review in attempt.reviews if review.call)


def _tokens(call: Call) -> int:
    return call.prompt_tokens + call.completion_tokens
