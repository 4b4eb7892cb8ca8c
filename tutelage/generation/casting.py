"""Makes the cast of a run from its config: which model plays which role, at which endpoints."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import structlog
from langchain_core.language_models import BaseChatModel

from tutelage.config import Config, ModelConfig, RoleConfig
from tutelage.dialogue.cast import DEFAULT_PLAYER, Cast, Evidence, Limits, Player, Students
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.errors import ConfigError
from tutelage.generation.demands import check_panels, check_room, check_shapes, models_of
from tutelage.generation.endpoints import (
    EMBEDDED_SLOTS,
    OnRequest,
    Reached,
    adapters_of,
    launch_servers,
    reach_model,
    start_embedded,
)
from tutelage.generation.evidence import check_evidence, evidence_of
from tutelage.generation.judges import warn_of_relatives
from tutelage.generation.registry import LoadedGraph
from tutelage.learners.enrolment import check_students, enrols
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.embeddings import EmbeddingsVLLM
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.serving.fleet import Fleet, Fleets

log = structlog.get_logger()


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
    fleets: Mapping[str, Fleet] = field(default_factory=dict)
    """The servers that this process has launched for them, by the model's name."""


def check_roles(config: Config, graph: LoadedGraph) -> None:
    """Makes sure that the config's roles are the graph's.

    Raises:
        ConfigError: It has a role that does not take part, or one with a panel that it never asks.
    """
    for role in config.roles:
        if role not in graph.roles:
            raise ConfigError(
                f"roles.{role}: the graph {graph.name!r} has no such role; it has {', '.join(graph.roles)}"
            )
    check_panels(config, graph)


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
    fleets: Fleets | None = None,
) -> AsyncIterator[Casting]:
    """The cast of a run. Before it is given, its endpoints are asked whether they serve what they should.

    Args:
        config: The run's config.
        graph: The graph whose roles are to be played.
        prompts: The run's prompts.
        models: Models to use instead of the config's, by role; `default` plays the others.
        logs: The folder for the logs of servers that are launched.
        endless: Whether calls wait for ever for a model that has been reached once.
        on_request: Called after each HTTP exchange.
        fleets: Where servers are launched. Those that run there already as the config wants them are used, and all of
            them outlive the cast. If not given, those that are launched end with it.

    Raises:
        ConfigError: Nobody plays one of the roles, its students cannot be enrolled, or the servers cannot be launched as
            the config wants them.
        LaunchError: A server did not start.
        EndpointUnreachable: No replica of a model answers.
        EndpointRefused: An endpoint does not serve the model or an adapter, or wants another key.
        EmbeddedError: The embedded model cannot be fetched or started.
    """
    limits = Limits(**config.limits.model_dump())
    students = _students(config, graph, prompts)
    check_evidence(config, graph)
    # Before servers are launched, which takes minutes, unless it needs one of them.
    evidence = await evidence_of(config, None) if config.evidence.embedding is None else None
    async with AsyncExitStack() as stack:
        embedded = models is None and not config.models
        reached: dict[str | None, Reached] = {}
        if models is not None:
            players = _given_players(config, graph, models)
        else:
            if embedded:
                _refuse_adapters(config)
                reached[None] = await start_embedded(stack, logs, on_request)
                check_room(None, config, graph, reached[None].max_model_len)
            else:
                if fleets is None:
                    fleets = await stack.enter_async_context(Fleets(config.folder, logs or config.folder / "logs"))
                reached = await _reach_all(config, graph, fleets, stack, endless, on_request)
                if evidence is None:
                    served = reached.pop(config.evidence.embedding)
                    evidence = await evidence_of(config, EmbeddingsVLLM(model=served.model, pool=served.pool))
            players = _players(config, graph, reached)
        longest = min((each.max_model_len for each in reached.values() if each.max_model_len), default=limits.tokens)
        if longest < limits.tokens:
            log.info("token_limit_lowered", limit=limits.tokens, max_model_len=longest)
            limits = replace(limits, tokens=longest)
        cast = Cast(
            players=players,
            prompts=prompts,
            limits=limits,
            seed=config.seed,
            students=students,
            evidence=evidence or Evidence(folder=config.folder),
        )
        for role in graph.roles:
            cast.player(role)  # whom nobody plays is an error now, not in mid-run
        if not embedded:  # of which it is said already that its data is for trying out
            warn_of_relatives(graph, cast)
        yield Casting(
            cast=cast,
            at_once=EMBEDDED_SLOTS if embedded else None,
            embedded=embedded,
            pools={name or "embedded": each.pool for name, each in reached.items()},
            fleets={each.fleet.name: each.fleet for each in reached.values() if each.fleet},
        )


def _students(config: Config, graph: LoadedGraph, prompts: PromptLibrary) -> Students:
    students = Students(**config.students.model_dump())
    if enrols(graph.graph):
        check_students(students, prompts)
    elif students != Students():
        raise ConfigError(
            f"students: the graph {graph.name!r} enrols nobody, so all its students are alike: take `socratic`, or begin the "
            "graph with the node enrol(student)"
        )
    return students


async def _reach_all(
    config: Config,
    graph: LoadedGraph,
    fleets: Fleets,
    stack: AsyncExitStack,
    endless: bool,
    on_request: OnRequest | None,
) -> dict[str | None, Reached]:
    """The models that roles are played by. Servers that were launched for nothing are ended again."""
    named = dict.fromkeys(name for role in graph.roles for name in _models_of(config, role))
    names = [name for name in named if name is not None]
    embedding = config.evidence.embedding
    if embedding in names:
        raise ConfigError(f"evidence.embedding: {embedding!r} plays roles: embeddings need a model of their own")
    names += [embedding] if embedding is not None else []
    before = fleets.running()
    try:
        servers = await launch_servers(config, names, fleets)
        reached: dict[str | None, Reached] = {
            name: await reach_model(
                name,
                config,
                adapters_of(config, name, graph.roles),
                servers.get(name),
                stack,
                endless=endless,
                on_request=on_request,
            )
            for name in names
        }
        for name in names:
            if name == embedding:
                continue
            check_room(name, config, graph, reached[name].max_model_len)
            await check_shapes(name, config, graph, reached[name].owners)
        return reached
    except BaseException:
        await fleets.end([fleet for fleet in fleets.running() if fleet not in before])
        raise


def _given_players(config: Config, graph: LoadedGraph, models: Mapping[str, BaseChatModel]) -> dict[str, Player]:
    played = {role: models.get(role, models.get(DEFAULT_PLAYER)) for role in graph.roles}
    return {role: Player(model=model, sampling=_sampling(config, role)) for role, model in played.items() if model}


def _players(config: Config, graph: LoadedGraph, reached: Mapping[str | None, Reached]) -> dict[str, Player]:
    # One salt for all roles of a model: what they share of a prompt is still found again.
    salts = {name: {"cache_salt": token_hex(16)} for name, model in config.models.items() if model.isolate}
    players = {}
    for role in graph.roles:
        name, *panel = _models_of(config, role)
        adapter = config.roles.get(role, RoleConfig()).adapter
        others = (_player(config, role, each, None, reached[each], salts.get(each or "", {})) for each in panel)
        player = _player(config, role, name, adapter, reached[name], salts.get(name or "", {}))
        players[role] = replace(player, panel=tuple(others))
    return players


def _player(
    config: Config, role: str, name: str | None, adapter: str | None, reached: Reached, extra: dict[str, Any]
) -> Player:
    return Player(
        model=ChatVLLM(model=reached.model, adapter=adapter, pool=reached.pool, extra=extra),
        sampling=_sampling(config, role),
        priority=name is not None and _goes_by_priority(config.models[name]),
        adapter_sha256=reached.adapters.get(adapter) if adapter else None,
    )


def _goes_by_priority(model: ModelConfig) -> bool:
    if model.priority is not None:
        return model.priority
    return model.serve is not None and not any("fcfs" in argument for argument in model.serve.args)


def _sampling(config: Config, role: str) -> dict[str, Any]:
    return config.roles.get(role, RoleConfig()).sampling()


def _models_of(config: Config, role: str) -> list[str | None]:
    try:
        return models_of(config, role)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _refuse_adapters(config: Config) -> None:
    for role, settings in config.roles.items():
        if settings.adapter is not None:
            raise ConfigError(f"roles.{role}.adapter: the embedded model has none; name your own model under `models:`")
