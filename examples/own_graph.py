"""A graph of one's own: a guide shows a visitor round, a historian reviews what the guide says.

Its prompts are guide.md, visitor.md, archive.md and historian.md in the folder `prompts/` beside it.

    tutelage generate examples/own_graph.yaml
"""

from langgraph.graph import START, StateGraph

from tutelage import Agent, Cast, Dialogue, Verdict, add_critique_loop, max_messages, needs, speak, stop_or

guide = Agent(role="guide", sampling={"temperature": 0.7, "max_tokens": 120})
visitor = Agent(role="visitor", sampling={"temperature": 0.9, "max_tokens": 60})
historian = Agent(
    role="historian",
    prompt="archive",
    task="historian",
    sees=frozenset({"facts"}),
    reply=Verdict,
    sampling={"temperature": 0.0, "max_tokens": 300},
)


@needs("topic", "facts")
def tour() -> StateGraph[Dialogue, Cast]:
    """Guide, reviewed by the historian; visitor."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, guide, reviewers=[historian], then="visitor")
    graph.add_node("visitor", speak(visitor))
    graph.add_edge(START, "guide")
    graph.add_conditional_edges("visitor", stop_or("guide", max_messages()))
    return graph
