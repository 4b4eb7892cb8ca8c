"""Exports train: `datasets` loads them, and TRL's trainers take a step and learn what they are meant to learn."""

import json
import math
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import tutelage
from tutelage.exports.export import export
from tutelage.exports.request import FileKind, Request
from tutelage.testing import SimulatedEndpoint

pytestmark = pytest.mark.trainers

Row = dict[str, Any]

BRIEFS = Path(__file__).parents[2] / "examples" / "briefs" / "mathematics.jsonl"
DIALOGUES = 8
KINDS: tuple[FileKind, ...] = ("jsonl", "parquet")
SFT = ("sft-jsonl", "sft-parquet", "sft-messages-jsonl", "sft-messages-parquet")
DPO = ("dpo-jsonl", "dpo-parquet")
END = "<|end|>"
"""What the tiny model's chat template ends a message with; a model must learn to say it, too."""


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exports of one run, each in a folder of its own, named as in `SFT` and `DPO`."""
    folder = tmp_path_factory.mktemp("run")
    with SimulatedEndpoint(accept_rate=0.7, completion_tokens=24) as endpoint:
        config = {
            "run": "lessons",
            "models": {"default": {"url": endpoint.url, "model": endpoint.config.model}},
            "briefs": [{"from": str(BRIEFS)}],
            "limits": {"messages": 4, "revisions": 2},
            "target": {"dialogues": DIALOGUES},
            "seed": 7,
        }
        summary = tutelage.generate(config, out=folder / "lessons")
    assert summary.count("completed") == DIALOGUES
    for files in KINDS:
        write = partial(export, summary.folder)
        write(Request(format="sft", files=files), out=folder / "exports" / f"sft-{files}")
        whole = Request(format="sft", files=files, whole_dialogue=True)
        write(whole, out=folder / "exports" / f"sft-messages-{files}")
        write(Request(format="dpo", files=files), out=folder / "exports" / f"dpo-{files}")
    return folder / "exports"


@pytest.fixture(scope="session")
def trained(trainers_python: Path, trainable_model: Path, exports: Path) -> dict[str, dict[str, Any]]:
    """What train_one_step.py reports, by export."""
    script = Path(__file__).with_name("train_one_step.py")
    done = subprocess.run([trainers_python, script, trainable_model, exports], stdout=subprocess.PIPE, check=True)
    report: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return report


def rows_of(export: Path) -> Iterator[Row]:
    """The rows of an export, read without the libraries that are under test."""
    for file in sorted(export.rglob("*.jsonl")):
        yield from map(orjson.loads, file.read_bytes().splitlines())
    for file in sorted(export.rglob("*.parquet")):
        yield from pq.read_table(file).to_pylist()


def said(messages: list[dict[str, str]]) -> str:
    """The assistant's part of some messages, as the chat template writes it."""
    return "".join(message["content"] + END for message in messages if message["role"] == "assistant")


@pytest.mark.parametrize("name", SFT + DPO)
def test_every_row_is_loaded_and_one_step_changes_the_model(
    trained: dict[str, dict[str, Any]], exports: Path, name: str
) -> None:
    report = trained[name]
    assert report["rows"] == len(list(rows_of(exports / name))) > 0
    assert report["steps"] == 1
    assert report["changed"]
    assert report["gradient"] > 0
    assert 0 < report["loss"] < 20


@pytest.mark.parametrize("name", SFT)
def test_fine_tuning_learns_what_the_assistant_says_and_nothing_else(
    trained: dict[str, dict[str, Any]], exports: Path, name: str
) -> None:
    learned = [said(row.get("messages") or row["completion"]) for row in rows_of(exports / name)]
    assert sorted(trained[name]["learned"]) == sorted(learned)


@pytest.mark.parametrize("name", DPO)
def test_preference_training_compares_the_chosen_with_the_rejected(
    trained: dict[str, dict[str, Any]], exports: Path, name: str
) -> None:
    rows = list(rows_of(exports / name))
    assert sorted(trained[name]["learned"]) == sorted(said(row["chosen"]) for row in rows)
    assert sorted(trained[name]["rejected"]) == sorted(said(row["rejected"]) for row in rows)


@pytest.mark.parametrize("name", DPO)
def test_preference_training_starts_from_indifference(trained: dict[str, dict[str, Any]], name: str) -> None:
    """Before its first step the policy is its own reference, where the loss of DPO is ln 2 (Rafailov et al. 2023)."""
    assert trained[name]["loss"] == pytest.approx(math.log(2), rel=1e-4)
