"""Unpaired preferences: which drafts have which label, and why the others have none."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage import Brief
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut

BRIEF = Brief(id="halves", question="What is 1/2 + 1/3?", answer=("5/6",))
ONE_REVISION = ("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")])

Row = dict[str, Any]


def exported(run: Any, out: Path, role: str = "tutor") -> tuple[list[Row], Any]:
    summary = export(run.path, Request(format="kto", role=role, files="jsonl"), out=out)
    return [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()], summary


def verdicts(rows: list[Row]) -> dict[str, bool]:
    return {row["completion"][0]["content"]: row["label"] for row in rows}


def test_what_was_accepted_is_right_and_what_was_sent_back_wrong(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_REVISION, ("student", [("Sixths.", "unseen")]), brief=BRIEF)
    rows, _ = exported(written_run, tmp_path / "out")
    assert verdicts(rows) == {"It is 5/6.": False, "Which parts?": True}
    assert [row["id"] for row in rows] == ["d0/0/0", "d0/0/1"]
    assert [row["issues"] for row in rows] == [["leak"], []]
    assert [row["score"] for row in rows] == [0.2, 0.8]
    assert {row["by"] for row in rows} == {"reviewers"}


def test_both_drafts_answer_the_prompt_of_the_first_without_any_critique(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_REVISION, brief=BRIEF)
    rows, _ = exported(written_run, tmp_path / "out")
    assert [row["prompt"] for row in rows] == [[{"role": "system", "content": "You teach."}]] * 2
    assert "CANARY" not in str(rows)


def test_a_draft_that_was_forced_is_neither(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("5/6!", "rejected"), ("It is 5/6.", "forced")]), brief=BRIEF)
    rows, summary = exported(written_run, tmp_path / "out")
    assert verdicts(rows) == {"5/6!": False}
    assert summary.left_out == {LeftOut.FORCED: 1}


def test_a_candidate_that_was_not_chosen_is_neither(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("Hm?", "superseded"), ("Which parts?", "accepted")]), brief=BRIEF)
    rows, summary = exported(written_run, tmp_path / "out")
    assert verdicts(rows) == {"Which parts?": True}
    assert summary.left_out == {LeftOut.UNJUDGED: 1}


def test_a_role_at_whose_drafts_nobody_looked_has_no_rows(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_REVISION, ("student", [("Sixths.", "unseen")]), brief=BRIEF)
    with pytest.raises(ExportError, match="left out: 1 unjudged"):
        exported(written_run, tmp_path / "out", role="student")


def test_where_checks_sent_one_draft_back_those_that_they_let_pass_are_right(written_run: Any, tmp_path: Path) -> None:
    """A check writes nothing down about a draft that it lets pass."""
    refused = ("student", [("5/6.", "checked"), ("2/5.", "unseen")])
    written_run.add(refused, ("tutor", [("Why?", "accepted")]), ("student", [("Fifths.", "unseen")]), brief=BRIEF)
    rows, _ = exported(written_run, tmp_path / "out", role="student")
    assert verdicts(rows) == {"5/6.": False, "2/5.": True, "Fifths.": True}


def test_the_same_words_never_have_two_labels_in_a_turn(written_run: Any, tmp_path: Path) -> None:
    drafts = [("Say it.", "rejected"), ("Say  it.", "rejected"), ("Which?", "rejected"), ("Which?", "accepted")]
    written_run.add(("tutor", drafts), brief=BRIEF)
    rows, summary = exported(written_run, tmp_path / "out")
    assert verdicts(rows) == {"Say it.": False, "Which?": True}
    assert len(rows) == 2
    assert summary.left_out == {LeftOut.REPEATED: 1, LeftOut.IDENTICAL: 1}


@pytest.mark.parametrize(
    ("decision", "labels"),
    [
        ({"decision": "drop", "by": "ada"}, None),
        ({"decision": "drop", "by": "judge:critic"}, None),
        ({"decision": "keep", "by": "ada"}, {"5/6!": False, "It is 5/6.": True}),
        ({"decision": "keep", "by": "judge:critic"}, {"5/6!": False}),
        ({"decision": "prefer", "text": "5/6!", "by": "ada"}, {"5/6!": True}),
        ({"decision": "prefer", "text": "5/6!", "by": "judge:critic"}, {"5/6!": True}),
        ({"decision": "prefer", "text": "It is 5/6.", "by": "ada"}, {"5/6!": False, "It is 5/6.": True}),
        (
            {"decision": "edit", "text": "Which parts?", "by": "ada"},
            {"5/6!": False, "It is 5/6.": False, "Which parts?": True},
        ),
    ],
)
def test_what_was_decided_outweighs_the_reviewers(
    written_run: Any, tmp_path: Path, decision: Row, labels: dict[str, bool] | None
) -> None:
    written_run.add(("tutor", [("5/6!", "rejected"), ("It is 5/6.", "forced")]), brief=BRIEF)
    written_run.decide(turn=0, **decision)
    if labels is None:
        with pytest.raises(ExportError, match="left out: 1 dropped"):
            exported(written_run, tmp_path / "out")
    else:
        rows, _ = exported(written_run, tmp_path / "out")
        assert verdicts(rows) == labels
        assert all(row["issues"] == ([] if row["label"] else ["leak"]) for row in rows if row["source"] == "model")


@pytest.mark.parametrize(("by", "labeller", "origin"), [("ada", "people", "human"), ("judge:m", "judges", "synthetic")])
def test_a_row_says_who_wrote_it_and_who_says_that_it_is_right(
    written_run: Any, tmp_path: Path, by: str, labeller: str, origin: str
) -> None:
    written_run.add(ONE_REVISION, brief=BRIEF)
    written_run.decide(turn=0, by=by, decision="edit", text="What is a third of six?")
    rows, _ = exported(written_run, tmp_path / "out")
    assert [(row["id"], row["by"], row["source"], row["origin"], row["finish_reason"]) for row in rows] == [
        ("d0/0/0", "reviewers", "model", "synthetic", "stop"),
        ("d0/0/1", labeller, "model", "synthetic", "stop"),
        ("d0/0/edit", labeller, {"people": "human", "judges": "judge"}[labeller], origin, ""),
    ]


def test_what_a_judge_kept_is_right_where_no_reviewer_looked(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("student", [("Sixths.", "unseen")]), ("student", [("5/6", "unseen")]), brief=BRIEF)
    written_run.decide(turn=1, by="judge:m", decision="keep")
    rows, summary = exported(written_run, tmp_path / "out", role="student")
    assert [(row["completion"][0]["content"], row["label"], row["by"]) for row in rows] == [("5/6", True, "judges")]
    assert summary.left_out == {LeftOut.UNJUDGED: 1}


def test_scores_of_candidates_are_no_verdicts(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("Hm?", "scored_lower"), ("Which?", "scored")]), brief=BRIEF)
    with pytest.raises(ExportError, match="left out: 2 unjudged"):
        exported(written_run, tmp_path / "out")


def test_a_candidate_that_a_check_forbade_is_wrong(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("5/6!", "vetoed"), ("Which parts?", "accepted")]), brief=BRIEF)
    assert verdicts(exported(written_run, tmp_path / "out")[0]) == {"5/6!": False, "Which parts?": True}


def test_what_a_person_said_has_no_prompt_and_no_row(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", []), ONE_REVISION, brief=BRIEF)
    rows, summary = exported(written_run, tmp_path / "out")
    assert {row["turn"] for row in rows} == {1}
    assert summary.left_out == {LeftOut.A_PERSONS: 1}


@pytest.mark.parametrize(
    ("fate", "decision", "label"), [("accepted", "keep", True), ("forced", "keep", False), ("forced", "drop", True)]
)
def test_a_review_is_right_where_an_outside_check_agrees(
    written_run: Any, tmp_path: Path, fate: str, decision: str, label: bool
) -> None:
    written_run.add(("tutor", [("It is 5/6.", "rejected"), ("Which parts?", fate)]), brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision=decision)
    [row], summary = exported(written_run, tmp_path / "out", role="critic")
    verdict = "accept" if fate == "accepted" else "revise"
    assert verdicts([row]) == {f'{{"verdict":"{verdict}"}}': label}
    assert (row["id"], row["by"]) == ("d0/0/1/critic", "checks")
    assert summary.left_out == {LeftOut.UNCHECKED: 1}
