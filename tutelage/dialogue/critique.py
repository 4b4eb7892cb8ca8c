"""The critique loop: a draft, its reviewers in parallel, and a gate that accepts it or sends it back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.candidates import Choose
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import Update, accept, draft, review
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Router, stop_or
from tutelage.dialogue.turn import Attempt, Review
from tutelage.dialogue.view import drafts


@dataclass(frozen=True, slots=True)
class Gate:
    """A node that decides on the draft under review once all its reviewers have spoken. It calls no model."""

    reviewers: tuple[str, ...]
    max_revisions: int | None

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Accepts the draft, or sends it back, or keeps the best one when no revision is left."""
        reviewed = _with_reviews(state["attempts"][-1], state["reviews"], self.reviewers)
        attempts = [*state["attempts"][:-1], reviewed]
        revisions = runtime.context.limits.revisions if self.max_revisions is None else self.max_revisions
        if reviewed.status != "accepted" and len(drafts(attempts)) <= revisions:
            return {"attempts": Overwrite(attempts), "reviews": Overwrite([])}
        if reviewed.status != "accepted":
            best = best_draft(attempts)
            reviewed = attempts[best].model_copy(update={"status": "accepted", "forced": True})
            attempts[best] = reviewed
        return accept(state, state["speaker"], attempts, reviewed)


def add_critique_loop(
    graph: StateGraph[Any, Any, Any, Any],
    speaker: Agent,
    *,
    reviewers: Sequence[Agent],
    then: str | Router,
    max_revisions: int | None = None,
    candidates: int = 1,
    choose: Choose | None = None,
) -> None:
    """Adds a speaker whose drafts are reviewed before they are said.

    The speaker's node has the name of its role, and so have the reviewers', who work in parallel. A draft is accepted
    when no reviewer has an issue to send it back for; otherwise it goes back with their issues. After the last revision
    the best draft is kept, marked `forced`.

    Args:
        graph: The graph to add to.
        speaker: Who drafts. Lead an edge to the node of its role.
        reviewers: Who reviews each draft.
        then: The node that follows an accepted turn, or what `stop_or` returns.
        max_revisions: How often a draft may be sent back; the run's `limits.revisions` if not given.
        candidates: How many candidates each draft is chosen from.
        choose: Which of them is reviewed, as for `speak`.
    """
    gate = f"{speaker.role}_gate"
    names = [reviewer.role for reviewer in reviewers]
    graph.add_node(speaker.role, draft(speaker, candidates=candidates, choose=choose))
    for reviewer in reviewers:
        graph.add_node(reviewer.role, review(reviewer))
        graph.add_edge(speaker.role, reviewer.role)
    graph.add_node(gate, Gate(tuple(names), max_revisions))
    graph.add_edge(names, gate)
    onward = stop_or(then) if isinstance(then, str) else then
    graph.add_conditional_edges(gate, replace(onward, speaker=speaker.role))


def best_draft(attempts: Sequence[Attempt]) -> int:
    """The index of the draft with the fewest blocking issues, then major, then minor ones; the latest of equals.

    Candidates that were not chosen were never reviewed, and do not count.
    """

    def badness(index: int) -> tuple[int, int, int, int]:
        severities = [issue.severity for review in attempts[index].reviews for issue in review.issues]
        return severities.count("block"), severities.count("major"), severities.count("minor"), -index

    return min((n for n, attempt in enumerate(attempts) if attempt.status != "superseded"), key=badness)


def _with_reviews(attempt: Attempt, reviews: Sequence[Review], order: Sequence[str]) -> Attempt:
    in_order = sorted(reviews, key=lambda review: order.index(review.role))
    # A critique that points at nothing gives the speaker nothing to mend, so it sends nothing back.
    accepted = not any(review.verdict == "revise" and review.issues for review in in_order)
    return attempt.model_copy(update={"reviews": in_order, "status": "accepted" if accepted else "rejected"})
