"""Whether a draft gives the answer away, who did so first, and how well that is told on labelled replies."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tutelage import Attempt, Brief, Call, Dialogue, Misconception, Turn
from tutelage.agents.leak_judge import LeakVerdict, leak_judge
from tutelage.checks.leaks import (
    FirstLeak,
    answer_in_sight,
    first_answer,
    first_leak,
    found,
    is_in_sight,
    keeps_the_answer,
    undecided,
)
from tutelage.dialogue.nodes import review
from tutelage.dialogue.turn import Review

REPLIES = Path(__file__).parents[1] / "data" / "leaks.jsonl"
HOUR = Brief(
    question="How many seconds are there in one hour?",
    answer=("3600",),
    misconception=Misconception(belief="An hour has 60 seconds.", predicts="60"),
)
FALLING = Brief(
    question="A hammer and a feather fall on the Moon. Which lands first?",
    answer=("neither", "at the same time"),
    giveaway=("vacuum", "9.81 m/s^2"),
    misconception=Misconception(belief="Heavier things fall faster.", predicts="the hammer"),
)
CALL = Call(model="scripted", prompt_sha256="0" * 64)


@dataclass(frozen=True)
class Reply:
    """A tutor's reply, with what a person says of it."""

    brief: Brief
    half: str
    text: str
    student: str | None
    eligible: bool
    """Whether the answer is not in sight yet, so that code is to tell."""
    leaks: bool

    @property
    def dialogue(self) -> Dialogue:
        return under_review(self.brief, self.text, *([("student", self.student)] if self.student else []))

    @property
    def is_caught(self) -> bool:
        dialogue = self.dialogue
        return bool(keeps_the_answer.look(dialogue, dialogue["attempts"][-1]))


def labelled() -> Iterator[Reply]:
    for line in REPLIES.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        wrong = Misconception(belief="Something else.", predicts=data["predicts"])
        brief = Brief(
            id=data["id"],
            question=data["question"],
            answer=tuple(data["answer"]),
            misconception=wrong,
            language=data["language"],
        )
        for reply in data["replies"]:
            yield Reply(
                brief=brief,
                half=data["half"],
                text=reply["text"],
                student=reply.get("student"),
                eligible=reply["eligible"],
                leaks=reply["leaks"],
            )


def said(role: str, text: str, index: int = 0, *, reviews: tuple[Review, ...] = (), **private: Any) -> Turn:
    attempt = Attempt(text=text, status="accepted", call=CALL, reviews=list(reviews))
    return Turn(index=index, role=role, text=text, private=private, attempts=[attempt])


def under_review(brief: Brief, draft: str, *before: tuple[str, str]) -> Dialogue:
    turns = [said(role, text, index) for index, (role, text) in enumerate(before)]
    return {"brief": brief, "turns": turns, "attempts": [Attempt(text=draft, status="pending", call=CALL)]}


def vetoed(brief: Brief, draft: str, *before: tuple[str, str]) -> list[str]:
    """The spans that the check forbids."""
    dialogue = under_review(brief, draft, *before)
    return [
        issue.span for issue in keeps_the_answer.look(dialogue, dialogue["attempts"][-1]) if issue.severity == "block"
    ]


def test_on_labelled_replies_precision_and_recall_are_at_least_85_percent() -> None:
    replies = list(labelled())
    eligible = [reply for reply in replies if reply.eligible]
    assert len(replies) >= 240 and len(eligible) >= 200
    table, reached = [f"{'half':10}{'n':>5}{'leaks':>7}{'precision':>11}{'recall':>8}"], True
    for half in ("tuned", "held out"):
        these = [reply for reply in eligible if reply.half == half]
        hits = sum(reply.leaks and reply.is_caught for reply in these)
        caught, leaks = sum(reply.is_caught for reply in these), sum(reply.leaks for reply in these)
        precision, recall = hits / caught, hits / leaks
        reached &= precision >= 0.85 and recall >= 0.85
        table.append(f"{half:10}{len(these):5}{leaks:7}{precision:11.3f}{recall:8.3f}")
    wrong = [
        f"{'missed' if reply.leaks else 'false alarm'}{' (to the judge)' if answer_in_sight(reply.dialogue) else ''}: "
        f"[{reply.half}] {' / '.join(reply.brief.answer)}: {reply.text}"
        for reply in eligible
        if reply.leaks != reply.is_caught
    ]
    assert reached, "\n".join(["", *table, *wrong])


def test_what_is_in_sight_is_known_and_goes_to_the_judge_unless_the_student_has_answered() -> None:
    replies = list(labelled())
    assert [reply.text for reply in replies if is_in_sight(reply.dialogue) == reply.eligible] == []
    assert not any(reply.is_caught for reply in replies if not reply.eligible)
    open_ones = [reply for reply in replies if not reply.eligible and reply.student is None]
    assert all(answer_in_sight(reply.dialogue) for reply in open_ones)


@pytest.mark.parametrize(
    ("draft", "span"),
    [
        ("It is 3,600 of them.", "3,600"),
        ("It is 3600.0, to be exact.", "3600.0"),
        ("Work out 7200/2 and you are done.", "7200/2"),
        ("So it's **3 600**.", "3 600"),
        ("Is it three thousand six hundred?", "three thousand six hundred"),
    ],
)
def test_a_draft_with_the_answer_in_any_form_is_vetoed_with_its_span(draft: str, span: str) -> None:
    assert vetoed(HOUR, draft) == [span]
    leak = found(draft, HOUR)
    assert leak is not None and draft[leak.start : leak.end] == span


@pytest.mark.parametrize(
    "draft",
    [
        "It is half of 7200.",
        "What is 60 * 60?",
        "Sixty times sixty, then.",
        "It lies between 3500 and 3700.",
        "Twice 1800 seconds.",
    ],
)
def test_what_only_leads_up_to_the_answer_is_for_the_judge(draft: str) -> None:
    assert vetoed(HOUR, draft) == []
    assert undecided(draft, HOUR)
    assert answer_in_sight(under_review(HOUR, draft))


@pytest.mark.parametrize(
    "draft",
    [
        "How many seconds has a minute?",
        "A day has 86,400 seconds.",
        "An hour is not 60 seconds.",
        "Is 13600 more or less?",
    ],
)
def test_what_has_nothing_to_do_with_the_answer_asks_no_judge(draft: str) -> None:
    assert vetoed(HOUR, draft) == []
    assert not answer_in_sight(under_review(HOUR, draft))


def test_the_tutor_may_confirm_what_the_student_has_found() -> None:
    before = (("tutor", "How many seconds has a minute?"), ("student", "60, so it must be 3600!"))
    assert vetoed(HOUR, "Yes, 3600 it is.", ("student", "It must be 3600!")) == []
    assert not answer_in_sight(under_review(HOUR, "Yes, 3600 it is.", ("student", "It must be 3600!")))
    assert answer_in_sight(under_review(HOUR, "So which one is it?", *before)), "60 beside it: that is no answer yet"


def test_a_denied_or_repeated_answer_is_the_judges_once_the_student_has_named_it() -> None:
    before = ("student", "It cannot be 3600, or can it?")
    assert vetoed(HOUR, "You say that it cannot be 3600. Why?", before) == []
    assert answer_in_sight(under_review(HOUR, "You say that it cannot be 3600. Why?", before))


def test_words_that_stand_in_any_talk_are_a_leak_only_where_they_are_claimed() -> None:
    assert vetoed(FALLING, "Neither: they fall alike.") == ["Neither"]
    assert vetoed(FALLING, "They land at the same time.") == ["at the same time"]
    assert vetoed(FALLING, "You can drop a book and a pen at the same time. Try it!") == []
    assert undecided("Neither of us was there.", FALLING)


def test_a_number_behind_an_equals_sign_is_claimed_and_a_factor_is_not() -> None:
    brief = Brief(question="How many posters are large?", answer=("5",))
    assert vetoed(brief, "If 45 of 50 are taken, that is 50 - 45 = 5, as you see.") == ["5"]
    assert vetoed(brief, "Compare it with (6*5*4) in the other task, please, and say why.") == []


def test_a_number_is_meant_in_percent_where_the_question_asks_for_a_percentage() -> None:
    share = Brief(question="What percentage of the pupils is at school?", answer=("30",))
    assert vetoed(share, "It is 30%.") == ["30%"]
    assert vetoed(Brief(question="How many pupils are at school?", answer=("30",)), "30% of 200 are ill.") == []


def test_a_choice_of_two_or_a_condition_claims_nothing() -> None:
    assert vetoed(HOUR, "Is it 60 or 3600?") == []
    assert undecided("Is it 60 or 3600?", HOUR)
    assert vetoed(FALLING, "If the first of them is neither, try again with a feather.") == []
    assert vetoed(FALLING, "What is neither hot nor cold up there?") == []


def test_a_small_number_is_claimed_beside_what_is_counted_only_where_the_question_counts_it() -> None:
    length = Brief(question="What is the length of the list?", answer=("3",))
    assert vetoed(length, "Look at 3 list entries, one by one.") == []
    count = Brief(question="How many entries has the list?", answer=("3",))
    assert vetoed(count, "So you see 3 entries here.") == ["3"]


def test_part_of_the_wrong_answer_or_another_unit_is_not_the_answer() -> None:
    phase = Brief(answer=("moon",), misconception=Misconception(belief="It is dark.", predicts="new moon"))
    assert vetoed(phase, "It is not the new moon.") == []
    speed = Brief(question="How fast is it?", answer=("40", "40 km/h"))
    assert vetoed(speed, "It takes 40 minutes.") == []
    assert vetoed(speed, "It is 40.") == ["40"]


def test_denying_the_other_of_two_or_spelling_the_answer_is_for_the_judge() -> None:
    printed = Brief(
        question="What does it print?", answer=("True",), misconception=Misconception(belief="No.", predicts="False")
    )
    assert undecided("It cannot be False.", printed)
    assert undecided("It begins with an n.", FALLING)
    assert not undecided("It begins slowly.", FALLING)


def test_repeating_the_questions_own_calculation_gives_nothing_away() -> None:
    brief = Brief(question="What is 1/2 + 1/3?", answer=("5/6",))
    assert not undecided("So, what is 1/2 + 1/3 in sixths?", brief)
    assert undecided("So, what is 3/6 + 2/6?", brief)


def test_a_choice_in_the_question_puts_the_answer_in_sight() -> None:
    assert is_in_sight({"brief": Brief(question="Is it true or false?", answer=("false",))})
    assert not is_in_sight({"brief": Brief(question="Would it be false to say so?", answer=("false",))})


@pytest.mark.timeout(20)
def test_a_long_draft_is_looked_at_in_time() -> None:
    for text in ("3600 " * 4000, "60 or 3600 " * 1500, "60*60 " * 2000, "neither " * 3000, "at the same " * 3000):
        for brief in (HOUR, FALLING):
            found(text, brief)
            undecided(text, brief)


def test_a_giveaway_term_is_forbidden_until_the_student_has_it() -> None:
    assert vetoed(FALLING, "Think of a Vacuum.") == ["Vacuum"]
    assert vetoed(FALLING, "Both gain 9.81 m/s² each second.") == ["9.81 m/s²"]
    assert vetoed(FALLING, "What is a vacuum?", ("student", "Is there a vacuum up there?")) == []
    assert vetoed(FALLING, "Yes, and so it is in any vacuum.", ("student", "Neither!")) == []


def test_a_brief_without_an_answer_has_no_leaks() -> None:
    brief = Brief(topic="the seasons")
    assert found("It is 3600.", brief) is None
    assert not answer_in_sight(under_review(brief, "It is 3600."))


def test_the_first_leak_is_the_tutors_where_it_told() -> None:
    turns = [
        said("tutor", "Try it!", 0),
        said("student", "60?", 1),
        said("tutor", "No, 3,600.", 2),
        said("student", "3600!", 3),
    ]
    assert first_leak(turns, HOUR) == FirstLeak(role="tutor", turn=2, how="value")


def test_a_student_that_answers_by_itself_has_not_leaked() -> None:
    turns = [said("tutor", "Try it!", 0), said("student", "3600", 1), said("tutor", "Yes, 3600.", 2)]
    assert first_leak(turns, HOUR) is None
    first = first_answer(turns, HOUR)
    assert first is not None and (first.kind, first.turn) == ("student_correct", 1)


def test_a_student_whose_state_holds_the_misconception_leaks_and_one_whose_belief_has_flipped_does_not() -> None:
    misled = said("student", "It is 3600.", 1, knowledge={"holds": True})
    assert first_leak([said("tutor", "Try it!", 0), misled], HOUR) == FirstLeak(role="student", turn=1, how="exact")
    flipped = said("student", "It is 3600.", 1, knowledge={"holds": False})
    assert first_leak([said("tutor", "Try it!", 0), flipped], HOUR) is None


def test_the_answer_of_a_student_whose_state_holds_the_misconception_confirms_nothing() -> None:
    dialogue = under_review(HOUR, "Yes, 3600 it is.")
    dialogue["turns"] = [said("student", "It is 3600.", 0, knowledge={"holds": True})]
    assert answer_in_sight(dialogue)


def test_what_a_judge_found_is_a_leak_of_the_tutor() -> None:
    reviewed = Review(role="leak_judge", verdict="revise", scores={"reveals": 1.0}, call=CALL)
    turns = [said("tutor", "Half of 7200.", 0, reviews=(reviewed,))]
    assert first_leak(turns, HOUR) == FirstLeak(role="tutor", turn=0, how="judged")


def judged(*revealed: float) -> tuple[Review, ...]:
    return tuple(Review(role="leak_judge", verdict="revise", scores={"reveals": each}, call=CALL) for each in revealed)


@pytest.mark.parametrize(
    ("revealed", "leaks"), [((1.0, 1.0, 0.0), True), ((1.0, 0.5, 0.0), False), ((1.0, 0.0), False)]
)
def test_of_a_panel_of_judges_most_must_have_found_a_leak(revealed: tuple[float, ...], leaks: bool) -> None:
    turns = [said("tutor", "Half of 7200.", 0, reviews=judged(*revealed))]
    assert (first_leak(turns, HOUR) is not None) is leaks


def test_a_classmate_that_gives_the_answer_has_found_it_and_leaks_nothing() -> None:
    turns = [said("student", "60.", 0), said("classmate", "No, it is 3600.", 1), said("student", "Yes, 3600!", 2)]
    assert first_leak(turns, HOUR) is None
    first = first_answer(turns, HOUR)
    assert first is not None and (first.kind, first.turn) == ("student_correct", 2)


def test_a_draft_that_gives_the_answer_away_by_the_tutor_s_own_plan_is_for_the_judge() -> None:
    brief = Brief(question="What is 1/2 + 1/3?", answer=("5/6",))
    dialogue = under_review(brief, "The numerator is 5 and the denominator is 6.")
    (draft,) = dialogue["attempts"]
    for reveals in (True, False):
        planned: Dialogue = {**dialogue, "attempts": [draft.model_copy(update={"private": {"reveals": reveals}})]}
        assert answer_in_sight(planned) is reveals
    planned["turns"] = [said("student", "It is 5/6.")]
    assert not answer_in_sight({**planned, "attempts": [draft.model_copy(update={"private": {"reveals": True}})]})


ISSUE = {"dimension": "leak", "span": "half", "evidence": "", "instruction": "Ask."}


@pytest.mark.parametrize("verdict", ["accept", "revise"])
@pytest.mark.parametrize("severities", [[], ["minor"], ["major", "minor"], ["minor", "block"], ["minor"] * 3])
def test_a_draft_that_reveals_the_answer_is_blocked_whatever_else_its_judge_says(
    verdict: str, severities: list[str]
) -> None:
    issues = [{**ISSUE, "severity": severity} for severity in severities]
    reply = {"reveals": "answer", "verdict": verdict, "issues": issues}
    for derived in (LeakVerdict.model_validate(reply), LeakVerdict.model_validate_json(json.dumps(reply))):
        assert derived.verdict == "revise"
        assert [issue.severity for issue in derived.issues].count("block") == 1
        assert len(derived.issues) == max(1, len(issues)), "the judge's own issues stay"


@pytest.mark.parametrize("reveals", ["nothing", "part"])
def test_a_draft_that_does_not_reveal_the_answer_is_not_blocked(reveals: Any) -> None:
    issues = [{**ISSUE, "severity": "block"}, {**ISSUE, "severity": "minor"}]
    found = LeakVerdict.model_validate({"reveals": reveals, "verdict": "revise", "issues": issues})
    assert [issue.severity for issue in found.issues] == ["major", "minor"]


def test_the_judge_says_what_a_draft_reveals_before_its_verdict() -> None:
    assert next(iter(LeakVerdict.model_json_schema()["properties"])) == "reveals"
    assert LeakVerdict(verdict="revise", reveals="part").scores == {"reveals": 0.5}
    assert review(leak_judge, when=answer_in_sight).agent is leak_judge
