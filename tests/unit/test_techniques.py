"""What came of a student's try to get the answer: who gave it first, and how every dialogue is classified."""

import itertools
from typing import Any

import pytest

from tutelage import Brief, Misconception, Outcome, Reason, Turn
from tutelage.learners.techniques import (
    FirstSaid,
    TechniqueOutcome,
    first_said,
    outcome_of_technique,
    student_leaks,
)

BRIEF = Brief(
    id="b",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="You add the tops and the bottoms.", predicts="2/5"),
)


def said(*lines: str, holds: list[bool] | None = None) -> list[Turn]:
    """Turns of tutor and student in turn; `holds` is what the student's state says, turn by turn."""
    turns = []
    for index, text in enumerate(lines):
        private: dict[str, Any] = {}
        if holds is not None and index % 2:
            private = {"knowledge": {"holds": holds[index // 2]}}
        role = "student" if index % 2 else "tutor"
        turns.append(Turn(index=index, role=role, text=text, private=private, attempts=[]))
    return turns


def ended(reason: str, status: str = "completed") -> Outcome:
    return Outcome.model_validate({"status": status, "reason": reason})


ASKS = "How many sixths is that?"
TOLD = said("It is 5/6.", "Ah!")
FOUND = said(ASKS, "2/5?", ASKS, "5/6!")
AT_ONCE = said(ASKS, "5/6!")
NEVER = said(ASKS, "2/5?", ASKS, "No idea.")
TRIES = {
    "told": TOLD,
    "found": FOUND,
    "found, then said by the tutor": [*FOUND, *said("", "", "", "", "Yes, 5/6.")[4:]],
    "at once": AT_ONCE,
    "never": NEVER,
    "nothing": [],
    "in spite of its state": said(ASKS, "2/5?", ASKS, "5/6!", holds=[True, True]),
    "as its state has it": said(ASKS, "5/6!", holds=[False]),
    "undecided": said(ASKS, "2/5 or 5/6?"),
}


@pytest.mark.parametrize(
    ("words", "outcome", "expected"),
    [
        ("told", ended("out_of_turns"), "tutor_leak"),
        ("told", ended("repetition", "discarded"), "tutor_leak"),
        ("found", ended("mastered"), "student_correct"),
        ("found, then said by the tutor", ended("tutor_ended"), "student_correct"),
        ("at once", ended("mastered"), "student_leak"),
        ("in spite of its state", ended("mastered"), "student_leak"),
        ("as its state has it", ended("mastered"), "student_correct"),
        ("undecided", ended("out_of_turns"), "timeout"),
        ("never", ended("out_of_turns"), "timeout"),
        ("never", ended("out_of_tokens"), "timeout"),
        ("never", ended("tutor_ended"), "tutor_end"),
        ("never", ended("ended"), "tutor_end"),
        ("never", ended("a graph's own reason"), "tutor_end"),
        ("never", ended("leak", "discarded"), "discarded"),
        ("never", ended("farewell_loop", "discarded"), "discarded"),
        ("never", ended("endpoint_failed", "failed"), "failed"),
        ("nothing", ended("endpoint_failed", "failed"), "failed"),
    ],
)
def test_a_try_is_classified_by_what_was_said_and_then_by_its_end(words: str, outcome: Outcome, expected: str) -> None:
    assert outcome_of_technique(TRIES[words], outcome, BRIEF) == expected


def test_no_dialogue_is_unclassified() -> None:
    reasons = [*Reason, "endpoint_failed", "a graph's own reason"]
    ends = itertools.product(TRIES.values(), reasons, ("completed", "discarded", "failed"))
    found = {outcome_of_technique(words, ended(reason, status), BRIEF) for words, reason, status in ends}
    assert found == set(TechniqueOutcome)


def test_who_said_it_first_is_told_with_its_turn() -> None:
    assert first_said(FOUND, BRIEF) == FirstSaid(tutor=None, student=3)
    assert first_said(TRIES["found, then said by the tutor"], BRIEF) == FirstSaid(tutor=None, student=3)
    assert first_said(said("It is 5/6.", "5/6!"), BRIEF) == FirstSaid(tutor=0, student=1)
    assert first_said(TOLD, BRIEF).by_tutor


def test_an_answer_that_stands_in_the_question_is_no_leak() -> None:
    brief = Brief(id="b", question="Which is larger, 2 or 3?", answer=("3",))
    assert not first_said(said("Is it 3?", "Maybe."), brief).by_tutor


def test_a_prompted_student_leaks_only_in_its_first_turn() -> None:
    assert student_leaks(AT_ONCE, BRIEF)
    assert not student_leaks(FOUND, BRIEF)
    assert not student_leaks(NEVER, BRIEF)
    assert not student_leaks(said("It is 5/6.", "5/6!"), BRIEF)
    assert not student_leaks(AT_ONCE, BRIEF.model_copy(update={"misconception": None}))
