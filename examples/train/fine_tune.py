"""Fine-tunes a small model on the tutor's turns of a run, with TRL, and says what became of its loss.

pip install tutelage trl
tutelage export runs/lessons --format sft --out runs/lessons/exports/sft
python examples/train/fine_tune.py HuggingFaceTB/SmolLM2-135M-Instruct runs/lessons/exports/sft models/tutor

The model is a folder or a name on the Hub. Without a GPU it trains on the CPU, slowly: STEPS=20 shows that it works.
"""

import os
import sys

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

model, data, out = sys.argv[1:4]
has_gpu = torch.cuda.is_available()

# A prompt and a completion a row: the loss is on the completion alone, with any chat template.
rows = load_dataset(data, split="train")
config = SFTConfig(
    output_dir=out,
    max_steps=int(os.environ.get("STEPS", "200")),
    per_device_train_batch_size=4,
    learning_rate=float(os.environ.get("LEARNING_RATE", "2e-5")),
    max_length=None,  # rows are not cut: what a tutor was shown is seldom too long
    logging_steps=1,
    use_cpu=not has_gpu,
    bf16=has_gpu,
    save_strategy="no",
    report_to=[],
)
trainer = SFTTrainer(
    AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
    args=config,
    train_dataset=rows,
    processing_class=AutoTokenizer.from_pretrained(model),
)
trainer.train()
trainer.save_model(out)

losses = [step["loss"] for step in trainer.state.log_history if "loss" in step]
few = max(1, len(losses) // 10)
begun, ended = sum(losses[:few]) / few, sum(losses[-few:]) / few
print(f"{len(rows)} rows, {len(losses)} steps: loss {begun:.3f} at the beginning, {ended:.3f} at the end")
