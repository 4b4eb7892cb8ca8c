"""The dialogues as a graph of Tutelage: tutor and student, without reviewers, up to the number of turns asked for."""

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, max_messages, needs, speak, stop_or
from tutelage.agents import student, tutor


@needs("question")
def two_roles() -> StateGraph[Dialogue, Cast]:
    """Tutor, student."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", max_messages()))
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph
