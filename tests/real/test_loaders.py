"""Exports are read by the tools that they are for: their own loaders make of them what was said, and learn no more.

Axolotl, LLaMA-Factory, verl and Label Studio are there themselves. NeMo RL and the services of OpenAI do not install here;
the unit tests hold their rows against the documented shapes.
"""

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import tutelage
from tutelage.exports.export import export
from tutelage.exports.request import FormatName, Request, ToolName
from tutelage.testing import SimulatedEndpoint
from tutelage.transcripts.decisions import Decision
from tutelage.transcripts.store import read_transcripts

pytestmark = pytest.mark.loaders

Row = dict[str, Any]

BRIEFS = Path(__file__).parents[2] / "examples" / "briefs" / "mathematics.jsonl"
DIALOGUES = 8
END = "<|end|>"
"""What the tiny model's chat template ends a message with; a model must learn to say it, too."""
MADE: tuple[tuple[ToolName, FormatName], ...] = (
    ("trl", "sft"),
    ("trl", "dpo"),
    ("trl", "kto"),
    ("trl", "prm"),
    ("trl", "grpo"),
    ("axolotl", "sft"),
    ("axolotl", "dpo"),
    ("axolotl", "kto"),
    ("axolotl", "prm"),
    ("llama-factory", "sft"),
    ("llama-factory", "dpo"),
    ("llama-factory", "kto"),
    ("verl", "sft"),
    ("verl", "grpo"),
    ("nemo-rl", "sft"),
    ("nemo-rl", "dpo"),
)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with exports of one run, named by tool and format; those of TRL lie elsewhere, for it has its own tests."""
    folder = tmp_path_factory.mktemp("loaders")
    with SimulatedEndpoint(accept_rate=0.7, completion_tokens=24) as endpoint:
        config = {
            "run": "lessons",
            "models": {"default": {"url": endpoint.url, "model": endpoint.config.model}},
            "briefs": [{"from": str(BRIEFS)}],
            "limits": {"messages": 6, "revisions": 2},
            "target": {"dialogues": DIALOGUES},
            "seed": 7,
        }
        run = tutelage.generate(config, out=folder / "lessons").folder
    write = partial(export, run)
    for tool, format_ in MADE:
        out = folder / ("trl" if tool == "trl" else "exports")
        write(Request(format=format_, tool=tool), out=out / f"{tool}-{format_}")
        if format_ == "sft":
            whole = Request(format="sft", tool=tool, whole_dialogue=True)
            write(whole, out=out / f"{tool}-sft-whole")
    decide(run)
    write(Request(format="label-studio"), out=folder / "exports" / "label-studio")
    return folder


def decide(run: Path) -> None:
    """Somebody looks at two dialogues, and a judge at one."""
    first, second = list(read_transcripts(run))[:2]
    decisions = [
        Decision(id=first.id, turn=2, by="ada", decision="edit", text="What is a part?", reason="Shorter."),
        Decision(id=first.id, turn=1, by="ada", decision="keep"),
        Decision(id=second.id, turn=0, by="judge:critic", decision="drop", reason="It tells the answer."),
        Decision(id=second.id, by="ada", decision="keep", reason="Fine as a whole."),
    ]
    lines = (each.model_dump_json(exclude_none=True).encode() + b"\n" for each in decisions)
    (run / "decisions.jsonl").write_bytes(b"".join(lines))


@pytest.fixture(scope="session")
def loaded(loaders_python: Path, trainable_model: Path, exports: Path) -> dict[str, Any]:
    """What load_exports.py reports, by export."""
    script = Path(__file__).with_name("load_exports.py")
    command = [loaders_python, script, trainable_model, exports / "exports"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rows_of(export: Path) -> list[Row]:
    """The rows of an export, read without the libraries that are under test."""
    lines = [line for path in sorted(export.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    tables = [pq.read_table(path).to_pylist() for path in sorted(export.rglob("*.parquet"))]
    return [orjson.loads(line) for line in lines] + [row for table in tables for row in table]


def of_trl(exports: Path, format_: str) -> list[Row]:
    return rows_of(exports / "trl" / f"trl-{format_}")


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}


def written(messages: list[dict[str, str]]) -> str:
    """What the assistant says in some messages, as the chat template writes it."""
    return "".join(message["content"] + END for message in messages if message["role"] == "assistant")


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_the_completion_is_learnt_with_its_stop_token_and_nothing_else(
    loaded: dict[str, Any], exports: Path, tool: str
) -> None:
    rows = of_trl(exports, "sft")
    assert any(message["role"] == "assistant" for row in rows for message in row["prompt"]), "nothing to mask"
    assert loaded[f"{tool}-sft"] == [written(row["completion"]) for row in rows]


def test_axolotl_learns_the_messages_of_a_dialogue_that_are_to_be_learnt(loaded: dict[str, Any], exports: Path) -> None:
    rows = rows_of(exports / "exports" / "axolotl-sft-whole")
    learnt = ["".join(each["content"] + END for each in row["messages"] if each["train"]) for row in rows]
    assert loaded["axolotl-sft-whole"] == learnt
    assert learnt != [written(row["messages"]) for row in rows], "no message is masked: the test shows nothing"


@pytest.mark.parametrize("tool", ["llama-factory", "verl"])
def test_tools_that_learn_all_the_assistant_says_are_given_dialogues_of_which_all_is_to_be_learnt(
    loaded: dict[str, Any], exports: Path, tool: str
) -> None:
    given = rows_of(exports / "exports" / f"{tool}-sft-whole")
    flagged = by_id(rows_of(exports / "exports" / "axolotl-sft-whole"))
    assert loaded[f"{tool}-sft-whole"] == [written(row["messages"]) for row in given]
    assert 0 < len(given) < len(flagged)
    assert all(each["train"] for row in given for each in flagged[row["id"]]["messages"] if each["role"] == "assistant")


def test_verl_learns_completions_whose_prompts_hold_nothing_that_it_would_learn_too(
    loaded: dict[str, Any], exports: Path
) -> None:
    rows = by_id(of_trl(exports, "sft"))
    given = rows_of(exports / "exports" / "verl-sft")
    assert 0 < len(given) < len(rows)
    assert loaded["verl-sft"] == [written(rows[row["id"]]["completion"]) for row in given]


@pytest.mark.parametrize("tool", ["axolotl", "llama-factory"])
def test_pairs_are_compared_from_where_the_reply_begins_to_its_stop_token(
    loaded: dict[str, Any], exports: Path, tool: str
) -> None:
    rows = of_trl(exports, "dpo")
    pairs = [(pair["chosen"], pair["rejected"]) for pair in loaded[f"{tool}-dpo"]]
    assert pairs == [(written(row["chosen"]), written(row["rejected"])) for row in rows]


def test_axolotl_shows_the_whole_prompt_before_a_pair(loaded: dict[str, Any], exports: Path) -> None:
    prompts = [pair["prompt"] for pair in loaded["axolotl-dpo"]]
    spelled = [
        "".join(f"<|{each['role']}|>{each['content']}{END}" for each in row["prompt"]) + "<|assistant|>"
        for row in of_trl(exports, "dpo")
    ]
    assert prompts == spelled


@pytest.mark.parametrize(("tool", "end"), [("axolotl", "<|im_end|>"), ("llama-factory", END)])
def test_verdicts_stay_with_their_drafts(loaded: dict[str, Any], exports: Path, tool: str, end: str) -> None:
    rows = of_trl(exports, "kto")
    assert {row["label"] for row in rows} == {True, False}
    judged = [(each["completion"], each["label"]) for each in loaded[f"{tool}-kto"]]
    assert judged == [(row["completion"][-1]["content"] + end, row["label"]) for row in rows]


def test_axolotl_labels_each_step_at_its_end(loaded: dict[str, Any], exports: Path) -> None:
    rows = of_trl(exports, "prm")
    steps = [(each["text"], each["labels"]) for each in loaded["axolotl-prm"]]
    assert steps == [
        (row["prompt"] + "".join(step + "\n" for step in row["completions"]), [int(label) for label in row["labels"]])
        for row in rows
    ]


def test_verl_has_the_prompts_and_rewards_a_reply_as_our_own_verifier_does(
    loaded: dict[str, Any], exports: Path
) -> None:
    rows = of_trl(exports, "grpo")
    tasks = loaded["verl-grpo"]
    assert [task["raw_prompt"] for task in tasks] == [row["prompt"] for row in rows]
    assert [task["reward_model"]["ground_truth"] for task in tasks] == [row["answer"][0] for row in rows]
    assert [task["reward_of_reference"] for task in tasks] == [row["reward"] for row in rows]


def test_json_lines_load_with_the_types_that_they_were_written_with(loaded: dict[str, Any], exports: Path) -> None:
    for name in ("nemo-rl-sft", "nemo-rl-dpo"):
        assert loaded[name] == rows_of(exports / "exports" / name)


def test_label_studio_takes_its_config_the_tasks_and_the_earlier_decisions(loaded: dict[str, Any]) -> None:
    report = loaded["label-studio"]
    assert report["tasks"] == DIALOGUES
    assert report["valid"]
    assert report["decisions"] == 4
    assert report["errors"] == []
    assert report["refuses_another_label"]
