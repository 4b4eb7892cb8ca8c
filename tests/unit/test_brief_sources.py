"""Briefs are found, read and checked before a run begins; what does not hold is named by file and line."""

import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutelage.briefs.sources import MOST_PROBLEMS, BriefIndex, read_briefs
from tutelage.config import BriefSource
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.graph import needs
from tutelage.errors import BriefError


@needs("question or topic", "answer")
def lesson() -> None:
    """Stands for a graph: only what it needs is looked at."""


def read(
    folder: Path, *sources: str, columns: dict[str, str] | None = None, graph: Callable[[], Any] | None = None
) -> BriefIndex:
    return read_briefs(
        [BriefSource.model_validate({"from": source, "map": columns or {}}) for source in sources], folder, graph
    )


def briefs(index: BriefIndex) -> list[Brief]:
    return [index.brief(position) for position in range(len(index))]


def refusal(folder: Path, *sources: str, **options: Any) -> str:
    with pytest.raises(BriefError) as caught:
        read(folder, *sources, **options)
    return str(caught.value).replace(f"{folder}/", "")


def write(path: Path, *lines: str | dict[str, Any], end: str = "\n", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = end.join(line if isinstance(line, str) else json.dumps(line) for line in lines) + end
    path.write_bytes(text.encode(encoding))
    return path


def test_files_are_read_in_the_order_of_sources_names_and_lines(tmp_path: Path) -> None:
    write(tmp_path / "b" / "2.jsonl", {"id": "d"}, {"id": "c"})
    write(tmp_path / "b" / "1.jsonl", {"id": "e"})
    write(tmp_path / "a.jsonl", {"id": "z"})
    index = read(tmp_path, "b/*.jsonl", "a.jsonl")
    assert list(index) == ["e", "d", "c", "z"]
    assert [brief.id for brief in briefs(index)] == list(index)
    assert [index.id(position) for position in range(len(index))] == list(index)
    assert index.place(2).endswith("b/2.jsonl, line 2")


def test_a_pattern_goes_down_into_folders_and_a_path_may_be_absolute(tmp_path: Path) -> None:
    write(tmp_path / "x" / "y" / "1.jsonl", {"id": "a"})
    assert list(read(tmp_path, "**/*.jsonl")) == ["a"]
    assert list(read(tmp_path / "elsewhere", str(tmp_path / "x" / "*" / "1.jsonl"))) == ["a"]


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine" / "1.jsonl", {"id": "a"})
    assert list(read(tmp_path / "elsewhere", "~/mine/1.jsonl")) == ["a"]
    assert list(read(tmp_path / "elsewhere", "~/mine/*")) == ["a"]


def test_a_name_with_brackets_is_no_pattern_if_there_is_such_a_file(tmp_path: Path) -> None:
    write(tmp_path / "set[1].jsonl", {"id": "a"})
    assert list(read(tmp_path, "set[1].jsonl")) == ["a"]


def test_what_matches_nothing_is_named_with_the_folder_that_was_searched(tmp_path: Path) -> None:
    with pytest.raises(BriefError, match=r"no file matches 'briefs/\*\.jsonl'.*" + str(tmp_path)):
        read(tmp_path, "briefs/*.jsonl")


def test_a_folder_a_strange_ending_and_a_file_named_twice_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.jsonl", {"id": "a"})
    write(tmp_path / "1.txt", "a")
    assert "is a folder: write 'b/*.jsonl'" in refusal(tmp_path, "b/")
    assert "end in .jsonl, .ndjson, .csv, .parquet" in refusal(tmp_path, "1.txt")
    assert "is read by two entries" in refusal(tmp_path, "b/*.jsonl", "b/1.jsonl")


def test_files_without_a_brief_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", "", " ")
    write(tmp_path / "1.csv", "id,topic")
    assert "there are no briefs in '1.jsonl', '1.csv'" in refusal(tmp_path, "1.jsonl", "1.csv")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_blank_lines_a_bom_and_foreign_line_ends_are_tolerated(tmp_path: Path, end: str, encoding: str) -> None:
    write(tmp_path / "1.jsonl", '{"id": "ä"}', "", "  ", '{"id": "b"}', end=end, encoding=encoding)
    write(tmp_path / "1.csv", "id,topic", "c,", "", "d,Öl", end=end, encoding=encoding)
    index = read(tmp_path, "1.jsonl", "1.csv")
    assert list(index) == ["ä", "b", "c", "d"]
    assert [index.place(n).rpartition(" ")[2] for n in range(4)] == ["1", "4", "2", "4"]
    assert [brief.id for brief in briefs(index)] == list(index)


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text('{"id": "a"}\n{"id": "b"}')
    (tmp_path / "1.csv").write_text("id\nc")
    assert list(read(tmp_path, "1.*")) == ["c", "a", "b"]


def test_columns_are_renamed_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    line = {"id": "a", "prompt": "1+1?", "wrong": "one", "because": "ones are one", "source": {"n": 3}}
    write(tmp_path / "1.jsonl", line)
    mapping = {"question": "prompt", "misconception.belief": "because", "misconception.predicts": "wrong"}
    (brief,) = briefs(read(tmp_path, "1.jsonl", columns=mapping))
    assert brief.question == "1+1?"
    assert brief.misconception == Misconception(belief="ones are one", predicts="one")
    assert brief.extra == {"source": {"n": 3}}


def test_a_cell_is_absent_if_empty_and_may_hold_a_list(tmp_path: Path) -> None:
    write(
        tmp_path / "1.csv",
        "id,question,answer,facts,level,misconception.belief,grade",
        '1,"a, ""b""\nor c?","[""2"", 3]",one fact,,it is b,7',
        '2,where?,"[0, 1)",,primary,,',
    )
    first, second = briefs(read(tmp_path, "1.csv"))
    assert first == Brief(
        id="1",
        question='a, "b"\nor c?',
        answer=("2", "3"),
        facts=("one fact",),
        misconception=Misconception(belief="it is b"),
        extra={"grade": "7"},
    )
    assert second == Brief(id="2", question="where?", answer=("[0, 1)",), level="primary")


def test_a_list_may_stand_under_another_name(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "id,solution", '1,"[""2"", ""two""]"')
    assert briefs(read(tmp_path, "1.csv", columns={"answer": "solution"}))[0].answer == ("2", "two")


def test_rows_of_parquet_are_briefs_too_and_any_is_read_again(tmp_path: Path) -> None:
    rows = [
        {"n": number, "q": f"{number}+1?", "answer": [str(number)], "misconception": {"belief": "b", "predicts": None}}
        for number in range(1, 26)
    ]
    rows[3] |= {"q": "nothing wrong", "misconception": {"belief": None, "predicts": None}}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "1.parquet", row_group_size=10)
    index = read(tmp_path, "1.parquet", columns={"id": "n", "question": "q"})
    assert list(index) == [str(number) for number in range(1, 26)]
    assert index.brief(24).question == "25+1?" and index.brief(9).answer == ("10",)
    assert index.brief(3) == Brief(id="4", question="nothing wrong", answer=("4",))
    assert index.brief(4).misconception == Misconception(belief="b")
    assert index.place(24).endswith("1.parquet, row 25")


def test_times_in_parquet_become_text_and_bytes_are_refused(tmp_path: Path) -> None:
    import datetime
    import decimal

    day, much = datetime.date(2026, 1, 2), decimal.Decimal("1.50")
    pq.write_table(pa.Table.from_pylist([{"id": "a", "on": day, "much": much}]), tmp_path / "1.parquet")
    assert read(tmp_path, "1.parquet").brief(0).extra == {"on": "2026-01-02", "much": "1.50"}
    pq.write_table(pa.Table.from_pylist([{"id": "a", "image": b"\0"}]), tmp_path / "2.parquet")
    assert "2.parquet, row 1: holds bytes" in refusal(tmp_path, "2.parquet")


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", "id,topic")
    assert refusal(tmp_path, "1.parquet").startswith("1.parquet cannot be read as Parquet: ")


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.Table.from_pylist([{"id": "a"}]), tmp_path / "1.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "1.parquet: Parquet needs pyarrow: pip install 'tutelage[export]'" in refusal(tmp_path, "1.parquet")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_mapped_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"1.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([{"id": "a", "prompt": "b"}]), path)
    elif ending == "csv":
        write(path, "id,prompt", "a,b")
    else:
        write(path, {"id": "a"}, {"id": "b", "prompt": "c"})
    message = refusal(tmp_path, path.name, columns={"question": "promt"})
    assert message == f"1.{ending}: map: question: there is no column 'promt'; there is 'id', 'prompt'"


def test_a_mapped_column_of_json_need_not_be_on_every_line(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"id": "a"}, {"id": "b", "prompt": "c"})
    assert [brief.question for brief in briefs(read(tmp_path, "1.jsonl", columns={"question": "prompt"}))] == [
        None,
        "c",
    ]


def test_a_map_to_a_key_that_no_brief_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"id": "a", "q": "b"})
    assert "map: 'qestion' is no key of a brief; there are answer, difficulty," in refusal(
        tmp_path, "1.jsonl", columns={"qestion": "q"}
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "b", "topic": ', "is no valid JSON: "),
        ('["b"]', "is no JSON object"),
        ('{"id": "b", "topic": ["x"]}', "topic: must be a text, not ['x']"),
        ('{"id": "b", "answer": {"a": 1}}', "answer: must be a text or a list of texts, not {'a': 1}"),
        ('{"id": "b", "facts": ["x", null]}', "facts.1: must be a text, not None"),
        ('{"id": "b", "misconception": "x"}', "misconception: must be an object with `belief`"),
        ('{"id": "b", "misconception": {"predicts": "x"}}', "misconception.belief: is missing"),
        ('{"id": "b", "misconception": {"belief": "x", "predict": 1}}', "misconception.predict: is an unknown key"),
        ('{"id": "b", "extra": "x", "more": 1}', "extra: must be an object"),
    ],
)
def test_a_broken_line_is_named_by_number(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path / "1.jsonl", '{"id": "a"}', "", line, '{"id": "c"}')
    message = refusal(tmp_path, "1.jsonl")
    assert message.startswith(f"1.jsonl, line 3: {said}") and "\n" not in message


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["id,topic", '"a\nb",c', "d"], "1.csv, line 4: has 1 cells, but the header has 2"),
        (["id,id", "a,b"], "1.csv, line 1: the header has a name twice"),
        (["id,topic", "a,b", '"c,d'], "1.csv, line 3: is no valid CSV: "),
    ],
)
def test_a_broken_row_is_named_by_the_line_it_begins_on(tmp_path: Path, rows: Sequence[str], said: str) -> None:
    write(tmp_path / "1.csv", *rows)
    assert refusal(tmp_path, "1.csv").startswith(said)


def test_a_csv_that_is_not_utf_8_says_so(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "id,topic", "a,b", "c,Öl", encoding="latin-1")
    assert refusal(tmp_path, "1.csv") == "1.csv, line 3: is not UTF-8: save the file as UTF-8"


def test_several_broken_lines_are_named_at_once_but_not_all_of_many(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", "{", '{"id": "a"}', "[]")
    assert [line.partition(": ")[0] for line in refusal(tmp_path, "1.jsonl").splitlines()] == [
        "1.jsonl, line 1",
        "1.jsonl, line 3",
    ]
    write(tmp_path / "1.jsonl", *["{"] * 1000)
    assert len(refusal(tmp_path, "1.jsonl").splitlines()) == MOST_PROBLEMS + 1


def test_an_id_that_stands_twice_is_named_with_both_places(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"id": "a"}, {"id": "b"})
    write(tmp_path / "2.csv", "id", "c", "b")
    assert refusal(tmp_path, "1.jsonl", "2.csv").startswith("2.csv, line 3: the id 'b' is also that of 1.jsonl, line 2")


def test_the_same_brief_twice_without_an_id_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"topic": "a"}, {"topic": "b"}, {"topic": "a"})
    assert "1.jsonl, line 3: the id " in refusal(tmp_path, "1.jsonl")


def test_a_brief_without_what_the_graph_needs_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", {"id": "a", "topic": "x", "answer": "y"}, {"id": "b", "level": "primary"})
    assert (
        refusal(tmp_path, "1.jsonl", graph=lesson)
        == "1.jsonl, line 2: has no question or topic and no answer, which the graph 'lesson' needs"
    )


@pytest.mark.parametrize("change", ["another", "broken", "shorter", "gone"])
def test_a_file_that_changes_during_the_run_is_noticed(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "1.jsonl", {"id": "a", "topic": "x"}, {"id": "b", "topic": "x"})
    index = read(tmp_path, "1.jsonl")
    if change == "gone":
        path.unlink()
    else:
        first = '{"id": "a", "topic": "x"}'
        path.write_text({"another": f'{first}\n{{"id": "c"}}', "broken": "{" * 99, "shorter": first}[change])
    with pytest.raises(BriefError, match=r"1\.jsonl(, line 2: has changed| cannot be read)"):
        index.brief(1)


def test_a_message_gives_a_path_as_it_is_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "b" / "1.jsonl", "{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BriefError, match=r"^b/1\.jsonl, line 1: "):
        read(tmp_path, "b/1.jsonl")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "1.jsonl", {"id": "a"})
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    assert "1.jsonl cannot be read: Permission denied" in refusal(tmp_path, "1.jsonl")


def test_the_briefs_are_not_held_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "1.jsonl", *[f'{{"id": "{number}", "topic": "{"x" * 5000}"}}' for number in range(4000)])
    tracemalloc.start()
    index = read(tmp_path, "1.jsonl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 4000
    assert peak < 4_000_000, "the file has 20 MB"


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"answer": ["1", " "]}, "answer.1"),
        ({"giveaway": [""]}, "giveaway.0"),
        ({"facts": ""}, "facts.0"),
        ({"documents": ["tides.md", ""]}, "documents.1"),
        ({"misconception": {"belief": ""}}, "misconception.belief"),
        ({"misconception": {"belief": "b", "predicts": ""}}, "misconception.predicts"),
        ({"misconception": {"belief": "b", "changes_when": "\t"}}, "misconception.changes_when.0"),
        ({"probes": [{"question": "", "choices": ["1", "2"], "answer": "1"}]}, "probes.0.question"),
    ],
)
def test_what_must_be_said_is_not_empty(tmp_path: Path, more: dict[str, Any], place: str) -> None:
    write(tmp_path / "b.jsonl", {"id": "a", **more})
    assert f"b.jsonl, line 1: {place}: must not be empty, not " in refusal(tmp_path, "b.jsonl")


def test_a_misconception_that_predicts_an_accepted_answer_is_none(tmp_path: Path) -> None:
    wrong = {"belief": "b", "predicts": " FIVE  sixths"}
    write(tmp_path / "b.jsonl", {"id": "a", "answer": ["5/6", "five sixths"], "misconception": wrong})
    assert refusal(tmp_path, "b.jsonl").endswith(
        "b.jsonl, line 1: the brief: misconception.predicts: ' FIVE  sixths' is an accepted answer: say what wrong "
        "answer the belief gives"
    )


def test_a_check_of_the_run_s_own_refuses_briefs_as_the_others_are_refused(tmp_path: Path) -> None:
    def odd(brief: Brief) -> None:
        if brief.id == "b":
            raise ValueError("is odd")

    write(tmp_path / "b.jsonl", {"id": "a"}, {"id": "b"})
    with pytest.raises(BriefError, match=r"b\.jsonl, line 2: is odd$"):
        read_briefs([BriefSource.model_validate({"from": "b.jsonl"})], tmp_path, check=odd)
