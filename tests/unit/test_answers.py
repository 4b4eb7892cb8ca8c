"""Whether a text gives the answer."""

import pytest

from tutelage import Brief, Dialogue, Misconception, Reason, Turn
from tutelage.checks.answers import mastered, states
from tutelage.dialogue.cast import Limits


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("So it must be 5/6!", "5/6"),
        ("I get **5/6**.", "5/6"),
        ("Five  Sixths, then", "five sixths"),
        ("x = 5", "5"),
        ("It is \u22125.", "-5"),
        ("It is 2*3.", "2*3"),
        ("The answer: 3.", "3"),
        ("It prints `[1, 2]`.", "[1, 2]"),
    ],
)
def test_an_accepted_form_is_found(text: str, form: str) -> None:
    assert states(text, ["no", form])


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("It is 15/6.", "5/6"),
        ("It is 5/60.", "5/6"),
        ("It is 5.5.", "5"),
        ("I think it is -5.", "5"),
        ("I think it is \u22125.", "5"),
        ("It is 3 1/2.", "1/2"),
        ("It is 23.", "2*3"),
        ("Fewer", "few"),
        ("anything", ""),
    ],
)
def test_another_number_or_word_is_not_taken_for_it(text: str, form: str) -> None:
    assert not states(text, [form])


FRACTIONS = Brief(
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    misconception=Misconception(belief="Add the tops and add the bottoms.", predicts="2/5"),
)
PRONOUN = Brief(
    question="Fill the gap: 'She gave the tickets to Tom and ___.'",
    answer=("me",),
    misconception=Misconception(belief="It is always I.", predicts="I"),
)


def is_mastered(text: str, brief: Brief = FRACTIONS, role: str = "student") -> bool:
    dialogue: Dialogue = {"brief": brief, "turns": [Turn(index=0, role=role, text=text, attempts=[])]}
    outcome = mastered(dialogue, Limits())
    assert outcome is None or outcome.reason == Reason.MASTERED
    return outcome is not None


@pytest.mark.parametrize(
    "text",
    [
        "5/6",
        "I get 0.8333 on my calculator.",
        "It is \\frac{5}{6}!",
        "So five-sixths?",
        "10/12, I think.",
        "It is not 2/5 but 5/6.",
        "No, it must be 5/6.",
        "Isn't it 5/6?",
    ],
)
def test_a_lesson_is_mastered_when_the_student_gives_the_value_in_any_form(text: str) -> None:
    assert is_mastered(text)


@pytest.mark.parametrize(
    "text",
    [
        "0.8",
        "0.84",
        "It is not 5/6.",
        "I don't think that it is 5/6.",
        "2/5 or 5/6?",
        "You add 1/2 + 1/3.",
        "1 5/6",
        "-5/6",
    ],
)
def test_a_lesson_is_not_mastered_by_another_value_nor_by_a_denial_or_a_choice(text: str) -> None:
    assert not is_mastered(text)


def test_what_the_tutor_says_masters_nothing() -> None:
    assert not is_mastered("5/6", role="tutor")


def test_a_word_of_any_talk_masters_a_lesson_only_where_it_is_the_answer() -> None:
    assert is_mastered("me", PRONOUN) and is_mastered("I would say 'me'.", PRONOUN)
    assert is_mastered("me I guess", PRONOUN)
    assert not is_mastered("Can you tell me what the rule is about such words?", PRONOUN)
