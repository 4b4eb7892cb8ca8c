"""Rows as the tools want them: what is kept, what is masked, and what is left out rather than written wrongly."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml

import tutelage
from tutelage import Brief
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.formats.registry import FORMATS
from tutelage.exports.layouts import axolotl, llama_factory, nemo_rl, openai, verl
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.layouts.registry import LAYOUTS, WITHOUT_TRAINER, layout_of
from tutelage.exports.request import FormatName, Request, ToolName
from tutelage.exports.rows import Kind, LeftOut
from tutelage.testing import SimulatedEndpoint

Row = dict[str, Any]

BRIEFS = Path(__file__).parents[2] / "examples" / "briefs" / "mathematics.jsonl"


def chat(roles: str) -> list[dict[str, str]]:
    """Messages by the first letters of their roles; each says something else."""
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[letter], "content": f"{letter}{place}"} for place, letter in enumerate(roles)]


def completion(prompt: str = "su") -> Row:
    return {"prompt": chat(prompt), "completion": chat("a"), "id": "d0/0", "role": "tutor"}


def dialogue(roles: str = "suaua", train: tuple[int, ...] = (2, 4)) -> Row:
    flags = [place in train for place in range(len(roles))]
    return {"messages": chat(roles), "train": flags, "id": "d0", "role": "tutor"}


def pair(prompt: str = "su", chosen: str = "better", rejected: str = "worse") -> Row:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    return {"prompt": chat(prompt), "chosen": said(chosen), "rejected": said(rejected), "id": "d0/0/1", "role": "tutor"}


def laid_out(layout: Layout, row: Row) -> Row:
    rewritten = layout.row(row)
    assert not isinstance(rewritten, LeftOut), rewritten
    return rewritten


def test_axolotl_is_told_of_each_message_whether_it_is_learnt() -> None:
    def flags(row: Row) -> list[bool]:
        return [message["train"] for message in laid_out(axolotl.SFT, row)["messages"]]

    assert flags(completion("suau")) == [False, False, False, False, True]
    assert flags(dialogue(train=(4,))) == [False, False, False, False, True]


def test_axolotl_learns_a_row_with_the_same_words_as_trl() -> None:
    row = completion("suau")
    messages = laid_out(axolotl.SFT, row)["messages"]
    assert [{"role": each["role"], "content": each["content"]} for each in messages] == row["prompt"] + row[
        "completion"
    ]


@pytest.mark.parametrize("text", ["better ", "\nbetter", "dummy"])
def test_a_pair_that_axolotl_would_cut_wrongly_is_left_out(text: str) -> None:
    """It looks for the reply's words in what a template makes of its own dummy and the reply."""
    assert axolotl.DPO.row(pair(chosen=text)) is LeftOut.MISREAD
    assert axolotl.DPO.row(pair(rejected=text)) is LeftOut.MISREAD


def test_axolotl_gets_a_verdict_as_one_dialogue_with_the_draft_last() -> None:
    row = {**completion("sua"), "label": False}
    rewritten = laid_out(axolotl.KTO, row)
    assert rewritten["completion"] == row["prompt"] + row["completion"]
    assert rewritten["label"] is False
    assert "prompt" not in rewritten


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("su", None),
        ("u", None),
        ("suau", None),
        ("susu", LeftOut.SYSTEM_LATER),
        ("ssu", LeftOut.SYSTEM_LATER),
        ("s", LeftOut.NO_ALTERNATION),
        ("sau", LeftOut.NO_ALTERNATION),
        ("suu", LeftOut.NO_ALTERNATION),
        ("sua", LeftOut.NO_ALTERNATION),
        ("", LeftOut.NO_ALTERNATION),
    ],
)
def test_llama_factory_is_given_no_row_that_it_would_skip(prompt: str, reason: LeftOut | None) -> None:
    for layout, row in (
        (llama_factory.SFT, completion(prompt)),
        (llama_factory.DPO, pair(prompt)),
        (llama_factory.KTO, {**completion(prompt), "label": True}),
    ):
        rewritten = layout.row(row)
        assert (rewritten if isinstance(rewritten, LeftOut) else None) == reason


def test_llama_factory_is_given_no_dialogue_of_which_a_part_is_masked() -> None:
    assert llama_factory.SFT.row(dialogue(train=(4,))) is LeftOut.MASKED
    assert laid_out(llama_factory.SFT, dialogue())["messages"] == chat("suaua")


def test_llama_factory_gets_a_pair_as_two_messages() -> None:
    rewritten = laid_out(llama_factory.DPO, pair())
    assert rewritten["messages"] == chat("su")
    assert rewritten["chosen"] == {"role": "assistant", "content": "better"}
    assert rewritten["rejected"] == {"role": "assistant", "content": "worse"}


@pytest.mark.parametrize("layout", [nemo_rl.SFT, verl.SFT], ids=["nemo-rl", "verl"])
def test_tools_without_masks_get_only_rows_of_which_all_that_the_assistant_says_is_learnt(layout: Layout) -> None:
    assert laid_out(layout, completion("su"))["messages"] == chat("su") + chat("a")
    assert layout.row(completion("suau")) is LeftOut.HISTORY
    assert laid_out(layout, dialogue())["messages"] == chat("suaua")
    assert layout.row(dialogue(train=(2,))) is LeftOut.MASKED


def test_openai_weighs_assistant_messages_and_has_no_other_key() -> None:
    rewritten = laid_out(openai.SFT, completion("suau"))
    assert set(rewritten) == {"messages"}
    assert [message.get("weight") for message in rewritten["messages"]] == [None, None, 0, None, 1]
    assert all(set(each) <= {"role", "content", "weight"} for each in rewritten["messages"])
    weights = [message.get("weight") for message in laid_out(openai.SFT, dialogue(train=(2,)))["messages"]]
    assert weights == [None, None, 1, None, 0]


def test_openai_gets_a_pair_under_its_own_names() -> None:
    assert laid_out(openai.DPO, pair()) == {
        "input": {"messages": chat("su")},
        "preferred_output": [{"role": "assistant", "content": "better"}],
        "non_preferred_output": [{"role": "assistant", "content": "worse"}],
    }


def test_nemo_rl_gets_a_pair_as_ranked_completions_the_better_one_first() -> None:
    rewritten = laid_out(nemo_rl.DPO, pair())
    assert rewritten["context"] == chat("su")
    assert rewritten["completions"] == [
        {"rank": 0, "completion": [{"role": "assistant", "content": "better"}]},
        {"rank": 1, "completion": [{"role": "assistant", "content": "worse"}]},
    ]
    assert not {"prompt", "chosen", "rejected"} & set(rewritten)


def test_a_tool_says_what_it_reads_where_it_is_asked_for_what_it_does_not() -> None:
    with pytest.raises(ExportError, match=r"'openai' does not read the format 'kto': there is trl, axolotl"):
        layout_of(Request(format="kto", tool="openai"))
    with pytest.raises(ExportError, match=r"no trainer reads the format 'traces'"):
        layout_of(Request(format="traces", tool="verl"))
    with pytest.raises(ExportError, match=r"verl does not read jsonl: .* for parquet"):
        layout_of(Request(format="sft", tool="verl", files="jsonl"))


# What is written of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which some drafts are sent back, and some turns are said although they were."""
    with SimulatedEndpoint(accept_rate=0.6, completion_tokens=16) as endpoint:
        config = {
            "run": "lessons",
            "models": {"default": {"url": endpoint.url, "model": endpoint.config.model}},
            "briefs": [{"from": str(BRIEFS)}],
            "limits": {"messages": 6, "revisions": 1},
            "target": {"dialogues": 8},
            "seed": 7,
        }
        return tutelage.generate(config, out=tmp_path_factory.mktemp("run") / "lessons").folder


def written(out: Path) -> list[Row]:
    tables = [pq.read_table(path).to_pylist() for path in sorted(out.rglob("*.parquet"))]
    lines = [line for path in sorted(out.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [row for table in tables for row in table] + [orjson.loads(line) for line in lines]


def fits(value: Any, kind: Kind) -> bool:
    """Whether a value is of a column's kind; of a record, keys may be absent."""
    if isinstance(kind, str):
        types: dict[str, tuple[type, ...]] = {
            "text": (str,),
            "integer": (int,),
            "number": (int, float, type(None)),
            "flag": (bool,),
        }
        return isinstance(value, types[kind])
    if hasattr(kind, "items"):
        return isinstance(value, dict) and all(name in kind and fits(each, kind[name]) for name, each in value.items())
    return isinstance(value, list) and all(fits(each, kind[0]) for each in value)


@pytest.mark.parametrize(("format_", "tool"), LAYOUTS, ids="-".join)
def test_every_row_has_the_columns_that_the_card_names(
    run: Path, tmp_path: Path, format_: FormatName, tool: ToolName
) -> None:
    request = Request(format=format_, tool=tool)
    summary = export(run, request, out=tmp_path / "out")
    rows = written(tmp_path / "out")
    assert len(rows) == summary.rows > 0
    assert summary.columns == LAYOUTS[format_, tool].columns(FORMATS[format_].columns(request))
    for row in rows:
        assert list(row) == list(summary.columns)
        assert [name for name, value in row.items() if not fits(value, summary.columns[name].kind)] == []


def test_what_a_tool_cannot_hold_is_counted(run: Path, tmp_path: Path) -> None:
    ours = export(run, Request(format="sft"), out=tmp_path / "trl")
    theirs = export(run, Request(format="sft", tool="verl"), out=tmp_path / "verl")
    assert theirs.left_out[LeftOut.HISTORY] == ours.rows - theirs.rows > 0
    assert "export with `whole_dialogue`" in (tmp_path / "verl" / "README.md").read_text()


def test_no_row_goes_as_a_duplicate_of_one_that_the_tool_cannot_hold(written_run: Any, tmp_path: Path) -> None:
    """What is said first in the second dialogue was said in the first one, too, after a turn that verl would learn."""
    heard, reply = ("student", [("Halves?", "unseen")]), ("tutor", [("Which parts are alike?", "accepted")])
    brief = Brief(id="halves", topic="fractions")
    written_run.add(("tutor", [("What do you see?", "accepted")]), heard, reply, brief=brief)
    written_run.add(heard, reply, id_="d1", brief=brief)
    summary = export(written_run.path, Request(format="sft", tool="verl"), out=tmp_path / "out")
    assert {row["id"] for row in written(tmp_path / "out")} == {"d0/0", "d1/1"}
    assert summary.left_out == {LeftOut.HISTORY: 1}


@pytest.mark.parametrize("format_", ["sft", "dpo", "kto", "prm"])
def test_axolotls_config_names_the_rows_and_how_they_are_read(run: Path, tmp_path: Path, format_: FormatName) -> None:
    export(run, Request(format=format_, tool="axolotl"), out=tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out" / "axolotl.yaml").read_text())
    (dataset,) = config["datasets"]
    assert (tmp_path / "out" / dataset["path"]).is_dir()
    assert dataset["split"] == "train"
    columns = set(written(tmp_path / "out")[0])
    assert {name for key, name in dataset.items() if key.startswith("field_")} <= columns
    assert "test_datasets" not in config


def test_axolotls_config_names_the_validation_split_where_there_is_one(run: Path, tmp_path: Path) -> None:
    export(run, Request(format="sft", tool="axolotl", validation=0.4), out=tmp_path / "out")
    text = (tmp_path / "out" / "axolotl.yaml").read_text()
    config = yaml.safe_load(text)
    assert config["test_datasets"] == [{**config["datasets"][0], "split": "validation"}]
    assert "*" not in text, "an alias, which nobody can edit"


def test_llama_factorys_description_finds_the_files_of_each_split(run: Path, tmp_path: Path) -> None:
    summary = export(run, Request(format="dpo", tool="llama-factory", validation=0.4), out=tmp_path / "out")
    info = orjson.loads((tmp_path / "out" / "dataset_info.json").read_bytes())
    config = yaml.safe_load((tmp_path / "out" / "llama_factory.yaml").read_text())
    assert set(info) == {f"tutelage_{split}" for split in summary.splits}
    for split, count in summary.splits.items():
        entry = info[f"tutelage_{split}"]
        assert len(written(tmp_path / "out" / entry["file_name"])) == count
        assert entry["ranking"] is True
        assert set(entry["columns"].values()) <= set(summary.columns)
    assert config["dataset"] == "tutelage_train"
    assert config.get("eval_dataset") == ("tutelage_validation" if "validation" in summary.splits else None)


@pytest.mark.parametrize("whole", [False, True])
def test_llama_factory_masks_the_history_of_a_completion_and_none_of_a_dialogue(
    run: Path, tmp_path: Path, whole: bool
) -> None:
    export(run, Request(format="sft", tool="llama-factory", whole_dialogue=whole), out=tmp_path / "out")
    config = yaml.safe_load((tmp_path / "out" / "llama_factory.yaml").read_text())
    assert config["mask_history"] is not whole


def test_the_reward_beside_verls_rows_gives_what_the_rows_say(run: Path, tmp_path: Path) -> None:
    export(run, Request(format="grpo", tool="verl"), out=tmp_path / "out")
    space: dict[str, Any] = {}
    exec((tmp_path / "out" / "reward.py").read_text(), space)
    rows = written(tmp_path / "out")
    for row in rows:
        info, truth = row["extra_info"], row["reward_model"]["ground_truth"]
        assert space["compute_score"](row["data_source"], info["reference"], truth, extra_info=info) == info["reward"]
        # A tutor is to keep the answer to itself.
        assert space["compute_score"](row["data_source"], f"It is {truth}.", truth, extra_info=info) == 0.0


def test_formats_without_a_trainer_have_a_layout_of_their_own() -> None:
    assert {format_ for format_, _ in LAYOUTS} | set(WITHOUT_TRAINER) == set(FORMATS)
