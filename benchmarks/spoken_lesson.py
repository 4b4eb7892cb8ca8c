"""A lesson of plain speech: a tutor and two students, each with a view of its own. One call a turn, and no schema.

Where all replies are to have a fixed length (`ignore_eos`), none can fit a schema, so nobody reviews here.
"""

from dataclasses import replace

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, max_messages, speak, stop_or
from tutelage.agents import student, tutor

SPEAKERS = (
    replace(tutor, names_others=True),
    replace(student, role="classmate", prompt="student", names_others=True),
    replace(student, names_others=True),
)


def spoken_lesson() -> StateGraph[Dialogue, Cast]:
    """Tutor, classmate, student, and round again."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_edge(START, SPEAKERS[0].role)
    for speaker, following in zip(SPEAKERS, (*SPEAKERS[1:], SPEAKERS[0]), strict=True):
        graph.add_node(speaker.role, speak(speaker))
        graph.add_conditional_edges(speaker.role, stop_or(following.role, max_messages()))
    return graph
