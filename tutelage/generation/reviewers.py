"""Who judges stored transcripts: a reviewer of a graph, one of one's own, or a check in code; and what it makes of a turn."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Protocol, cast

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast, Player
from tutelage.dialogue.checking import Check, checked
from tutelage.dialogue.critique import Reviewer
from tutelage.dialogue.gate import Gate
from tutelage.dialogue.nodes import Draft, Speak, actions_of, review
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue, Review, player_name
from tutelage.dialogue.weighing import Sees, refusals_in, refused_by, weigh
from tutelage.errors import GraphError, TutelageError
from tutelage.generation.choosing_again import Chooser, chooses
from tutelage.generation.own_code import import_file
from tutelage.generation.registry import DialogueGraph, LoadedGraph, load_graph
from tutelage.transcripts.decisions import JUDGE

COLD: Final = {"temperature": 0.0}
"""How a judge's replies are drawn where neither its agent nor the config says so: it is to say the same each time."""
OF_A_PROJECT: Final = ("agents", "graphs", "checks")
"""The folders of a project's own code: what stands in one of them imports from the folder above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What a reviewer makes of a turn."""

    decision: Literal["keep", "drop", "prefer"]
    """Keep: the turn would have been said in a run, for nothing that the reviewer has against it sends a draft back."""
    text: str | None = None
    """The words that it prefers."""
    issues: Sequence[Issue] = ()
    overruled: bool = False
    """Whether a verdict was to revise, and the turn is kept: for minor issues, or ones that point at nothing."""
    prompts: frozenset[str] = frozenset()
    """The hashes of what its models were shown, unless they were asked again for a reply that did not fit."""

    @property
    def reason(self) -> str:
        """The issues as one text."""
        return "; ".join(map(_said, self.issues))


class Judge(Protocol):
    """Somebody who judges turns."""

    @property
    def by(self) -> str:
        """The author of its decisions."""

    @property
    def role(self) -> str:
        """The role in which it reviews."""

    @property
    def models(self) -> Sequence[str]:
        """The names of the models that it asks."""

    async def opinion(self, dialogue: Dialogue) -> Opinion | None:
        """What it makes of the draft under review; None where there is nothing for it to judge.

        Raises:
            CallError: A model could not be asked, or gave nothing that fits.
        """


@dataclass(frozen=True, slots=True)
class ModelJudge:
    """A reviewer that asks models."""

    node: Reviewer | Chooser
    cast: Cast

    @property
    def role(self) -> str:
        return self.node.agent.role

    @property
    def by(self) -> str:
        return f"{JUDGE}{self.role}/{','.join(self.models)}"

    @property
    def models(self) -> Sequence[str]:
        player = self.cast.player(self.role)
        return [_model(each) for each in (player, *player.panel)]

    async def opinion(self, dialogue: Dialogue) -> Opinion | None:
        update = await self.node(dialogue, Runtime(context=self.cast))
        if isinstance(self.node, Chooser):
            return _preference(update)
        reviews: Sequence[Review] = update.get("reviews", ())
        if not reviews:
            return None
        asked_again = any(step.kind == "misfit" for step in update.get("steps", ()))
        prompts = frozenset() if asked_again else frozenset(each.call.prompt_sha256 for each in reviews if each.call)
        agent, discards = self.node.agent, getattr(self.node, "discards", None)
        return replace(
            _opinion(reviews, dialogue, {agent.role: agent.sees}, self.cast, {agent.role: discards}), prompts=prompts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeJudge:
    """A check in code, or several of them that are one."""

    role: str
    """Its name."""
    source: str
    """The module or the file that it is from."""
    checks: Sequence[Check]

    @property
    def by(self) -> str:
        return f"{JUDGE}{self.role}/{self.source}"

    @property
    def models(self) -> Sequence[str]:
        return ()

    async def opinion(self, dialogue: Dialogue) -> Opinion | None:
        reviews = checked(self.checks, dialogue, dialogue["attempts"][-1])
        return _opinion(reviews, dialogue, {}, Cast(), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundReviewer:
    """A reviewer, and where it was found."""

    node: Reviewer | Chooser
    project: Path | None
    """The folder of the project that it is from, which may have prompts of its own."""

    @property
    def stage(self) -> LoadedGraph:
        """A graph in which it alone takes part, so that no model is reached but its own."""

        def judging() -> DialogueGraph:
            graph = StateGraph(Dialogue, context_schema=Cast)
            graph.add_node(self.node.agent.role, self.node)
            graph.add_edge(START, self.node.agent.role)
            graph.add_edge(self.node.agent.role, END)
            return graph

        return replace(load_graph(judging, Path()), project=self.project)


def reviewers_of(graph: LoadedGraph) -> dict[str, Reviewer | Chooser]:
    """Those who can judge a graph's turns again, by role: who reviews drafts, and who chooses between candidates."""
    actions = list(actions_of(graph.graph))
    reviewing = {role for action in actions if isinstance(action, Gate) for role in action.sees}
    found: dict[str, Reviewer | Chooser] = {}
    for action in actions:
        role = getattr(getattr(action, "agent", None), "role", None)
        if isinstance(action, Draft | Speak):
            if isinstance(action.choose, Agent):
                found.setdefault(action.choose.role, Chooser(action.choose))
        elif role in reviewing:
            found.setdefault(role, action)
    return found


def reviewer_in(graph: LoadedGraph, role: str) -> FoundReviewer:
    """A role of a graph that reviews drafts, or chooses between candidates.

    Raises:
        GraphError: It has none of that name.
    """
    reviewers = reviewers_of(graph)
    if role not in reviewers:
        raise GraphError(
            f"--by {role}: in the graph {graph.name!r} no role of that name reviews drafts; those that do: "
            f"{', '.join(reviewers) or 'none'}. One of your own is named by its file, agents/mine.py:my_critic"
        )
    return FoundReviewer(node=reviewers[role], project=graph.project)


def reviewer_at(place: str, folder: Path) -> FoundReviewer:
    """A reviewer of one's own: an agent with a `task`, or a node as `review` and `fact_check` return it.

    An agent whose `reply` is a `Choice` chooses between candidates; others give verdicts.

    Args:
        place: `agents/mine.py:my_critic` or `package.module:my_critic`.
        folder: What a file is relative to.

    Raises:
        GraphError: It is not there, does not import, or does not review.
    """
    given, project = _named(place, folder, "--by")
    if isinstance(given, Agent):
        return FoundReviewer(node=Chooser(given) if chooses(given) else review(given), project=project)
    if callable(given) and isinstance(getattr(given, "agent", None), Agent) and not isinstance(given, Draft | Speak):
        return FoundReviewer(node=cast(Reviewer, given), project=project)
    raise GraphError(
        f"--by {place}: it is {type(given).__name__}, and reviews nothing: name an Agent with a `task`, or a node as "
        "review(agent) and fact_check(agent) return it"
    )


def check_at(place: str, folder: Path) -> CodeJudge:
    """A check of one's own: a `Check`, a list of them, or a function of dialogue and draft that gives issues.

    Args:
        place: `package.module:check` or `checks/mine.py:check`.
        folder: What a file is relative to.

    Raises:
        GraphError: It is not there, does not import, or is no check.
    """
    given, _ = _named(place, folder, "--check")
    source, _, name = place.rpartition(":")
    checks = [given] if isinstance(given, Check) else given
    if isinstance(checks, Sequence) and checks and all(isinstance(each, Check) for each in checks):
        return CodeJudge(role=name, source=source, checks=tuple(checks))
    if callable(given) and not isinstance(given, type):
        return CodeJudge(role=name, source=source, checks=(Check(name=name, look=given),))
    raise GraphError(
        f"--check {place}: it is {type(given).__name__}, and no check: name a Check, a list of them, or a function of "
        "dialogue and draft that gives a list of issues"
    )


def cold(found: Cast, role: str, sampling: Mapping[str, Any]) -> Cast:
    """The cast in which a role is played at temperature 0, unless its agent's sampling or the config says otherwise."""
    player = found.player(role)
    panel = tuple(replace(each, sampling={**COLD, **sampling, **each.sampling}) for each in player.panel)
    colder = replace(player, sampling={**COLD, **sampling, **player.sampling}, panel=panel)
    return replace(found, players={**found.players, role: colder})


def _opinion(
    reviews: Sequence[Review], dialogue: Dialogue, sees: Sees, cast: Cast, discards: Mapping[str, Any]
) -> Opinion:
    """By the rule of the run's own gate, so that one and the same verdict means the same in a run and after it."""
    draft = dialogue["attempts"][-1].model_copy(update={"reviews": list(reviews)})
    refused = refused_by(draft, refusals_in(cast, discards)) is not None
    drop = refused or weigh(draft, dialogue, sees).sends_back
    return Opinion(
        decision="drop" if drop else "keep",
        issues=[issue for each in reviews for issue in each.issues],
        overruled=not drop and any(each.verdict == "revise" for each in reviews),
    )


def _preference(update: Mapping[str, Any]) -> Opinion | None:
    """What a chooser said: where it depends on the order, it has nothing against what was said."""
    if not update:
        return None
    preferred: Attempt | None = update["preferred"]
    if preferred is None:
        return Opinion(decision="keep")
    return Opinion(decision="prefer", text=preferred.text)


def _said(issue: Issue) -> str:
    span = f' "{issue.span}"' if issue.span else ""
    because = f" ({issue.evidence})" if issue.evidence else ""
    return " ".join(f"{issue.dimension}, {issue.severity}:{span} {issue.instruction}{because}".split())


def _model(player: Player) -> str:
    """The name of a player's model, as `model+adapter`."""
    model = getattr(player.model, "model", None) or player.model._llm_type
    adapter = getattr(player.model, "adapter", None)
    return player_name(str(model), adapter)


def _named(place: str, folder: Path, option: str) -> tuple[Any, Path | None]:
    """What stands under a name in a file or a module, and the folder of its project where it is a file."""
    source, _, name = place.rpartition(":")
    if not source or not name:
        raise GraphError(
            f"{option} {place}: say which one of the file: agents/mine.py:my_critic, or package.module:name"
        )
    try:
        module, project = _imported(source, folder, f"{option} {place}")
    except TutelageError:
        raise
    except Exception as error:
        raise GraphError(f"{option} {place}: it does not import: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        there = ", ".join(key for key in vars(module) if not key.startswith("_")) or "nothing"
        raise GraphError(f"{option} {place}: {source} has no {name!r}; it has {there}")
    return getattr(module, name), project


def _imported(source: str, folder: Path, what: str) -> tuple[ModuleType, Path | None]:
    if not source.endswith(".py"):
        return importlib.import_module(source), None
    path = (folder / Path(source).expanduser()).resolve()
    if not path.is_file():
        raise GraphError(f"{what}: there is no file {path}")
    imported = import_file(path, kind="judge", rooms=OF_A_PROJECT)
    assert imported is not None  # it ends in .py
    return imported
