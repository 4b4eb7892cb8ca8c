"""Stepwise rows: what is a step, in what it stands, and whether it is right."""

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

Row = dict[str, Any]


def exported(run: Any, out: Path, role: str = "tutor") -> tuple[dict[str, Row], Any]:
    """The rows by their ids, and the summary."""
    summary = export(run.path, Request(format="prm", role=role, files="jsonl"), out=out)
    rows = [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()]
    return {row["id"]: row for row in rows}, summary


def lesson(run: Any, **fates: list[tuple[str, str]]) -> None:
    """The student speaks first; the tutor's second turn is revised once, unless it is said otherwise."""
    run.add(
        ("student", [("I am lost.", "unseen")]),
        ("tutor", fates.get("first", [("Which parts?", "accepted")])),
        ("student", [("Sixths?", "unseen")]),
        ("tutor", fates.get("second", [("It is 5/6.", "rejected"), ("Why sixths?", "accepted")])),
        brief=BRIEF,
    )


def test_a_step_is_a_turn_of_the_role_after_what_the_others_said(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    row = exported(written_run, tmp_path / "out")[0]["d0"]
    assert row["prompt"] == "You teach.\n\nI am lost.\n"
    assert row["completions"] == ["Tutor: Which parts?", "Student: Sixths?\nTutor: Why sixths?"]
    assert row["labels"] == [True, True]
    assert (row["turn"], row["model"]) == (3, "m")


def test_a_draft_that_was_sent_back_is_a_wrong_step_in_its_place(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    rows, _ = exported(written_run, tmp_path / "out")
    assert set(rows) == {"d0", "d0/3/0"}
    said, refused = rows["d0"], rows["d0/3/0"]
    assert refused["prompt"] == said["prompt"] + said["completions"][0] + "\n"
    assert refused["completions"] == ["Student: Sixths?\nTutor: It is 5/6."]
    assert refused["labels"] == [False]


def test_every_text_has_one_label(written_run: Any, tmp_path: Path) -> None:
    """Also over all rows: nothing of a dialogue counts twice."""
    lesson(written_run, first=[("5/6!", "rejected"), ("Say 5/6.", "rejected"), ("Which parts?", "accepted")])
    rows, _ = exported(written_run, tmp_path / "out")
    steps = [step for row in rows.values() for step in row["completions"]]
    assert len(steps) == len(set(steps)) == 5
    assert all(len(row["completions"]) == len(row["labels"]) for row in rows.values())


def test_a_forced_turn_is_a_wrong_step(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, second=[("5/6!", "rejected"), ("It is 5/6.", "forced")])
    rows, summary = exported(written_run, tmp_path / "out")
    assert rows["d0"]["labels"] == [True, False]
    assert not summary.left_out


def test_no_critique_is_in_any_prompt_or_step(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, first=[("5/6!", "rejected"), ("Which parts?", "accepted")])
    assert "CANARY" in (written_run.path / "messages.jsonl").read_text()
    assert "CANARY" not in str(exported(written_run, tmp_path / "out"))


def test_the_steps_end_before_a_turn_that_was_decided_against(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    written_run.decide(turn=3, by="judge:critic", decision="drop")
    rows, summary = exported(written_run, tmp_path / "out")
    assert rows["d0"]["completions"] == ["Tutor: Which parts?"]
    assert set(rows) == {"d0"}
    assert summary.left_out == {LeftOut.DROPPED: 1}


def test_a_persons_text_is_right_in_place_of_what_was_said(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    written_run.decide(turn=1, by="ada", decision="edit", text="Into which parts?")
    rows, _ = exported(written_run, tmp_path / "out")
    assert rows["d0"]["labels"] == [False, True]
    edited = rows["d0/1/edit"]
    assert (edited["completions"], edited["labels"]) == (["Tutor: Into which parts?"], [True])
    assert (edited["origin"], edited["source"], rows["d0"]["source"]) == ("human", "human", "model")


def test_a_preferred_draft_is_right_and_what_was_said_stays_so(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    written_run.decide(turn=3, by="ada", decision="prefer", text="It is 5/6.")
    rows, summary = exported(written_run, tmp_path / "out")
    assert (rows["d0"]["labels"], rows["d0/3/0"]["labels"]) == ([True, True], [True])
    assert not summary.left_out


def test_a_turn_that_people_kept_is_right_though_it_was_forced(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, second=[("5/6!", "rejected"), ("It is 5/6.", "forced")])
    written_run.decide(turn=3, by="ada", decision="keep")
    assert exported(written_run, tmp_path / "out")[0]["d0"]["labels"] == [True, True]


def test_a_role_that_nobody_judged_has_no_steps(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    with pytest.raises(ExportError, match="left out: 1 unjudged"):
        exported(written_run, tmp_path / "out", role="student")


def test_what_a_judge_kept_is_a_step_where_no_reviewer_looked(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    written_run.decide(turn=0, by="judge:m", decision="keep")
    rows, summary = exported(written_run, tmp_path / "out", role="student")
    assert (rows["d0"]["completions"], rows["d0"]["labels"]) == (["Student: I am lost."], [True])
    assert summary.left_out == {LeftOut.UNJUDGED: 1}


def test_a_role_that_a_person_played_has_no_steps(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run)
    written_run.add(("tutor", []), ("student", [("Hm.", "unseen")]), ("tutor", []), brief=BRIEF, id_="d1")
    rows, summary = exported(written_run, tmp_path / "out")
    assert {row["dialogue"] for row in rows.values()} == {"d0"}
    assert summary.left_out == {LeftOut.A_PERSONS: 1}


def test_parquet_holds_the_same_rows(written_run: Any, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    lesson(written_run)
    rows, _ = exported(written_run, tmp_path / "out")
    export(written_run.path, Request(format="prm"), out=tmp_path / "parquet")
    [file] = (tmp_path / "parquet").rglob("*.parquet")
    assert {row["id"]: row for row in pq.read_table(file).to_pylist()} == rows
