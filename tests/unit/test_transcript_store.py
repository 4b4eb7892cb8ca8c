"""The transcript store: appended lines, torn lines, retried dialogues, shards."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tutelage import Brief, Transcript, read_transcripts
from tutelage.dialogue.turn import Attempt, Call, Outcome, Turn
from tutelage.errors import RunFolderError
from tutelage.transcripts.store import TranscriptStore, parse_transcript, raw_lines, shards
from tutelage.transcripts.transcript import GraphIdentity, Usage, calls_of


def transcript(id_: str = "d0", *, text: str = "Hi", attempt: int = 1) -> Transcript:
    call = Call(model="m", prompt_sha256="0" * 64, prompt_tokens=7, completion_tokens=2)
    turns = [Turn(index=0, role="tutor", text=text, attempts=[Attempt(text=text, status="accepted", call=call)])]
    return Transcript(
        id=id_,
        run="r",
        graph=GraphIdentity(name="lesson", sha256="0"),
        brief=Brief(id="b", topic="fractions"),
        turns=turns,
        outcome=Outcome(status="completed", reason="mastered"),
        attempt=attempt,
        usage=Usage.of(calls_of(turns)),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 1, tzinfo=UTC),
    )


def line(of: Transcript) -> bytes:
    return of.model_dump_json(by_alias=True).encode() + b"\n"


def write(run: Path, *transcripts: Transcript, shard_bytes: int = 2**20) -> list[Path]:
    store = TranscriptStore(run / "transcripts", shard_bytes=shard_bytes)
    for each in transcripts:
        store.append([line(each)])
    store.close()
    return shards(run / "transcripts")


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    written = [transcript(f"d{number}", text=f"½ \u2028 \n {number}") for number in range(3)]
    write(tmp_path, *written)
    assert list(read_transcripts(tmp_path)) == written


def test_a_transcript_has_the_keys_of_the_contract() -> None:
    keys = "schema id run graph brief turns unfinished outcome lineage attempt usage started finished versions"
    assert list(transcript().model_dump(by_alias=True)) == keys.split()
    assert line(transcript()).startswith(b'{"schema":"tutelage.transcript/1","id":"d0"')


def test_append_says_where_each_line_stands(tmp_path: Path) -> None:
    write(tmp_path, transcript("before"))
    store = TranscriptStore(tmp_path / "transcripts")
    lines = [line(transcript("a")), line(transcript("b", text="longer"))]
    places = store.append(lines)
    store.close()
    data = {path.name: path.read_bytes() for path in shards(tmp_path / "transcripts")}
    assert [data[place.shard][place.offset : place.offset + place.length] for place in places] == lines


def test_of_one_id_the_last_line_counts(tmp_path: Path) -> None:
    again = transcript("a", text="Better", attempt=2)
    write(tmp_path, transcript("a"), transcript("b"), again, shard_bytes=1)
    assert list(read_transcripts(tmp_path)) == [transcript("b"), again]
    assert len(list(raw_lines(tmp_path))) == 3


def test_a_full_shard_is_followed_by_a_new_one(tmp_path: Path) -> None:
    size = len(line(transcript("d0")))
    paths = write(tmp_path, *(transcript(f"d{number}") for number in range(5)), shard_bytes=2 * size)
    assert [path.name for path in paths] == ["00000.jsonl", "00001.jsonl", "00002.jsonl"]
    assert [len(path.read_bytes().splitlines()) for path in paths] == [2, 2, 1]


def test_a_torn_last_line_is_cut_off_when_the_run_is_opened_again(tmp_path: Path) -> None:
    [path] = write(tmp_path, transcript("a"))
    with path.open("ab") as file:
        file.write(line(transcript("torn", text="x" * 100_000))[:-10])
    write(tmp_path, transcript("b"))
    assert path.read_bytes() == line(transcript("a")) + line(transcript("b"))


def test_a_file_that_is_one_torn_line_is_emptied(tmp_path: Path) -> None:
    [path] = write(tmp_path)
    path.write_bytes(line(transcript("torn"))[:-1])
    write(tmp_path)
    assert path.read_bytes() == b""


def test_a_run_is_read_up_to_its_torn_line_while_nobody_has_cut_it(tmp_path: Path) -> None:
    [path] = write(tmp_path, transcript("a"))
    with path.open("ab") as file:
        file.write(line(transcript("b"))[:-10])
    skipped: list[str] = []
    assert list(read_transcripts(tmp_path, on_skip=skipped.append)) == [transcript("a")]
    assert skipped == [f"{path}, line 2: torn, or still being written"]


def test_a_torn_retry_does_not_hide_the_dialogue_before_it(tmp_path: Path) -> None:
    [path] = write(tmp_path, transcript("a"))
    with path.open("ab") as file:
        file.write(line(transcript("a", attempt=2))[:-10])
    assert list(read_transcripts(tmp_path, on_skip=lambda _: None)) == [transcript("a")]


def test_a_run_under_way_may_grow_while_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, transcript("a"), transcript("b"))
    reading = read_transcripts(tmp_path)
    assert next(reading).id == "a"
    write(tmp_path, transcript("c"))
    assert [each.id for each in reading] == ["b"]


def test_lines_that_cannot_be_read_are_skipped_and_named(tmp_path: Path) -> None:
    newer = line(transcript("newer")).replace(b"transcript/1", b"transcript/2")
    broken = line(transcript("broken")).replace(b'"turns":[', b'"turns":[1,', 1)
    [path] = write(tmp_path, transcript("a"))
    with path.open("ab") as file:
        file.write(b"null\n[]\n" + newer + broken + line(transcript("b")))
    skipped: list[str] = []
    assert [each.id for each in read_transcripts(tmp_path, on_skip=skipped.append)] == ["a", "b"]
    assert [what.removeprefix(f"{path}, ").split(":")[0] for what in skipped] == [f"line {n}" for n in (2, 3, 4, 5)]
    assert "tutelage.transcript/2" in skipped[2]
    assert "turns.0" in skipped[3]


def test_keys_that_a_later_version_adds_are_no_error() -> None:
    added = line(transcript()).replace(b'{"schema"', b'{"later":1,"schema"', 1)
    assert parse_transcript(added) == transcript()


def test_a_line_whose_keys_stand_in_another_order_is_found_by_its_id(tmp_path: Path) -> None:
    reordered = (
        line(transcript("a", attempt=2)).replace(b'"id":"a",', b"", 1).replace(b'{"schema"', b'{"id":"a","schema"', 1)
    )
    [path] = write(tmp_path, transcript("a"))
    with path.open("ab") as file:
        file.write(reordered)
    assert [each.attempt for each in read_transcripts(tmp_path)] == [2]


def test_when_an_append_fails_nothing_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TranscriptStore(tmp_path / "transcripts")
    store.append([line(transcript("a"))])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.append([line(transcript("b", text="longer than what follows"))])
    store.append([line(transcript("c"))])
    store.close()
    assert list(raw_lines(tmp_path)) == [line(transcript("a")), line(transcript("c"))]


def test_a_folder_without_transcripts_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is no run folder"):
        list(read_transcripts(tmp_path))


def test_usage_is_the_sum_over_all_calls() -> None:
    assert transcript().usage == Usage(calls=1, prompt_tokens=7, cached_tokens=0, completion_tokens=2)
