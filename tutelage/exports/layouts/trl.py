"""TRL, and whoever reads what it reads: the formats' own rows, as the Hugging Face Hub lays out a data set.

`assistant_only_loss` computes the loss on every assistant message, and knows no exception: a whole dialogue with one that
is not to be learnt is left out.
"""

from dataclasses import replace

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.rows import LeftOut, Row


def learnt_whole(row: Row) -> Row | LeftOut:
    """A row of which every assistant message is to be learnt; others have no place with a trainer that learns them all."""
    learnt = zip(row["messages"], row["train"], strict=True) if "train" in row else ()
    masked = any(message["role"] == "assistant" and not is_learnt for message, is_learnt in learnt)
    return LeftOut.MASKED if masked else row


TRL = Layout(
    tool="TRL",
    columns=dict,
    row=learnt_whole,
    kinds=("parquet", "jsonl"),
    open=TrainingFiles,
    usage="""\
```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```""",
)
KTO = replace(
    TRL,
    usage="""\
```python
from datasets import load_dataset

# TRL's KTOTrainer takes neighbours for mismatched pairs, and the drafts of one turn are neighbours with one prompt.
rows = load_dataset("path/to/this/folder", split="train").shuffle(seed=0)
```""",
)
PRM = replace(
    TRL,
    usage="""\
```python
from datasets import load_dataset
from trl.experimental.prm import PRMTrainer  # the last TRL that has it is 1.13: pip install trl==1.13.0

rows = load_dataset("path/to/this/folder", split="train")
```""",
)
GRPO = replace(
    TRL,
    usage="""\
```python
from datasets import load_dataset
from trl import GRPOTrainer

from tutelage.exports.rewards import verified  # each row's verifier; add a reward for what you want besides

rows = load_dataset("path/to/this/folder", split="train")
trainer = GRPOTrainer("your/model", reward_funcs=verified, train_dataset=rows)
```""",
)
