"""What a student knows: folded in code over what was said and judged, and moved by nothing else."""

from itertools import product
from typing import Any

import pytest

from tutelage import Attempt, Brief, Call, Misconception, Turn
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Review
from tutelage.errors import BriefError
from tutelage.learners.feedback import FEEDBACK_JUDGE, KINDS, Feedback
from tutelage.learners.knowledge import knowledge_of

BRIEF = Brief(
    id="b",
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    giveaway=("common denominator", "sixths"),
    misconception=Misconception(belief="Add the tops and the bottoms.", predicts="2/5"),
)


def withstanding(robustness: int) -> Brief:
    assert BRIEF.misconception is not None
    return BRIEF.model_copy(update={"misconception": BRIEF.misconception.model_copy(update={"robustness": robustness})})


def told(*turns: str | tuple[str, str], brief: Brief = BRIEF) -> Dialogue:
    """A dialogue in which the tutor says texts, each judged as the second of its pair, and the student answers."""
    said: list[Turn] = []
    for turn in turns:
        text, judged = turn if isinstance(turn, tuple) else (turn, None)
        private = {FEEDBACK_JUDGE: {"reason": "so", "feedback": judged}} if judged else {}
        said.append(Turn(index=len(said), role="tutor", text=text, private=private, attempts=[]))
        said.append(Turn(index=len(said), role="student", text="Hm.", attempts=[]))
    return {"id": "d", "brief": brief, "turns": said}


def judged(*kinds: str, brief: Brief = BRIEF) -> Dialogue:
    return told(*((f"Look at this, {number}.", kind) for number, kind in enumerate(kinds)), brief=brief)


def test_before_anything_is_said_the_misconception_holds() -> None:
    knowledge = knowledge_of({"id": "d", "brief": BRIEF})
    assert (knowledge.holds, knowledge.hits, knowledge.taught, knowledge.answer) == (True, 0, (), "2/5")


@pytest.mark.parametrize("robustness", [1, 2, 3])
def test_it_falls_upon_as_many_targeted_turns_as_it_withstands_and_upon_nothing_else(robustness: int) -> None:
    """Over all ways in which four turns can be judged."""
    brief = withstanding(robustness)
    for kinds in product(KINDS, repeat=4):
        knowledge = knowledge_of(judged(*kinds, brief=brief))
        assert knowledge.holds == (kinds.count("targeted") < robustness), kinds
        assert knowledge.hits == min(kinds.count("targeted"), robustness)
        assert knowledge.answer == ("2/5" if knowledge.holds else "5/6")


def test_once_fallen_it_stays_so() -> None:
    assert not knowledge_of(judged("targeted", "generic", "misaligned", "generic")).holds


def test_a_turn_that_was_not_judged_does_nothing() -> None:
    assert knowledge_of(told("2/5 is less than 1/2.")).hits == 0


def test_a_turn_that_tells_the_answer_is_no_hit() -> None:
    assert knowledge_of(told(("2/5 is less than 1/2, so it must be 5/6.", "targeted"))).holds
    assert not knowledge_of(told(("2/5 is less than 1/2.", "targeted"))).holds


@pytest.mark.parametrize(("reveals", "holds"), [(1.0, True), (0.5, False)])
def test_a_turn_that_tells_the_answer_by_a_judge_of_leaks_is_no_hit(reveals: float, holds: bool) -> None:
    call = Call(model="scripted", prompt_sha256="0" * 64)
    reviewed = Review(role="leak_judge", verdict="revise", scores={"reveals": reveals}, call=call)
    dialogue = told(("The numerator is 5 and the denominator is 6.", "targeted"))
    tutor, student = dialogue["turns"]
    attempt = Attempt(text=tutor.text, status="accepted", call=call, reviews=[reviewed])
    tutor = tutor.model_copy(update={"attempts": [attempt]})
    assert knowledge_of({**dialogue, "turns": [tutor, student]}).holds is holds


def test_an_answer_that_stands_in_the_question_is_not_told_by_naming_it() -> None:
    brief = Brief(
        id="b",
        question="Which is larger, 0.6 or 0.45?",
        answer=("0.6",),
        misconception=Misconception(belief="More digits, larger number.", predicts="0.45"),
    )
    assert not knowledge_of(told(("How many tenths has 0.6?", "targeted"), brief=brief)).holds


def test_giveaway_terms_are_taught_by_hearing_them_and_not_by_saying_them() -> None:
    dialogue = told("What does a common denominator do?")
    assert knowledge_of(dialogue).taught == ("common denominator",)
    turns = [*dialogue["turns"], Turn(index=2, role="student", text="Sixths?", attempts=[])]
    assert knowledge_of({**dialogue, "turns": turns}).taught == ("common denominator",)


def test_a_misconception_that_predicts_nothing_gives_no_answer_while_it_holds() -> None:
    brief = BRIEF.model_copy(update={"misconception": Misconception(belief="Fractions cannot be added.")})
    assert knowledge_of(judged("generic", brief=brief)).answer is None
    assert knowledge_of(judged("targeted", brief=brief)).answer == "5/6"


@pytest.mark.parametrize(("lacking", "named"), [({"misconception": None}, "misconception"), ({"answer": ()}, "answer")])
def test_a_brief_without_what_it_takes_is_refused_by_name(lacking: dict[str, Any], named: str) -> None:
    with pytest.raises(BriefError, match=f"'b' has no {named}"):
        knowledge_of({"id": "d", "brief": BRIEF.model_copy(update=lacking)})


def test_a_judge_is_asked_for_its_reason_before_its_judgement() -> None:
    assert list(Feedback.model_json_schema()["properties"]) == ["reason", "feedback"]
