"""How dialogues end: each reason by a scripted dialogue, played by a compiled graph."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from tutelage import (
    Agent,
    Brief,
    Cast,
    Dialogue,
    Limits,
    Misconception,
    Outcome,
    Utterance,
    add_critique_loop,
    speak,
    stop_or,
)
from tutelage.agents import student, tutor
from tutelage.checks.answers import mastered
from tutelage.checks.endings import usual_endings
from tutelage.checks.leaks import keeps_the_answer
from tutelage.checks.speech import plain_speech
from tutelage.dialogue.stopping import outcome_of
from tutelage.graphs.debate import debate
from tutelage.testing import ScriptedModel

BRIEF = Brief(
    id="b",
    topic="Adding fractions",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="Add the tops and the bottoms.", predicts="2/5"),
    language="en",
)
STATED = "I still think that you add the tops and you add the bottoms, which gives 2/5."


class Planned(Utterance):
    ends: bool


class Known(Utterance):
    knowledge: dict[str, int]


def lesson(tutor: Agent = tutor, student: Agent = student) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", *usual_endings(mastered)))
    graph.add_conditional_edges("student", stop_or("tutor", *usual_endings(mastered)))
    return graph


def checked_lesson() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    for speaker, then in ((tutor, "student"), (student, "tutor")):
        add_critique_loop(graph, speaker, checks=plain_speech, then=stop_or(then, *usual_endings(mastered)))
    graph.add_edge(START, "tutor")
    return graph


async def play(
    script: Mapping[str, Any], graph: StateGraph[Dialogue, Cast] | None = None, brief: Brief = BRIEF, **limits: Any
) -> tuple[Dialogue, Outcome]:
    graph = lesson() if graph is None else graph
    cast = Cast(players=Cast.of(ScriptedModel(script)).players, limits=Limits(**limits))
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    return dialogue, outcome_of(graph, dialogue, cast.limits)


QUESTIONS = [f"What would {number} pieces of the cake look like?" for number in ("two", "three", "four", "five", "six")]
ANSWERS = ["Large", "Smaller", "Tiny", "Equal, perhaps", "Uneven"]


@pytest.mark.parametrize(
    ("reason", "status", "said", "heard", "limits"),
    [
        ("mastered", "completed", ["How many sixths are in 1/2?"], ["So it is 5/6!"], {}),
        ("out_of_turns", "completed", QUESTIONS, ANSWERS, {"messages": 6}),
        ("out_of_tokens", "completed", QUESTIONS, ANSWERS, {"tokens": 660}),
        (
            "repetition",
            "discarded",
            QUESTIONS,
            [STATED, STATED],
            {},
        ),
        (
            "no_progress",
            "discarded",
            ["Is it 2/5?", "Really 2/5?", "So, 2/5?", "It is 2/5, then?", "2/5?"],
            ["Yes.", "Yes, it is.", "2/5.", "Yes, 2/5.", "Okay."],
            {},
        ),
        (
            "farewell_loop",
            "discarded",
            ["How many sixths are in 1/2?", "You are welcome! Have a nice day!"],
            ["Thanks for your help, goodbye!"],
            {},
        ),
        ("role_flip", "discarded", ["Is 2/5 less than 1/2? Student: Yes, it is."], ["?"], {}),
        ("role_flip", "discarded", QUESTIONS, ["Well done! Now try it with 1/4. What do you get?"], {}),
        (
            "role_flip",
            "discarded",
            [*QUESTIONS[:1], "I don't understand it. Can you help me with the sum?"],
            ANSWERS,
            {},
        ),
        ("truncated", "discarded", ["Have a look at the two fractions and at the"], ["?"], {}),
        ("artefact", "discarded", ["Here is the revised response: What is a half?"], ["?"], {}),
        ("artefact", "discarded", QUESTIONS, ["Three sixths.<|im_end|>"], {}),
        ("artefact", "discarded", ["Wie viele Sechstel sind das, und was fällt dir an den Nennern auf?"], ["?"], {}),
    ],
)
async def test_a_dialogue_ends_with_its_reason(
    reason: str, status: str, said: Sequence[str], heard: Sequence[str], limits: Mapping[str, Any]
) -> None:
    _, outcome = await play({"tutor": said, "student": heard}, **limits)
    assert (outcome.reason, outcome.status) == (reason, status)


async def test_the_tutor_ends_a_lesson_by_its_plan() -> None:
    planning = replace(tutor, reply=Planned)
    plans = [{"utterance": QUESTIONS[0], "ends": False}, {"utterance": "Let us leave it at that.", "ends": True}]
    dialogue, outcome = await play({"tutor": plans, "student": ANSWERS}, lesson(tutor=planning))
    assert outcome == Outcome(status="completed", reason="tutor_ended")
    assert [turn.role for turn in dialogue["turns"]] == ["tutor", "student", "tutor"]


async def test_speakers_who_agree_end_their_debate() -> None:
    ruling = {"proponent_answer": "5/6", "opponent_answer": "5/6", "agreed": True}
    _, outcome = await play({"proponent": ["2/5"], "opponent": ["5/6"], "moderator": [ruling]}, debate())
    assert outcome == Outcome(status="completed", reason="agreed")


@pytest.mark.parametrize(
    ("heard", "cut", "status"),
    [
        (["Because I counted 5/6 of it.", "Thank you so much!"], 2, "completed"),
        (["Because I counted.", "Thank you so much!"], 2, "discarded"),
    ],
)
async def test_only_goodbyes_are_cut_from_a_lesson(heard: Sequence[str], cut: int, status: str) -> None:
    """A lesson in which the student gave the answer is worth keeping without them; one that gave up is not."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", *usual_endings()))
    graph.add_conditional_edges("student", stop_or("tutor", *usual_endings()))
    said = ["Why?", "And that is all for today.", "You're welcome, take care!"]
    dialogue, outcome = await play({"tutor": said, "student": heard}, graph)
    assert (outcome.reason, outcome.status, outcome.cut) == ("farewell_loop", status, cut)
    assert [turn.text for turn in dialogue["turns"]][-cut - 1] == "And that is all for today."


async def test_a_topic_without_an_answer_may_end_with_goodbyes() -> None:
    script = {"tutor": ["Tides come from the moon.", "My pleasure, goodbye!"], "student": ["Thanks, bye!"]}
    _, outcome = await play(script, brief=Brief(id="t", topic="Tides"))
    assert outcome == Outcome(status="completed", reason="farewell_loop", cut=2)


@pytest.mark.parametrize(("hits", "reason"), [([0, 0, 0, 0, 0], "no_progress"), ([0, 0, 1, 1, 1], "out_of_turns")])
async def test_a_student_whose_knowledge_changes_makes_progress(hits: Sequence[int], reason: str) -> None:
    said = ["Is it 2/5?", "Really 2/5?", "So, 2/5?", "It is 2/5, then?", "2/5?"]
    heard = [{"utterance": "Yes, 2/5.", "knowledge": {"hits": count}} for count in hits]
    knowing = replace(student, reply=Known)
    _, outcome = await play({"tutor": said, "student": heard}, lesson(student=knowing), messages=9)
    assert outcome.reason == reason


async def test_a_draft_that_is_no_plain_speech_goes_back_and_is_never_said() -> None:
    script = {"tutor": ["Tutor: What is 3/6 + 2/6?<|im_end|>", "What is 3/6 + 2/6?"], "student": ["5/6"]}
    dialogue, outcome = await play(script, checked_lesson())
    (review,) = dialogue["turns"][0].attempts[0].reviews
    assert outcome.reason == "mastered"
    assert [turn.text for turn in dialogue["turns"]] == ["What is 3/6 + 2/6?", "5/6"]
    assert [(issue.dimension, issue.span) for issue in review.issues] == [
        ("label", "Tutor:"),
        ("template_token", "<|im_end|>"),
    ]


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        ("What is a half?\nStudent: 3/6", "role_flip"),
        ("Have a look at the two fractions and at the", "truncated"),
        ("Revised response: What is a half?", "artefact"),
    ],
)
async def test_a_dialogue_is_discarded_for_what_no_draft_is_free_of(draft: str, reason: str) -> None:
    drafts = [draft, f"Well. {draft}", f"Now then. {draft}"] if reason != "artefact" else [draft] * 3
    dialogue, outcome = await play({"tutor": drafts, "student": ["?"]}, checked_lesson())
    assert (outcome.status, outcome.reason) == ("discarded", reason)
    assert not dialogue.get("turns")


async def test_a_tutor_that_cannot_keep_the_answer_to_itself_discards_the_lesson() -> None:
    graph = StateGraph(Dialogue, context_schema=Cast)
    checks = [*plain_speech, keeps_the_answer]
    add_critique_loop(graph, tutor, checks=checks, then=stop_or("student", *usual_endings(mastered)))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", *usual_endings(mastered)))
    drafts = ["It is 5/6.", "Well, 10/12.", "So, 5/6 it is."]
    _, outcome = await play({"tutor": drafts, "student": ["?"]}, graph)
    assert (outcome.status, outcome.reason) == ("discarded", "leak")


async def test_false_praise_goes_back() -> None:
    script = {"tutor": [QUESTIONS[0], "Correct! Well done.", "Is 2/5 more than 1/2?"], "student": ["2/5", "No: 5/6"]}
    dialogue, outcome = await play(script, checked_lesson())
    assert outcome.reason == "mastered"
    assert [attempt.text for attempt in dialogue["turns"][2].attempts] == [
        "Correct! Well done.",
        "Is 2/5 more than 1/2?",
    ]
