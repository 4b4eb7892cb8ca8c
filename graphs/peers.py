"""Peers: two students work on one question until they agree; a verifier listens, and the answer is checked in code."""

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, Limits, Outcome, Reason, assess, completed, discarded, needs, speak, stop_or
from tutelage.agents.peers import classmate, student
from tutelage.agents.verifier import verifier
from tutelage.checks.answers import gives
from tutelage.checks.endings import usual_endings
from tutelage.dialogue.view import brief_of


def agreed(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when both hold the same answer: completed if it is the brief's, discarded if not."""
    standing = dialogue["turns"][-1].private.get("verifier")
    if not standing or not standing["same"]:
        return None
    answer = standing["student_answer"]
    right = gives(answer, brief_of(dialogue))
    return completed(Reason.AGREED) if right else discarded(Reason.AGREED_WRONGLY, f"on {answer!r}")


@needs("question", "answer", "misconception")
def peers() -> StateGraph[Dialogue, Cast]:
    """Student, classmate, verifier."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("student", speak(student))
    graph.add_node("classmate", speak(classmate))
    graph.add_node("verifier", assess(verifier))
    graph.add_edge(START, "student")
    graph.add_conditional_edges("student", stop_or("classmate", *usual_endings()))
    graph.add_edge("classmate", "verifier")
    graph.add_conditional_edges("verifier", stop_or("student", *usual_endings(agreed)))
    return graph
