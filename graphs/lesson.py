"""A lesson: the tutor drafts, critic and fact-checker review the draft, the student answers, until it is mastered.

One model call for each draft, each review and each turn of the student, and no others.
"""

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, add_critique_loop, max_messages, max_tokens, needs, speak, stop_or
from tutelage.agents import critic, fact_checker, student, tutor
from tutelage.checks.answers import mastered


@needs("topic or question")
def lesson() -> StateGraph[Dialogue, Cast]:
    """Tutor, critic beside fact-checker, student."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, reviewers=[critic, fact_checker], then=stop_or("student", max_messages()))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", mastered, max_messages(), max_tokens))
    return graph
