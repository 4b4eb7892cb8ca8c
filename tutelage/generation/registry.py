"""Finds a graph by the name that the config gives it, and makes sure that it is one."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from langgraph.graph import StateGraph

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.nodes import agents_of
from tutelage.dialogue.shapes import as_data
from tutelage.errors import GraphError
from tutelage.generation.own_code import import_file
from tutelage.transcripts.transcript import GraphIdentity

GROUP = "tutelage.graphs"
"""The entry-point group in which packages register graphs."""

DialogueGraph: TypeAlias = StateGraph[Any, Any, Any, Any]
MakesGraph: TypeAlias = Callable[[], DialogueGraph]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedGraph:
    """A graph, found and checked."""

    name: str
    make: MakesGraph
    """The function that returns it; it knows what the graph needs of a brief."""
    graph: DialogueGraph
    agents: tuple[Agent, ...]
    project: Path | None
    """The folder of the project that it is from, which may have prompts of its own; None for a registered graph."""

    @property
    def identity(self) -> GraphIdentity:
        """Its name, and a hash of its nodes, edges and agents."""
        drawn = self.graph.compile().get_graph()
        structure = {
            "nodes": sorted(drawn.nodes),
            "edges": sorted([edge.source, edge.target, str(edge.conditional)] for edge in drawn.edges),
            "agents": [_as_data(agent) for agent in self.agents],
        }
        return GraphIdentity(
            name=self.name, sha256=hashlib.sha256(orjson.dumps(structure, option=orjson.OPT_SORT_KEYS)).hexdigest()
        )

    @property
    def roles(self) -> list[str]:
        """The roles that take part, each once."""
        return list(dict.fromkeys(agent.role for agent in self.agents))


def load_graph(graph: str | MakesGraph, folder: Path) -> LoadedGraph:
    """Loads a graph: a registered one by name, one from a file as `graphs/mine.py:my_graph`, or one given as a function.

    Args:
        graph: What the config's `graph:` says, or the function itself.
        folder: What a path is relative to. The project that a file belongs to comes first on `sys.path` from then on,
            so that the file can import its neighbours: `from agents.mine import mine`.

    Raises:
        GraphError: There is none, it does not import, or it is no graph.
    """
    if callable(graph):
        return _checked(getattr(graph, "__name__", "graph"), graph, None)
    if ":" in graph or graph.endswith(".py"):
        path, _, function = graph.partition(":")
        return _from_file(graph, (folder / Path(path).expanduser()).resolve(), function)
    registered = {point.name: point for point in entry_points(group=GROUP)}
    if graph not in registered:
        raise GraphError(
            f"there is no graph {graph!r}: registered are {', '.join(sorted(registered)) or 'none'}; "
            f"one of your own is named by its file and function, graphs/mine.py:my_graph"
        )
    try:
        make = registered[graph].load()
    except Exception as error:
        raise GraphError(f"the graph {graph!r} ({registered[graph].value}) does not import: {_said(error)}") from error
    return _checked(graph, make, None)


def registered_graphs() -> list[str]:
    """The names of all registered graphs."""
    return sorted(point.name for point in entry_points(group=GROUP))


def _from_file(name: str, path: Path, function: str) -> LoadedGraph:
    if not path.is_file():
        raise GraphError(f"the graph {name!r} is not there: no file {path}")
    try:
        imported = import_file(path, kind="graph", rooms=("graphs",))
    except Exception as error:
        raise GraphError(f"the graph {name!r} does not import: {_said(error)}") from error
    if imported is None:
        raise GraphError(f"the graph {name!r} is no Python file: write graphs/mine.py:my_graph")
    module, project = imported
    own = [key for key, value in vars(module).items() if callable(value) and value.__module__ == module.__name__]
    if function not in own:
        raise GraphError(
            f"the graph {name!r}: {path.name} has no function {function!r}; it has {', '.join(own) or 'none'}"
        )
    return _checked(function, getattr(module, function), project)


def _checked(name: str, make: MakesGraph, project: Path | None) -> LoadedGraph:
    try:
        graph = make()
    except Exception as error:
        raise GraphError(f"the graph {name!r} cannot be made: {_said(error)}") from error
    if not isinstance(graph, StateGraph):
        raise GraphError(
            f"{name!r} is no graph: the function must return an uncompiled StateGraph, not {type(graph).__name__}"
        )
    try:
        graph.compile()
    except Exception as error:
        raise GraphError(f"the graph {name!r} does not compile: {_said(error)}") from error
    agents = tuple(agents_of(graph))
    if not agents:
        raise GraphError(f"the graph {name!r} has no agents: add nodes with speak(agent), or add_critique_loop")
    return LoadedGraph(name=name, make=make, graph=graph, agents=agents, project=project)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _as_data(agent: Agent) -> dict[str, Any]:
    return {
        "role": agent.role,
        "prompt": agent.template,
        "task": agent.task,
        "note": agent.note,
        "sees": sorted(agent.sees),
        "reply": as_data(agent.reply) if agent.reply else None,
        "sampling": dict(agent.sampling),
    }
