"""Load exported data sets as a trainer's user would, and take one step of training on each.

    .venv-trainers/bin/python tests/real/train_one_step.py MODEL EXPORT…

Each EXPORT is a folder whose name begins with its format: `sft…`, `dpo…`, `kto…`, `grpo…`, or `prm…` (which needs
PYTHONPATH=.venv-trainers/beside). Printed is one JSON object: for each folder the number of rows, the loss of the step,
whether it changed the model, and the text that the trainer computes its loss on.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch  # type: ignore[import-not-found]
from datasets import Dataset, load_dataset  # type: ignore[import-not-found]
from transformers import (  # type: ignore[import-not-found]
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tutelage.exports.rewards import verified

BATCH = 8
MASKED = -100
Texts = dict[str, list[Any]]


def main(model: Path, exports: Sequence[Path]) -> None:
    """Print what came of one step on each export."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(sys.stderr):
        report = {folder.name: train(model, folder, Path(scratch)) for folder in exports}
    print(json.dumps(report))


def train(model: Path, folder: Path, scratch: Path) -> dict[str, Any]:
    """One step on the export in `folder`, by the trainer of the format that its name begins with."""
    rows = load_dataset(str(folder), split="train", cache_dir=str(scratch / "cache"))
    make, loss_on = TRAINERS[folder.name.partition("-")[0]]
    trainer = make(model, rows, scratch)
    texts = loss_on(trainer)
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
        "rewards": {name: value for name, value in step.items() if name.startswith("rewards/")},
        **texts,
    }


def sft(model: Path, rows: Dataset, scratch: Path) -> Any:
    """Fine-tuning; of whole dialogues, on what the assistant says in them."""
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    whole_dialogues = "messages" in rows.column_names
    config = SFTConfig(**settings(scratch), max_length=None, assistant_only_loss=whole_dialogues)
    return SFTTrainer(causal(model), args=config, **data(model, rows))


def dpo(model: Path, rows: Dataset, scratch: Path) -> Any:
    """Training on pairs."""
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(causal(model), args=DPOConfig(**settings(scratch), max_length=None), **data(model, rows))


def kto(model: Path, rows: Dataset, scratch: Path) -> Any:
    """Training on labels."""
    from trl import KTOConfig, KTOTrainer

    return KTOTrainer(causal(model), args=KTOConfig(**settings(scratch), max_length=None), **data(model, rows))


def prm(model: Path, rows: Dataset, scratch: Path) -> Any:
    """A model that tells right steps from wrong ones."""
    from trl.experimental.prm import PRMConfig, PRMTrainer  # type: ignore[import-not-found]

    config = PRMConfig(**settings(scratch), max_length=None, max_completion_length=None)
    network = AutoModelForTokenClassification.from_pretrained(model, num_labels=2, dtype=torch.float32)
    return PRMTrainer(network, args=config, **data(model, rows))


def grpo(model: Path, rows: Dataset, scratch: Path) -> Any:
    """Reinforcement by our verifiers, and by brevity: a random model earns the same from a verifier each time."""
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(**settings(scratch), num_generations=BATCH, max_completion_length=12)
    return GRPOTrainer(causal(model), reward_funcs=[verified, brevity], args=config, **data(model, rows))


def brevity(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """A reward that differs between completions."""
    return [-float(len(completion[0]["content"])) for completion in completions]


def settings(scratch: Path) -> dict[str, Any]:
    """A trainer's own defaults, but for what a CPU needs; rows are never cut."""
    return {
        "output_dir": str(scratch / "output"),
        "max_steps": 1,
        "logging_steps": 1,
        "per_device_train_batch_size": BATCH,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
    }


def causal(model: Path) -> Any:
    """The model, as it writes."""
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def data(model: Path, rows: Dataset) -> dict[str, Any]:
    """The rows and what tokenizes them."""
    return {"train_dataset": rows, "processing_class": AutoTokenizer.from_pretrained(model)}


def spans(trainer: Any) -> Texts:
    """The tokens that the loss is computed on, as text, over all rows; `rejected` where they are to become less likely."""
    loss_on: Texts = {"learned": [], "rejected": []}
    decode = trainer.processing_class.decode
    for batch in trainer.get_train_dataloader():
        counts = batch["labels"] != MASKED if "labels" in batch else batch["completion_mask"].bool()
        texts = [decode(ids[mask]) for ids, mask in zip(batch["input_ids"], counts, strict=True)]
        for text, wanted in zip(texts, are_wanted(batch, len(texts)), strict=True):
            loss_on["learned" if wanted else "rejected"].append(text)
    return loss_on


def are_wanted(batch: Any, size: int) -> list[bool]:
    """Of each text of a batch, whether it is to become likelier."""
    if "label" in batch:
        return [bool(label) for label in batch["label"]]
    # A batch of pairs is all its chosen completions, then all the rejected ones.
    return [True] * size if "labels" in batch else [True] * (size // 2) + [False] * (size // 2)


def steps(trainer: Any) -> Texts:
    """For each row, its text up to each label, and from there to the next one, each with the label at its end."""
    cut: list[list[tuple[str, int]]] = []
    decode = trainer.processing_class.decode
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            ends = (labels != MASKED).nonzero().flatten().tolist()
            starts = [0, *(end + 1 for end in ends)]
            cut.append([(decode(ids[a : b + 1]), int(labels[b])) for a, b in zip(starts, ends, strict=False)])
    return {"steps_cut": cut}


def recomputed(trainer: Any) -> Texts:
    """The rewards of what was said in the stored dialogues, beside those that the rows have."""
    columns = trainer.train_dataset.to_dict()
    said = [[{"role": "assistant", "content": text}] for text in columns["reference"]]
    return {"stored": columns["reward"], "recomputed": verified(said, **columns)}


TRAINERS: dict[str, tuple[Callable[[Path, Dataset, Path], Any], Callable[[Any], Texts]]] = {
    "sft": (sft, spans),
    "dpo": (dpo, spans),
    "kto": (kto, spans),
    "prm": (prm, steps),
    "grpo": (grpo, recomputed),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
