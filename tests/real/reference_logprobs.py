"""Say what transformers makes of token ids: the log-probabilities of all tokens in each scored place, and the text.

    .venv-vllm/bin/python tests/real/reference_logprobs.py MODEL [--adapter FOLDER] < ROWS > ANSWERS

reads lines of JSON {input_ids, loss_mask} and writes for each one {text, logprobs}: what the tokens under the mask decode
to, and for each of them the log-probabilities of the whole vocabulary in its place. In float32; an adapter is merged.
"""

import json
import sys
from pathlib import Path

import torch  # type: ignore[import-not-found]
from safetensors.torch import load_file  # type: ignore[import-not-found]
from transformers import AutoTokenizer, LlamaForCausalLM  # type: ignore[import-not-found]


def main(folder: Path, adapter: Path | None) -> None:
    """Answer each line of stdin."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if adapter is not None:
        merge(model, adapter)
    for line in sys.stdin:
        row = json.loads(line)
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["loss_mask"], dtype=torch.bool)
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        # The logits of a place stand at the token before it.
        said = logprobs[:-1][mask[1:]]
        json.dump({"text": tokenizer.decode(ids[mask]), "logprobs": said.tolist()}, sys.stdout)
        print()


def merge(model: LlamaForCausalLM, folder: Path) -> None:
    """Add B·A, scaled as peft does, to each adapted weight."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    weights = dict(model.named_parameters())
    for name, down in tensors.items():
        if ".lora_A." in name:
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            weight = weights[name.removeprefix("base_model.model.").replace(".lora_A", "")]
            weight.data += up @ down * config["lora_alpha"] / config["r"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[3]) if len(sys.argv) > 2 else None)
