"""A run that goes on takes up new files and lines, and no file that someone drops, breaks or removes ends it."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from tutelage.briefs import sources as brief_sources
from tutelage.briefs.sources import MOST_PROBLEMS, BriefIndex, read_briefs
from tutelage.briefs.watch import BriefWatch, Look
from tutelage.config import BriefSource
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.graph import needs
from tutelage.errors import BriefError


@needs("topic")
def lesson() -> None:
    """Stands for a graph: only what it needs is looked at."""


def entries(*patterns: str, columns: dict[str, str] | None = None) -> list[BriefSource]:
    return [BriefSource.model_validate({"from": pattern, "map": columns or {}}) for pattern in patterns]


def watching(folder: Path, *patterns: str, graph: Callable[[], Any] | None = None, **options: Any) -> BriefWatch:
    """A watch on what is there now."""
    found = entries(*patterns or ("*.jsonl",), **options)
    watch = BriefWatch(read_briefs(found, folder, graph), found, folder, graph)
    assert watch.look() == Look()
    return watch


def lines(*ids: str, topic: str = "x") -> str:
    return "".join(json.dumps({"id": each, "topic": topic}) + "\n" for each in ids)


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def replace(path: Path, text: str) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def there(watch: BriefWatch) -> list[str]:
    """The ids of the briefs that can be read, in order, and each is read."""
    index = watch.index
    return [index.brief(position).id for position in range(len(index)) if index.is_there(position)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The records that are parsed, as they stand in their files."""
    records: list[str] = []
    parse = brief_sources.Source.brief

    def counted(self: brief_sources.Source, record: Any) -> Any:
        records.append(str(record))
        return parse(self, record)

    monkeypatch.setattr(brief_sources.Source, "brief", counted)
    return records


def test_new_lines_come_after_what_was_there_and_only_they_are_read(tmp_path: Path, parsed: list[str]) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    (tmp_path / "2.jsonl").write_text(lines("c"))
    watch = watching(tmp_path)
    parsed.clear()
    append(tmp_path / "1.jsonl", lines("d", "e"))
    assert watch.look() == Look(added=2)
    assert len(parsed) == 2
    assert there(watch) == list(watch.index) == ["a", "b", "c", "d", "e"]
    assert watch.index.place(4).endswith("1.jsonl, line 4")
    assert watch.look() == Look()


def test_a_new_file_is_taken_up_wherever_its_name_is_in_the_order(tmp_path: Path) -> None:
    (tmp_path / "2.jsonl").write_text(lines("a"))
    watch = watching(tmp_path, "**/*.jsonl")
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "1.jsonl").write_text(lines("b"))
    assert watch.look() == Look(added=1)
    assert there(watch) == ["a", "b"]


def test_an_unchanged_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    (tmp_path / "2.csv").write_text("id\nb\n")
    watch = watching(tmp_path, "*.*")

    def opened(self: Path, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{self} was opened")

    monkeypatch.setattr(Path, "open", opened)
    assert watch.look() == Look()


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"1.{ending}"
    texts = {"jsonl": ['{"id": "a"}\n', '{"id": "b"', "}", "\n"], "csv": ["id,topic\na,\n", "b,frac", "tions", "\n"]}
    first, *rest = texts[ending]
    path.write_text(first)
    watch = watching(tmp_path, path.name)
    for text in rest[:-1]:
        append(path, text)
        assert watch.look() == Look()
    append(path, rest[-1])
    assert watch.look() == Look(added=1)
    assert there(watch) == ["a", "b"]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_last_line_without_an_end_is_taken_when_nobody_writes_on(tmp_path: Path, ending: str) -> None:
    (tmp_path / "0.jsonl").write_text(lines("z"))
    path, second = tmp_path / f"1.{ending}", {"jsonl": '{"id": "b"}', "csv": "b"}[ending]
    watch = watching(tmp_path, "*.*")
    path.write_text({"jsonl": '{"id": "a"}', "csv": "id\na"}[ending])
    assert sum(watch.look().added for _ in range(3)) == 1
    append(path, f"\n{second}\n")
    assert watch.look() == Look(added=1)
    assert there(watch) == ["z", "a", "b"]
    assert watch.index.place(2).endswith({"jsonl": "line 2", "csv": "line 3"}[ending])


def test_a_last_line_without_an_end_that_the_run_began_with_is_no_new_one_when_the_file_goes_on(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a") + '{"id": "b"}')
    watch = watching(tmp_path)
    append(tmp_path / "1.jsonl", "\n" + lines("c"))
    assert watch.look() == Look(added=1)
    assert there(watch) == ["a", "b", "c"]
    assert watch.index.place(2).endswith("line 3")


@pytest.mark.parametrize(("ending", "text"), [("jsonl", lines("b") + '{"id": "c'), ("csv", "b,x\nc,frac")])
def test_whole_lines_are_taken_also_before_one_that_is_not(tmp_path: Path, ending: str, text: str) -> None:
    path = tmp_path / f"1.{ending}"
    path.write_text({"jsonl": lines("a"), "csv": "id,topic\na,x\n"}[ending])
    watch = watching(tmp_path, path.name)
    append(path, text)
    assert watch.look() == Look(added=1)
    append(path, {"jsonl": '"}\n', "csv": "tions\n"}[ending])
    assert watch.look() == Look(added=1)
    assert there(watch) == ["a", "b", "c"]


def test_a_row_of_many_lines_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "1.csv"
    path.write_text("id,topic\na,x\n")
    watch = watching(tmp_path, "1.csv")
    append(path, 'b,y\nc,"first\nsecond\n')
    assert watch.look() == Look(added=1)
    append(path, 'third"\nd,z\n')
    assert watch.look() == Look(added=2)
    assert there(watch) == ["a", "b", "c", "d"]
    assert watch.index.brief(2).topic == "first\nsecond\nthird"
    assert watch.index.place(3).endswith("line 7")


def test_a_row_that_is_never_closed_is_refused_in_the_end(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,topic\na,x\n")
    watch = watching(tmp_path, "1.csv")
    append(tmp_path / "1.csv", 'b,"y\n')
    refused = [*watch.look().refused, *watch.look().refused, *watch.look().refused]
    assert len(refused) == 1 and "1.csv, line 3: is no valid CSV" in refused[0]


def test_another_file_in_its_place_that_goes_on_from_it_is_read_from_there(tmp_path: Path, parsed: list[str]) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    watch = watching(tmp_path)
    parsed.clear()
    replace(tmp_path / "1.jsonl", lines("a", "b", "c"))
    assert watch.look() == Look(added=1)
    assert len(parsed) == 1
    assert there(watch) == ["a", "b", "c"]


def test_a_changed_file_keeps_the_positions_of_the_briefs_it_still_has(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b", "c"))
    watch = watching(tmp_path)
    replace(tmp_path / "1.jsonl", lines("new", "c", "a", topic="another"))
    with capture_logs() as logs:
        assert watch.look() == Look(added=1, gone=(1,))
    assert [entry["event"] for entry in logs] == ["briefs_file_changed", "briefs_added", "briefs_gone"]
    assert list(watch.index) == ["a", "b", "c", "new"]
    assert there(watch) == ["a", "c", "new"] and watch.index.there == 3
    assert watch.index.brief(0).topic == "another"
    assert len(set(map(id, watch.index.sources))) == 1, "what is held of the file as it was"
    with pytest.raises(BriefError, match=r"1\.jsonl no longer has the brief 'b'"):
        watch.index.brief(1)
    append(tmp_path / "1.jsonl", lines("b"))
    assert watch.look() == Look(back=(1,))
    assert there(watch) == ["a", "b", "c", "new"] and watch.index.there == 4


@pytest.mark.parametrize("grown", [False, True])
def test_a_file_that_is_written_over_in_its_place_is_read_anew(tmp_path: Path, grown: bool) -> None:
    path = tmp_path / "1.jsonl"
    path.write_text(lines("a", "b"))
    watch = watching(tmp_path)
    path.write_text(lines("b", "c", *["d"] * grown))
    os.utime(path, ns=(0, 0))  # whatever the clock's resolution: it is another time
    assert watch.look() == Look(added=1 + grown, gone=(0,))
    assert there(watch) == ["b", "c", *["d"] * grown]


def test_a_file_that_is_just_being_written_over_keeps_its_briefs_for_a_look(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    watch = watching(tmp_path)
    (tmp_path / "1.jsonl").write_text('{"id"')
    assert watch.look() == Look()
    append(tmp_path / "1.jsonl", ': "b"}\n')
    assert watch.look() == Look(gone=(0,))
    assert there(watch) == ["b"]


def test_a_file_that_takes_the_place_of_one_that_is_just_read_is_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path)
    parse = brief_sources.Source.brief

    def meanwhile(self: brief_sources.Source, record: Any) -> Any:
        monkeypatch.undo()
        replace(tmp_path / "2.jsonl", lines("d", "e"))
        return parse(self, record)

    monkeypatch.setattr(brief_sources.Source, "brief", meanwhile)
    (tmp_path / "2.jsonl").write_text(lines("b", "c"))
    assert watch.look().added == 2
    assert watch.look() == Look(added=2, gone=(1, 2))
    assert there(watch) == ["a", "d", "e"]


def test_a_file_that_may_not_be_read_any_more_has_no_briefs_until_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path)

    def refused(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        os.utime(tmp_path / "1.jsonl", ns=(0, 0))
        assert watch.look() == Look(gone=(0,), refused=(f"{tmp_path / '1.jsonl'}: Permission denied",))
        assert watch.look() == Look()
    assert watch.look() == Look(back=(0,))


def test_a_folder_that_may_not_be_entered_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path)

    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", refused)
        assert watch.look() == Look(refused=(f"{tmp_path}: Permission denied",))
        assert watch.look() == Look()
    assert watch.look() == Look()


def test_a_file_that_was_only_touched_is_not_parsed(tmp_path: Path, parsed: list[str]) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    watch = watching(tmp_path)
    parsed.clear()
    os.utime(tmp_path / "1.jsonl", ns=(0, 0))
    assert watch.look() == Look()
    assert parsed == []


def test_a_file_that_goes_and_comes_back_gives_its_briefs_their_positions_again(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(lines(name))
    watch = watching(tmp_path)
    (tmp_path / "a.jsonl").rename(tmp_path / "kept")
    assert watch.look() == Look(gone=(0,))
    assert watch.look() == Look()
    (tmp_path / "b.jsonl").unlink()
    assert watch.look() == Look(gone=(1,))
    (tmp_path / "kept").rename(tmp_path / "a.jsonl")
    assert watch.look() == Look(back=(0,))
    assert there(watch) == ["a"]


@pytest.mark.parametrize("name", ["0.jsonl", "2.jsonl"])
def test_briefs_that_move_to_another_file_are_neither_gone_nor_new(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    watch = watching(tmp_path)
    replace(tmp_path / "1.jsonl", lines("a"))
    (tmp_path / name).write_text(lines("b"))
    assert watch.look() == Look()
    assert there(watch) == ["a", "b"]
    assert watch.index.place(1).endswith(f"{name}, line 1")


def test_what_does_not_hold_is_reported_once_and_the_rest_is_taken(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path, graph=lesson)
    append(tmp_path / "1.jsonl", '{"id": \n{"id": "b"}\n' + lines("a", "c"))
    with capture_logs() as logs:
        look = watch.look()
    assert look.added == 1
    bad, lacking, taken = look.refused
    assert "1.jsonl, line 2: is no valid JSON" in bad
    assert "1.jsonl, line 3: has no topic, which the graph 'lesson' needs" in lacking
    assert "1.jsonl, line 4: the id 'a' is also that of " in taken
    refused = [entry for entry in logs if entry["event"] == "brief_refused"]
    assert [entry["reason"] for entry in refused] == list(look.refused)
    assert refused[0]["file"] == str(tmp_path / "1.jsonl")
    os.utime(tmp_path / "1.jsonl", ns=(0, 0))
    append(tmp_path / "1.jsonl", lines("d"))
    assert watch.look() == Look(added=1)
    replace(tmp_path / "1.jsonl", (tmp_path / "1.jsonl").read_text().replace('{"id": \n', lines("mended")))
    assert watch.look() == Look(added=1)
    assert there(watch) == ["a", "c", "d", "mended"]


def test_of_many_lines_that_do_not_hold_the_log_names_a_few(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path)
    append(tmp_path / "1.jsonl", "{\n" * 1000)
    with capture_logs() as logs:
        assert len(watch.look().refused) == 1000
    assert len(logs) == MOST_PROBLEMS + 1 and "990 more" in logs[-1]["reason"]


def test_a_broken_row_does_not_hide_those_after_it(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,topic\na,x\n")
    watch = watching(tmp_path, "1.csv")
    with (tmp_path / "1.csv").open("ab") as file:
        file.write(b'b,"y" z\nc,\xff\nd\ne,x\n')
    look = watch.look()
    assert look.added == 1 and there(watch) == ["a", "e"]
    assert [reason.partition("1.csv, ")[2][:18] for reason in look.refused] == [
        "line 3: is no vali",
        "line 4: is not UTF",
        "line 5: has 1 cell",
    ]


@pytest.mark.parametrize("text", ["id,id\nb,c\n", "topic\nb\n"])
def test_a_file_that_cannot_be_read_at_all_is_refused_until_it_is_mended(tmp_path: Path, text: str) -> None:
    (tmp_path / "1.csv").write_text("n,topic\na,x\n")
    watch = watching(tmp_path, "*.csv", columns={"id": "n"})
    (tmp_path / "2.csv").write_text(text)
    assert [len(watch.look().refused) for _ in range(3)] == [1, 0, 0]
    replace(tmp_path / "1.csv", text)
    look = watch.look()
    assert look.gone == (0,) and len(look.refused) == 1
    (tmp_path / "1.csv").write_text("n,topic\na,x\n")
    (tmp_path / "2.csv").write_text("n,topic\nb,x\n")
    assert watch.look() == Look(added=1, back=(0,))
    assert there(watch) == ["a", "b"]


def test_a_strange_file_that_a_pattern_matches_is_refused_alone(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a"))
    watch = watching(tmp_path, "*")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "2.jsonl").write_text(lines("b"))
    look = watch.look()
    assert look.added == 1 and len(look.refused) == 1 and "briefs are read from files that end in" in look.refused[0]
    assert watch.look() == Look()


def test_parquet_is_read_anew_where_it_has_changed(tmp_path: Path) -> None:
    def write(ids: Sequence[str]) -> None:
        pq.write_table(pa.Table.from_pylist([{"id": each} for each in ids]), tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / "1.parquet")

    write(["a", "b"])
    watch = watching(tmp_path, "*.parquet")
    assert watch.index.brief(1).id == "b"
    write(["b", "c", "d"])
    assert watch.look() == Look(added=2, gone=(0,))
    assert there(watch) == ["b", "c", "d"]
    (tmp_path / "1.parquet").write_bytes(b"PAR1")
    look = watch.look()
    assert set(look.gone) == {1, 2, 3} and "cannot be read as Parquet" in look.refused[0]


def test_from_an_empty_index_the_first_look_takes_all_that_holds_in_the_usual_order(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(lines("c") + "{\n" + lines("d"))
    (tmp_path / "a.jsonl").write_text(lines("a", "b"))
    watch = BriefWatch(BriefIndex(), entries("b.jsonl", "a.jsonl"), tmp_path)
    look = watch.look()
    assert look.added == 4 and len(look.refused) == 1
    assert there(watch) == ["c", "d", "a", "b"]


def test_a_changed_config_is_followed(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"id": "a", "q": "1+1?"}\n')
    (tmp_path / "2.ndjson").write_text('{"id": "b", "q": "2+2?"}\n')
    watch = watching(tmp_path)
    watch.follow(entries("*.*json*", columns={"question": "q"}))
    assert watch.look() == Look(added=1)
    assert [watch.index.brief(position).question for position in range(2)] == ["1+1?", "2+2?"]


async def test_a_brief_is_read_although_its_file_has_changed_since_the_last_look(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(lines("a", "b", "c"))
    watch = watching(tmp_path)
    replace(tmp_path / "1.jsonl", lines("new", "c", "a"))
    briefs = await asyncio.gather(*(watch.brief(position) for position in range(3)))
    assert [brief and brief.id for brief in briefs] == ["a", None, "c"]
    assert watch.look() == Look(added=1, gone=(1,))


async def test_a_brief_that_went_and_came_between_two_looks_is_back(tmp_path: Path) -> None:
    """Whoever asked for it in between was told that it is gone."""
    (tmp_path / "1.jsonl").write_text(lines("a", "b"))
    watch = watching(tmp_path)
    replace(tmp_path / "1.jsonl", lines("a"))
    assert await watch.brief(1) is None
    replace(tmp_path / "1.jsonl", lines("a", "b"))
    assert watch.look() == Look(back=(1,))


async def test_a_line_edited_in_a_file_that_only_seems_to_have_grown_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "1.jsonl"
    path.write_text(lines("a", *(f"{number:03}" for number in range(100))))
    watch = watching(tmp_path)
    with path.open("r+") as file:
        file.write(lines("b"))
    append(path, lines("c"))
    assert watch.look() == Look(added=1)
    assert await watch.brief(0) is None
    assert watch.look() == Look(added=1, gone=(0,))
    assert list(watch.index)[-2:] == ["c", "b"]


async def test_the_loop_reads_briefs_while_a_look_moves_them(tmp_path: Path) -> None:
    ids = [f"{number:03}" for number in range(300)]
    path = tmp_path / "1.jsonl"
    path.write_text(lines(*ids))
    watch = watching(tmp_path)
    over = threading.Event()

    def rewrite() -> None:
        for turn in range(1, 30):
            replace(path, lines(*(ids[turn:] + ids[:turn])))
            watch.look()
        over.set()

    rewriting = asyncio.create_task(asyncio.to_thread(rewrite))
    read = 0
    while not over.is_set():
        position = read * 7 % 300
        brief = await watch.brief(position)
        assert brief is None or brief.id == ids[position]
        read += 1
        await asyncio.sleep(0)
    await rewriting
    watch.look()
    assert read > 30 and there(watch) == ids


def test_a_brief_that_a_check_of_the_run_s_own_refuses_is_reported_and_the_rest_is_taken(tmp_path: Path) -> None:
    def odd(brief: Brief) -> None:
        if brief.id == "b":
            raise ValueError("is odd")

    (tmp_path / "b.jsonl").write_text(lines("a"))
    found = entries("b.jsonl")
    watch = BriefWatch(read_briefs(found, tmp_path, check=odd), found, tmp_path, check=odd)
    append(tmp_path / "b.jsonl", lines("b", "c"))
    look = watch.look()
    assert (look.added, len(look.refused)) == (1, 1)
    assert look.refused[0].endswith("b.jsonl, line 2: is odd")
    assert there(watch) == ["a", "c"]
