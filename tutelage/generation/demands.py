"""What the roles of a run ask of their models' endpoints, and whether those can give it: looked at before a run begins."""

from collections.abc import Mapping

from tutelage.config import Config, RoleConfig
from tutelage.dialogue.agent import Agent
from tutelage.dialogue.nodes import ReviewDraft, actions_of
from tutelage.dialogue.turn import Verdict
from tutelage.errors import ConfigError
from tutelage.generation.endpoint_abilities import ignored_shapes
from tutelage.generation.probing import Part, Wanted
from tutelage.generation.registry import LoadedGraph


def parts_of(config: Config, graph: LoadedGraph, name: str | None) -> list[Part]:
    """What the roles that a model plays will ask of it, but for their prompts.

    Args:
        config: The run's config.
        graph: The graph whose roles are played.
        name: The model's name in the config; None for the embedded model.
    """
    agents = {agent.role: agent for agent in graph.agents if _plays(config, agent.role, name)}
    return [_part(agent, config.roles.get(agent.role, RoleConfig())) for agent in agents.values()]


def check_panels(config: Config, graph: LoadedGraph) -> None:
    """Makes sure that each role with a panel is one that asks its panel: one that reviews drafts.

    Raises:
        ConfigError: One never would.
    """
    reviewing = dict.fromkeys(each.agent.role for each in actions_of(graph.graph) if isinstance(each, ReviewDraft))
    for role, settings in config.roles.items():
        if settings.panel and role not in reviewing:
            have = f"those that do: {', '.join(reviewing)}" if reviewing else "none does"
            raise ConfigError(
                f"roles.{role}.panel: in the graph {graph.name!r} {role!r} gives no verdict on drafts, so its panel would "
                f"never be asked: take `panel` out; only a role that reviews drafts can have one ({have})"
            )


def check_room(name: str | None, config: Config, graph: LoadedGraph, context: int | None) -> None:
    """Makes sure that a model's context, and `limits.tokens`, have room for a prompt beside the longest reply.

    Raises:
        ConfigError: It has none, so that every dialogue would fail.
    """
    where = f"models.{name}" if name else "the embedded model"
    for part in parts_of(config, graph, name):
        reply = part.sampling.get("max_tokens") or 0
        if context is not None and reply >= context:
            raise ConfigError(
                f"roles.{part.role}.max_tokens: it asks for {reply} tokens, and the context of {where} has {context}, prompt "
                "included: lower it, or serve the model with a longer context (vLLM: --max-model-len)"
            )
        if reply >= config.limits.tokens:
            raise ConfigError(
                f"roles.{part.role}.max_tokens: it asks for {reply} tokens, and `limits.tokens` leaves "
                f"{config.limits.tokens} for a prompt and its reply together: lower the one, or raise the other"
            )


async def check_shapes(name: str, config: Config, graph: LoadedGraph, owners: Mapping[str, str | None]) -> None:
    """Asks each endpoint of an engine that we do not know for replies of the shapes that roles will need.

    vLLM does all shapes, and llama.cpp schemas: they are not asked.

    Args:
        name: The model's name in the config.
        config: The run's config.
        graph: The graph whose roles are played.
        owners: By endpoint, what it calls whoever owns the model: its engine, mostly.

    Raises:
        ConfigError: One takes no notice of a shape.
    """
    parts = [part for part in parts_of(config, graph, name) if part.shape is not None]
    known = {"vllm", "llamacpp"} if all(isinstance(part.shape, type) for part in parts) else {"vllm"}
    model = config.models[name]
    wanted = Wanted(model=model.name, secret=model.secret(), parts=parts, token_limit=config.limits.tokens)
    for url, owner in owners.items() if parts else ():
        if owner not in known and (ignored := await ignored_shapes(url, wanted)):
            raise ConfigError(f"models.{name}: {url} {'; it '.join(ignored)}")


def _plays(config: Config, role: str, name: str | None) -> bool:
    try:
        return name in models_of(config, role)
    except ValueError:  # it is not said which model plays it: an error of its own
        return False


def models_of(config: Config, role: str) -> list[str | None]:
    """The names of the models that play a role: one, and those of its panel.

    Raises:
        ValueError: It is not said which of several models plays it.
    """
    return [config.model_of(role), *config.roles.get(role, RoleConfig()).panel]


def _part(agent: Agent, role: RoleConfig) -> Part:
    return Part(
        role=agent.role,
        adapter=role.adapter,
        sampling={**agent.sampling, **role.sampling()},
        shape=agent.reply or (Verdict if agent.task else None),
        prompt=None,
    )
