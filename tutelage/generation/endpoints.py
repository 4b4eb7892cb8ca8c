"""The endpoints of a run's models: launched, or found where they run, and asked whether they serve what they should."""

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from tutelage.config import Config, ModelConfig, RoleConfig
from tutelage.errors import ConfigError, EndpointRefused, EndpointUnreachable
from tutelage.serving.adapters import adapter_sha256, load_adapters, load_missing
from tutelage.serving.announcement import announced, settings_of
from tutelage.serving.embedded import EmbeddedServer
from tutelage.serving.endpoint_pool import EndpointPool, RequestRecord
from tutelage.serving.fleet import Fleet, Fleets
from tutelage.serving.redaction import without_key

log = structlog.get_logger()

OnRequest = Callable[[RequestRecord], None]

EMBEDDED_SLOTS: Final = 8
"""Requests that the embedded model answers at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers of a model that has a `serve:`."""

    urls: tuple[str, ...]
    adapters: Mapping[str, str]
    """By name, the hash of the weights."""
    fleet: Fleet | None = None
    """Where this process has launched them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A model that answers."""

    model: str
    """The name under which it is asked for."""
    pool: EndpointPool
    max_model_len: int | None
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Of the adapters whose weights are known, the hash, by name."""
    fleet: Fleet | None = None
    """Its servers, where this process has launched them."""
    owners: Mapping[str, str | None] = field(default_factory=dict)
    """By endpoint, what it calls whoever owns the model: the name of its engine, mostly."""


async def launch_servers(config: Config, names: Iterable[str], fleets: Fleets) -> dict[str, Servers]:
    """The servers of those models that have a `serve:`: those of a `tutelage serve` for this config, or our own.

    Args:
        config: The run's config.
        names: The models that are played.
        fleets: Where servers are launched, and where some may run already.

    Raises:
        ConfigError: They cannot be launched as they are asked for, or run with other settings.
        LaunchError: A server did not start.
    """
    wanted = {name: config.models[name] for name in names if config.models[name].serve is not None}
    if not wanted:
        return {}
    _refuse_unknown_adapters(config, wanted)
    patience = max(model.serve.start_timeout for model in wanted.values() if model.serve)
    found = None if fleets.running() else await announced(config, patience)
    if found is None:
        launched = await fleets.launch(wanted)
        return {
            name: Servers(urls=fleet.urls, adapters=fleet.adapters, fleet=fleet) for name, fleet in launched.items()
        }
    servers = {}
    for name, model in wanted.items():
        running = (found.models or {}).get(name)
        if running is None or running.settings != settings_of(model):
            raise ConfigError(
                f"models.{name}.serve: `tutelage serve` (process {found.pid}) runs this config's servers with other settings:"
                " end it and start it again, or take the change back"
            )
        servers[name] = Servers(urls=running.urls, adapters=running.adapters)
    log.info(
        "servers_found", pid=found.pid, models=list(servers), note="those of `tutelage serve`; they stay when we end"
    )
    return servers


async def reach_model(
    name: str,
    config: Config,
    adapters: Iterable[str],
    servers: Servers | None,
    stack: AsyncExitStack,
    *,
    endless: bool,
    on_request: OnRequest | None,
) -> Reached:
    """A model's endpoints, which serve the model and the adapters that roles are played by.

    Raises:
        ConfigError: A URL is none, the environment lacks the key, or a server does not load an adapter.
        EndpointUnreachable: No endpoint answers.
        EndpointRefused: One does not serve the model or an adapter, or wants another key.
    """
    model = config.models[name]
    secret = None
    try:
        secret = model.secret()
        pool = EndpointPool(
            model.url if servers is None else servers.urls,
            api_key=secret,
            timeout=model.timeout,
            patience=math.inf if endless else _patience(model),
            on_request=on_request,
            in_flight=model.in_flight,
            on_found=partial(load_missing, adapters=model.adapters, api_key=secret) if model.adapters else None,
        )
        await stack.enter_async_context(pool)
        if model.adapters:
            await load_adapters(pool, model.adapters, secret)
        entries = await pool.check(model.name)
        for adapter in adapters:
            await pool.check(adapter)
    except (ConfigError, EndpointRefused, EndpointUnreachable) as error:
        # Not `from error`: what a server has said may hold the key that it was sent.
        raise type(error)(f"models.{name}: {without_key(str(error), secret)}") from None
    lengths = [entry.max_model_len for entry in entries if entry.max_model_len is not None]
    hashes = servers.adapters if servers else await asyncio.to_thread(_hashes, model.adapters)
    return Reached(
        model=model.name,
        pool=pool,
        max_model_len=min(lengths, default=None),
        adapters=hashes,
        fleet=servers.fleet if servers else None,
        owners={entry.endpoint: entry.owner for entry in entries},
    )


async def start_embedded(stack: AsyncExitStack, logs: Path | None, on_request: OnRequest | None) -> Reached:
    """The embedded model, until the stack is left.

    Raises:
        EmbeddedError: It cannot be fetched or started.
    """
    server = EmbeddedServer(slots=EMBEDDED_SLOTS, log=_log_file(logs))
    await stack.enter_async_context(server)
    pool = await stack.enter_async_context(EndpointPool(server.url, on_request=on_request, in_flight=EMBEDDED_SLOTS))
    return Reached(model=server.model, pool=pool, max_model_len=server.context)


def _log_file(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "embedded.log"


def _refuse_unknown_adapters(config: Config, wanted: Mapping[str, ModelConfig]) -> None:
    for role, settings in config.roles.items():
        model = wanted.get(config.model_of(role, settings) or "")
        if settings.adapter is None or model is None or model.serve is None:
            continue
        if settings.adapter not in model.serve.adapters:
            there = ", ".join(map(repr, model.serve.adapters)) or "none"
            raise ConfigError(
                f"roles.{role}.adapter: there is no adapter {settings.adapter!r} under `serve.adapters`; there is {there}"
            )


def adapters_of(config: Config, name: str, roles: Iterable[str]) -> list[str]:
    """The adapters of a model by which roles are played."""
    played = [(role, config.roles.get(role, RoleConfig()).adapter) for role in roles]
    return list(dict.fromkeys(adapter for role, adapter in played if adapter and config.model_of(role) == name))


def _patience(model: ModelConfig) -> float:
    """Servers of our own are started again after a crash: that is waited for, too."""
    return model.patience + (model.serve.start_timeout if model.serve else 0)


def _hashes(adapters: Mapping[str, str]) -> dict[str, str]:
    """Of those adapters whose folders can be read here: they are named as the servers see them."""
    hashes = {}
    for name, folder in adapters.items():
        try:
            hashes[name] = adapter_sha256(Path(folder))
        except OSError:
            log.info(
                "adapter_not_hashed", adapter=name, note=f"{folder!r} cannot be read here: transcripts name it only"
            )
    return hashes
