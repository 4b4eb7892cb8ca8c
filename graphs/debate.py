"""A debate: one holds the answer, the other the misconception; after each round a moderator says if they agree."""

from langgraph.graph import START, StateGraph

from tutelage import (
    Cast,
    Dialogue,
    Limits,
    Outcome,
    Reason,
    assess,
    completed,
    max_messages,
    max_tokens,
    needs,
    speak,
    stop_or,
)
from tutelage.agents.moderator import moderator
from tutelage.agents.opponent import opponent
from tutelage.agents.proponent import proponent


def agreed(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    """Over when the moderator's last ruling says that both hold the same answer."""
    ruling = dialogue["turns"][-1].private.get("moderator")
    return completed(Reason.AGREED) if ruling and ruling["agreed"] else None


@needs("question", "answer", "misconception")
def debate() -> StateGraph[Dialogue, Cast]:
    """Proponent, opponent, moderator."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("proponent", speak(proponent))
    graph.add_node("opponent", speak(opponent))
    graph.add_node("moderator", assess(moderator))
    graph.add_edge(START, "proponent")
    graph.add_conditional_edges("proponent", stop_or("opponent", max_messages()))
    graph.add_edge("opponent", "moderator")
    graph.add_conditional_edges("moderator", stop_or("proponent", agreed, max_messages(), max_tokens))
    return graph
