"""An interview: a reporter asks, an expert drafts an answer, an editor reads the draft before it is given.

Plain LangGraph: see https://docs.langchain.com/langgraph for nodes, edges and all that can be done with them.
"""

from langgraph.graph import START, StateGraph
from tutelage import Cast, Dialogue, add_critique_loop, max_messages, max_tokens, needs, speak, stop_or

from agents.editor import editor
from agents.expert import expert
from agents.reporter import reporter


@needs("topic", "facts")
def interview() -> StateGraph[Dialogue, Cast]:
    """Reporter; expert, whose answers the editor reviews."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("reporter", speak(reporter))
    add_critique_loop(graph, expert, reviewers=[editor], then=stop_or("reporter", max_messages(), max_tokens))
    graph.add_edge(START, "reporter")
    graph.add_edge("reporter", "expert")
    return graph
