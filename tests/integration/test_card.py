"""The card of a data set: each number in it is counted again, by other code, in the files beside it and the transcripts."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage import generate
from tutelage.exports import contents
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.quality.diversity import MEASURES
from tutelage.quality.intervals import Missing
from tutelage.quality.lesson_tables import as_text, sections
from tutelage.quality.lessons import LessonTally
from tutelage.quality.uniformity import measures_of
from tutelage.testing import SimulatedEndpoint
from tutelage.transcripts.store import read_transcripts

Row = dict[str, Any]
Cells = list[tuple[str, ...]]

BRIEFS = [
    {"id": "halves", "question": "What is 1/2 + 1/3?", "answer": "5/6", "language": "en"},
    {"id": "thirds", "question": "What is 1/3 + 1/3?", "answer": "2/3", "language": "en"},
    {"id": "moon", "question": "Which lands first on the Moon?", "answer": "both at once"},
    {"id": "tides", "question": "What makes the tides?", "answer": "the Moon"},
]
SAID = ("keep", "keep", "drop", "keep", "edit", "keep", "keep", "drop")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with drafts that were sent back, one with decisions of a person and a judge."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "briefs.jsonl").write_text("".join(json.dumps(brief) + "\n" for brief in BRIEFS))
    made = [folder / "calm", folder / "strict"]
    for run, rate in zip(made, (0.8, 0.5), strict=True):
        with SimulatedEndpoint(accept_rate=rate, completion_tokens=30) as endpoint:
            config = {
                "run": run.name,
                "graph": "lesson",
                "briefs": [{"from": str(folder / "briefs.jsonl")}],
                "models": {"default": {"url": endpoint.url, "model": "simulated"}},
                "limits": {"messages": 6},
                "target": {"dialogues": 12},
            }
            generate(config, out=run)
    decide(made[1])
    return made


UNNAMED = {"ada": "a person"}
"""What a card says in place of a person's name."""


def decide(run: Path) -> None:
    """A person and a judge say something of the same turns, and not always the same thing."""
    with (run / "decisions.jsonl").open("w") as file:
        for number, transcript in enumerate(transcripts([run])):
            for turn in transcript["turns"][:4]:
                place = {"id": transcript["id"], "turn": turn["index"]}
                mine = SAID[(number + turn["index"]) % len(SAID)]
                its = SAID[(2 * number + turn["index"]) % len(SAID)].replace("edit", "keep")
                text = {"text": "Say it in your own words, please."} if mine == "edit" else {}
                file.write(json.dumps({**place, "by": "ada", "decision": mine, **text}) + "\n")
                file.write(json.dumps({**place, "by": "judge:critic", "decision": its}) + "\n")


def transcripts(runs: Iterable[Path]) -> list[Any]:
    """The last line of each dialogue, by JSON alone."""
    last: dict[tuple[str, str], Any] = {}
    for run in runs:
        for path in sorted((run / "transcripts").iterdir()):
            for line in map(json.loads, path.read_text().splitlines()):
                last[run.name, line["id"]] = line
    return list(last.values())


def rows_of(out: Path) -> dict[str, list[Row]]:
    """By split, the rows in the files."""
    rows: dict[str, list[Row]] = {}
    for path in sorted((out / "data").iterdir()):
        rows.setdefault(path.name.partition("-")[0], []).extend(map(json.loads, path.read_text().splitlines()))
    return rows


def card_of(out: Path) -> tuple[Any, str]:
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def tables_of(body: str) -> dict[str, Cells]:
    """The tables of a card, by their headings, without the heading's row."""
    tables = {}
    for block in re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE):
        heads, _, *rows = (tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in block.splitlines())
        tables[", ".join(heads).strip(", |")] = rows
    return tables


def counted(values: Iterable[Any]) -> set[tuple[str, ...]]:
    return {(*(key if isinstance(key, tuple) else (key,)), f"{count:,}") for key, count in Counter(values).items()}


def code(text: str) -> str:
    return f"`{text}`"


def calls(transcript: Any) -> Iterable[tuple[str, str]]:
    for turn in transcript["turns"]:
        for attempt in turn["attempts"]:
            yield code(turn["role"]), code(attempt["call"]["model"])
            yield from ((code(r["role"]), code(r["call"]["model"])) for r in attempt["reviews"] if r.get("call"))
        yield from ((code(step["role"]), code(step["call"]["model"])) for step in turn["steps"])


def mean(rows: Sequence[Row], name: str) -> float:
    return sum(len(message["content"]) for row in rows for message in row[name]) / len(rows)


def learnt(row: Row) -> int:
    """Characters that are to be learnt."""
    if "completions" in row:
        return len("\n\n".join(row["completions"]))
    return len("".join(text_of(row[name]) for name in ("completion", "chosen", "rejected") if name in row))


def numbers(out: Path, done: Sequence[Any], messages: Sequence[str]) -> Cells:
    """The first table of a card."""
    rows = [row for split in rows_of(out).values() for row in split]
    lengths = {name: mean(rows, name) for name in messages}
    longer = lengths["chosen"] / lengths["rejected"] - 1 if "chosen" in lengths else None
    by_people = sum(learnt(row) for row in rows if row["origin"] == "human")
    return [
        ("rows", f"{len(rows):,}"),
        ("dialogues with rows", f"{len({row['dialogue'] for row in rows}):,}"),
        ("completed dialogues", f"{len(done):,}"),
        ("briefs taught in them", f"{len({each['brief']['id'] for each in done}):,}"),
        ("turns in them, of all roles", f"{sum(len(each['turns']) for each in done):,}"),
        *((f"mean characters of `{name}`", f"{length:,.1f}") for name, length in lengths.items()),
        *([] if longer is None else [("`chosen` longer than `rejected`, on average", f"{longer:+.1%}")]),
        (
            "rows that end where the model had no tokens left",
            f"{sum(row.get('finish_reason') == 'length' for row in rows):,}",
        ),
        ("rows that people wrote", f"{sum(row['origin'] == 'human' for row in rows):,}"),
        ("share of what is learnt that people wrote", f"{by_people / sum(map(learnt, rows)):.1%}"),
    ]


def recounted(out: Path, runs: Sequence[Path], messages: Sequence[str], texts: Sequence[str] | None) -> dict[str, Any]:
    """What the tables of a card must hold, by their headings."""
    everything = transcripts(runs)
    done = [each for each in everything if each["outcome"]["status"] == "completed"]
    by_split = rows_of(out)
    rows = [row for split in by_split.values() for row in split]
    tables: dict[str, Any] = {
        "": set(numbers(out, done, messages)),
        "split, rows, briefs": {
            (split, f"{len(of):,}", f"{len({row['brief'] for row in of}):,}") for split, of in by_split.items()
        },
        "outcome, reason, dialogues": counted(
            (each["outcome"]["status"], code(each["outcome"]["reason"])) for each in everything
        ),
        "run, dialogues": counted(code(each["run"]) for each in done),
        "graph, sha256, dialogues": counted(
            (code(each["graph"]["name"]), code(each["graph"]["sha256"][:16])) for each in done
        ),
        "origin, generation, dialogues": counted(
            (each["lineage"]["origin"], str(each["lineage"]["generation"])) for each in done
        ),
        "role, played by, calls": counted(call for each in done for call in calls(each)),
        "made with, version, dialogues": counted(
            (code(name), code(version)) for each in done for name, version in each["versions"].items()
        ),
        "what, how often": set(taught(runs)),
        "by, decisions": decided(runs),
        "who, both judged, agreed, \N{GREEK SMALL LETTER KAPPA}": agreed(runs),
    }
    for name in ("source", "by", "label", "verifier"):
        if name in rows[0]:
            tables[f"`{name}`, rows"] = counted(code(str(row[name]).lower()) for row in rows)
    if "labels" in rows[0]:
        tables["steps, number"] = counted("right" if label else "wrong" for row in rows for label in row["labels"])
    if texts is not None:
        found = measures_of(texts)
        assert found is not None
        tables["measure, here"] = {(each.title, f"{each.of(found):,.{each.decimals}f}") for each in MEASURES}
    return tables


def taught(runs: Sequence[Path]) -> Iterable[tuple[str, str]]:
    tally = LessonTally()
    for run in runs:
        for transcript in read_transcripts(run):
            if transcript.outcome.status == "completed":
                tally.add(transcript)
    measured = sections(tally.result(runs[0]))
    for title in ("Answers given away", "The student's belief", "Learning", "Claims"):
        for label, value in measured[title].items():
            if not isinstance(value, Missing):
                yield f"{title}: {label}", as_text(value)


def decisions(runs: Sequence[Path]) -> list[Row]:
    files = [run / "decisions.jsonl" for run in runs if (run / "decisions.jsonl").exists()]
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def decided(runs: Sequence[Path]) -> set[tuple[str, ...]]:
    done = {each["id"] for each in transcripts(runs) if each["outcome"]["status"] == "completed"}
    return counted(code(UNNAMED.get(each["by"]) or each["by"]) for each in decisions(runs) if each["id"] in done)


def agreed(runs: Sequence[Path]) -> set[tuple[str, ...]]:
    """Cohen's kappa of each two authors, and the run's own reviewers among them."""
    said: dict[tuple[str, int], dict[str, bool]] = {}
    for each in decisions(runs):
        said.setdefault((each["id"], each["turn"]), {})[each["by"]] = each["decision"] == "keep"
    for transcript in transcripts(runs):
        for turn in transcript["turns"]:
            about = said.get((transcript["id"], turn["index"]))
            accepted = next(attempt for attempt in turn["attempts"] if attempt["status"] == "accepted")
            if about is not None and accepted["reviews"]:
                about["the run"] = not accepted["forced"]
    found: set[tuple[str, ...]] = set()
    for one, other in (("ada", "judge:critic"), ("ada", "the run"), ("judge:critic", "the run")):
        pairs = [(each[one], each[other]) for each in said.values() if one in each and other in each]
        same = sum(first == second for first, second in pairs) / len(pairs)
        yes, its_yes = (sum(pair[place] for pair in pairs) / len(pairs) for place in (0, 1))
        chance = yes * its_yes + (1 - yes) * (1 - its_yes)
        kappa = (same - chance) / (1 - chance)
        found.add((f"`{UNNAMED.get(one, one)}` and `{other}`", f"{len(pairs):,}", f"{same:.1%}", f"{kappa:.2f}"))
    return found


def check(out: Path, runs: Sequence[Path], messages: Sequence[str], texts: Sequence[str] | None) -> None:
    """Holds every table of a card against its recount, and finds no number outside of them that nobody has counted."""
    _, body = card_of(out)
    tables = tables_of(body)
    expected = recounted(out, runs, messages, texts)
    tables.pop("field, type, what it is")
    dropped = tables.pop("reason, what it means, rows", [])
    assert {name: set(rows) for name, rows in tables.items()} == expected
    assert all(int(count.replace(",", "")) > 0 for *_, count in dropped)
    prose = re.sub(r"```.*?```|^\|.*|^#.*|`[^`]*`", "", body, flags=re.MULTILINE | re.DOTALL)
    synthetic = 100 * (
        1 - sum(learnt(row) for row in all_rows(out) if row["origin"] == "human") / sum(map(learnt, all_rows(out)))
    )
    known = {"95", "1", "0.6", f"{synthetic:.1f}", str(len(texts or []))}
    assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= known, prose


def text_of(messages: Sequence[Row]) -> str:
    return "".join(message["content"] for message in messages)


def all_rows(out: Path) -> list[Row]:
    """By the hashes of their ids: the first ones are a sample, and how well texts compress depends on their order."""
    rows = [row for split in rows_of(out).values() for row in split]
    return sorted(rows, key=lambda row: blake2b(row["id"].encode(), digest_size=8).digest())


def test_every_number_of_a_card_of_turns_is_counted_again(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="sft", files="jsonl", validation=0.3), out=tmp_path / "out")
    rows = all_rows(tmp_path / "out")
    assert {"train", "validation"} == rows_of(tmp_path / "out").keys() and len(rows) < contents.ROWS
    check(tmp_path / "out", runs, ["prompt", "completion"], [text_of(row["completion"]) for row in rows])


def test_every_number_of_a_card_of_pairs_is_counted_again(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="dpo", files="jsonl"), out=tmp_path / "out")
    rows = all_rows(tmp_path / "out")
    check(tmp_path / "out", runs, ["prompt", "chosen", "rejected"], [text_of(row["chosen"]) for row in rows])
    assert "**Length.**" in card_of(tmp_path / "out")[1]


def test_every_number_of_a_card_of_verdicts_is_counted_again(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="kto", files="jsonl"), out=tmp_path / "out")
    good = [text_of(row["completion"]) for row in all_rows(tmp_path / "out") if row["label"]]
    check(tmp_path / "out", runs, ["prompt", "completion"], good)


def test_every_number_of_a_card_of_steps_is_counted_again(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="prm", files="jsonl"), out=tmp_path / "out")
    check(tmp_path / "out", runs, [], None)


def test_what_is_measured_of_a_sample_is_measured_of_the_same_rows_again(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with the lowest hashes of their ids, so that whoever has the files can find them."""
    monkeypatch.setattr(contents, "ROWS", 10)
    export(runs, Request(format="sft", files="jsonl"), out=tmp_path / "out")
    rows = all_rows(tmp_path / "out")
    assert len(rows) > 10
    check(tmp_path / "out", runs, ["prompt", "completion"], [text_of(row["completion"]) for row in rows[:10]])


def test_what_was_left_out_is_as_much_as_is_missing(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="sft", files="jsonl", dedup="none"), out=tmp_path / "out")
    dropped = {
        reason: int(count)
        for reason, _, count in tables_of(card_of(tmp_path / "out")[1])["reason, what it means, rows"]
    }
    turns = [turn for each in transcripts(runs) for turn in each["turns"] if turn["role"] == "tutor"]
    assert len(all_rows(tmp_path / "out")) + sum(dropped.values()) == len(turns)


def test_agreement_with_people_is_said_and_warned_of_where_it_is_little(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="sft"), out=tmp_path / "judged")
    body = card_of(tmp_path / "judged")[1]
    assert "uncalibrated: no one" not in body and "it is little" in body
    export(runs[0], Request(format="sft"), out=tmp_path / "plain")
    assert "uncalibrated: no one has measured" in card_of(tmp_path / "plain")[1]


def test_a_licence_stands_where_the_hub_looks_for_it(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="sft", licence="cc-by-4.0"), out=tmp_path / "out")
    front, body = card_of(tmp_path / "out")
    assert front["license"] == "cc-by-4.0" and "**Licence:** `cc-by-4.0`" in body
    export(runs, Request(format="sft"), out=tmp_path / "none")
    front, body = card_of(tmp_path / "none")
    assert "license" not in front and "No licence is stated" in body


@pytest.mark.parametrize("tool", ["trl", "axolotl", "llama-factory", "openai", "nemo-rl", "verl"])
def test_the_card_says_where_each_tools_rows_are(runs: list[Path], tmp_path: Path, tool: Any) -> None:
    export(runs, Request(format="sft", tool=tool, validation=0.3), out=tmp_path / "out")
    front, body = card_of(tmp_path / "out")
    assert ("trl" in front["tags"]) is (tool == "trl")
    splits = {each["split"]: each["path"] for each in front["configs"][0]["data_files"]}
    assert splits.keys() == {"train", "validation"}
    assert all(list((tmp_path / "out").glob(path)) for path in splits.values())
    assert "## How to read it" in body


def test_a_set_of_files_that_are_no_rows_has_no_configs(runs: list[Path], tmp_path: Path) -> None:
    export(runs, Request(format="traces"), out=tmp_path / "out")
    front, body = card_of(tmp_path / "out")
    assert "configs" not in front and "dataset_info" not in front
    assert int(next(count for name, count in tables_of(body)[""] if name == "rows")) == sum(
        path.is_file() for path in (tmp_path / "out" / "data").rglob("*")
    )
