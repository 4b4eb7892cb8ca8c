"""From a `serve:` entry to the command that starts vLLM: its flags, its environment, its interpreter, its port."""

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from random import SystemRandom
from typing import Final

from tutelage.config import ModelConfig, ServeConfig
from tutelage.errors import ConfigError
from tutelage.serving.adapters import Adapter, max_rank
from tutelage.serving.gpus import VISIBLE
from tutelage.serving.vllm_server import Launch
from tutelage.serving.weights import cache_folder

MODULE: Final = "vllm.entrypoints.openai.api_server"
"""The `vllm` command is not in every package of it: the one for CPUs has it broken."""
PORTS: Final = range(20_000, 32_000)
"""Where free ports are looked for: below those that Linux gives to outgoing connections, for a server binds its port some
seconds after it was found free."""
LAST_PORT: Final = 65_535
PORT_PATIENCE: Final = 10.0
"""Seconds that a port in use has to become free: its server may be ending, after a SIGKILL of ours."""
_OF_PYTHON: Final = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
_REFERENCE: Final = re.compile(r"\$\{(\w+)\}")
_PARALLEL: Final = re.compile(r"-(tp|pp|dp)$|--(tensor|pipeline|data)[-_]parallel[-_]size(=|$)")


def launch_of(
    name: str,
    model: ModelConfig,
    serve: ServeConfig,
    replica: int,
    *,
    adapters: Mapping[str, Adapter],
    gpus: Sequence[str],
    port: int,
    folder: Path,
    logs: Path,
) -> Launch:
    """How one replica is started.

    Args:
        name: The model's name in the config.
        model: The model.
        serve: Its `serve:`.
        replica: The replica's number, from 0.
        adapters: Those that are served with it.
        gpus: Its GPUs.
        port: Where it listens.
        folder: Where the config is: relative paths are from there.
        logs: Where the log goes.

    Raises:
        ConfigError: The interpreter is not there, an adapter's rank is too large, the environment lacks a `${NAME}`, or
            the server would be open to other machines.
    """
    key = model.secret()
    if key is None and not _is_loopback(serve.host):
        raise ConfigError(
            f"models.{name}.serve.host: whoever reaches {serve.host!r} could use the servers: say `api_key: ${{NAME}}` beside"
            " `serve:`, which they will ask for, or listen on 127.0.0.1"
        )
    server = f"{name}-{replica}"
    file_name = re.sub(r"[^\w.-]", "_", server)
    environment = {
        # What our own interpreter is told is not for one of another environment.
        **{name: value for name, value in os.environ.items() if serve.python is None or name not in _OF_PYTHON},
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONSAFEPATH": "1",  # a file beside the config that is called like a module must not be imported
        "PYTHONUNBUFFERED": "1",  # what it said before a crash is in the log
        # What it compiles is found again at the next start; no other replica writes there at the same time.
        "VLLM_CACHE_ROOT": os.environ.get("VLLM_CACHE_ROOT") or str(cache_folder() / "vllm" / file_name),
        **({} if key is None else {"VLLM_API_KEY": key.get_secret_value()}),
        **({VISIBLE: ",".join(gpus)} if gpus else {}),
        # nvidia-smi counts like this.
        **({"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")} if gpus else {}),
        **{variable: _from_environment(name, variable, value) for variable, value in serve.env.items()},
    }
    return Launch(
        name=server,
        model=model.name,
        command=(_interpreter(name, serve, folder), "-m", MODULE, *_flags(model, serve, adapters, port, folder)),
        environment=environment,
        folder=folder,
        url=f"http://{_reached_at(serve.host)}:{port}/v1",
        gpus=tuple(gpus),
        log=logs / f"vllm-{file_name}.log",
        api_key=key,
        start_timeout=serve.start_timeout,
        grace=serve.grace,
    )


def _flags(
    model: ModelConfig, serve: ServeConfig, adapters: Mapping[str, Adapter], port: int, folder: Path
) -> list[str]:
    """The config's own come last, so that they win."""
    local = folder / Path(serve.model).expanduser()
    return [
        *("--model", str(local.resolve()) if local.is_dir() else serve.model, "--served-model-name", model.name),
        *("--host", serve.host, "--port", str(port)),
        *_parallelism(serve),
        *_lora(model, adapters),
        "--enable-prompt-tokens-details",  # how much of a prompt was cached
        *("--scheduling-policy", "priority"),
        # vLLM's own default is none: it would leave open requests hanging when it is to end.
        *("--shutdown-timeout", str(max(1, round(serve.grace)))),
        # Without it some models fill their budget with spaces. The backend must be named for it to count.
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})),
        "--disable-uvicorn-access-log",  # a line for each request would fill the disk
        *serve.args,
    ]


def _parallelism(serve: ServeConfig) -> list[str]:
    """All GPUs of a replica hold one copy of the model, unless the config says what each is for."""
    if serve.gpus_per_replica < 2 or any(map(_PARALLEL.match, serve.args)):
        return []
    return ["--tensor-parallel-size", str(serve.gpus_per_replica)]


def _lora(model: ModelConfig, adapters: Mapping[str, Adapter]) -> list[str]:
    if not adapters:
        return []
    modules = [
        json.dumps({"name": each.name, "path": str(each.folder), "base_model_name": model.name})
        for each in adapters.values()
    ]
    ranks = ["--max-loras", str(len(modules)), "--max-lora-rank", str(max_rank(adapters))]
    return ["--enable-lora", *ranks, "--lora-modules", *modules]


def _interpreter(name: str, serve: ServeConfig, folder: Path) -> str:
    """Not resolved: the interpreter of a virtual environment is a link, and knows by it whose it is."""
    if serve.python is None:
        return sys.executable
    given = Path(serve.python).expanduser()
    found = shutil.which(folder / given) if len(given.parts) > 1 else shutil.which(serve.python)
    if found is None:
        raise ConfigError(
            f"models.{name}.serve.python: there is no interpreter {serve.python!r}: name the one of the environment that"
            " vLLM is installed in, like ~/vllm/bin/python"
        )
    return str(Path(found).absolute())


def _from_environment(name: str, variable: str, value: str) -> str:
    def look_up(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(
                f"models.{name}.serve.env.{variable}: ${{{match[1]}}} is not in the environment: export {match[1]}=… first"
            )
        return os.environ[match[1]]

    return _REFERENCE.sub(look_up, value)


def _reached_at(host: str) -> str:
    """The address by which a server that listens there is reached from this machine."""
    near = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{near}]" if ":" in near else near


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def find_ports(name: str, serve: ServeConfig, taken: set[int]) -> list[int]:
    """A port for each replica: those that the config says, or free ones.

    Args:
        name: The model's name in the config.
        serve: Its `serve:`.
        taken: Ports that are given away already; the new ones are added.

    Raises:
        ConfigError: A port that the config says is in use.
    """
    if serve.port is None:
        free = (port for port in SystemRandom().sample(PORTS, len(PORTS)) if port not in taken)
        ports = [next(port for port in free if is_free(serve.host, port)) for _ in range(serve.replicas)]
    else:
        ports = [serve.port + n for n in range(serve.replicas)]
        deadline = time.monotonic() + PORT_PATIENCE
        while busy := [port for port in ports if port in taken or not is_free(serve.host, port)]:
            if time.monotonic() > deadline or set(busy) & taken:
                raise ConfigError(
                    f"models.{name}.serve.port: {', '.join(map(str, busy))} in use already (of {ports[0]} to {ports[-1]},"
                    " one for each replica): end what listens there, name another port, or name none to have free ones found"
                )
            time.sleep(0.2)
    taken.update(ports)
    return ports


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there.

    vLLM may share a port with another server of the same user's (SO_REUSEPORT), and both would get some of the requests.
    This socket would not.
    """
    if port > LAST_PORT:  # getaddrinfo would begin again at 0
        return False
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True
