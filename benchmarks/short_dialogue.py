"""The shortest dialogue there is: the tutor says something, the student answers. Two turns, two calls."""

from langgraph.graph import END, START, StateGraph

from tutelage import Cast, Dialogue, speak
from tutelage.agents import student, tutor


def short_dialogue() -> StateGraph[Dialogue, Cast]:
    """Tutor, student."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "student")
    graph.add_edge("student", END)
    return graph
