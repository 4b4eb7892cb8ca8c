"""The gate of a critique loop: it says a draft, sends it back, or keeps an earlier one that is better.

A revision replaces the draft before it only if less is wrong with it, or if an arbiter prefers it: revising without a
reason makes good answers worse (Huang et al. 2024, arXiv 2310.01798). One that is no better ends the loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from tutelage.dialogue.arbiter import KIND, prefers
from tutelage.dialogue.cast import Cast, Limits
from tutelage.dialogue.checking import Check, vetoes
from tutelage.dialogue.nodes import Update, accept
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import discarded
from tutelage.dialogue.turn import Attempt, Call, Step
from tutelage.dialogue.view import drafts
from tutelage.dialogue.weighing import (
    Discards,
    Refusals,
    Sees,
    best_before,
    is_sound,
    refusals_in,
    refused_by,
    weigh,
    with_reviews,
)

LONG_CALLS: Final = 8
"""Where `limits.turn_tokens` does not say what a turn may take, it is as much as so many of the longest calls."""
OF_A_TURN: Final = frozenset({"misfit", "choice", "summary", KIND})
"""The kinds of steps that a turn under way takes. Others, as probes and solutions, stand before the first turn."""


@dataclass(frozen=True, slots=True)
class Gate:
    """A node that decides on the draft under review once all its reviewers have spoken. It calls no model."""

    sees: Sees
    """The reviewers by their roles, in their order, and what each is shown."""
    checks: tuple[Check, ...] = ()
    max_revisions: int | None = None
    discards: Mapping[str, Discards] = field(default_factory=dict)
    """By the reviewer's role, what a dialogue is discarded for if it refuses each draft."""

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Says the draft or a better one before it, or sends it back; discards the dialogue if none may be said."""
        attempts = with_reviews(state, [*(check.name for check in self.checks), *self.sees])
        refusals = refusals_in(runtime.context, self.discards)
        last, best = len(attempts) - 1, best_before(attempts, refusals)
        sound = is_sound(attempts[last], refusals)
        if sound and not weigh(attempts[last], state, self.sees).sends_back:
            return _said(state, attempts, last)
        if best is not None and not (sound and self._is_better(state, attempts, best)):
            return _said(state, attempts, best, forced=True)
        if self._may_go_back(attempts, state.get("steps", ()), runtime.context.limits):
            return {"attempts": Overwrite(attempts), "reviews": Overwrite([])}
        if sound:
            return _said(state, attempts, last, forced=True)
        return self._none_passed(state, attempts, refusals)

    def _is_better(self, state: Dialogue, attempts: Sequence[Attempt], best: int) -> bool:
        """Whether the last draft is better than the best one before it."""
        last, before = (weigh(attempts[each], state, self.sees) for each in (-1, best))
        return last < before or prefers(state.get("steps", ()), len(attempts) - 1, best)

    def _may_go_back(self, attempts: Sequence[Attempt], steps: Sequence[Step], limits: Limits) -> bool:
        """Whether a revision is left, and tokens for it: the next round is taken to need what the last one did."""
        revisions = limits.revisions if self.max_revisions is None else self.max_revisions
        budget = LONG_CALLS * limits.tokens if limits.turn_tokens is None else limits.turn_tokens
        spent = sum(_tokens(call) for attempt in attempts for call in _calls(attempt))
        spent += sum(_tokens(step.call) for step in _of_this_turn(steps))
        ahead = sum(map(_tokens, _calls(attempts[-1])))
        return len(drafts(attempts)) <= revisions and spent + ahead <= budget

    def _none_passed(self, state: Dialogue, attempts: list[Attempt], refusals: Refusals) -> Update:
        """Of drafts that are all vetoed, the best is said that may be; if there is none, the dialogue is lost."""
        against = {
            index: self._that_discards(each, refusals)
            for index, each in enumerate(attempts)
            if each.status != "superseded"
        }
        harmless = [index for index, found in against.items() if found is None]
        # Nobody has reviewed what a check has vetoed: it may be what a reviewer refused, said again.
        refused = any(refused_by(attempts[index], refusals) for index in against)
        if harmless and not refused:
            best = min(harmless, key=lambda index: (weigh(attempts[index], state, self.sees), -index))
            return _said(state, attempts, best, forced=True)
        name, reason = next(found for found in reversed(against.values()) if found)
        outcome = discarded(reason, f"none of {len(against)} drafts passed the check {name!r}")
        return {"attempts": Overwrite(attempts), "reviews": Overwrite([]), "outcome": outcome}

    def _that_discards(self, attempt: Attempt, refusals: Refusals) -> tuple[str, str] | None:
        """What forbids a draft for good, rather than only while there may be a better one, and for which reason."""
        forbidding = {review.role for review in attempt.reviews if vetoes(review)}
        found = next(
            ((each.name, each.discards) for each in self.checks if each.name in forbidding and each.discards), None
        )
        if found is None and (role := refused_by(attempt, refusals)):
            return role, refusals[role]
        return found


def _said(state: Dialogue, attempts: list[Attempt], which: int, *, forced: bool = False) -> Update:
    said = attempts[which].model_copy(update={"status": "accepted", "forced": forced})
    return accept(state, state["speaker"], [*attempts[:which], said, *attempts[which + 1 :]], said)


def _calls(attempt: Attempt) -> Iterator[Call]:
    yield attempt.call
    yield from (review.call for review in attempt.reviews if review.call)


def _of_this_turn(steps: Sequence[Step]) -> Sequence[Step]:
    """The steps behind the last one that is none of a turn's own."""
    others = [place for place, step in enumerate(steps, start=1) if step.kind not in OF_A_TURN]
    return steps[others[-1] :] if others else steps


def _tokens(call: Call) -> int:
    return call.prompt_tokens + call.completion_tokens
