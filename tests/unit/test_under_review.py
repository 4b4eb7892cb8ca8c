"""What a dialogue was when a draft was under review, put together from its transcript."""

from typing import Any

from tutelage import Brief, Transcript
from tutelage.dialogue.turn import Outcome, Turn
from tutelage.transcripts.under_review import under_review

BRIEF = Brief(id="b", topic="Sums")


def written(run: Any, **changes: Any) -> Transcript:
    drafts = [("It is 4.", "rejected"), ("Is it 4?", "superseded"), ("It is four.", "forced"), ("4!", "rejected")]
    made: Transcript = run.add(("student", [("Hm.", "accepted")]), ("tutor", drafts), brief=BRIEF, **changes)
    return made


def test_the_accepted_draft_is_under_review_after_those_before_it_and_nobody_has_said_anything_of_it(
    written_run: Any,
) -> None:
    transcript = written(written_run)
    dialogue = under_review(transcript, transcript.turns[1])
    assert dialogue is not None
    assert [(each.text, each.status) for each in dialogue["attempts"]] == [
        ("It is 4.", "rejected"),
        ("Is it 4?", "superseded"),
        ("It is four.", "pending"),
    ]
    last = dialogue["attempts"][-1]
    assert (last.reviews, last.forced) == ([], False)
    assert dialogue["attempts"][0].reviews
    assert (dialogue["speaker"], dialogue["turns"]) == ("tutor", transcript.turns[:1])


def test_it_is_the_same_dialogue(written_run: Any) -> None:
    profiles = {"critic": {"persona": "strict"}}
    transcript = written(written_run, profiles=profiles, findings={"solution": "4"}, attempt=3)
    dialogue = under_review(transcript, transcript.turns[1])
    assert dialogue is not None
    assert (dialogue["id"], dialogue["brief"], dialogue["retry"]) == ("d0", BRIEF, 2)
    assert (dialogue["profiles"], dialogue["findings"]) == (profiles, {"solution": "4"})
    assert dialogue["begun"] == transcript.started.timestamp()


def test_what_was_no_longer_shown_then_is_known_from_how_it_ended(written_run: Any) -> None:
    detail = "Full; from turn 1 on turns 0 to 0 were shown no more; from turn 2 on turns 0 to 1 were shown no more"
    transcript = written(written_run, outcome=Outcome(status="completed", reason="max_messages", detail=detail))
    of_turns = [under_review(transcript, turn) for turn in transcript.turns]
    assert [[each.turns for each in dialogue["shortened"]] for dialogue in of_turns if dialogue] == [[], [1]]


def test_a_turn_that_no_model_drafted_was_never_under_review(written_run: Any) -> None:
    transcript = written(written_run)
    assert under_review(transcript, Turn(index=2, role="tutor", text="By hand.", attempts=[])) is None
