"""Axolotl: messages that each say whether they are learnt, pairs, verdicts and steps, with the part of a config beside them.

https://docs.axolotl.ai/docs/dataset-formats/conversation.html, …/rlhf.html, …/dataset-formats/stepwise_supervised.html
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

import yaml

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.chats import MESSAGE, NEIGHBOURS, columns_with, learnt, row_with
from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.rows import MESSAGES, Column, LeftOut, Row

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

FILE: Final = "axolotl.yaml"

_PAIR: Final = frozenset({"prompt", "chosen", "rejected"})
_DUMMY: Final = "[[dummy_message]]"
"""What Axolotl puts before a reply to see how a chat template writes it."""
_HEAD: Final = """\
# The part of a config that reads these rows, for `axolotl train`. Write the path of `data` in full if you run it
# elsewhere.
"""


def _chat(row: Row) -> Row:
    messages, train = learnt(row)
    flagged = [{**message, "train": flag} for message, flag in zip(messages, train, strict=True)]
    return row_with({"messages": flagged}, row)


def _pair(row: Row) -> Row | LeftOut:
    chosen, rejected = row["chosen"][-1], row["rejected"][-1]
    if _is_misread(chosen["content"]) or _is_misread(rejected["content"]):
        return LeftOut.MISREAD
    return row_with({"messages": row["prompt"], "chosen": chosen, "rejected": rejected}, row, without=_PAIR)


def _is_misread(text: str) -> bool:
    """Whether Axolotl, which finds a reply's beginning by its words behind its dummy, would find it elsewhere."""
    return text in _DUMMY or text != text.strip()


def _verdict(row: Row) -> Row:
    return row_with({"completion": learnt(row)[0], "label": row["label"]}, row)


def _config(settings: Mapping[str, Any], dataset: Mapping[str, Any]) -> Callable[["ExportSummary"], Mapping[str, str]]:
    """A file with the part of a config that reads the rows."""

    def beside(summary: "ExportSummary") -> Mapping[str, str]:
        def of(split: str) -> list[dict[str, Any]]:
            # Copied, for YAML would write the second one as an alias of the first.
            return [{"path": "data", "split": split, **deepcopy(dataset)}]

        test = {"test_datasets": of("validation")} if "validation" in summary.splits else {}
        text = yaml.safe_dump({**settings, "datasets": of("train"), **test}, sort_keys=False)
        return {FILE: _HEAD + text}

    return beside


def _layout(
    *,
    columns: Callable[[Columns], dict[str, Column]],
    row: Callable[[Row], Row | LeftOut],
    settings: Mapping[str, Any],
    dataset: Mapping[str, Any],
    note: str,
) -> Layout:
    return Layout(
        tool="Axolotl",
        columns=columns,
        row=row,
        kinds=("parquet", "jsonl"),
        open=TrainingFiles,
        beside=_config(settings, dataset),
        usage=f"`{FILE}` beside this card is the part of a config that reads these rows. {note}",
    )


SFT: Final = _layout(
    columns=columns_with(
        {
            "messages": Column(
                [{"role": "text", "content": "text", "train": "flag"}],
                "the dialogue, and of each message whether it is learnt",
            )
        }
    ),
    row=_chat,
    settings={"chat_template": "tokenizer_default"},
    dataset={
        "type": "chat_template",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "message_field_training": "train",
        "train_on_eos": "turn",
    },
    note="Where the chat template ends a message with another token than the tokenizer's `eos_token`, name it in "
    "`eot_tokens`, or it is not learnt.",
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
    settings={"rl": "dpo", "chat_template": "tokenizer_default"},
    dataset={
        "type": "chat_template.default",
        "field_messages": "messages",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
    },
    note="The prompt ends where the reply begins, as the chat template writes it.",
)
KTO: Final = _layout(
    columns=columns_with(
        {
            "completion": Column(MESSAGES, "the dialogue, the draft last"),
            "label": Column("flag", "whether the draft was accepted"),
        },
        without={"prompt", "completion", "label"},
    ),
    row=_verdict,
    settings={"rl": "kto", "remove_unused_columns": False},
    dataset={"type": "chatml.argilla_chat"},
    note="For KTO it knows no chat template but its own two: write `llama3.argilla_chat` for a model of the Llama 3 family. "
    "Axolotl 0.19 reads the whole dialogue so; earlier versions took its first two messages for prompt and reply.\n"
    + NEIGHBOURS,
)
PRM: Final = _layout(
    columns=dict,
    row=lambda row: row,
    settings={"process_reward_model": True, "model_type": "AutoModelForTokenClassification", "num_labels": 2},
    dataset={"type": "stepwise_supervised", "step_separator": "\n"},
    note="A step is right or wrong at the separator behind it.",
)
