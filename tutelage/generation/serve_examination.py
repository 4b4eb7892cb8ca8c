"""Examines what a config's `serve:` entries would launch, for `tutelage doctor`: nothing is launched, no model is loaded."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tutelage.config import Config, ModelConfig, ServeConfig
from tutelage.errors import ConfigError
from tutelage.generation.findings import Finding, Notes
from tutelage.serving.adapters import Adapter, read_adapter
from tutelage.serving.announcement import announced, settings_of
from tutelage.serving.gpus import Shares, divide_gpus, gpus_here
from tutelage.serving.vllm_command import is_free, launch_of
from tutelage.serving.vllm_server import Launch

IMPORT_SECONDS: Final = 120.0
"""How long the interpreter may take to import vLLM: from a cold disk a minute."""
_IMPORT: Final = "import vllm, sys; sys.stdout.write('\\n' + vllm.__version__)"
OLDEST: Final = (0, 32)
"""The version of vLLM whose flags are given to it."""
WEIGHTS: Final = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """What there is to say of a config's `serve:` entries."""

    findings: Sequence[Finding] = ()
    urls: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By model, where its servers run already."""


async def examine_serve(config: Config) -> Launched:
    """Looks whether a `tutelage serve` runs, and if none does, whether its servers could be launched."""
    models = {name: model for name, model in config.models.items() if model.serve}
    if not models:
        return Launched()
    try:
        found = await announced(config, patience=0)
    except ConfigError as error:
        return Launched(findings=[*Notes("serve").warning(f"{error}: ask again when it has")])
    if found is None or found.models is None:
        return Launched(findings=await _examine_launches(config, models))
    findings, urls = list[Finding](), dict[str, Sequence[str]]()
    for name, model in models.items():
        notes, running = Notes(f"models.{name}, serve"), found.models.get(name)
        if running is None or running.settings != settings_of(model):
            notes.problem(
                f"`tutelage serve` (process {found.pid}) runs with other settings for it: end it and start it again, or take "
                "the change back"
            )
        else:
            servers = "a server" if len(running.urls) == 1 else f"{len(running.urls)} servers"
            notes.fine(f"`tutelage serve` (process {found.pid}) runs {servers} for it")
            urls[name] = running.urls
        findings += notes
    return Launched(findings=findings, urls=urls)


async def _examine_launches(config: Config, models: Mapping[str, ModelConfig]) -> list[Finding]:
    notes = {name: Notes(f"models.{name}, serve") for name in models}
    shares = await _gpus(notes, {name: model.serve for name, model in models.items() if model.serve})
    taken: set[int] = set()
    for name, model in models.items():
        serve = model.serve
        assert serve is not None
        _ports(notes[name], serve, taken)
        _model(notes[name], serve, config.folder)
        adapters = await asyncio.to_thread(_adapters, notes[name], serve, config, name)
        try:
            launch = launch_of(
                *(name, model, serve, 0),
                adapters=adapters,
                gpus=shares.get(name, ((),))[0],
                port=serve.port or 0,
                folder=config.folder.absolute(),
                logs=config.folder / "logs",
            )
        except ConfigError as error:
            notes[name].problem(str(error).removeprefix(f"models.{name}."))
        else:
            await _imports_vllm(notes[name], launch)
    return [finding for each in notes.values() for finding in each]


async def _gpus(notes: Mapping[str, Notes], serves: Mapping[str, ServeConfig]) -> dict[str, Shares]:
    here = await asyncio.to_thread(gpus_here) if any(serve.gpus_per_replica for serve in serves.values()) else ()
    try:
        shares = divide_gpus(serves, here)
    except ConfigError as error:
        next(iter(notes.values())).problem(str(error))
        return {}
    for name, groups in shares.items():
        gpus = "; ".join(",".join(group) for group in groups)
        notes[name].fine(f"gets the GPUs {gpus}" if any(groups) else "gets no GPU (`gpus_per_replica: 0`)")
    return shares


def _ports(notes: Notes, serve: ServeConfig, taken: set[int]) -> None:
    if serve.port is None:
        return
    ports = range(serve.port, serve.port + serve.replicas)
    busy = [port for port in ports if port in taken or not is_free(serve.host, port)]
    taken.update(ports)
    if busy:
        notes.problem(
            f"port {', '.join(map(str, busy))} of {serve.host} is in use already: end what listens there, name another "
            "`port`, or name none to have free ones found"
        )
    else:
        notes.fine(f"its ports are free ({', '.join(map(str, ports))})")


def _model(notes: Notes, serve: ServeConfig, folder: Path) -> None:
    """A model is a folder, or a name that vLLM fetches from a hub."""
    path = (folder / Path(serve.model).expanduser()).resolve()
    if path.is_file():
        notes.warning(f"the model {serve.model!r} is a file: vLLM wants a folder, or a name on the hub")
    elif not path.is_dir():
        if serve.model.startswith((".", "/", "~")):
            notes.problem(f"the model's folder {str(path)!r} is not there")
        else:
            notes.fine(f"the model {serve.model!r} is no folder here: vLLM fetches it, or has it in its cache")
    elif not (path / "config.json").is_file():
        notes.problem(f"the model's folder {str(path)!r} has no config.json in it")
    elif not any(True for pattern in WEIGHTS for _ in path.glob(pattern)):
        notes.problem(f"the model's folder {str(path)!r} has no weights in it ({', '.join(WEIGHTS)})")
    else:
        notes.fine(f"the model is there, in {str(path)!r}")


def _adapters(notes: Notes, serve: ServeConfig, config: Config, name: str) -> dict[str, Adapter]:
    adapters = {}
    for adapter, path in serve.adapters.items():
        try:
            adapters[adapter] = read_adapter(adapter, path, folder=config.folder)
        except ConfigError as error:
            notes.problem(f"serve.{error}")
        else:
            notes.fine(
                f"the adapter {adapter!r} is there: rank {adapters[adapter].rank}, {adapters[adapter].sha256[:12]}…"
            )
    for role, settings in config.roles.items():
        with suppress(ValueError):  # said elsewhere: no model is named for it
            if settings.adapter and config.model_of(role) == name and settings.adapter not in serve.adapters:
                there = ", ".join(map(repr, serve.adapters)) or "none"
                notes.problem(
                    f"roles.{role}.adapter: there is no adapter {settings.adapter!r} under `serve.adapters`; there is {there}"
                )
    return adapters


async def _imports_vllm(notes: Notes, launch: Launch) -> None:
    """Has the interpreter import vLLM, in the environment that its server would have."""
    interpreter = launch.command[0]
    process = await asyncio.create_subprocess_exec(
        *(interpreter, "-c", _IMPORT),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(launch.environment),
        cwd=launch.folder,
    )
    try:
        said, complained = await asyncio.wait_for(process.communicate(), IMPORT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        notes.problem(f"{interpreter} does not import vLLM within {IMPORT_SECONDS:g} s")
        return
    lines = [line for line in complained.decode(errors="replace").splitlines() if line.strip()]
    if process.returncode == 0:
        _version(notes, interpreter, said.decode(errors="replace").splitlines()[-1].strip())
    elif lines and "No module named 'vllm'" in lines[-1]:
        notes.problem(
            f"{interpreter} has no vLLM: install it there (`pip install vllm`), or have `serve.python` name the interpreter "
            "of the environment that has it"
        )
    else:
        notes.problem(
            f"{interpreter} cannot import vLLM ({lines[-1].strip() if lines else process.returncode}): mend its environment"
        )


def _version(notes: Notes, interpreter: str, version: str) -> None:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        notes.warning(
            f"{interpreter} has vLLM {version}, and is given the flags of {oldest}: if it does not start, install {oldest} "
            "or later there"
        )
    else:
        notes.fine(f"{interpreter} has vLLM {version}")
