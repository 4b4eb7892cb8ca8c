"""The critique loop: a draft, its reviewers in parallel, and a gate that accepts it or sends it back."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.arbiter import arbitrate
from tutelage.dialogue.candidates import Choose
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import Check
from tutelage.dialogue.cycles import CYCLE
from tutelage.dialogue.gate import Gate
from tutelage.dialogue.nodes import Update, draft, review
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Router, stop_or
from tutelage.dialogue.weighing import Discards
from tutelage.errors import GraphError


class Reviewer(Protocol):
    """A node of one's own that reviews a draft: it gives `{"reviews": [Review], "steps": […]}`.

    If it has an attribute `discards` (`Discards`), a blocking issue of it forbids the draft for good.
    """

    @property
    def agent(self) -> Agent:
        """In whose role it reviews."""

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Reviews the draft under way; gives nothing where there is nothing to judge."""


def add_critique_loop(
    graph: StateGraph[Any, Any, Any, Any],
    speaker: Agent,
    *,
    reviewers: Sequence[Agent | Reviewer] = (),
    checks: Sequence[Check] = (),
    then: str | Router,
    max_revisions: int | None = None,
    arbiter: Agent | None = None,
    candidates: int = 1,
    choose: Choose | None = None,
) -> None:
    """Adds a speaker whose drafts are looked at before they are said.

    The speaker's node has the name of its role, and so have the reviewers', who work in parallel. A draft goes back when
    a reviewer has a blocking or major issue that points at something: its `span` stands in the draft, or its `evidence`
    in what the reviewer was shown. A revision takes a draft's place only if fewer of its issues are blocking, or as many
    and fewer of them major, or if the arbiter prefers it in both orders. One that is no better ends the loop. What is
    said although it was sent back is marked `forced`. A draft that a reviewer with `discards` has blocked is never said.

    Args:
        graph: The graph to add to.
        speaker: Who drafts. Lead an edge to the node of its role.
        reviewers: Who reviews each draft: agents, what `review` returns, or nodes of one's own.
        checks: Code that looks at each draft first. One that it vetoes goes back without a review, and is never said
            unless the check's `discards` is None and no draft passes.
        then: The node that follows an accepted turn, or what `stop_or` returns.
        max_revisions: How often a draft may be sent back; the run's `limits.revisions` if not given.
        arbiter: Compares two drafts where their issues do not show which is better.
        candidates: How many candidates each draft is chosen from.
        choose: Which of them is reviewed, as for `speak`.

    Raises:
        GraphError: Nobody and nothing looks at the drafts, or an agent cannot do its part.
    """
    if not reviewers and not checks:
        raise GraphError(
            f"nobody looks at the drafts of {speaker.role!r}: give `reviewers` or `checks`, or use `speak`"
        )
    looking = (*checks, CYCLE)
    nodes = [review(each) if isinstance(each, Agent) else each for each in reviewers]
    sees = {node.agent.role: node.agent.sees for node in nodes}
    refusing: dict[str, Discards] = {node.agent.role: getattr(node, "discards", None) for node in nodes}
    gate = f"{speaker.role}_gate"
    drafting = draft(speaker, candidates=candidates, choose=choose, checks=looking)
    # What a graph's own state carries beyond a Dialogue may be in the speaker's mind.
    graph.add_node(speaker.role, drafting, input_schema=graph.state_schema)
    for node in nodes:
        graph.add_node(node.agent.role, node)
        graph.add_edge(speaker.role, node.agent.role)
    last = [*sees] or [speaker.role]
    if arbiter is not None:
        graph.add_node(arbiter.role, arbitrate(arbiter, sees, refusing))
        graph.add_edge(last, arbiter.role)
        last = [arbiter.role]
    graph.add_node(gate, Gate(sees, looking, max_revisions, refusing))
    graph.add_edge(last, gate)
    onward = stop_or(then) if isinstance(then, str) else then
    discards = any(check.discards for check in checks) or any(refusing.values())
    graph.add_conditional_edges(gate, replace(onward, speaker=speaker.role, discards=discards))
