"""NeMo RL: messages for supervised fine-tuning, a context with ranked completions for preferences.

Its loss is computed on every assistant message of a row, so rows in which one is not to be learnt are left out.
https://github.com/NVIDIA-NeMo/RL/blob/main/docs/guides/sft.md, …/dpo.md
"""

from typing import Final

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.chats import columns_with, learns_too_much, learnt, row_with
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.rows import MESSAGES, Column, LeftOut, Row

_PAIR: Final = frozenset({"prompt", "chosen", "rejected"})
_RANKED: Final = {
    "context": Column(MESSAGES, "what the role was shown"),
    "completions": Column(
        [{"rank": "integer", "completion": MESSAGES}], "the better reply with rank 0, the worse one with rank 1"
    ),
    "task_name": Column("text", "by which NeMo RL tells data sets apart"),
}
_USAGE: Final = """\
```yaml
data:
  train:
    dataset_name: {dataset}
    data_path: path/to/this/folder/data/train-00000-of-00001.jsonl
```"""


def _chat(row: Row) -> Row | LeftOut:
    return learns_too_much(row) or row_with({"messages": learnt(row)[0]}, row)


def _rank(row: Row) -> Row:
    completions = [{"rank": rank, "completion": row[name]} for rank, name in enumerate(("chosen", "rejected"))]
    return row_with({"context": row["prompt"], "completions": completions, "task_name": "tutelage"}, row, without=_PAIR)


SFT: Final = Layout(
    tool="NeMo RL",
    columns=columns_with({"messages": Column(MESSAGES, "the dialogue: every assistant message is learnt")}),
    row=_chat,
    kinds=("jsonl",),
    open=TrainingFiles,
    usage=_USAGE.replace("{dataset}", "openai_format"),
)
DPO: Final = Layout(
    tool="NeMo RL",
    columns=columns_with(_RANKED, without=_PAIR),
    row=_rank,
    kinds=("jsonl",),
    open=TrainingFiles,
    usage=_USAGE.replace("{dataset}", "PreferenceDataset"),
)
