"""Exports train: `datasets` loads them, and TRL's trainers take a step and learn what they are meant to learn."""

import json
import math
import os
import re
import subprocess
import sys
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

ROOT = Path(__file__).parents[2]
BRIEFS = ROOT / "examples" / "briefs" / "mathematics.jsonl"
DIALOGUES = 8
KINDS: tuple[FileKind, ...] = ("jsonl", "parquet")
SFT = ("sft-jsonl", "sft-parquet", "sft-messages-jsonl", "sft-messages-parquet")
DPO = ("dpo-jsonl", "dpo-parquet")
KTO, PRM, GRPO = "kto-parquet", "prm-parquet", "grpo-parquet"
END = "<|end|>"
"""What the tiny model's chat template ends a message with; a model must learn to say it, too."""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of lessons: every third draft or so is sent back."""
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
    return summary.folder


@pytest.fixture(scope="session")
def exports(run: Path) -> Path:
    """A folder with the exports of the run, each in a folder of its own, named as above."""
    out = run.with_name("exports")
    write = partial(export, run)
    for files in KINDS:
        write(Request(format="sft", files=files), out=out / f"sft-{files}")
        whole = Request(format="sft", files=files, whole_dialogue=True)
        write(whole, out=out / f"sft-messages-{files}")
        write(Request(format="dpo", files=files), out=out / f"dpo-{files}")
    write(Request(format="kto"), out=out / KTO)
    write(Request(format="prm"), out=out / PRM)
    write(Request(format="grpo"), out=out / GRPO)
    return out


@pytest.fixture(scope="session")
def trained(trainers_python: Path, trainable_model: Path, exports: Path) -> dict[str, dict[str, Any]]:
    """What train_one_step.py reports, by export."""
    script = Path(__file__).with_name("train_one_step.py")
    # The last TRL that can train a PRM lies beside the newer one.
    with_prm = {"PYTHONPATH": str(trainers_python.parents[1] / "beside")}
    reports: dict[str, dict[str, Any]] = {}
    for names, environment in (((*SFT, *DPO, KTO, GRPO), {}), ((PRM,), with_prm)):
        command = [trainers_python, script, trainable_model, *(exports / name for name in names)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **environment})
        reports |= json.loads(done.stdout)
    return reports


def rows_of(export: Path) -> Iterator[Row]:
    """The rows of an export, read without the libraries that are under test."""
    for file in sorted(export.rglob("data/*.jsonl")):
        yield from map(orjson.loads, file.read_bytes().splitlines())
    for file in sorted(export.rglob("data/*.parquet")):
        yield from pq.read_table(file).to_pylist()


def said(messages: list[dict[str, str]]) -> str:
    """The assistant's part of some messages, as the chat template writes it."""
    return "".join(message["content"] + END for message in messages if message["role"] == "assistant")


@pytest.mark.parametrize("name", [*SFT, *DPO, KTO, PRM, GRPO])
def test_every_row_is_loaded_and_one_step_changes_the_model(
    trained: dict[str, dict[str, Any]], exports: Path, name: str
) -> None:
    report = trained[name]
    assert report["rows"] == len(list(rows_of(exports / name))) > 0
    assert report["steps"] == 1
    assert report["changed"]
    assert report["gradient"] > 0
    assert abs(report["loss"]) < 20


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


def test_training_on_labels_makes_what_was_accepted_likelier_and_what_was_sent_back_not(
    trained: dict[str, dict[str, Any]], exports: Path
) -> None:
    rows = list(rows_of(exports / KTO))
    for told, label in (("learned", True), ("rejected", False)):
        texts = [said(row["completion"]) for row in rows if row["label"] is label]
        assert sorted(trained[KTO][told]) == sorted(texts) != []


def test_training_on_labels_starts_from_indifference(trained: dict[str, dict[str, Any]]) -> None:
    """Before its first step the policy is its own reference: each value is sigmoid(0), the loss 1/2."""
    assert trained[KTO]["loss"] == pytest.approx(0.5, rel=1e-4)


def test_a_process_reward_model_finds_each_label_at_the_end_of_its_step(
    trained: dict[str, dict[str, Any]], exports: Path
) -> None:
    expected = []
    for row in rows_of(exports / PRM):
        steps = [f"{step}\n" for step in row["completions"]]
        expected.append([row["prompt"] + steps[0], *steps[1:]])
        expected[-1] = [[text, int(label)] for text, label in zip(expected[-1], row["labels"], strict=True)]
    assert sorted(trained[PRM]["steps_cut"]) == sorted(expected)
    assert {label for row in expected for _, label in row} == {0, 1}


def test_reinforcement_is_rewarded_by_our_verifier(trained: dict[str, dict[str, Any]], exports: Path) -> None:
    report = trained[GRPO]
    assert 0 <= report["rewards"]["rewards/verified/mean"] <= 1
    assert report["recomputed"] == report["stored"] == [row["reward"] for row in rows_of(exports / GRPO)]


def test_the_loss_of_a_short_training_on_transcripts_falls(
    trainers_python: Path, trainable_model: Path, run: Path, tmp_path: Path
) -> None:
    """The whole way as a user goes it: transcripts, `tutelage export`, and the example that they copy."""
    out = tmp_path / "sft"
    export_it: list[str | Path] = [
        sys.executable,
        "-P",
        "-m",
        "tutelage",
        "export",
        run,
        "--format",
        "sft",
        "--out",
        out,
    ]
    subprocess.run(export_it, check=True)
    example = ROOT / "examples" / "train" / "fine_tune.py"
    assert len(example.read_text().splitlines()) < 60
    settings = {"STEPS": "24", "LEARNING_RATE": "3e-3", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [trainers_python, "-P", example, trainable_model, out, tmp_path / "model"],
        env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.search(r"(\d+) rows, 24 steps: loss ([\d.]+) at the beginning, ([\d.]+) at the end", done.stdout)
    assert found, done.stdout
    print(found.group())
    assert int(found.group(1)) == len(list(rows_of(out)))
    begun, ended = float(found.group(2)), float(found.group(3))
    assert ended < 0.8 * begun
    assert (tmp_path / "model" / "model.safetensors").exists()
