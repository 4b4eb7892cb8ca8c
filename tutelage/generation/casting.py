"""Makes the cast of a run from its config: which model plays which role, at which endpoints."""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog
from langchain_core.language_models import BaseChatModel

from tutelage.config import Config, RoleConfig
from tutelage.dialogue.cast import DEFAULT_PLAYER, Cast, Limits, Player
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.errors import ConfigError, EndpointRefused, EndpointUnreachable
from tutelage.generation.registry import LoadedGraph
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.embedded import EmbeddedServer
from tutelage.serving.endpoint_pool import EndpointPool, RequestRecord

log = structlog.get_logger()

OnRequest = Callable[[RequestRecord], None]

EMBEDDED_SLOTS: Final = 8
"""Requests that the embedded model answers at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Casting:
    """A cast that can be called now."""

    cast: Cast
    at_once: int | None
    """How many dialogues at once its endpoints can take; None where they do not say."""
    embedded: bool
    """Whether it is the embedded model that plays."""
    pools: Mapping[str, EndpointPool] = field(default_factory=dict)
    """The endpoints, by the model's name in the config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    model: str
    pool: EndpointPool
    max_model_len: int | None


def check_roles(config: Config, graph: LoadedGraph) -> None:
    """Makes sure that the config's roles are the graph's.

    Raises:
        ConfigError: It has a role that does not take part.
    """
    for role in config.roles:
        if role not in graph.roles:
            raise ConfigError(
                f"roles.{role}: the graph {graph.name!r} has no such role; it has {', '.join(graph.roles)}"
            )


def prompt_library(config: Config, graph: LoadedGraph) -> PromptLibrary:
    """The run's prompts: those in `prompts/` beside the config, then those of the graph's project, then the built-in."""
    folders = [config.folder / "prompts", *([graph.project / "prompts"] if graph.project else [])]
    return PromptLibrary([folder for folder in dict.fromkeys(folders) if folder.is_dir()])


@asynccontextmanager
async def cast_of(
    config: Config,
    graph: LoadedGraph,
    prompts: PromptLibrary,
    *,
    models: Mapping[str, BaseChatModel] | None = None,
    logs: Path | None = None,
    endless: bool = False,
    on_request: OnRequest | None = None,
) -> AsyncIterator[Casting]:
    """The cast of a run. Before it is given, its endpoints are asked whether they serve what they should.

    Args:
        config: The run's config.
        graph: The graph whose roles are to be played.
        prompts: The run's prompts.
        models: Models to use instead of the config's, by role; `default` plays the others.
        logs: The folder for the log of the embedded model's server.
        endless: Whether calls wait for ever for a model that has been reached once.
        on_request: Called after each HTTP exchange.

    Raises:
        ConfigError: Nobody plays one of the roles.
        EndpointUnreachable: No replica of a model answers.
        EndpointRefused: An endpoint does not serve the model or an adapter, or wants another key.
        EmbeddedError: The embedded model cannot be fetched or started.
    """
    limits = Limits(**config.limits.model_dump())
    async with AsyncExitStack() as stack:
        embedded = models is None and not config.models
        if models is not None:
            played = {role: models.get(role, models.get(DEFAULT_PLAYER)) for role in graph.roles}
            players = {
                role: Player(model=model, sampling=_sampling(config, role)) for role, model in played.items() if model
            }
            served: dict[str | None, _Served] = {}
        elif embedded:
            _refuse_adapters(config)
            served = {None: await _start_embedded(stack, logs, on_request)}
        else:
            names = dict.fromkeys(_model_of(config, role) for role in graph.roles)
            served = {
                name: await _reach(name, config, graph, stack, endless, on_request)
                for name in names
                if name is not None
            }
        if models is None:
            players = {role: _player(config, role, served[_model_of(config, role)]) for role in graph.roles}
        longest = min((each.max_model_len for each in served.values() if each.max_model_len), default=limits.tokens)
        if longest < limits.tokens:
            log.info("token_limit_lowered", limit=limits.tokens, max_model_len=longest)
            limits = replace(limits, tokens=longest)
        cast = Cast(players=players, prompts=prompts, limits=limits, seed=config.seed)
        for role in graph.roles:
            cast.player(role)  # whom nobody plays is an error now, not in mid-run
        pools = {name or "embedded": each.pool for name, each in served.items()}
        yield Casting(cast=cast, at_once=EMBEDDED_SLOTS if embedded else None, embedded=embedded, pools=pools)


def _player(config: Config, role: str, served: _Served) -> Player:
    adapter = config.roles.get(role, RoleConfig()).adapter
    model = ChatVLLM(model=served.model, adapter=adapter, pool=served.pool)
    return Player(model=model, sampling=_sampling(config, role))


def _sampling(config: Config, role: str) -> dict[str, Any]:
    return config.roles.get(role, RoleConfig()).sampling()


def _model_of(config: Config, role: str) -> str | None:
    try:
        return config.model_of(role)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse_adapters(config: Config) -> None:
    for role, settings in config.roles.items():
        if settings.adapter is not None:
            raise ConfigError(f"roles.{role}.adapter: the embedded model has none; name your own model under `models:`")


async def _start_embedded(stack: AsyncExitStack, logs: Path | None, on_request: OnRequest | None) -> _Served:
    server = EmbeddedServer(slots=EMBEDDED_SLOTS, log=_log_file(logs))
    await stack.enter_async_context(server)
    pool = await stack.enter_async_context(EndpointPool(server.url, on_request=on_request))
    return _Served(model=server.model, pool=pool, max_model_len=server.context)


async def _reach(
    name: str,
    config: Config,
    graph: LoadedGraph,
    stack: AsyncExitStack,
    endless: bool,
    on_request: OnRequest | None,
) -> _Served:
    model = config.models[name]
    if model.model is None:
        raise ConfigError(
            f"models.{name}.serve: this version does not launch vLLM itself; start the server, and give its `url:` here"
        )
    try:
        pool = EndpointPool(
            model.url,
            api_key=model.secret(),
            timeout=model.timeout,
            patience=math.inf if endless else model.patience,
            on_request=on_request,
        )
        await stack.enter_async_context(pool)
        entries = await pool.check(model.model)
        for role in graph.roles:
            adapter = config.roles.get(role, RoleConfig()).adapter
            if adapter is not None and _model_of(config, role) == name:
                await pool.check(adapter)
    except (ConfigError, EndpointRefused, EndpointUnreachable) as error:
        raise type(error)(f"models.{name}: {error}") from error
    lengths = [entry.max_model_len for entry in entries if entry.max_model_len is not None]
    return _Served(model=model.model, pool=pool, max_model_len=min(lengths, default=None))


def _log_file(folder: Path | None) -> Path | None:
    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "embedded.log"
