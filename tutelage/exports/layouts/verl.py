"""verl: messages for supervised fine-tuning, prompts with what they are verified against for reinforcement learning.

Its loss is computed on every assistant message of a row, so rows in which one is not to be learnt are left out.
https://verl.readthedocs.io/en/latest/preparation/prepare_data.html
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.chats import columns_with, learns_too_much, learnt, row_with
from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.rows import MESSAGES, Column, LeftOut, Row

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

_PROMPT: Final = "prompt"
_REWARD_FILE: Final = "reward.py"
_REWARD: Final = '''\
"""The reward of these rows, for verl's `custom_reward_function`; where it runs, Tutelage must be installed."""

from tutelage.exports.rewards import brief_to_verify, reward

READ = ("question", "answer", "predicts", "giveaway", "language")


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    """1.0 where the reply is as the row's verifier wants it, else 0.0."""
    return reward(extra_info["verifier"], solution_str, brief_to_verify(*(extra_info[name] for name in READ)))
'''


def _chat(row: Row) -> Row | LeftOut:
    return learns_too_much(row) or row_with({"messages": learnt(row)[0]}, row)


def _task(row: Row) -> Row:
    return {
        "data_source": f"tutelage/{row['verifier']}",
        "prompt": row[_PROMPT],
        "ability": row["verifier"],
        "reward_model": {"style": "rule", "ground_truth": row["answer"][0]},
        "extra_info": {name: value for name, value in row.items() if name != _PROMPT},
    }


def _task_columns(columns: Columns) -> dict[str, Column]:
    return {
        "data_source": Column("text", "by which verl finds a reward: `tutelage/` and the verifier"),
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "ability": Column("text", "what is practised: the verifier"),
        "reward_model": Column({"style": "text", "ground_truth": "text"}, "a rule in code, and the canonical answer"),
        "extra_info": Column(
            {name: column.kind for name, column in columns.items() if name != _PROMPT},
            "what the verifier reads, and where the row is from",
        ),
    }


def _reward(_: "ExportSummary") -> Mapping[str, str]:
    return {_REWARD_FILE: _REWARD}


SFT: Final = Layout(
    tool="verl",
    columns=columns_with({"messages": Column(MESSAGES, "the dialogue: every assistant message is learnt")}),
    row=_chat,
    kinds=("parquet",),
    open=TrainingFiles,
    usage="""\
```sh
torchrun -m verl.trainer.sft_trainer data.train_files=data/train-00000-of-00001.parquet data.messages_key=messages
```""",
)
GRPO: Final = Layout(
    tool="verl",
    columns=_task_columns,
    row=_task,
    kinds=("parquet", "jsonl"),
    open=TrainingFiles,
    beside=_reward,
    usage="""\
```sh
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo data.train_files=data/train-00000-of-00001.parquet \\
  custom_reward_function.path=reward.py
```""",
)
