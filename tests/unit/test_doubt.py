"""What people should look at first."""

from typing import Any

import pytest

from tutelage import Brief, Transcript
from tutelage.quality.doubt import uncertain_first
from tutelage.transcripts.decisions import Decision, Decisions

BRIEF = Brief(id="b", topic="Sums")


@pytest.fixture
def transcript(written_run: Any) -> Transcript:
    made: Transcript = written_run.add(
        ("tutor", [("Why?", "accepted")]),
        ("student", [("Hm.", "accepted")]),
        ("tutor", [("It is 4.", "forced")]),
        ("student", [("Hm!", "accepted")]),
        ("tutor", [("How so?", "accepted")]),
        brief=BRIEF,
    )
    return made


def queue(transcript: Transcript, *decisions: tuple[int | None, str, str]) -> dict[int, tuple[str, ...]]:
    made = [
        Decision.model_validate({"id": "d0", "turn": turn, "by": by, "decision": how}) for turn, by, how in decisions
    ]
    return {each.turn: each.why for each in uncertain_first([Decisions(made).about(transcript)], "tutor")}


def test_what_reviewers_refused_is_doubtful_and_the_rest_is_not(transcript: Transcript) -> None:
    assert list(queue(transcript)) == [2]


def test_a_turn_on_which_judges_disagree_comes_first(transcript: Transcript) -> None:
    split = queue(transcript, (4, "judge:critic/a", "keep"), (4, "judge:critic/b", "drop"))
    assert split == {4: ("judges disagree as critic",), 2: ("its reviewers still refused it when it was said",)}


def test_judges_of_different_things_do_not_disagree(transcript: Transcript) -> None:
    """A check for one thing keeps what a critic drops; what counts is that the run kept it."""
    found = queue(transcript, (4, "judge:whole/checks.mine", "keep"), (4, "judge:critic/b", "drop"))
    assert found[4] == ("the run kept it, judge:critic/b would not",)


def test_a_judge_that_would_keep_what_the_run_was_forced_to_say_is_doubted(transcript: Transcript) -> None:
    found = queue(transcript, (2, "judge:critic/b", "keep"))
    assert found == {2: ("its reviewers still refused it, judge:critic/b would keep it",)}


@pytest.mark.parametrize("turn", [2, None])
def test_what_a_person_has_decided_about_is_done(transcript: Transcript, turn: int | None) -> None:
    assert not queue(transcript, (turn, "ada", "keep"))


def test_as_many_are_given_as_are_wanted(transcript: Transcript) -> None:
    judged = Decisions([Decision(id="d0", turn=4, by="judge:critic/b", decision="drop")]).about(transcript)
    assert [each.turn for each in uncertain_first([judged], "tutor", most=1)] == [4]
