"""LLaMA-Factory: dialogues in its sharegpt form with the keys of OpenAI's, and the `dataset_info.json` that says so.

It has one place for a system message and wants user and assistant by turns, or skips a row with no more than a warning.
Of a dialogue it learns all that the assistant says, or with `mask_history` the last message alone.
https://llamafactory.readthedocs.io/en/latest/getting_started/data_preparation.html
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.chats import (
    MESSAGE,
    NEIGHBOURS,
    columns_with,
    learns_too_much,
    learnt,
    out_of_turn,
    row_with,
)
from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.request import FileKind
from tutelage.exports.rows import MESSAGES, Column, LeftOut, Row

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

INFO: Final = "dataset_info.json"
CONFIG: Final = "llama_factory.yaml"

_PAIR: Final = frozenset({"prompt", "chosen", "rejected"})
_TAGS: Final = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_HEAD: Final = """\
# The part of a config that reads these rows, for `llamafactory-cli train`. Write this folder's path in place of `.` if
# you run it elsewhere. Rows that are longer than `cutoff_len` (2048 tokens, if it is not set) are cut off.
"""


class FolderPerSplit:
    """Writes each split into a folder of its own: LLaMA-Factory takes all files of a folder for one data set.

    A context manager, as `TrainingFiles` is.
    """

    def __init__(self, folder: Path, kind: FileKind, columns: Columns) -> None:
        self._folder, self._kind, self._columns = folder, kind, columns
        self._splits: dict[str, TrainingFiles] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def write(self, split: str, row: Row) -> None:
        """Writes a row, now or with those that follow."""
        if split not in self._splits:
            files = TrainingFiles(self._folder / split, self._kind, self._columns)
            self._splits[split] = self._stack.enter_context(files)
        self._splits[split].write(split, row)


def _chat(row: Row) -> Row | LeftOut:
    messages, _ = learnt(row)
    # Of a prompt's history the config takes care; a dialogue is learnt whole or not at all.
    masked = learns_too_much(row) if "messages" in row else None
    return masked or out_of_turn(messages, ends="assistant") or row_with({"messages": messages}, row)


def _pair(row: Row) -> Row | LeftOut:
    pair = {"messages": row["prompt"], "chosen": row["chosen"][-1], "rejected": row["rejected"][-1]}
    return out_of_turn(row["prompt"], ends="user") or row_with(pair, row, without=_PAIR)


def _verdict(row: Row) -> Row | LeftOut:
    messages, _ = learnt(row)
    return out_of_turn(messages, ends="assistant") or row_with({"messages": messages}, row)


def _files(
    *, stage: str, columns: Mapping[str, str], ranking: bool = False
) -> Callable[["ExportSummary"], Mapping[str, str]]:
    def beside(summary: "ExportSummary") -> Mapping[str, str]:
        info = {
            _name(split): {
                "file_name": f"{split}/data",
                "formatting": "sharegpt",
                **({"ranking": True} if ranking else {}),
                "columns": columns,
                "tags": _TAGS,
            }
            for split in sorted(summary.splits)
        }
        config: dict[str, Any] = {"stage": stage, "dataset_dir": ".", "dataset": _name("train")}
        if "validation" in summary.splits:
            config["eval_dataset"] = _name("validation")
        if stage == "sft":
            config["mask_history"] = not summary.request.whole_dialogue
        text = _HEAD + yaml.safe_dump(config, sort_keys=False)
        return {INFO: json.dumps(info, indent=2) + "\n", CONFIG: text}

    return beside


def _name(split: str) -> str:
    return f"tutelage_{split}"


def _layout(
    *,
    columns: Callable[[Columns], dict[str, Column]],
    row: Callable[[Row], Row | LeftOut],
    beside: Callable[["ExportSummary"], Mapping[str, str]],
    note: str = "",
) -> Layout:
    return Layout(
        tool="LLaMA-Factory",
        columns=columns,
        row=row,
        kinds=("parquet", "jsonl"),
        open=FolderPerSplit,
        rows_at="{split}/data/{split}-*.{kind}",
        beside=beside,
        usage=f"`{INFO}` describes the rows, and `{CONFIG}` is the part of a config that reads them: give "
        f"`llamafactory-cli train` this folder as its `dataset_dir`.{note}",
    )


_MESSAGES: Final = Column(
    MESSAGES, "the dialogue; the last message is learnt, and in a whole dialogue all of the assistant"
)

SFT: Final = _layout(
    columns=columns_with({"messages": _MESSAGES}),
    row=_chat,
    beside=_files(stage="sft", columns={"messages": "messages"}),
)
DPO: Final = _layout(
    columns=columns_with(
        {
            "messages": Column(MESSAGES, "what the role was shown"),
            "chosen": Column(MESSAGE, "the better reply"),
            "rejected": Column(MESSAGE, "the worse one"),
        },
        without=_PAIR,
    ),
    row=_pair,
    beside=_files(
        stage="dpo",
        columns={"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        ranking=True,
    ),
)
KTO: Final = _layout(
    columns=columns_with({"messages": Column(MESSAGES, "the dialogue, the draft last")}),
    row=_verdict,
    beside=_files(stage="kto", columns={"messages": "messages", "kto_tag": "label"}),
    note=f" {NEIGHBOURS}",
)
