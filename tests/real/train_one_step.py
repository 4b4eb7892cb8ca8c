"""Load exported data sets as a trainer's user would, and take one step of training on each.

    .venv-trainers/bin/python tests/real/train_one_step.py MODEL EXPORTS

EXPORTS holds folders that each are one export, named `sft…` or `dpo…`. Printed is one JSON object: for each folder the
number of rows, the loss of the step, whether it changed the model, and the text that the trainer computes its loss on.
"""

import json
import os
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # type: ignore[import-not-found]
from datasets import Dataset, load_dataset  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found]
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer  # type: ignore[import-not-found]

BATCH = 8


def main(model: Path, exports: Path) -> None:
    """Print what came of one step on each export."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(sys.stderr):
        report = {folder.name: train(model, folder, Path(scratch)) for folder in sorted(exports.iterdir())}
    print(json.dumps(report))


def train(model: Path, folder: Path, scratch: Path) -> dict[str, Any]:
    """One step on the export in `folder`: SFT or DPO, as its name says."""
    rows = load_dataset(str(folder), split="train", cache_dir=str(scratch / "cache"))
    trainer = make_trainer("sft" if folder.name.startswith("sft") else "dpo", model, rows, scratch)
    loss_on = texts_with_loss(trainer)
    before = [weights.detach().clone() for weights in trainer.model.parameters()]
    trainer.train()
    step = trainer.state.log_history[0]
    return {
        "rows": len(rows),
        "columns": rows.column_names,
        "steps": trainer.state.global_step,
        "loss": step["loss"],
        "gradient": step["grad_norm"],
        "changed": not all(map(torch.equal, before, trainer.model.parameters())),
        **loss_on,
    }


def make_trainer(method: str, model: Path, rows: Dataset, scratch: Path) -> Any:
    """A trainer with its own defaults, but for what a CPU needs, and rows that are never cut."""
    settings = {
        "output_dir": str(scratch / "output"),
        "max_steps": 1,
        "logging_steps": 1,
        "per_device_train_batch_size": BATCH,
        "max_length": None,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
    }
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    data = {"train_dataset": rows, "processing_class": AutoTokenizer.from_pretrained(model)}
    if method == "dpo":
        return DPOTrainer(network, args=DPOConfig(**settings), **data)
    whole_dialogues = "messages" in rows.column_names
    return SFTTrainer(network, args=SFTConfig(**settings, assistant_only_loss=whole_dialogues), **data)


def texts_with_loss(trainer: Any) -> dict[str, list[str]]:
    """The tokens that the loss is computed on, as text, over all rows; `rejected` only for pairs."""
    loss_on: dict[str, list[str]] = {"learned": [], "rejected": []}
    decode = trainer.processing_class.decode
    for batch in trainer.get_train_dataloader():
        counts = batch["labels"] != -100 if "labels" in batch else batch["completion_mask"].bool()
        texts = [decode(ids[mask]) for ids, mask in zip(batch["input_ids"], counts, strict=True)]
        # A batch of pairs is all its chosen completions, then all the rejected ones.
        chosen = len(texts) if "labels" in batch else len(texts) // 2
        loss_on["learned"] += texts[:chosen]
        loss_on["rejected"] += texts[chosen:]
    return loss_on


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
