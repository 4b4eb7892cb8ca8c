"""Which verdicts of a reviewer an outside check agrees with, and so which of them it may be taught."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from tutelage import Attempt, Brief, Issue, Review, Step, Transcript, Turn
from tutelage.dialogue.arbiter import KIND
from tutelage.dialogue.brief import Misconception
from tutelage.dialogue.turn import Call, Claim, Outcome
from tutelage.exports.formats.agreement import agreement
from tutelage.transcripts.decisions import Decision, Judged
from tutelage.transcripts.transcript import GraphIdentity, Usage

BRIEF = Brief(
    id="halves",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="Add tops and bottoms.", predicts="2/5"),
)
CONFIRMED = {"solution": {"verdict": "confirmed", "answer": "5/6"}}
DRAFT = "Five sixths it is. Which size must the parts have?"


def issue(dimension: str = "leak", span: str = "Five sixths it is", severity: Any = "block") -> Issue:
    return Issue(dimension=dimension, severity=severity, span=span, instruction="Ask.")


def critic(*issues: Issue, role: str = "critic", model: str = "m", **more: Any) -> Review:
    verdict: Any = "revise" if issues else "accept"
    return Review(
        role=role, verdict=verdict, issues=list(issues), call=Call(model=model, prompt_sha256="f" * 64), **more
    )


def check(*issues: Issue, role: str = "plain_speech") -> Review:
    return Review(role=role, verdict="revise", issues=list(issues))


def fact_checker(*claims: Claim, by_model: bool = True, **scores: float) -> Review:
    bad = any(claim.verdict == "contradicted" for claim in claims)
    call = Call(model="m", prompt_sha256="e" * 64) if by_model else None
    return Review(
        role="fact_checker", verdict="revise" if bad else "accept", claims=list(claims), scores=scores, call=call
    )


def claim(verdict: Any = "supported", span: str = "Five sixths it is", quote: str | None = "It is 5/6.") -> Claim:
    return Claim(text=span, span=span, verdict=verdict, quote=quote)


def draft(*reviews: Review, text: str = DRAFT, status: Any = "accepted") -> Attempt:
    return Attempt(text=text, status=status, call=Call(model="m", prompt_sha256="0" * 64), reviews=list(reviews))


def agrees(
    review: Review,
    *attempts: Attempt,
    number: int = 0,
    decisions: Sequence[tuple[str, Any, str | None]] = (),
    steps: Sequence[Step] = (),
    findings: dict[str, Any] | None = None,
) -> bool | None:
    """What outside checks say of a review that is among those of the attempt with that number."""
    drafts = list(attempts) or [draft(review)]
    said = next(each for each in drafts if each.status == "accepted")
    turn = Turn(index=0, role="tutor", text=said.text, attempts=drafts, steps=list(steps))
    transcript = Transcript(
        id="d",
        run="r",
        graph=GraphIdentity(name="lesson", sha256="0" * 64),
        brief=BRIEF,
        turns=[turn],
        findings=findings or {},
        outcome=Outcome(status="completed", reason="mastered"),
        usage=Usage(),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 2, tzinfo=UTC),
    )
    about = [Decision(id="d", turn=0, by=by, decision=what, text=text) for by, what, text in decisions]
    return agreement(review, Judged(transcript=transcript, decisions={0: about}), turn, number)


ACCEPT, REVISE = critic(), critic(issue())


def test_without_a_witness_nobody_knows() -> None:
    assert agrees(ACCEPT) is None
    assert agrees(REVISE) is None


# --- people and other judges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decision", "is_good"), [("keep", True), ("drop", False), ("edit", False), ("prefer", True)])
@pytest.mark.parametrize("by", ["ada", "judge:critic/another-model"])
def test_what_somebody_else_decided_about_the_turn_is_held_against_the_verdict(
    by: str, decision: str, is_good: bool
) -> None:
    text = {"edit": "Which size?", "prefer": DRAFT}.get(decision)
    assert agrees(ACCEPT, decisions=[(by, decision, text)]) is is_good
    assert agrees(REVISE, decisions=[(by, decision, text)]) is not is_good


def test_a_person_outweighs_judges_and_checks() -> None:
    judged = [("judge:critic/another-model", "drop", None), ("ada", "keep", None)]
    assert agrees(ACCEPT, draft(ACCEPT, check(issue(severity="major"))), decisions=judged) is True
    assert agrees(REVISE, draft(REVISE, check(issue(severity="major"))), decisions=judged) is False


def test_witnesses_that_disagree_among_themselves_leave_a_verdict_out() -> None:
    assert agrees(ACCEPT, decisions=[("ada", "keep", None), ("ben", "drop", None)]) is False
    assert agrees(REVISE, decisions=[("ada", "keep", None), ("ben", "drop", None)]) is False
    kept = [("judge:critic/another-model", "keep", None)]
    assert agrees(ACCEPT, draft(ACCEPT, check(issue(severity="major"))), decisions=kept) is False


@pytest.mark.parametrize("by", ["judge:critic/m", "judge:leak_judge/m", "judge:critic/other,m", "judge:critic/m+v2"])
def test_a_reviewer_is_no_witness_for_itself_in_whichever_role(by: str) -> None:
    call = Call(model="m", adapter="v2" if "+" in by else None, prompt_sha256="f" * 64)
    assert agrees(REVISE.model_copy(update={"call": call}), decisions=[(by, "drop", None)]) is None


def test_the_same_model_with_another_adapter_is_another_judge() -> None:
    assert agrees(REVISE, decisions=[("judge:critic/m+v2", "drop", None)]) is True


def test_decisions_are_about_what_was_said_and_not_about_drafts_before_it() -> None:
    drafts = draft(REVISE, status="rejected"), draft(ACCEPT, text="Which size?")
    assert agrees(REVISE, *drafts, decisions=[("ada", "keep", None)]) is None
    assert agrees(ACCEPT, *drafts, number=1, decisions=[("ada", "keep", None)]) is True
    assert agrees(REVISE, *drafts, decisions=[("ada", "prefer", DRAFT)]) is False
    assert agrees(ACCEPT, *drafts, number=1, decisions=[("ada", "prefer", DRAFT)]) is False


# --- checks in code -------------------------------------------------------------------------------------------------


def test_a_check_that_found_the_same_agrees_with_a_revise() -> None:
    assert agrees(REVISE, draft(REVISE, check(issue("leak", span="")))) is True
    assert agrees(REVISE, draft(REVISE, check(issue("form", span="sixths it")))) is True
    assert agrees(REVISE, draft(REVISE, check(issue("form", span="Which size")))) is None


def test_a_check_with_something_serious_disagrees_with_an_accept() -> None:
    assert agrees(ACCEPT, draft(ACCEPT, check(issue(severity="major")))) is False
    assert agrees(ACCEPT, draft(ACCEPT, check(issue(severity="minor")))) is None


def test_another_reviewer_of_the_run_is_no_check() -> None:
    assert agrees(REVISE, draft(REVISE, critic(issue(), role="leak_judge"))) is None
    assert agrees(REVISE, draft(REVISE, check(issue(), role="critic"))) is None


# --- quotes ---------------------------------------------------------------------------------------------------------


def test_a_fact_checker_is_believed_where_each_of_its_quotes_was_found() -> None:
    assert agrees(fact_checker(claim(), claim("contradicted"), unverified_quotes=0)) is True
    assert agrees(fact_checker(claim(), unverified_quotes=1)) is False
    assert agrees(fact_checker(claim(), claim("not_found", quote=None))) is None


def test_claims_with_verified_quotes_witness_for_other_reviewers() -> None:
    supported, contradicted = fact_checker(claim()), fact_checker(claim("contradicted"))
    assert agrees(ACCEPT, draft(ACCEPT, supported)) is True
    assert agrees(ACCEPT, draft(ACCEPT, contradicted)) is False
    wrong, leaks = critic(issue("correctness")), critic(issue("leak"))
    assert agrees(wrong, draft(wrong, contradicted)) is True
    assert agrees(wrong, draft(wrong, supported)) is False
    assert agrees(leaks, draft(leaks, supported)) is None
    elsewhere = critic(issue("correctness", span="Which size"))
    assert agrees(elsewhere, draft(elsewhere, contradicted)) is None


def test_claims_without_quotes_witness_for_nobody() -> None:
    assert agrees(ACCEPT, draft(ACCEPT, fact_checker(claim("not_found", quote=None)))) is None
    assert agrees(ACCEPT, draft(ACCEPT, fact_checker(claim(), claim("not_found", quote=None)))) is None


# --- an independent solution ----------------------------------------------------------------------------------------

RIGHT, WRONG = "The answer is 5/6.", "The answer is 2/5."


@pytest.mark.parametrize(("text", "is_right"), [(RIGHT, True), (WRONG, False)])
def test_a_confirmed_answer_shows_whether_a_draft_is_right(text: str, is_right: bool) -> None:
    wrong = critic(issue("correctness", span=text))
    assert agrees(ACCEPT, draft(ACCEPT, text=text), findings=CONFIRMED) is is_right
    assert agrees(wrong, draft(wrong, text=text), findings=CONFIRMED) is not is_right


def test_a_solution_says_nothing_of_other_matters_nor_of_answers_that_it_did_not_confirm() -> None:
    leaks = critic(issue("leak", span=RIGHT))
    assert agrees(leaks, draft(leaks, text=RIGHT), findings=CONFIRMED) is None
    refuted = {"solution": {"verdict": "refuted", "answer": "7/6"}}
    assert agrees(ACCEPT, draft(ACCEPT, text=RIGHT), findings=refuted) is None
    assert agrees(ACCEPT, draft(ACCEPT, text="Which parts?"), findings=CONFIRMED) is None


# --- what became of the draft ---------------------------------------------------------------------------------------

MENDED = "Have a look. Which size must the parts have?"


def revised(*before: Review, after: Sequence[Review] = (), text: str = MENDED) -> tuple[Attempt, Attempt]:
    return draft(REVISE, *before, status="rejected"), draft(ACCEPT, *after, text=text)


def other(*issues: Issue, **scores: float) -> Review:
    return critic(*issues, role="leak_judge", scores=scores)


def test_a_revise_is_right_if_its_issue_was_mended_and_somebody_else_found_the_revision_better() -> None:
    assert agrees(REVISE, *revised(other(issue("form")), after=[other()])) is True
    assert agrees(REVISE, *revised(check(issue("form", span="Which size")))) is True
    assert agrees(REVISE, *revised(other(clarity=0.2), after=[other(clarity=0.6)])) is True


def test_a_revise_is_not_right_because_the_speaker_did_what_it_said() -> None:
    assert agrees(REVISE, *revised()) is None
    assert agrees(REVISE, *revised(other(), after=[other()])) is None
    assert agrees(REVISE, *revised(other(issue("form")))) is None, "the other one was not asked again"


def test_a_revise_whose_words_are_still_there_was_not_mended() -> None:
    assert agrees(REVISE, *revised(other(issue("form")), after=[other()], text=f"Well! {DRAFT}")) is None
    vague = critic(issue(span="no such words"))
    drafts = draft(vague, other(issue("form")), status="rejected"), draft(ACCEPT, other(), text=MENDED)
    assert agrees(vague, *drafts) is None


def test_a_revision_that_somebody_found_worse_shows_nothing() -> None:
    assert agrees(REVISE, *revised(other(clarity=0.6), after=[other(clarity=0.2)])) is None
    assert (
        agrees(REVISE, *revised(other(issue("form")), after=[other(), check(issue("form", severity="major"))])) is None
    )


@pytest.mark.parametrize(("preferred", "found"), [((1, 1), True), ((1, 0), None), ((0, 0), None), ((1, None), None)])
def test_an_arbiter_that_prefers_the_revision_in_both_orders_is_a_witness(
    preferred: tuple[int | None, ...], found: bool | None
) -> None:
    call = Call(model="a", prompt_sha256="a" * 64)
    orders = [[0, 1], [1, 0]]
    steps = [
        Step(kind=KIND, role="arbiter", text="", data={"attempts": order, "preferred": each}, call=call)
        for order, each in zip(orders, preferred, strict=True)
    ]
    assert agrees(REVISE, *revised(), steps=steps) is found
