"""Benchmarks: what shares 13 words with an item is found, and nothing else."""

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutelage.errors import ExportError
from tutelage.quality.contamination import Benchmarks, read_benchmarks

ITEM = (
    "A farmer has three fields, and in each of them stand forty-two old apple trees; how many trees does he own in all, "
    "if he fells seven of them before the winter comes?"
)
OTHER = (
    "Which of these planets has the longest day, measured in hours of the Earth, and which has the shortest one of all?"
)
THIRTEEN = "field and in each of them stand forty two old apple trees how"


def test_thirteen_words_in_a_row_are_found_whatever_the_layout_and_twelve_are_not() -> None:
    benchmarks = Benchmarks([ITEM])
    words = ITEM.split()
    assert benchmarks.touch(f"Let us look at this one: {ITEM} What do you think?")
    assert benchmarks.touch("... IN EACH of **them** stand\nforty two old apple trees - how many trees does he own")
    assert not benchmarks.touch("in each of them stand forty-two old apple trees, how many")
    assert not benchmarks.touch(" ".join([*words[:10], "instead", *words[11:18]]))
    assert not benchmarks.touch(" ".join(reversed(words)))


def test_each_stretch_of_thirteen_words_is_found() -> None:
    benchmarks = Benchmarks([ITEM])
    words = ITEM.replace("-", " ").split()
    for start in range(len(words) - 12):
        assert benchmarks.touch("before " + " ".join(words[start : start + 13]) + " after")
        assert not benchmarks.touch(" ".join(words[start : start + 12]))


def test_a_short_item_is_looked_for_as_a_whole_and_an_answer_not_at_all() -> None:
    benchmarks = Benchmarks(["What is the capital of France?", "Paris", "It is Paris."])
    assert benchmarks.touch("Tell me: what is the capital of France? Think.")
    assert not benchmarks.touch("what is the capital of Spain?")
    assert not benchmarks.touch("It is Paris.")
    assert not Benchmarks(["Paris"])


def test_scripts_without_spaces_are_compared_character_by_character() -> None:
    item = "光合作用是植物利用阳光制造糖分的过程"
    assert Benchmarks([item]).touch(f"老师说:{item}。")
    assert not Benchmarks([item]).touch("光合作用是什么?植物怎么做到的?")


def test_two_hundred_clean_lines_are_not_touched(clean_lines: list[str]) -> None:
    benchmarks = Benchmarks([ITEM, OTHER, "What is the capital of France?"])
    assert len(clean_lines) == 200
    assert [line for line in clean_lines if benchmarks.touch(line)] == []


@pytest.fixture
def clean_lines() -> list[str]:
    """Talk about the same things, in other words."""
    beginnings = ["Well,", "Now,", "I think that", "Let us see:", "So"]
    middles = ["the farmer", "the old apple tree", "a planet", "the capital of Spain", "each of the fields"]
    ends = [
        "stands there in the winter",
        "has the longest day",
        "is what we look at",
        "owns three of them",
        "comes before the others",
        "is larger than I thought",
        "has forty-two of them",
        "does not count here.",
    ]
    return [f"{one} {two} {three}" for one in beginnings for two in middles for three in ends]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "txt", "md"])
def test_every_text_of_every_field_of_a_file_counts(kind: str, tmp_path: Path) -> None:
    records = [{"id": 1, "question": "short", "nested": {"choices": ["no", ITEM]}}, {"question": OTHER}]
    path = tmp_path / f"bench.{kind}"
    if kind == "jsonl":
        path.write_bytes(b"\n".join(map(orjson.dumps, records)) + b"\n\n")
    elif kind == "json":
        path.write_bytes(orjson.dumps({"data": records}))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text(f"{ITEM}\n\n{OTHER}\n")
    benchmarks = read_benchmarks([path])
    assert benchmarks.touch(ITEM) and benchmarks.touch(OTHER) and not benchmarks.touch(THIRTEEN.replace("old", "new"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "cannot be read"),
        ("torn.jsonl", b'{"question": "whole"}\n{"question": "to', r"torn\.jsonl:2: the benchmark is no JSON here"),
        ("table.csv", b"a,b\n", r"is \.csv: read are \.jsonl"),
        ("bare", b"text", "is without a suffix"),
        ("false.parquet", b"PAR1 not at all", "is no Parquet"),
        ("latin.txt", "Größe".encode("latin-1"), "is no UTF-8"),
        ("answers.txt", b"A\nB\n", "has no item of 5 words"),
    ],
)
def test_a_benchmark_that_cannot_be_used_is_an_error(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_benchmarks([tmp_path / name])
