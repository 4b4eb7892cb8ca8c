"""How a pupil acts: what it must say and may not say, by what it knows."""

import pytest

from tutelage import Brief, Misconception
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Call, Turn
from tutelage.learners.acting import answer_is_due, in_character, mind
from tutelage.learners.feedback import FEEDBACK_JUDGE

BRIEF = Brief(
    id="b",
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    giveaway=("common denominator",),
    misconception=Misconception(belief="To add fractions, add the tops and the bottoms.", predicts="2/5"),
    language="en",
)


def after(*said: str, brief: Brief = BRIEF, tactic: str | None = None) -> Dialogue:
    """A dialogue after some turns, tutor and student by turns; the tutor's that begin with `!` are targeted."""
    turns = [
        Turn(
            index=index,
            role="student" if index % 2 else "tutor",
            text=text.removeprefix("!"),
            private={FEEDBACK_JUDGE: {"reason": "so", "feedback": "targeted"}} if text.startswith("!") else {},
            attempts=[],
        )
        for index, text in enumerate(said)
    ]
    profiles = {"student": {"tactic": tactic}} if tactic else {}
    return {"id": "d", "brief": brief, "turns": turns, "profiles": profiles}


def vetoes(dialogue: Dialogue, text: str) -> list[str]:
    draft = Attempt(text=text, status="pending", call=Call(model="m", prompt_sha256="0"))
    issues = in_character.look(dialogue, draft)
    assert all(issue.severity == "block" and issue.span.casefold() in text.casefold() for issue in issues)
    return [issue.dimension for issue in issues]


FIRST = after("What is 1/2 + 1/3?")
HOLDING = after("What is 1/2 + 1/3?", "2/5.", "How much of a cake is 1/2?")
FALLEN = after("What is 1/2 + 1/3?", "2/5.", "!2/5 is less than 1/2.")
LATER = after("What is 1/2 + 1/3?", "2/5.", "!2/5 is less than 1/2.", "So 5/6!", "How did you find it?")


@pytest.mark.parametrize(
    ("dialogue", "due"),
    [
        (after(), True),
        (FIRST, True),
        (HOLDING, False),
        (FALLEN, True),
        (LATER, False),
        (after("What is 1/2 + 1/3?", "2/5.", "No. What is 1/2 + 1/3?"), True),
        (after("What is 1/2 + 1/3?", "2/5.", "!2/5 is less than 1/2.", "5/6", "Again: what is 1/2 + 1/3?"), True),
    ],
)
def test_an_answer_is_due_at_first_after_a_change_of_mind_and_when_the_question_is_put_again(
    dialogue: Dialogue, due: bool
) -> None:
    assert answer_is_due(dialogue) is due


def test_a_student_who_is_out_for_the_answer_need_not_give_its_own_until_the_belief_falls() -> None:
    assert not answer_is_due(after("What is 1/2 + 1/3?", tactic="Ask for it."))
    assert answer_is_due(after("What is 1/2 + 1/3?", "Tell me!", "!2/5 is less than 1/2.", tactic="Ask for it."))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I add the tops and the bottoms, so it is 2/5.", []),
        ("It's **2/5**, I am sure.", []),
        ("Isn't it 2/5?", []),
        ("Why should it not be 2/5? I say 2/5.", []),
        ("I don't know.", ["answer"]),
        ("It is 12/5.", ["answer"]),
        ("2/5, or maybe 5/6?", ["leak"]),
        ("2/5. Or five sixths.", ["leak"]),
        ("2/5, without any common denominator.", ["giveaway"]),
        ("It is not 2/5.", ["answer", "concession"]),
        ("I was wrong to say 2/5.", ["concession"]),
        ("Oh, now I see! 2/5 is too small.", ["concession"]),
        ("I see my mistake, it is 5/6.", ["answer", "leak", "concession"]),
    ],
)
def test_while_the_misconception_holds_its_answer_is_given_and_nothing_beyond(text: str, found: list[str]) -> None:
    assert vetoes(FIRST, text) == found


def test_in_between_the_answer_need_not_be_said_but_what_is_forbidden_stays_so() -> None:
    assert vetoes(HOLDING, "Half of it.") == []
    assert vetoes(HOLDING, "Half of it, so 5/6.") == ["leak"]


def test_a_term_may_be_used_once_it_was_taught() -> None:
    taught = after("What is 1/2 + 1/3?", "2/5.", "Do you know what a common denominator is?")
    assert vetoes(taught, "A common denominator? No.") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Then it must be 5/6.", []),
        ("With a common denominator it is five sixths.", []),
        ("I was wrong: it is 5/6.", []),
        ("I see.", ["answer"]),
        ("It is still 2/5.", ["answer", "relapse"]),
        ("5/6, not 2/5.", ["relapse"]),
    ],
)
def test_after_it_fell_the_right_answer_is_given_and_the_old_one_is_not(text: str, found: list[str]) -> None:
    assert vetoes(FALLEN, text) == found


def test_later_on_it_does_not_go_back() -> None:
    assert vetoes(LATER, "I drew a cake.") == []
    assert vetoes(LATER, "It is 2/5.") == ["relapse"]
    assert vetoes(LATER, "I first said 2/5, but it is 5/6.") == []


@pytest.mark.parametrize(
    ("language", "text"),
    [("de", "Ich habe mich geirrt: 2/5."), ("es", "Me equivoqué, 2/5."), ("fr", "2/5, je me suis trompé.")],
)
def test_it_does_not_concede_in_its_own_language(language: str, text: str) -> None:
    brief = BRIEF.model_copy(update={"language": language})
    assert vetoes(after("What is 1/2 + 1/3?", brief=brief), text) == ["concession"]


def test_what_stands_in_the_question_or_in_the_belief_gives_nothing_away() -> None:
    brief = Brief(
        id="b",
        question="Which is larger, 0.6 or 0.45?",
        answer=("0.6",),
        giveaway=("digits", "0.45"),
        misconception=Misconception(belief="More digits make a larger number.", predicts="0.45"),
    )
    assert vetoes(after("Which is larger?", brief=brief), "0.45 has more digits than 0.6.") == []


def test_a_single_letter_is_a_word_and_no_relapse() -> None:
    brief = Brief(
        id="b",
        question="Fill the gap: 'to Tom and ___'.",
        answer=("me",),
        misconception=Misconception(belief="After 'and' it is always 'I'.", predicts="I"),
    )
    fallen = after("Fill it.", "I.", "!Leave Tom out: 'to I'?", brief=brief)
    assert vetoes(fallen, "I think it is 'me'.") == []


def test_the_mind_is_plain_data_that_says_what_to_answer_now() -> None:
    assert mind(FALLEN) == {
        "knowledge": {"holds": False, "hits": 1, "robustness": 1, "taught": [], "answer": "5/6"},
        "answer_due": True,
    }
    assert mind(HOLDING)["answer_due"] is False
