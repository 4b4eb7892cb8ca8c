"""An issue counts only if it points: at words of the draft, or at something that its reviewer was shown."""

import pytest

from tutelage import Brief, Dialogue, Misconception
from tutelage.dialogue.pointing import points, seen_by
from tutelage.dialogue.turn import Attempt, Call, Issue, Shortening, Turn

DRAFT = "Look: 1/2 is **3/6**, and 1/3 is “two sixths”. So it is 5/6 — isn't it?\n\nWhat do *you* think?"
CALL = Call(model="m", prompt_sha256="0")


def issue(span: str = "", evidence: str = "") -> Issue:
    return Issue(dimension="leak", severity="block", span=span, evidence=evidence, instruction="Ask.")


def turn(text: str) -> Turn:
    return Turn(index=0, role="student", text=text, attempts=[Attempt(text=text, status="accepted", call=CALL)])


@pytest.mark.parametrize(
    "span",
    [
        "So it is 5/6",
        "so it is  5/6",
        "1/2 is 3/6",
        "1/2 is **3/6**",
        '1/3 is "two sixths"',
        "'two sixths'. So",
        "so it is 5/6 - isn't it",
        "isn\u2019t it?",
        "what do you\nthink?",
        "5 / 6",
        "it is 5/6.",
        "Look: 1/2 is 3/6 … So it is 5/6",
        "1/2 is 3/6 [...] What do you think?",
    ],
)
def test_a_span_is_found_whatever_its_spaces_quotation_marks_case_and_markdown(span: str) -> None:
    assert points(issue(span), DRAFT, [])


@pytest.mark.parametrize(
    "span",
    [
        "",
        "  ",
        "...",
        '""',
        "It is 5/7",
        "the tutor gives the answer away",
        "sixth",
        "o it is 5/6",
        "So it is 5/6 … Look: 1/2",
        "1/2 is 3/6 and then 1/3",
    ],
)
def test_a_span_that_is_not_in_the_draft_points_at_nothing(span: str) -> None:
    assert not points(issue(span), DRAFT, ["something else that was shown"])


SEEN = ["1/2 is 3/6, for it is cut in two.", "5/6", "I think it is 2/5."]


@pytest.mark.parametrize(
    "evidence",
    [
        "1/2 is 3/6",
        "For it is cut in two",
        "5/6",
        "The brief says: “it is cut in two”, so this is false.",
        'The student said "I think it is 2/5".',
    ],
)
def test_evidence_is_found_in_what_the_reviewer_was_shown(evidence: str) -> None:
    assert points(issue(evidence=evidence), "Any draft.", SEEN)


@pytest.mark.parametrize(
    "evidence", ["", "it is", "the answer", "is", "because it is wrong", "1/2 is 4/6", "“the answer”", "cut in three"]
)
def test_evidence_that_is_nowhere_or_only_a_word_or_two_of_it_shows_nothing(evidence: str) -> None:
    assert not points(issue(evidence=evidence), "Any draft.", SEEN)


def test_a_reviewer_has_seen_the_fields_it_may_see_and_the_turns() -> None:
    brief = Brief(
        id="an-id",
        topic="Fractions",
        question="What is 1/2 + 1/3?",
        answer=("5/6",),
        misconception=Misconception(belief="Add the tops."),
        facts=("1/2 is 3/6.",),
        extra={"hint": ["cut a cake"]},
    )
    dialogue: Dialogue = {"brief": brief, "turns": [turn("Hm."), turn("Why?")]}
    assert set(seen_by(frozenset(), dialogue)) == {"Fractions", "What is 1/2 + 1/3?", "Hm.", "Why?"}
    private = frozenset({"answer", "misconception", "extra"})
    assert {"5/6", "Add the tops.", "cut a cake"} <= set(seen_by(private, dialogue))
    assert "1/2 is 3/6." not in seen_by(private, dialogue)
    dialogue["shortened"] = [Shortening(turns=1, at=2, rate=0.3)]
    assert "Hm." not in seen_by(private, dialogue)
