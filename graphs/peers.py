"""Peers: two students work on one question until they agree; a verifier listens, and the answer is checked in code."""

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, Limits, Outcome, Reason, assess, completed, discarded, needs, speak, stop_or
from tutelage.agents.peers import classmate, student
from tutelage.agents.verifier import verifier
from tutelage.checks.answers import gives
from tutelage.checks.endings import usual_endings
from tutelage.dialogue.view import brief_of


def agreed(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when both hold the brief's answer, or the same wrong one: then the dialogue is discarded.

    Which answer each holds the verifier says, whether it is right code says. Where only one of them is right, they do not
    agree, whatever the verifier finds.
    """
    standing = dialogue["turns"][-1].private.get("verifier")
    if not standing:
        return None
    answers = [standing[of].strip() for of in ("student_answer", "classmate_answer")]
    if not all(answers):
        return None
    right = [gives(answer, brief_of(dialogue)) for answer in answers]
    if all(right):
        return completed(Reason.AGREED)
    if any(right) or not standing["same"]:
        return None
    return discarded(Reason.AGREED_WRONGLY, f"on {answers[0]!r}")


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
