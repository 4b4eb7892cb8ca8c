"""A tutor that would give the answer away, in a critique loop with the leak gate and its judge."""

from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage import Brief, Cast, Dialogue, Limits, Misconception, Reason, add_critique_loop, review
from tutelage.agents import student
from tutelage.agents.leak_judge import leak_judge
from tutelage.agents.tutor import tutor
from tutelage.checks.leaks import answer_in_sight, first_leak, keeps_the_answer, leak_finding
from tutelage.dialogue.nodes import speak
from tutelage.testing import ScriptedModel

HOUR = Brief(
    id="hour",
    question="How many seconds are there in one hour?",
    answer=("3600",),
    misconception=Misconception(belief="An hour has 60 seconds.", predicts="60"),
)
CHOICES = HOUR.model_copy(update={"question": "How many seconds has an hour: 60, 600 or 3600?"})
KEEPS = {"reveals": "nothing", "verdict": "accept", "issues": []}


def picked(span: str) -> dict[str, Any]:
    issue = {"dimension": "leak", "severity": "block", "span": span, "evidence": "", "instruction": "Ask for a step."}
    return {"reveals": "answer", "verdict": "revise", "issues": [issue]}


async def play(brief: Brief, discards: str | None = Reason.LEAK, **script: Any) -> tuple[Dialogue, ScriptedModel]:
    """One turn of the tutor and one of the student."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    judge = review(leak_judge, when=answer_in_sight, discards=discards)
    add_critique_loop(graph, tutor, checks=[keeps_the_answer], reviewers=[judge], then="student")
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_edge("student", END)
    model = ScriptedModel({"student": ["60."], **script})
    cast = Cast(players=Cast.of(model).players, limits=Limits(revisions=2))
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    return dialogue, model


async def test_a_draft_with_the_answer_goes_back_and_is_never_said() -> None:
    dialogue, model = await play(HOUR, tutor=["It is 3,600, you see.", "How many seconds has a minute?"])
    turn = dialogue["turns"][0]
    assert turn.text == "How many seconds has a minute?"
    assert [attempt.status for attempt in turn.attempts] == ["rejected", "accepted"]
    (vetoed,) = turn.attempts[0].reviews
    assert (vetoed.role, vetoed.call, vetoed.issues[0].span) == ("keeps_the_answer", None, "3,600")
    assert model.prompts("leak_judge") == [], "code could tell"
    assert first_leak(dialogue["turns"], HOUR) is None


async def test_a_tutor_that_keeps_telling_loses_the_dialogue() -> None:
    dialogue, _ = await play(HOUR, tutor=["It is 3600.", "3,600!", "7200/2."])
    assert dialogue["turns"] == []
    assert (dialogue["outcome"].status, dialogue["outcome"].reason) == ("discarded", "leak")


async def test_where_the_answer_is_in_sight_a_judge_decides() -> None:
    dialogue, model = await play(
        CHOICES, tutor=["Take the last one.", "How many has a minute?"], leak_judge=[picked("the last one"), KEEPS]
    )
    turn = dialogue["turns"][0]
    assert turn.text == "How many has a minute?"
    assert [review.scores for attempt in turn.attempts for review in attempt.reviews] == [
        {"reveals": 1.0},
        {"reveals": 0.0},
    ]
    assert len(model.prompts("leak_judge")) == 2


@pytest.mark.parametrize("verdict", [picked("half of 7200"), {**KEEPS, "reveals": "answer"}])
async def test_what_only_the_judge_sees_is_never_said_either_whatever_its_verdict(verdict: dict[str, Any]) -> None:
    tutor = ["It is half of 7200.", "Now, what would half of 7200 be?", "You may look at half of 7200, then."]
    dialogue, model = await play(HOUR, tutor=tutor, leak_judge=[verdict])
    assert len(model.prompts("leak_judge")) == 3
    assert dialogue["turns"] == []
    assert (dialogue["outcome"].status, dialogue["outcome"].reason) == ("discarded", "leak")


async def test_a_draft_that_the_judge_lets_pass_is_said_after_one_that_it_refused() -> None:
    verdicts = [{**KEEPS, "reveals": "answer"}, {**KEEPS, "reveals": "part"}]
    dialogue, _ = await play(
        HOUR, tutor=["It is half of 7200.", "What has 60 * 60 to do with it?"], leak_judge=verdicts
    )
    assert dialogue["turns"][0].text == "What has 60 * 60 to do with it?"
    assert leak_finding(dialogue["turns"], HOUR) == {}


async def test_what_a_judge_that_may_not_refuse_found_is_recorded_if_it_is_said_all_the_same() -> None:
    tutor, verdict = ["It is half of 7200."], picked("half of 7200")
    dialogue, _ = await play(HOUR, discards=None, tutor=tutor, leak_judge=[verdict])
    (turn, _) = dialogue["turns"]
    assert any(attempt.forced for attempt in turn.attempts)
    assert leak_finding(dialogue["turns"], HOUR) == {"first_leak": {"role": "tutor", "turn": 0, "how": "judged"}}
