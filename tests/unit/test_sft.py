"""Supervised rows after people and judges have had their say, whole dialogues with their masks, and reviewers."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage import Brief, Review, Turn
from tutelage.dialogue.turn import Call
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.formats.sft import SFT
from tutelage.exports.request import Request
from tutelage.transcripts.decisions import read_decisions
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.store import read_transcripts

BRIEF = Brief(id="halves", question="What is 1/2 + 1/3?", answer=("5/6",))
ASK = ("tutor", [("Which parts?", "accepted")])
REFUSED = ("tutor", [("It is 5/6.", "rejected"), ("It is 5/6!", "forced")])
ANSWER = ("student", [("Sixths.", "unseen")])
Row = dict[str, Any]


def exported(run: Any, out: Path, **options: Any) -> tuple[list[Row], Any]:
    summary = export(run.path, Request(format="sft", files="jsonl", dedup="none", **options), out=out)
    return [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()], summary


def of_format(run: Any, **options: Any) -> list[Any]:
    """The format's own rows and reasons, before a layout has its say."""
    decisions, request = read_decisions(run.path), Request(format="sft", **options)
    with Prompts(run.path) as prompts:
        return [
            row
            for transcript in read_transcripts(run.path)
            for row in SFT.rows(decisions.about(transcript), prompts, request)
        ]


def said(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["source"], row["completion"][0]["content"]) for row in rows]


def change(run: Any, by: Any) -> None:
    """Changes the first turn's attempts in the run's one transcript."""
    path = run.path / "transcripts" / "0.jsonl"
    line = orjson.loads(path.read_bytes())
    by(line["turns"][0]["attempts"])
    path.write_bytes(orjson.dumps(line) + b"\n")


def found_by_a_check(attempts: list[dict[str, Any]]) -> None:
    """A review without a call is a check's in code."""
    for review in attempts[0]["reviews"]:
        review.pop("call", None)


# --- decisions ------------------------------------------------------------------------------------------------------


def test_what_a_person_wrote_instead_is_learnt_and_said_to_be_a_persons(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ASK, ANSWER, ASK, brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="edit", text="Which parts are alike?")
    rows, _ = exported(written_run, tmp_path / "out")
    assert said(rows) == [("human", "Which parts are alike?"), ("model", "Which parts?")]
    assert [(row["origin"], row["score"]) for row in rows] == [("human", None), ("synthetic", 0.8)]
    assert [row["finish_reason"] for row in rows] == ["", "stop"], "nobody who writes anew is cut off by `max_tokens`"
    assert rows[0]["prompt"] == [{"role": "system", "content": "You teach."}]
    assert "ada" not in str(rows)


def test_what_a_judge_wrote_instead_is_not_said_to_be_a_persons(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ASK, brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="edit", text="Which parts are alike?")
    [row] = exported(written_run, tmp_path / "out")[0]
    assert (row["source"], row["origin"]) == ("judge", "synthetic")


def test_a_turn_that_was_dropped_is_no_row_unless_a_person_keeps_it(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ASK, ANSWER, ASK, brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="drop")
    rows, summary = exported(written_run, tmp_path / "out")
    assert [row["turn"] for row in rows] == [2]
    assert summary.left_out == {"dropped": 1}
    written_run.decide(turn=0, by="ada", decision="keep")
    assert [row["turn"] for row in exported(written_run, tmp_path / "kept")[0]] == [0, 2]


def test_a_refused_turn_is_learnt_if_a_person_keeps_it_and_not_if_a_judge_does(
    written_run: Any, tmp_path: Path
) -> None:
    written_run.add(REFUSED, ANSWER, ASK, brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="keep")
    assert [row["turn"] for row in exported(written_run, tmp_path / "out")[0]] == [2]
    written_run.decide(turn=0, by="ada", decision="keep")
    assert [row["turn"] for row in exported(written_run, tmp_path / "kept")[0]] == [0, 2]


def test_a_candidate_that_was_preferred_is_learnt_in_place_of_what_was_said(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("Or sixths?", "superseded"), ("Which parts?", "accepted")]), brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="prefer", text="Or sixths?")
    assert said(exported(written_run, tmp_path / "out")[0]) == [("model", "Or sixths?")]
    written_run.decide(turn=0, by="ada", decision="keep")
    assert said(exported(written_run, tmp_path / "kept")[0]) == [("model", "Which parts?")]


def test_what_a_check_forbade_is_not_learnt_whoever_prefers_it(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")]), brief=BRIEF)
    change(written_run, found_by_a_check)
    written_run.decide(turn=0, by="ada", decision="prefer", text="It is 5/6.")
    assert said(exported(written_run, tmp_path / "out")[0]) == [("model", "Which parts?")]


def test_a_persons_own_turn_is_no_row_and_no_crash(written_run: Any, tmp_path: Path) -> None:
    """Nobody was sent a prompt for it."""
    played = Turn(index=1, role="student", text="Sixths?", attempts=[])
    first, *_ = written_run.add(ASK, brief=BRIEF, id_="d1").turns
    written_run.add(ASK, brief=BRIEF, turns=[first, played])
    with pytest.raises(ExportError, match=r"there are rows of tutor, critic$"):
        exported(written_run, tmp_path / "out", role="student")
    assert exported(written_run, tmp_path / "tutor")[1].rows == 2


# --- whole dialogues ------------------------------------------------------------------------------------------------


def test_each_message_of_a_whole_dialogue_says_whether_it_is_to_be_learnt(written_run: Any) -> None:
    written_run.add(REFUSED, ANSWER, ASK, ANSWER, ASK, brief=BRIEF)
    written_run.decide(turn=2, by="ada", decision="drop")
    [row] = of_format(written_run, whole_dialogue=True)
    learnt = [(message["role"], flag) for message, flag in zip(row["messages"], row["train"], strict=True)]
    assert learnt == [
        ("system", False),
        ("assistant", False),
        ("user", False),
        ("assistant", False),
        ("user", False),
        ("assistant", True),
    ]
    [row] = of_format(written_run, whole_dialogue=True, forced=True)
    assert row["train"] == [False, True, False, False, False, True]


def test_where_the_oldest_turns_are_no_longer_shown_the_flags_are_those_of_the_turns_that_are(written_run: Any) -> None:
    short = written_run.add(ASK, ANSWER, ASK, brief=BRIEF, id_="d1").turns[-1].attempts[0].call.prompt_sha256
    turns = written_run.add(REFUSED, ANSWER, ASK, ANSWER, ASK, brief=BRIEF, id_="whole").turns
    call = turns[-1].attempts[0].call.model_copy(update={"prompt_sha256": short})
    outgrown = turns[-1].model_copy(update={"attempts": [turns[-1].attempts[0].model_copy(update={"call": call})]})
    written_run.add(ASK, brief=BRIEF, id_="outgrown", turns=[*turns[:-1], outgrown])
    row = of_format(written_run, whole_dialogue=True)[-1]
    assert [message["content"] for message in row["messages"]] == [
        "You teach.",
        "Which parts?",
        "Sixths.",
        "Which parts?",
    ]
    assert row["train"] == [False, True, False, True]


def test_a_whole_dialogue_ends_with_a_turn_that_is_to_be_learnt(written_run: Any) -> None:
    written_run.add(ASK, ANSWER, REFUSED, brief=BRIEF)
    [row] = of_format(written_run, whole_dialogue=True)
    assert row["messages"][-1] == {"role": "assistant", "content": "Which parts?"}
    assert (row["turn"], row["train"]) == (0, [False, True])


def test_a_whole_dialogue_of_which_nothing_is_to_be_learnt_is_left_out(written_run: Any) -> None:
    written_run.add(REFUSED, ANSWER, brief=BRIEF)
    assert of_format(written_run, whole_dialogue=True) == ["forced"]


def test_in_a_whole_dialogue_an_edited_turn_stays_as_it_was_answered_and_only_the_last_is_replaced(
    written_run: Any,
) -> None:
    written_run.add(ASK, ANSWER, ASK, brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="edit", text="And now?")
    written_run.decide(turn=2, by="ada", decision="edit", text="And then?")
    [row] = of_format(written_run, whole_dialogue=True)
    assert [message["content"] for message in row["messages"]] == ["You teach.", "Which parts?", "Sixths.", "And then?"]
    assert row["train"] == [False, False, False, True]


def test_a_trainer_that_learns_every_turn_gets_no_dialogue_with_one_that_is_not_to_be_learnt(
    written_run: Any, tmp_path: Path
) -> None:
    written_run.add(REFUSED, ANSWER, ASK, brief=BRIEF)
    written_run.add(ASK, ANSWER, ASK, brief=BRIEF, id_="d1")
    rows, summary = exported(written_run, tmp_path / "out", whole_dialogue=True)
    assert [row["dialogue"] for row in rows] == ["d1"]
    assert summary.left_out == {"masked": 1}


# --- reasoning, scores ----------------------------------------------------------------------------------------------


def test_what_a_model_thought_is_learnt_only_where_asked_for_and_not_before_a_persons_words(
    written_run: Any, tmp_path: Path
) -> None:
    written_run.add(ASK, brief=BRIEF)
    change(written_run, lambda attempts: attempts[0]["call"].update(reasoning="\nFirst, the parts.\n"))
    assert said(exported(written_run, tmp_path / "without")[0]) == [("model", "Which parts?")]
    thought = "<think>\nFirst, the parts.\n</think>\n\nWhich parts?"
    assert said(exported(written_run, tmp_path / "with", reasoning=True)[0]) == [("model", thought)]
    written_run.decide(turn=0, by="ada", decision="edit", text="Which?")
    assert said(exported(written_run, tmp_path / "edited", reasoning=True)[0]) == [("human", "Which?")]
    with pytest.raises(ExportError, match="leave out `reasoning` or `whole_dialogue`"):
        exported(written_run, tmp_path / "whole", reasoning=True, whole_dialogue=True)


def test_a_row_has_the_mean_score_of_the_words_that_it_teaches(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")]), ANSWER, brief=BRIEF)
    assert [row["score"] for row in exported(written_run, tmp_path / "tutor")[0]] == [0.8]
    assert [row["score"] for row in exported(written_run, tmp_path / "student", role="student")[0]] == [None]


# --- reviewers ------------------------------------------------------------------------------------------------------


def reviewed_by_a_model(attempts: list[dict[str, Any]]) -> None:
    for attempt in attempts:
        call = Call(model="small", prompt_sha256=attempt["call"]["prompt_sha256"])
        verdict: Any = "accept" if attempt["status"] == "accepted" else "revise"
        attempt["reviews"] = [Review(role="critic", verdict=verdict, reply=verdict, call=call).model_dump(mode="json")]


def test_a_reviewer_is_learnt_from_only_where_somebody_else_agrees_with_it(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")]), brief=BRIEF)
    change(written_run, reviewed_by_a_model)
    with pytest.raises(ExportError, match=r"left out: 2 unchecked .*`tutelage judge`.*`--unchecked`"):
        exported(written_run, tmp_path / "none", role="critic")
    written_run.decide(turn=0, by="judge:critic/small", decision="keep")
    with pytest.raises(ExportError, match="2 unchecked"):
        exported(written_run, tmp_path / "itself", role="critic")
    written_run.decide(turn=0, by="judge:critic/large", decision="keep")
    rows, summary = exported(written_run, tmp_path / "out", role="critic")
    assert said(rows) == [("model", "accept")]
    assert summary.left_out == {"unchecked": 1}
    written_run.decide(turn=0, by="ada", decision="drop")
    with pytest.raises(ExportError, match="1 disputed"):
        exported(written_run, tmp_path / "wrong", role="critic")


def test_every_verdict_is_learnt_from_where_that_is_asked_for(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")]), brief=BRIEF)
    change(written_run, reviewed_by_a_model)
    rows, summary = exported(written_run, tmp_path / "out", role="critic", unchecked=True)
    assert [text for _, text in said(rows)] == ["revise", "accept"]
    assert not summary.left_out


def test_no_word_of_a_critic_is_in_the_tutors_set(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")]), brief=BRIEF)
    change(written_run, reviewed_by_a_model)
    for number, options in enumerate(({}, {"unchecked": True}, {"whole_dialogue": True})):
        rows, _ = exported(written_run, tmp_path / f"{number}", **options)
        assert {row["role"] for row in rows} == {"tutor"}
        learnt = [row["completion"] if "completion" in row else row["messages"][-1:] for row in rows]
        assert learnt == [[{"role": "assistant", "content": "Which parts?"}]]
        assert "CANARY" not in str(rows)
