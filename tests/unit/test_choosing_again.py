"""Candidates that another role chooses between once more: what it prefers in both orders is written down."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph

from tutelage import Attempt, Cast, Dialogue, generate, speak
from tutelage.agents import tutor
from tutelage.generation.judge import judge
from tutelage.generation.judge_summary import JudgeTally
from tutelage.testing import ScriptedModel
from tutelage.transcripts.decisions import Decision, read_decisions

SAID, OTHER = "What slows a feather here?", "Why?"
CHOOSER = """
from tutelage import Agent, Choice

shown = frozenset({"answer", "facts", "misconception"})
chooser = Agent(role="chooser", prompt="review", task="critic", reply=Choice, sees=shown)
"""


def longest(candidates: Sequence[Attempt]) -> int:
    return max(range(len(candidates)), key=lambda index: len(candidates[index].text))


def of_several() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor, candidates=2, choose=longest))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", END)
    return graph


def of_one() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", END)
    return graph


def chosen_again(
    folder: Path, choose: Any, graph: Any = of_several
) -> tuple[JudgeTally, list[Decision], ScriptedModel]:
    (folder / "briefs.jsonl").write_text(json.dumps({"id": "b", "topic": "Sums"}))
    (folder / "mine.py").write_text(CHOOSER)
    config = {"run": "r", "briefs": [{"from": str(folder / "briefs.jsonl")}]}
    generate(config, graph=graph, out=folder / "run", models={"default": ScriptedModel({"tutor": [SAID, OTHER]})})
    model = ScriptedModel({"chooser": choose})
    [tally] = judge(folder / "run", by="mine.py:chooser", models={"default": model}).reviewers
    return tally, list(read_decisions(folder / "run", on_skip=pytest.fail)), model


def number_of(text: str, messages: list[BaseMessage]) -> dict[str, int]:
    shown = re.findall(r"candidate (\d) for the next turn:\s+(.+)", str(messages[-1].content))
    return {"choice": int({words: number for number, words in shown}[text])}


@pytest.mark.parametrize("preferred", [SAID, OTHER])
def test_what_is_chosen_in_both_orders_is_preferred(tmp_path: Path, preferred: str) -> None:
    tally, [decision], model = chosen_again(tmp_path, lambda messages: number_of(preferred, messages))
    assert (decision.by, decision.decision, decision.text) == ("judge:chooser/scripted", "prefer", preferred)
    assert (tally.preferred, tally.judged) == (1, 1)
    assert len(model.calls) == 2


def test_who_only_likes_the_first_place_prefers_nothing(tmp_path: Path) -> None:
    tally, [decision], _ = chosen_again(tmp_path, [{"choice": 1}])
    assert (decision.decision, tally.kept, tally.preferred) == ("keep", 1, 0)


def test_where_there_was_one_draft_there_is_nothing_to_choose(tmp_path: Path) -> None:
    tally, decisions, model = chosen_again(tmp_path, [{"choice": 1}], of_one)
    assert (tally.nothing, decisions, model.calls) == (1, [], [])
