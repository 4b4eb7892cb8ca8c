"""An independent solution of the brief's question, held against the brief's answer."""

from dataclasses import replace
from typing import Any, Literal

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage import Agent, Brief, Cast, Dialogue, speak, unless_discarded
from tutelage.agents import tutor
from tutelage.agents.solver import solver
from tutelage.checks.lockdown import obstacle
from tutelage.dialogue.cast import Evidence
from tutelage.errors import CheckerFailed, GraphError
from tutelage.evidence.solving import Solution, python_tool, solve
from tutelage.testing import ScriptedModel

pytestmark = pytest.mark.skipif(obstacle() is not None, reason="this machine cannot lock a process down")

BRIEF = Brief(id="b", question="What is 1/2 + 1/3?", answer=("5/6", "five sixths"))
FIVE_SIXTHS = {"code": "from fractions import Fraction\nprint(Fraction(1, 2) + Fraction(1, 3))"}
IN_DECIMALS = {"reasoning": "Add them.", "code": "print('so it is')\nprint(1/2 + 1/3)\n"}
TWO_FIFTHS = {"code": "print('2/5')"}
ENDLESS = {"code": "while True: pass"}
BROKEN = {"code": "print(1/0)"}


async def solved(
    *programs: Any, brief: Brief = BRIEF, policy: Literal["strict", "mark", "open"] = "mark"
) -> tuple[dict[str, Any], ScriptedModel]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("solve", solve(solver, seconds=0.5))
    graph.add_node("tutor", speak(tutor))
    graph.add_edge(START, "solve")
    graph.add_conditional_edges("solve", unless_discarded("tutor"))
    graph.add_edge("tutor", END)
    model = ScriptedModel({"solver": list(programs), "tutor": ["What do you think?"]})
    cast = replace(Cast.of(model), evidence=Evidence(policy=policy))
    return dict(await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)), model


async def test_an_answer_that_most_programs_give_in_whatever_form_is_confirmed() -> None:
    state, model = await solved(FIVE_SIXTHS, TWO_FIFTHS, IN_DECIMALS)
    assert state["findings"]["solution"] == {
        "verdict": "confirmed",
        "answer": "5/6",
        "agreed": 2,
        "votes": ["5/6", "2/5", "0.8333333333333333"],
    }
    steps = [step for step in state["turns"][0].steps if step.kind == "solution"]
    assert [step.data["answer"] for step in steps] == ["5/6", "2/5", "0.8333333333333333"]
    assert "five sixths" not in str(model.prompts("solver"))
    assert "5/6" not in str(model.prompts("solver"))
    assert "1/2 + 1/3" in str(model.prompts("solver"))


async def test_under_strict_a_refuted_answer_discards_the_dialogue_before_it_begins() -> None:
    state, model = await solved(TWO_FIFTHS, TWO_FIFTHS, FIVE_SIXTHS, policy="strict")
    assert state["findings"]["solution"]["verdict"] == "refuted"
    assert (state["outcome"].status, state["outcome"].reason) == ("discarded", "answer_refuted")
    assert state["outcome"].detail == "2 of 3 programs gave '2/5'"
    assert not state.get("turns")
    assert not model.prompts("tutor")


async def test_under_mark_a_refuted_answer_is_marked_and_under_open_only_recorded() -> None:
    for policy, marked in (("mark", True), ("open", None)):
        state, _ = await solved(TWO_FIFTHS, policy=policy)  # type: ignore[arg-type]
        assert state["findings"]["solution"]["verdict"] == "refuted"
        assert state["findings"]["solution"].get("marked") is marked
        assert len(state["turns"]) == 1


async def test_programs_that_fail_or_never_end_have_no_vote() -> None:
    state, _ = await solved(ENDLESS, BROKEN, FIVE_SIXTHS)
    finding = state["findings"]["solution"]
    assert (finding["verdict"], finding["votes"]) == ("no_majority", [None, None, "5/6"])
    endless, broken, _ = (step.data for step in state["turns"][0].steps)
    assert endless["killed_by"] == "time"
    assert "ZeroDivisionError" in broken["error"]


async def test_three_different_answers_are_no_majority() -> None:
    state, _ = await solved({"code": "print(1)"}, {"code": "print(2)"}, {"code": "print(3)"})
    assert state["findings"]["solution"]["verdict"] == "no_majority"


@pytest.mark.parametrize(
    "brief", [Brief(topic="Sums"), Brief(question="Why?", answer=("Because it grows",)), Brief(question="Who?")]
)
async def test_a_question_with_no_value_as_its_answer_is_skipped_without_a_call(brief: Brief) -> None:
    state, model = await solved(FIVE_SIXTHS, brief=brief)
    assert state["findings"]["solution"]["verdict"] == "skipped"
    assert not model.prompts("solver")


async def test_a_majority_that_cannot_be_compared_refutes_nothing() -> None:
    state, _ = await solved({"code": "print('it depends')"}, policy="strict")
    assert state["findings"]["solution"]["verdict"] == "skipped"


async def test_where_nothing_can_be_run_the_dialogue_fails_with_the_programs_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tutelage.checks.sandbox.obstacle", lambda: "no kernel")
    with pytest.raises(CheckerFailed, match="no kernel") as failed:
        await solved(FIVE_SIXTHS)
    assert len(failed.value.replies) == 3


def test_a_solver_must_have_a_task_and_must_not_see_the_answer() -> None:
    with pytest.raises(GraphError, match="must not see the brief's answer"):
        solve(replace(solver, sees=frozenset({"answer"})))
    with pytest.raises(GraphError, match="needs a `task`"):
        solve(Agent(role="solver", reply=Solution))


async def test_the_python_tool_gives_what_a_program_prints_or_why_it_failed() -> None:
    tool = python_tool(seconds=0.5)
    assert await tool.ainvoke({"code": "print(6 * 7)"}) == "42\n"
    assert "ZeroDivisionError" in await tool.ainvoke({"code": "1 / 0"})
    assert "stopped after 0.5 seconds" in await tool.ainvoke({"code": "while True: pass"})
    assert tool.args == {"code": {"title": "Code", "type": "string"}}
