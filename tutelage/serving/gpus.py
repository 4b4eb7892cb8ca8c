"""Which GPUs there are, and which server gets which."""

import os
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from tutelage.config import ServeConfig
from tutelage.errors import ConfigError

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_LISTED: Final = re.compile(r"^(?:GPU (?P<index>\d+):|\s+MIG .*\(UUID: (?P<part>MIG-[^)]+)\))", re.MULTILINE)

Shares = tuple[tuple[str, ...], ...]
"""The GPUs of each replica."""


def gpus_here(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or if it is not set, those that nvidia-smi lists."""
    visible = environment.get(VISIBLE)
    if visible is None:
        return _listed()
    names = [name.strip() for name in visible.split(",")]
    # CUDA takes the list up to the first name that is none: -1 or NoDevFiles hide all that follow.
    ends = (n for n, name in enumerate(names) if not name or name.startswith("-") or name == "NoDevFiles")
    return tuple(names[: next(ends, len(names))])


def _listed() -> tuple[str, ...]:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # no driver, no GPU
    return parse_gpus(done.stdout)


def parse_gpus(listing: str) -> tuple[str, ...]:
    """The GPUs of `nvidia-smi -L`: an index each, or the UUIDs of its parts where one is divided (MIG)."""
    gpus: list[list[str]] = []
    for match in _LISTED.finditer(listing):
        if match["index"] is not None:
            gpus.append([match["index"]])
        elif gpus:
            gpus[-1] = [name for name in gpus[-1] if name.startswith("MIG-")] + [match["part"]]
    return tuple(name for names in gpus for name in names)


def divide_gpus(
    wanted: Mapping[str, ServeConfig], here: Sequence[str], held: Collection[str] = ()
) -> dict[str, Shares]:
    """Gives each replica its GPUs.

    A `serve:` that names its `gpus` has them divided among its replicas; nobody else gets them unless they are named there,
    too (two small models may share a GPU). The others divide what is left.

    Args:
        wanted: What is to be launched, by the model's name in the config.
        here: The GPUs that there are.
        held: Those of servers that run already.

    Returns:
        By model, the GPUs of each replica.

    Raises:
        ConfigError: There are not enough; the message says the arithmetic.
    """
    named = {gpu for serve in wanted.values() for gpu in serve.gpus or ()}
    free = [gpu for gpu in here if gpu not in named and gpu not in held]
    sharing = {name: serve for name, serve in wanted.items() if serve.gpus is None and serve.gpus_per_replica}
    needed = sum(serve.replicas * serve.gpus_per_replica for serve in sharing.values())
    if needed > len(free):
        terms = " + ".join(f"{_product(serve)} for models.{name}" for name, serve in sharing.items())
        taken = [
            f"{len(group)} {why}"
            for group, why in ((named, "named by `serve.gpus`"), (held, "held by servers that run already"))
            if group
        ]
        have = ", ".join([f"{len(here)} {'GPU' if len(here) == 1 else 'GPUs'} here", *taken])
        raise ConfigError(
            f"`serve:` needs {needed} GPUs ({terms}), and {len(free)} are free ({have}): lower `replicas` or"
            f" `gpus_per_replica`, or check {VISIBLE} and nvidia-smi. For vLLM's CPU build say `gpus_per_replica: 0`."
        )
    shares: dict[str, Shares] = {}
    for name, serve in wanted.items():
        source = free if serve.gpus is None else list(serve.gpus)
        if serve.replicas * serve.gpus_per_replica > len(source):
            raise ConfigError(
                f"models.{name}.serve.gpus: {len(source)} are named, and {_product(serve)} ="
                f" {serve.replicas * serve.gpus_per_replica} are needed (`replicas` times `gpus_per_replica`)"
            )
        shares[name] = tuple(tuple(source.pop(0) for _ in range(serve.gpus_per_replica)) for _ in range(serve.replicas))
    return shares


def _product(serve: ServeConfig) -> str:
    return f"{serve.replicas} * {serve.gpus_per_replica}"
