"""People's rows among those of models, and what an export says of how much of it models wrote."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from tutelage import Brief
from tutelage.errors import ExportError
from tutelage.exports.cleaning.human_rows import HumanFile
from tutelage.exports.export import export
from tutelage.exports.manifest import read_manifest
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut
from tutelage.exports.summary import ExportSummary
from tutelage.transcripts.transcript import Lineage

from .conftest import WrittenRun

Row = dict[str, Any]
WORDS = [first + second for first in ("wh", "h", "p", "s", "dr") for second in ("ich", "ow", "art", "um")]


def sentence(rng: random.Random, words: int = 8) -> str:
    return " ".join(rng.choices(WORDS, k=words)) + "?"


@pytest.fixture
def run(written_run: WrittenRun) -> WrittenRun:
    """A hundred turns of a tutor."""
    rng = random.Random(0)
    for number in range(50):
        turns = [(role, [(sentence(rng), "accepted")]) for role in ("tutor", "student", "tutor", "student")]
        written_run.add(*turns, brief=Brief(id=f"b{number}"), id_=f"d{number}")
    return written_run


def by_people(
    path: Path, count: int = 300, *, seed: int = 1, columns: tuple[str, str] = ("prompt", "completion")
) -> Path:
    rng = random.Random(seed)
    rows = [{columns[0]: sentence(rng), columns[1]: sentence(rng, 12)} for _ in range(count)]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def mixed(run: WrittenRun, out: Path, *files: Path, **options: Any) -> tuple[ExportSummary, list[Row]]:
    request = Request(**{"format": "sft", "files": "jsonl", "mix": files, **options})
    summary = export(run.path, request, out=out)
    return summary, [
        orjson.loads(line) for path in sorted((out / "data").iterdir()) for line in path.read_bytes().splitlines()
    ]


def share_of(rows: list[Row]) -> float:
    learnt: Counter[str] = Counter()
    for row in rows:
        learnt[row["origin"]] += sum(len(message["content"]) for message in row["completion"])
    return learnt["human"] / learnt.total()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7])
def test_people_have_the_share_that_was_asked_for(run: WrittenRun, tmp_path: Path, share: float) -> None:
    summary, rows = mixed(run, tmp_path / "out", by_people(tmp_path / "people.jsonl"), real_share=share)
    assert share_of(rows) == pytest.approx(share, abs=0.02)
    assert read_manifest(tmp_path / "out").real_share == pytest.approx(share_of(rows), abs=1e-6)
    assert sum(row["origin"] == "synthetic" for row in rows) == 100, "all of the models' rows are there"
    assert summary.mixed == sum(row["origin"] == "human" for row in rows)
    assert (summary.dialogues, f"{share_of(rows):.1%} of what is learnt" in str(summary)) == (50, True)


def test_a_persons_row_has_every_column_and_is_marked(run: WrittenRun, tmp_path: Path) -> None:
    _, rows = mixed(run, tmp_path / "out", by_people(tmp_path / "people.jsonl"))
    of_people = [row for row in rows if row["origin"] == "human"]
    assert len({row["id"] for row in rows}) == len(rows)
    for row in of_people:
        assert row.keys() == rows[0].keys()
        assert [message["role"] for message in row["prompt"] + row["completion"]] == ["user", "assistant"]
        assert row["id"] == row["brief"] == row["dialogue"]
        assert row["id"].startswith("human/0/people.jsonl/")
        assert (row["role"], row["source"], row["model"], row["score"]) == ("tutor", "human", "", None)


def test_which_rows_are_drawn_is_the_seeds_choice(run: WrittenRun, tmp_path: Path) -> None:
    people = by_people(tmp_path / "people.jsonl")
    drawn = [
        [row["id"] for row in mixed(run, tmp_path / str(n), people, seed=seed)[1] if row["origin"] == "human"]
        for n, seed in enumerate((0, 0, 1))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != sorted(drawn[0]), "not simply the first ones"


def test_two_files_are_drawn_from_alike_parquet_too(run: WrittenRun, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    first, second = by_people(tmp_path / "people.jsonl"), by_people(tmp_path / "more" / "people.jsonl", seed=2)
    rows = [orjson.loads(line) for line in second.read_bytes().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "more" / "people.parquet")
    _, rows = mixed(run, tmp_path / "out", first, tmp_path / "more" / "people.parquet")
    files = Counter("/".join(row["id"].split("/")[:3]) for row in rows if row["origin"] == "human")
    assert files.keys() == {"human/0/people.jsonl", "human/1/people.parquet"}
    assert min(files.values()) > 15


def test_cleaning_takes_people_s_repeated_rows_too_and_the_share_holds_of_what_stays(
    run: WrittenRun, tmp_path: Path
) -> None:
    people = by_people(tmp_path / "people.jsonl", 200)
    people.write_bytes(people.read_bytes() * 3)
    summary, rows = mixed(run, tmp_path / "out", people, real_share=0.6)
    texts = [row["completion"][0]["content"] for row in rows]
    assert len(set(texts)) == len(texts)
    assert summary.left_out.total() > 0
    assert share_of(rows) == pytest.approx(0.6, abs=0.02)


def test_people_s_rows_are_split_and_drawn_when_all_rows_had_to_be_seen_first(run: WrittenRun, tmp_path: Path) -> None:
    """The best half of the models' rows stays: so fewer of people's make the share than when theirs came in."""
    people = by_people(tmp_path / "people.jsonl")
    summary, rows = mixed(run, tmp_path / "out", people, best=0.5, validation=0.3)
    assert sum(row["origin"] == "synthetic" for row in rows) == 50
    assert share_of(rows) == pytest.approx(0.5, abs=0.02)
    train, validation = summary.splits["train"], summary.splits["validation"]
    assert validation > 10
    assert f"train {train:,}" in str(summary) and f"validation {validation:,}" in str(summary)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Every speaker is a model**, but in the rows that people wrote" in card


def test_no_more_of_people_s_rows_are_read_than_are_needed(
    run: WrittenRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may have millions."""
    read: list[int] = []
    row_at = HumanFile.row

    def row(file: HumanFile, at: int) -> Row:
        read.append(at)
        return row_at(file, at)

    monkeypatch.setattr(HumanFile, "row", row)
    _, rows = mixed(run, tmp_path / "out", by_people(tmp_path / "people.jsonl", 3000), real_share=0.2)
    taken = sum(row["origin"] == "human" for row in rows)
    assert taken <= len(read) <= taken + 3


def test_bad_lines_are_named_and_counted(run: WrittenRun, tmp_path: Path) -> None:
    people = by_people(tmp_path / "people.jsonl", 200)
    bad = [
        b"{torn",
        b"[]",
        b'{"prompt": "a"}',
        b'{"prompt": "a", "completion": 3}',
        b'{"prompt": "a", "completion": [{"role": "assistant"}]}',
        b'{"prompt": "a", "completion": [{"role": "assistant", "content": "", "tool_calls": [1]}]}',
        b'{"prompt": "a", "completion": " "}',
    ]
    people.write_bytes(b"\n".join([*bad, b"", people.read_bytes()]))
    with capture_logs() as logs:
        summary, rows = mixed(run, tmp_path / "out", people, real_share=0.8)
    skipped = {each["place"].split(", ")[1]: each["reason"] for each in logs if each["event"] == "human_row_skipped"}
    assert skipped.keys() == {f"line {number}" for number in range(1, len(bad) + 1)}
    assert skipped["line 3"] == "it has no 'completion'"
    assert summary.left_out[LeftOut.FOREIGN] == len(bad)
    assert sum(row["origin"] == "human" for row in rows) == 200


def test_too_little_is_said_and_what_there_is_is_taken(run: WrittenRun, tmp_path: Path) -> None:
    with capture_logs() as logs:
        summary, rows = mixed(run, tmp_path / "out", by_people(tmp_path / "people.jsonl", 10))
    assert sum(row["origin"] == "human" for row in rows) == 10
    assert [each["event"] for each in logs] == ["human_rows_short", "mostly_synthetic_exported"]
    assert f"people wrote {summary.real_share:.1%} of what is to be learnt, not 50.0%" in logs[0]["note"]


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", {}, "has no row to mix in: it is empty. A row has `prompt` and `completion`"),
        (b'{"messages": []}\n', {}, r"line 1: it has no 'prompt'"),
        (b'{"prompt": "a", "completion": "b"}', {"real_share": 1.0}, "real_share is 1.0"),
        (b'{"prompt": "a", "completion": "b"}', {"format": "traces"}, "nobody trains on 'traces'"),
    ],
)
def test_what_cannot_be_mixed_in_is_an_error_and_nothing_is_made(
    run: WrittenRun, tmp_path: Path, content: bytes, options: dict[str, Any], says: str
) -> None:
    (tmp_path / "people.jsonl").write_bytes(content)
    with pytest.raises(ExportError, match=says):
        mixed(run, tmp_path / "out", tmp_path / "people.jsonl", **options)
    assert {path.name for path in tmp_path.iterdir()} == {"people.jsonl", "written"}


def test_a_share_of_nothing_is_an_error(run: WrittenRun, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="say which files"):
        mixed(run, tmp_path / "out", real_share=0.3)


@pytest.mark.parametrize("name", ["people.txt", "gone.jsonl", "torn.parquet"])
def test_files_that_cannot_be_read_are_errors(run: WrittenRun, tmp_path: Path, name: str) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ExportError, match=name):
        mixed(run, tmp_path / "out", tmp_path / name)


def test_pairs_and_whole_dialogues_are_mixed_in_their_own_columns(written_run: WrittenRun, tmp_path: Path) -> None:
    rng = random.Random(3)
    for number in range(10):
        drafts = [(sentence(rng), "rejected"), (sentence(rng), "accepted")]
        written_run.add(("tutor", drafts), brief=Brief(id=f"b{number}"), id_=f"d{number}")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_bytes(
        b"".join(
            orjson.dumps({"prompt": "Why?", "chosen": sentence(rng), "rejected": sentence(rng)}) + b"\n"
            for _ in range(20)
        )
    )
    _, rows = mixed(written_run, tmp_path / "dpo", pairs, format="dpo")
    assert Counter(row["origin"] for row in rows) == {"synthetic": 10, "human": 10}
    assert {row["source"] for row in rows if row["origin"] == "human"} == {"human"}
    dialogues = tmp_path / "dialogues.jsonl"
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Why so?"}]
    both = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It may be so, or not."}] * 2
    flags = [False, False, False, True]
    given = [{"messages": messages}, {"messages": both, "train": flags}]
    dialogues.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in given))
    summary, rows = mixed(written_run, tmp_path / "sft", dialogues, whole_dialogue=True)
    (of_people,) = (row for row in rows if row["origin"] == "human")
    assert (of_people["messages"], of_people["train"]) == (messages, [False, True])
    assert summary.left_out[LeftOut.MASKED] == 1, "TRL learns all of the assistant's, but this row says not to"


def test_a_mix_above_half_of_models_is_warned_of_and_one_below_is_not(run: WrittenRun, tmp_path: Path) -> None:
    people = by_people(tmp_path / "people.jsonl")
    for share, warned in ((0.4, True), (0.5, False), (0.6, False)):
        with capture_logs() as logs:
            mixed(run, tmp_path / str(share), people, real_share=share)
        assert ("mostly_synthetic_exported" in {each["event"] for each in logs}) == warned


def test_a_late_dialogue_is_refused_wherever_it_stands(run: WrittenRun, tmp_path: Path) -> None:
    run.add(("tutor", [("Late words.", "accepted")]), brief=Brief(id="l"), id_="late", lineage=Lineage(generation=5))
    with pytest.raises(ExportError, match=r"the dialogue 'late' of the run 'written' is of generation 5"):
        mixed(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run.decide(id="late", by="judge:m", decision="drop")
    mixed(run, tmp_path / "out")
    assert read_manifest(tmp_path / "out").generation == 1
