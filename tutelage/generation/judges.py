"""Whether the judges of a run are other models than those they judge: a model likes its own family's words."""

import structlog

from tutelage.dialogue.cast import Cast, Player
from tutelage.dialogue.judging import family
from tutelage.dialogue.nodes import Draft, actions_of
from tutelage.generation.registry import LoadedGraph

log = structlog.get_logger()


def warn_of_relatives(graph: LoadedGraph, cast: Cast) -> None:
    """Warns where a role that judges drafts is played by none but models of their speaker's own family."""
    speakers = [action.agent.role for action in actions_of(graph.graph) if isinstance(action, Draft)]
    judges = dict.fromkeys(agent.role for agent in graph.agents if agent.task is not None)
    for speaker in dict.fromkeys(speakers):
        own = _families(cast.player(speaker))
        related = [role for role in judges if None not in own and _families(cast.player(role)) <= own]
        if related:
            log.warning("judges_of_own_family", speaker=speaker, family=sorted(map(str, own)), judges=related)


def _families(player: Player) -> set[str | None]:
    """The families of a player and of its panel; None for a model whose name does not tell."""
    return {family(getattr(each.model, "served_name", "")) for each in (player, *player.panel)}
