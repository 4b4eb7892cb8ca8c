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
from tutelage.checks.leaks import keeps_the_answer, leak_finding
from tutelage.checks.speech import plain_speech
from tutelage.dialogue.stopping import StopRule, outcome_of
from tutelage.graphs.debate import debate
from tutelage.graphs.peers import peers
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


def lesson(
    tutor: Agent = tutor, student: Agent = student, goals: Sequence[StopRule] = (mastered,)
) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", *usual_endings(*goals)))
    graph.add_conditional_edges("student", stop_or("tutor", *usual_endings(*goals)))
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


@pytest.mark.parametrize(
    ("answer", "heard", "reason"),
    [
        (("5/6",), ["So it is 5/6.", "Okay."], "tutor_ended"),
        ((), ["Large", "Okay."], "tutor_ended"),
        (("5/6",), ["Large", "Okay."], "out_of_turns"),
        (("5/6",), ["So it is 2/5.", "Okay."], "out_of_turns"),
    ],
)
async def test_the_tutor_ends_by_its_plan_only_a_lesson_in_which_the_student_gave_the_answer(
    answer: tuple[str, ...], heard: Sequence[str], reason: str
) -> None:
    planning = replace(tutor, reply=Planned)
    plans = [{"utterance": QUESTIONS[0], "ends": False}, {"utterance": "Let us leave it at that.", "ends": True}]
    brief = BRIEF.model_copy(update={"answer": answer})
    script = {"tutor": plans, "student": heard}
    dialogue, outcome = await play(script, lesson(tutor=planning, goals=()), brief, messages=4)
    assert outcome == Outcome(status="completed", reason=reason)
    assert len(dialogue["turns"]) == (3 if reason == "tutor_ended" else 4)


RIGHT = "It is 5/6, for halves and thirds have sixths in common."
WRONG = "It is 2/5, for one adds the tops and the bottoms."


def standing(student: str, classmate: str, *, same: bool) -> dict[str, Any]:
    return {"student_answer": student, "classmate_answer": classmate, "same": same}


@pytest.mark.parametrize(
    ("found", "ending"),
    [
        (standing("5/6", "five sixths", same=True), ("completed", "agreed")),
        (standing("5/6", "five sixths", same=False), ("completed", "agreed")),
        (standing("2/5", "2/5", same=True), ("discarded", "agreed_wrongly")),
        (standing("2/5", "two fifths", same=False), ("completed", "out_of_turns")),
        (standing("", "", same=True), ("completed", "out_of_turns")),
        (standing(" ", "2/5", same=True), ("completed", "out_of_turns")),
        (standing("5/6", "", same=True), ("completed", "out_of_turns")),
        (standing("5/6", "2/5", same=True), ("completed", "out_of_turns")),
        (standing("2/5", "5/6", same=True), ("completed", "out_of_turns")),
        (standing("it is not 5/6, I am sure", "5/6", same=True), ("completed", "out_of_turns")),
    ],
)
async def test_peers_agree_by_their_answers_which_code_compares_with_the_brief_s(
    found: dict[str, Any], ending: tuple[str, str]
) -> None:
    script = {"student": [WRONG, "Hm, let me think of a cake."], "classmate": [RIGHT, "Cut it, then."]}
    dialogue, outcome = await play({**script, "verifier": [found]}, peers(), messages=4)
    assert (outcome.status, outcome.reason) == ending
    assert len(dialogue["turns"]) == (4 if outcome.reason == "out_of_turns" else 2)


async def test_nobody_leaks_where_a_classmate_finds_the_answer() -> None:
    script = {"student": [WRONG, "I see, so it is 5/6."], "classmate": [RIGHT, "Yes, 5/6 it is."]}
    verifier = [standing("2/5", "5/6", same=False), standing("5/6", "5/6", same=True)]
    dialogue, outcome = await play({**script, "verifier": verifier}, peers())
    assert outcome == Outcome(status="completed", reason="agreed")
    assert leak_finding(dialogue["turns"], BRIEF) == {}


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
