"""A graph as a picture: Mermaid text, and a PNG of it that is drawn on this machine.

LangChain's own PNG comes from a web service, which would be told what the graph is. Here the Mermaid text is drawn by
`mmdr` (the extra `draw`), which needs neither a browser nor fonts nor the network.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from langchain_core.runnables.graph import Edge
from langgraph.graph import END, START, StateGraph

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.gate import Gate
from tutelage.dialogue.nodes import Draft, Speak
from tutelage.errors import UserError

_STYLES = {
    "edge": "fill:#fff,stroke:#8a8a9c,color:#55556b",
    "speaker": "fill:#e9e4ff,stroke:#7c6cd0,color:#241f3d",
    "judge": "fill:#fff3d6,stroke:#c99a2e,color:#3a2c08",
    "gate": "fill:#e3f3e6,stroke:#5a9a68,color:#12331a",
    "step": "fill:#f1f1f5,stroke:#8a8a9c,color:#2b2b38",
}
"""How each kind of node looks. `edge` is where a dialogue begins and ends; `step` is a node of one's own."""

_SHAPES = {"edge": ("([", "])"), "gate": ("{{", "}}")}
_ROUNDED = ("(", ")")
_ENTITIES = str.maketrans({"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;"})
_RESERVED = re.compile("(?i)call|class|classdef|click|default|end|flowchart|graph|href|linkstyle|style|subgraph")
"""Words of Mermaid's own, which a node cannot have as its id."""
_SCALE = 2
"""Pixels of the PNG for one of the drawing, so that letters stay sharp on a dense screen."""


def mermaid(graph: StateGraph[Any, Any, Any, Any]) -> str:
    """A graph as a Mermaid flowchart: solid arrows are always taken, dotted ones are a choice.

    Speakers, judges and gates have colours of their own.
    """
    drawn = graph.compile().get_graph()
    ids = {name: _id(name, number) for number, name in enumerate(drawn.nodes)}
    lines = ["flowchart TD"]
    lines += [_node(ids[name], name, _kind(graph, name)) for name in drawn.nodes]
    lines += [_arrow(ids, edge) for edge in _in_order(drawn.edges, list(drawn.nodes))]
    used = {_kind(graph, name) for name in drawn.nodes}
    lines += [f"    classDef {kind} {style}" for kind, style in _STYLES.items() if kind in used]
    return "\n".join(lines)


def write_png(graph: StateGraph[Any, Any, Any, Any], path: Path) -> None:
    """Draws a graph as a PNG file, on white. Nothing is written unless it is drawn.

    Raises:
        UserError: The extra `draw` is not installed, or the file cannot be written.
    """
    picture = _png(mermaid(graph))
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror}. Name another file") from error


def _png(text: str) -> bytes:
    try:
        import mmdr
    except ImportError as error:
        raise UserError(
            "a PNG needs the package 'mmdr', which is not installed: pip install 'tutelage[draw]', "
            "or take the Mermaid text, which needs nothing"
        ) from error
    diagram = mmdr.render(text)
    _, width, _ = diagram.raw()
    picture: bytes = diagram.png(width=width * _SCALE, background="#ffffff")
    return picture


def _id(name: str, number: int) -> str:
    return name if re.fullmatch(r"\w+", name, re.ASCII) and not _RESERVED.fullmatch(name) else f"node-{number}"


def _kind(graph: StateGraph[Any, Any, Any, Any], name: str) -> str:
    if name in (START, END):
        return "edge"
    runnable = graph.nodes[name].runnable
    action = getattr(runnable, "afunc", None) or getattr(runnable, "func", None)
    if isinstance(action, Speak | Draft):
        return "speaker"
    if isinstance(action, Gate):
        return "gate"
    # Also a node of one's own that has a judging agent: a reviewer that looks for evidence, an arbiter.
    agent = getattr(action, "agent", None)
    return "judge" if isinstance(agent, Agent) and agent.task is not None else "step"


def _node(key: str, name: str, kind: str) -> str:
    opening, closing = _SHAPES.get(kind, _ROUNDED)
    return f'    {key}{opening}"{_label(name)}"{closing}:::{kind}'


def _arrow(ids: dict[str, str], edge: Edge) -> str:
    arrow = "-.->" if edge.conditional else "-->"
    label = f'|"{_label(str(edge.data))}"|' if edge.data not in (None, edge.target) else ""
    return f"    {ids[edge.source]} {arrow}{label} {ids[edge.target]}"


def _in_order(edges: Iterable[Edge], names: list[str]) -> list[Edge]:
    # LangGraph sorts edges by name; in the order of the nodes, a graph is laid out as its author wrote it.
    return sorted(edges, key=lambda edge: (names.index(edge.source), names.index(edge.target)))


def _label(name: str) -> str:
    """A name as text that Mermaid shows and does not read: `__start__` as `start`, quotes and tags as entities."""
    plain = name.strip("_") if name in (START, END) else name
    return " ".join(plain.split()).translate(_ENTITIES)
