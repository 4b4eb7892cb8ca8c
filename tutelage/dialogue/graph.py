"""What a graph asks of its briefs."""

from collections.abc import Callable
from typing import Any, TypeVar

from tutelage.dialogue.brief import Brief

MakesGraph = TypeVar("MakesGraph", bound=Callable[[], Any])

_NEEDS = "__tutelage_needs__"


def needs(*fields: str) -> Callable[[MakesGraph], MakesGraph]:
    """Declares what a graph needs of a brief: `@needs("question", "answer")`, or `@needs("topic or question")`.

    A brief without it is refused before the run begins.
    """

    def declare(make_graph: MakesGraph) -> MakesGraph:
        setattr(make_graph, _NEEDS, fields)
        return make_graph

    return declare


def missing(make_graph: Callable[[], Any], brief: Brief) -> list[str]:
    """What the graph needs and the brief has not, as it was declared."""
    needed: tuple[str, ...] = getattr(make_graph, _NEEDS, ())
    return [fields for fields in needed if not any(_has(brief, field) for field in fields.split(" or "))]


def _has(brief: Brief, field: str) -> bool:
    return bool(getattr(brief, field, None) or brief.extra.get(field))
