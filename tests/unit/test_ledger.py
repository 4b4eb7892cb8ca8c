"""The ledger: what is finished, what failed and is set aside, and what is to be made again."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tutelage.generation.ledger import Entry, Ledger, read_set_aside
from tutelage.generation.retrying import retry_set_aside
from tutelage.transcripts.store import Location


def entry(id_: str, *, reason: str = "mastered", status: str = "completed", attempt: int = 1) -> Entry:
    location = Location(shard="00000.jsonl", offset=0, length=1)
    return Entry(id=id_, brief="b", status=status, reason=reason, attempt=attempt, location=location)


def failed(id_: str, *, reason: str = "wrong_shape", attempt: int = 1) -> Entry:
    return entry(id_, reason=reason, status="failed", attempt=attempt)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    (tmp_path / "transcripts").mkdir()
    (tmp_path / "transcripts" / "00000.jsonl").write_bytes(b"{}")
    with closing(Ledger(tmp_path / "ledger.db", tmp_path / "transcripts")) as ledger:
        yield ledger


def test_of_thousands_of_dialogues_it_knows_those_that_are_finished(ledger: Ledger) -> None:
    """More than SQLite takes as variables of one statement: as many as may be under way when a run is killed."""
    ledger.finish(entry(f"d{n}") for n in range(0, 300_000, 2))
    assert ledger.known([f"d{n}" for n in range(300_000)]) == {f"d{n}" for n in range(0, 300_000, 2)}


def test_it_knows_nothing_of_nothing(ledger: Ledger) -> None:
    assert ledger.known([]) == set()


def test_ids_may_hold_any_character(ledger: Ledger) -> None:
    odd = ["'; DROP TABLE dialogues; --", 'a"b', "½", "a\\b"]
    ledger.finish(map(entry, odd))
    assert ledger.known([*odd, "other"]) == set(odd)


def test_it_counts_by_status_and_reason(ledger: Ledger) -> None:
    ledger.finish([entry("a"), entry("b", reason="max_messages"), entry("c"), failed("d"), failed("e", reason="x")])
    assert ledger.counts() == {
        "completed": {"mastered": 2, "max_messages": 1},
        "failed": {"wrong_shape": 1, "x": 1},
    }
    assert (ledger.count("completed"), ledger.count("failed"), ledger.count("discarded")) == (3, 2, 0)


def test_what_failed_is_set_aside_by_reason(ledger: Ledger) -> None:
    ledger.finish([failed("b"), failed("c", reason="context_exceeded"), entry("d"), failed("a")])
    assert [each.id for each in ledger.set_aside()] == ["c", "a", "b"]
    assert [each.id for each in ledger.set_aside(2)] == ["c", "a"]
    assert ledger.count_set_aside() == 3


def test_only_what_failed_is_retried_and_counted_once(ledger: Ledger) -> None:
    ledger.finish([failed("a"), failed("b"), entry("done")])
    assert ledger.retry(["a", "a", "done", "unknown"]) == 1
    assert ledger.retry(["a"]) == 0
    assert [(each.id, retry) for each, retry in ledger.retries()] == [("a", 1)]
    assert [each.id for each in ledger.set_aside()] == ["b"]
    assert ledger.count_set_aside() == 1
    assert ledger.known(["a", "b", "done", "unknown"]) == {"b", "done"}
    assert ledger.finished(["a", "b", "done", "unknown"]) == {"a", "b", "done"}


def test_a_retry_is_over_when_its_dialogue_is_finished_again(ledger: Ledger) -> None:
    ledger.finish([failed("a"), failed("b")])
    ledger.retry(["a", "b"])
    ledger.finish([entry("a", attempt=2), failed("b", attempt=2)])
    assert ledger.retries() == []
    assert ledger.known(["a", "b"]) == {"a", "b"}
    assert [(each.id, each.attempt) for each in ledger.set_aside()] == [("b", 2)]
    assert ledger.retry(["a", "b"]) == 1
    assert [(each.id, retry) for each, retry in ledger.retries()] == [("b", 2)]


def test_a_transcript_that_is_indexed_late_does_not_undo_a_retry(ledger: Ledger) -> None:
    ledger.finish([failed("a")])
    ledger.retry(["a"])
    ledger.finish([failed("a")])
    assert [retry for _, retry in ledger.retries()] == [1]


def test_retries_outlive_the_process(ledger: Ledger, tmp_path: Path) -> None:
    ledger.finish([failed("a")])
    ledger.retry(["a"])
    ledger.close()
    with closing(Ledger(tmp_path / "ledger.db", tmp_path / "transcripts")) as again:
        assert [each.id for each, _ in again.retries()] == ["a"]
        assert list(again.set_aside()) == []


def test_what_is_set_aside_is_read_while_another_process_writes(ledger: Ledger, tmp_path: Path) -> None:
    ledger.finish([failed("a")])
    path = tmp_path / "ledger.db"
    hold = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('BEGIN IMMEDIATE');"
        "db.execute(\"DELETE FROM dialogues\"); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        assert [each.id for each in read_set_aside(path)] == ["a"]
        assert [each.id for each in ledger.set_aside()] == ["a"]
        writer.communicate("")


def test_what_is_no_ledger_is_not_read_as_one(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        read_set_aside(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()


def test_a_retry_says_what_came_of_it(ledger: Ledger, tmp_path: Path) -> None:
    assert retry_set_aside(tmp_path, []) == "nothing is set aside"
    ledger.finish([failed("a"), failed("b"), failed("c"), entry("done")])
    assert retry_set_aside(tmp_path, ["done"]).startswith("none of these: they have not failed")
    assert retry_set_aside(tmp_path, ["a"]) == "1 dialogue is owed again, and made by the next start"
    said = retry_set_aside(tmp_path, ["b", "c", "done"])
    assert said.startswith("2 dialogues are owed again")
    assert said.endswith("1 of those named did not fail, or were asked for already")
