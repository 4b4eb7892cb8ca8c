"""`decisions.jsonl`: what counts of it, and that what was decided is never lost."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tutelage import Brief, read_transcripts
from tutelage.errors import RunFolderError
from tutelage.transcripts.decisions import FILE, Decision, Decisions, append_decisions, read_decisions


def decided(**fields: Any) -> Decision:
    return Decision.model_validate({"id": "d0", "turn": 1, "by": "ada", "decision": "keep", **fields})


def put(folder: Path, *decisions: Decision) -> None:
    append_decisions(folder, decisions)


def test_what_was_appended_is_read_and_of_one_author_the_last_counts(tmp_path: Path) -> None:
    first, last, other = decided(), decided(decision="drop", reason="It tells."), decided(turn=3)
    put(tmp_path, first, other)
    put(tmp_path, last)
    assert list(read_decisions(tmp_path)) == [last, other]
    assert last in read_decisions(tmp_path)
    assert first not in read_decisions(tmp_path)


def test_who_has_decided_about_what_is_known(tmp_path: Path) -> None:
    put(tmp_path, decided(), decided(turn=None, by="judge:critic/m"))
    decisions = read_decisions(tmp_path)
    assert decisions.has("d0", 1, "ada")
    assert decisions.has("d0", None, "judge:critic/m")
    assert not decisions.has("d0", None, "ada")
    assert not decisions.has("d1", 1, "ada")


def test_what_is_about_no_dialogue_of_the_run_is_counted(tmp_path: Path) -> None:
    put(tmp_path, decided(), decided(id="d9"), decided(id="d9", by="ben"), decided(id="d9", decision="drop"))
    assert read_decisions(tmp_path).astray({"d0"}) == 2
    assert read_decisions(tmp_path).astray({"d0", "d9"}) == 0


def test_a_torn_last_line_is_cut_off_and_all_before_it_survives(tmp_path: Path) -> None:
    put(tmp_path, decided(), decided(turn=2))
    torn = (tmp_path / FILE).read_bytes()[:-9]
    (tmp_path / FILE).write_bytes(torn)
    skipped: list[str] = []
    assert [each.turn for each in read_decisions(tmp_path, on_skip=skipped.append)] == [1]
    assert skipped == [f"{tmp_path / FILE}, line 2: torn, or no JSON"]
    put(tmp_path, decided(turn=5))
    assert [each.turn for each in read_decisions(tmp_path, on_skip=pytest.fail)] == [1, 5]


def test_a_last_line_that_somebody_forgot_to_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(decided().as_line().rstrip())
    put(tmp_path, decided(turn=5))
    assert [each.turn for each in read_decisions(tmp_path, on_skip=pytest.fail)] == [1, 5]


def test_foreign_lines_are_skipped_with_their_number_and_what_is_wrong(tmp_path: Path) -> None:
    lines = [b'{"id": "d0", "by": "ada", "decision": "perhaps"}\n', decided().as_line(), b'{"schema": "other"}\n']
    (tmp_path / FILE).write_bytes(b"".join(lines))
    skipped: list[str] = []
    assert len(read_decisions(tmp_path, on_skip=skipped.append)) == 1
    assert [each.split(", ")[1].split(":")[0] for each in skipped] == ["line 1", "line 3"]
    assert "decision" in skipped[0]


@pytest.mark.parametrize("decision", ["edit", "prefer"])
@pytest.mark.parametrize("text", [None, " "])
def test_other_words_are_decided_for_only_if_they_are_there(decision: str, text: str | None) -> None:
    with pytest.raises(ValidationError, match="needs a `text`"):
        decided(decision=decision, text=text)


def test_a_line_says_all_that_a_decision_has(tmp_path: Path) -> None:
    line = decided(decision="edit", text="Better.", reason="It tells.").as_line()
    assert line == (b'{"id":"d0","turn":1,"by":"ada","decision":"edit","text":"Better.","reason":"It tells."}\n')


def test_several_processes_write_at_once_and_no_line_is_lost_or_torn(tmp_path: Path) -> None:
    code = (
        "import sys; from tutelage.transcripts.decisions import Decision, append_decisions\n"
        "for turn in range(50):\n"
        "    append_decisions(sys.argv[1], [Decision(id='d0', turn=turn, by=sys.argv[2], decision='drop')])\n"
    )
    writing = [subprocess.Popen([sys.executable, "-P", "-c", code, tmp_path, name]) for name in ("ada", "bob", "eve")]
    assert [process.wait(60) for process in writing] == [0, 0, 0]
    assert len((tmp_path / FILE).read_bytes().splitlines()) == 150
    assert len(read_decisions(tmp_path, on_skip=pytest.fail)) == 150


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, decided())
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match="cannot be written: No space left on device"):
            put(tmp_path, decided(turn=2))
    assert (tmp_path / FILE).read_bytes() == before
    put(tmp_path, decided(turn=3))
    assert [each.turn for each in read_decisions(tmp_path, on_skip=pytest.fail)] == [1, 3]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be written"):
        put(tmp_path / "nowhere")


def test_what_is_added_after_somebody_has_looked_counts_too() -> None:
    decisions = Decisions([decided()])
    assert decisions.has("d0", 1, "ada")
    decisions.add("d0", decided(by="bob").as_line())
    assert decisions.has("d0", 1, "bob")
    assert len(decisions) == 2


@pytest.mark.parametrize(
    ("said", "dropped"),
    [
        ({"ada": "drop", "bob": "keep"}, True),
        ({"ada": "drop", "bob": "edit"}, False),
        ({"ada": "drop", "bob": "prefer"}, False),
        ({"judge:critic/m": "drop", "ada": "keep"}, False),
        ({"judge:critic/m": "drop", "ada": "edit"}, False),
        ({"judge:critic/m": "drop", "judge:critic/n": "keep"}, True),
        ({"judge:critic/m": "drop", "judge:critic/n": "prefer"}, True),
        ({"judge:critic/m": "keep", "ada": "keep"}, False),
    ],
)
def test_one_drop_is_enough_unless_a_person_says_more_than_whoever_dropped_it(
    written_run: Any, said: dict[str, str], dropped: bool
) -> None:
    written_run.add(("tutor", [("Why?", "accepted")]), brief=Brief(id="b", topic="Sums"))
    [transcript] = read_transcripts(written_run.path)
    decisions = Decisions(decided(turn=0, by=by, decision=how, text="Why?") for by, how in said.items())
    assert decisions.about(transcript).drops(0) is dropped
