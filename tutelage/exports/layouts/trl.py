"""TRL, and whoever reads what it reads: the formats' own rows, as the Hugging Face Hub lays out a data set."""

from tutelage.exports.files import TrainingFiles
from tutelage.exports.layouts.layout import Layout

TRL = Layout(
    tool="TRL",
    columns=dict,
    row=lambda row: row,
    kinds=("parquet", "jsonl"),
    open=TrainingFiles,
    usage="""\
```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```""",
)
