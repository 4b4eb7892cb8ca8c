"""OpenAI fine-tuning, and whoever takes its files: Fireworks and Together read the same pairs.

A line holds the documented keys and no others, for the services refuse what they do not know.
https://platform.openai.com/docs/guides/supervised-fine-tuning, …/direct-preference-optimization
"""

from collections.abc import Callable
from typing import Final

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.chats import learnt
from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.rows import MESSAGES, Column, LeftOut, Row

_WEIGHED: Final = Column(
    [{"role": "text", "content": "text", "weight": "integer"}],
    "the dialogue; `weight`, which only assistant messages have, is 1 where the message is learnt and 0 where it is not",
)
_PREFERENCE: Final = {
    "input": Column({"messages": MESSAGES}, "what the role was shown"),
    "preferred_output": Column(MESSAGES, "the better reply"),
    "non_preferred_output": Column(MESSAGES, "the worse one"),
}
_USAGE: Final = """\
```python
from openai import OpenAI

file = OpenAI().files.create(file=open("data/{file}", "rb"), purpose="fine-tune")
```

The rows have OpenAI's own keys and no others, so they do not say which dialogue they are from."""


def _weigh(row: Row) -> Row:
    messages, train = learnt(row)
    return {
        "messages": [
            {**message, "weight": int(flag)} if message["role"] == "assistant" else message
            for message, flag in zip(messages, train, strict=True)
        ]
    }


def _prefer(row: Row) -> Row:
    return {
        "input": {"messages": row["prompt"]},
        "preferred_output": row["chosen"],
        "non_preferred_output": row["rejected"],
    }


def _layout(columns: dict[str, Column], row: Callable[[Row], Row | LeftOut]) -> Layout:
    def all_columns(_: Columns) -> dict[str, Column]:
        return columns

    return Layout(
        tool="OpenAI fine-tuning",
        columns=all_columns,
        row=row,
        kinds=("jsonl",),
        open=TrainingFiles,
        usage=_USAGE.replace("{file}", "train-00000-of-00001.jsonl"),
    )


SFT: Final = _layout({"messages": _WEIGHED}, _weigh)
DPO: Final = _layout(_PREFERENCE, _prefer)
