"""Read exported data sets with the code of the tools that they are for, and say what each would learn.

    .venv-loaders/bin/python tests/real/load_exports.py MODEL EXPORTS

EXPORTS holds folders that each are one export, named by tool and format: `axolotl-sft`. MODEL has a tokenizer with a chat
template. Printed is one JSON object: for each folder the rows that the tool has, and the texts that it computes its loss
on, or what else it makes of them. Nothing is trained, and none of the tools' tokenisation is written anew here.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import yaml

SCRATCH = tempfile.TemporaryDirectory()
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": SCRATCH.name, "AXOLOTL_DO_NOT_TRACK": "1"}
# LLaMA-Factory asks for older libraries than the others do: one environment serves all.
os.environ["DISABLE_VERSION_CHECK"] = "1"

LENGTH = 4096


def main(model: Path, exports: Path) -> None:
    """Print what the tools make of the exports."""
    exports = exports.resolve()
    with SCRATCH, redirect_stdout(sys.stderr):
        report = {
            folder.name: READERS[folder.name.removesuffix("-whole")](model, folder)
            for folder in sorted(exports.iterdir())
        }
    print(json.dumps(report))


def axolotl_sft(model: Path, folder: Path) -> Any:
    """Its dataset wrapper, with the config that lies beside the rows."""
    rows = _axolotl_rows(model, folder)
    return _learned(_tokenizer(model), rows["input_ids"], rows["labels"])


def axolotl_steps(model: Path, folder: Path) -> Any:
    """The same with its stepwise strategy: the labels, each behind its step."""
    decode = _tokenizer(model).decode
    return [
        {"text": decode(row["input_ids"]), "labels": [label for label in row["labels"] if label >= 0]}
        for row in _axolotl_rows(model, folder)
    ]


def axolotl_pairs(model: Path, folder: Path) -> Any:
    """Its preference datasets, with the config that lies beside the rows."""
    from axolotl.utils.data.rl import _load_split  # type: ignore[import-not-found]

    with chdir(folder):
        rows = _load_split(_axolotl_config(model, folder), "train")
    return [
        {name: row[name] for name in ("prompt", "chosen", "rejected", "completion", "label") if name in row}
        for row in rows
    ]


def _axolotl_rows(model: Path, folder: Path) -> Any:
    from axolotl.utils.data.sft import _load_and_process_single_dataset  # type: ignore[import-not-found]

    config = _axolotl_config(model, folder)
    with chdir(folder):
        rows, _ = _load_and_process_single_dataset(config.datasets[0], config, _tokenizer(model), "train", 1)
    return rows


def _axolotl_config(model: Path, folder: Path) -> Any:
    from axolotl.utils.dict import DictDefault  # type: ignore[import-not-found]
    from axolotl.utils.schemas.config import AxolotlInputConfig  # type: ignore[import-not-found]
    from axolotl.utils.schemas.enums import RLType  # type: ignore[import-not-found]

    beside = yaml.safe_load((folder / "axolotl.yaml").read_text())
    ours = {
        "base_model": str(model),
        "sequence_len": LENGTH,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-4,
    }
    AxolotlInputConfig.model_validate({**beside, **ours})
    rest = {"base_model_config": str(model), "tokenizer_config": str(model)}
    # Prepared means here: long rows dropped, and all of it saved for the next time.
    method = {"rl": RLType(beside["rl"]), "skip_prepare_dataset": True} if "rl" in beside else {}
    return DictDefault({**beside, **ours, **rest, **method})


def llama_factory(model: Path, folder: Path) -> Any:
    """Its `get_dataset`, with the config that lies beside the rows."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer  # type: ignore[import-not-found]
    from llamafactory.hparams import DataArguments, ModelArguments  # type: ignore[import-not-found]
    from transformers import Seq2SeqTrainingArguments  # type: ignore[import-not-found]

    config = yaml.safe_load((folder / "llama_factory.yaml").read_text())
    stage = {"dpo": "rm"}.get(config["stage"], config["stage"])  # as its own workflow for DPO asks
    tokenizer = _tokenizer(model)
    data = DataArguments(**{name: each for name, each in config.items() if name != "stage"}, cutoff_len=LENGTH)
    training = Seq2SeqTrainingArguments(output_dir=SCRATCH.name, use_cpu=True, report_to=[])
    template = get_template_and_fix_tokenizer(tokenizer, data)
    with chdir(folder):
        rows = get_dataset(
            template, ModelArguments(model_name_or_path=str(model)), data, training, stage, tokenizer=tokenizer
        )["train_dataset"]
    if stage == "rm":
        chosen, rejected = (
            _learned(tokenizer, rows[f"{side}_input_ids"], rows[f"{side}_labels"]) for side in ("chosen", "rejected")
        )
        return [{"chosen": one, "rejected": other} for one, other in zip(chosen, rejected, strict=True)]
    texts = _learned(tokenizer, rows["input_ids"], rows["labels"])
    if stage == "kto":
        return [{"completion": text, "label": label} for text, label in zip(texts, rows["kto_tags"], strict=True)]
    return texts


def verl_sft(model: Path, folder: Path) -> Any:
    """Its multi-turn dataset."""
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset  # type: ignore[import-not-found]

    tokenizer = _tokenizer(model)
    rows = MultiTurnSFTDataset(_parquet(folder), tokenizer, {"max_length": LENGTH, "pad_mode": "no_padding"})
    return [
        tokenizer.decode(row["input_ids"][row["loss_mask"].bool()]) for row in map(rows.__getitem__, range(len(rows)))
    ]


def verl_tasks(model: Path, folder: Path) -> Any:
    """Its RL dataset, and what the reward that lies beside the rows gives for what was said."""
    from omegaconf import OmegaConf  # type: ignore[import-not-found]
    from verl.trainer.ppo.reward import get_custom_reward_fn  # type: ignore[import-not-found]
    from verl.utils.dataset.rl_dataset import RLHFDataset  # type: ignore[import-not-found]

    config = OmegaConf.create(
        {"cache_dir": SCRATCH.name, "max_prompt_length": LENGTH, "filter_overlong_prompts_workers": 1}
    )
    rows = RLHFDataset(_parquet(folder), _tokenizer(model), config)
    reward = get_custom_reward_fn(
        OmegaConf.create(
            {"reward": {"custom_reward_function": {"path": str(folder / "reward.py"), "name": "compute_score"}}}
        )
    )
    return [_verl_task(rows[place], reward) for place in range(len(rows))]


def _verl_task(row: Any, reward: Callable[..., float]) -> Any:
    # As verl's reward manager calls it.
    said = row["extra_info"]["reference"]
    worth = reward(
        data_source=row["data_source"],
        solution_str=said,
        ground_truth=row["reward_model"]["ground_truth"],
        extra_info=row["extra_info"],
    )
    return {"raw_prompt": row["raw_prompt"], "reward_model": row["reward_model"], "reward_of_reference": worth}


def label_studio(_: Path, folder: Path) -> Any:
    """Its SDK: whether the labelling config is valid, and each task with it."""
    from label_studio_sdk.label_interface import LabelInterface  # type: ignore[import-not-found]

    interface = LabelInterface((folder / "labels.xml").read_text())
    interface.validate()
    tasks = [task for path in sorted((folder / "data").iterdir()) for task in json.loads(path.read_text())]
    predictions = [prediction for task in tasks for prediction in task["predictions"]]
    labels = [each for prediction in predictions for each in prediction["result"] if each["type"] == "paragraphlabels"]
    wrong = [{**labels[0], "value": {**labels[0]["value"], "paragraphlabels": ["burn"]}}]
    return {
        "tasks": len(tasks),
        "valid": all(interface.validate_task({"data": task["data"]}) for task in tasks),
        "decisions": sum(each["type"] != "textarea" for prediction in predictions for each in prediction["result"]),
        "errors": [error for each in predictions for error in interface.validate_prediction(each, return_errors=True)],
        "refuses_another_label": not interface.validate_prediction({"result": wrong}),
    }


def json_lines(_: Path, folder: Path) -> Any:
    """As NeMo RL opens them: with `datasets`, by the file's path."""
    from datasets import load_dataset  # type: ignore[import-not-found]

    return list(load_dataset("json", data_files=_files(folder, "jsonl"))["train"])


def _tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def _parquet(folder: Path) -> list[str]:
    return _files(folder, "parquet")


def _files(folder: Path, kind: str) -> list[str]:
    return sorted(map(str, (folder / "data").glob(f"*.{kind}")))


def _learned(tokenizer: Any, ids: Iterable[list[int]], labels: Iterable[list[int]]) -> list[str]:
    """The text of the tokens that a loss is computed on."""
    return [
        tokenizer.decode([token for token, label in zip(row, of, strict=True) if label != -100])
        for row, of in zip(ids, labels, strict=True)
    ]


READERS: Mapping[str, Callable[[Path, Path], Any]] = {
    "axolotl-sft": axolotl_sft,
    "axolotl-dpo": axolotl_pairs,
    "axolotl-kto": axolotl_pairs,
    "axolotl-prm": axolotl_steps,
    "llama-factory-sft": llama_factory,
    "llama-factory-dpo": llama_factory,
    "llama-factory-kto": llama_factory,
    "verl-sft": verl_sft,
    "verl-grpo": verl_tasks,
    "nemo-rl-sft": json_lines,
    "nemo-rl-dpo": json_lines,
    "label-studio": label_studio,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
