"""Canaries in every private field: none turns up in a prompt of a role that may not see it, nor in an export."""

import os
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Overwrite

from tutelage import Cast, Dialogue, speak
from tutelage.agents import student, tutor
from tutelage.dialogue.nodes import Update, Utterance
from tutelage.learners.acting import mind

from .canaries import Kind
from .fuzzed_run import FuzzedRun

DIALOGUES = int(os.environ.get("FUZZED_DIALOGUES", "1000"))
"""In all; each graph has its share."""
GRAPHS = {point.name: point for point in entry_points(group="tutelage.graphs")}


def graph_named(name: str) -> Callable[[], Any]:
    make: Callable[[], Any] = GRAPHS[name].load()
    return make


async def fuzzed(make_graph: Callable[[], Any], tmp_path: Path, dialogues: int) -> FuzzedRun:
    run = FuzzedRun(make_graph, tmp_path / "run")
    await run.play(dialogues)
    return run


@pytest.mark.parametrize("name", sorted(GRAPHS))
async def test_no_role_is_shown_what_it_may_not_see(name: str, tmp_path: Path) -> None:
    run = await fuzzed(graph_named(name), tmp_path, DIALOGUES // len(GRAPHS))
    assert not list(run.shown_in_vain())
    assert not list(run.said_in_vain())
    assert not list(run.exported_in_vain(tmp_path / "exports"))
    assert not expected(run) - run.seen(), "and what may be seen was there to be seen"


def expected(run: FuzzedRun) -> set[tuple[str, Kind]]:
    """What roles are shown if all goes as it should; without it a test that finds nothing would show nothing."""
    declared = {(agent.role, Kind("brief", each)) for agent in run.agents for each in agent.sees}
    reviewed = {(role, Kind("reply", reviewer)) for role, reviewer in run.instructions()}
    minds = {(agent.role, Kind("brief", "answer")) for agent in run.agents if agent.mind is mind}
    enrolled = {(role, Kind("profile", role)) for role in run.profiles()}
    return declared | reviewed | minds | enrolled


async def test_an_agent_that_declares_too_much_is_found_out(tmp_path: Path) -> None:
    def nosy() -> Any:
        graph = StateGraph(Dialogue, context_schema=Cast)
        graph.add_node("tutor", speak(tutor))
        graph.add_node("student", speak(replace(student, prompt="tutor", sees=tutor.sees)))
        graph.add_edge(START, "tutor")
        graph.add_edge("tutor", "student")
        return graph

    run = await fuzzed(nosy, tmp_path, 3)
    assert any("student (student) was shown brief of answer in " in found for found in run.shown_in_vain())
    assert any("a row for student holds brief of answer" in found for found in run.exported_in_vain(tmp_path / "out"))


class Plan(Utterance):
    """A plan that is nobody else's business."""

    strategy: str


def planning(blurt: Any) -> Callable[[], Any]:
    """A graph whose tutor plans, and in which a node then does something with the plan."""

    def graph() -> Any:
        made = StateGraph(Dialogue, context_schema=Cast)
        made.add_node("tutor", speak(replace(tutor, reply=Plan)))
        made.add_node("blurt", blurt)
        made.add_node("student", speak(student))
        made.add_edge(START, "tutor")
        made.add_edge("tutor", "blurt")
        made.add_edge("blurt", "student")
        return made

    return graph


async def test_a_plan_that_is_kept_is_not_found(tmp_path: Path) -> None:
    run = await fuzzed(planning(lambda _: {}), tmp_path, 3)
    assert run.canaries_of("reply", "tutor"), "it did plan"
    assert not [*run.shown_in_vain(), *run.said_in_vain(), *run.exported_in_vain(tmp_path / "out")]


async def test_a_graph_that_puts_the_plan_into_the_utterance_is_found_out(tmp_path: Path) -> None:
    def aloud(dialogue: Dialogue) -> Update:
        [turn] = dialogue["turns"]
        text = f"{turn.text} {turn.private['strategy']}"
        return {"turns": Overwrite([turn.model_copy(update={"text": text})])}

    run = await fuzzed(planning(aloud), tmp_path, 3)
    assert any("tutor said reply of tutor" in found for found in run.said_in_vain())
    assert any("student (student) was shown reply of tutor" in found for found in run.shown_in_vain())
    assert any("a row for student holds reply of tutor" in found for found in run.exported_in_vain(tmp_path / "out"))
