"""Open book: a lesson on a document. The student asks, the tutor answers from its pages and says which, claims are checked.

The pages that each of the tutor's turns was shown, and those that it rests on, are kept with the turn.
"""

from langgraph.graph import START, StateGraph

from tutelage import Cast, add_critique_loop, needs, speak, stop_or
from tutelage.agents.claim_checker import claim_checker
from tutelage.agents.reader import asker, reader
from tutelage.checks.endings import usual_endings
from tutelage.checks.speech import plain_speech
from tutelage.evidence.fact_checking import fact_check
from tutelage.evidence.reading import Reading, cites_what_was_shown, read


@needs("documents", "topic or question")
def open_book() -> StateGraph[Reading, Cast]:
    """Student, pages, tutor with claim checker."""
    graph = StateGraph(Reading, context_schema=Cast)
    graph.add_node("student", speak(asker))
    graph.add_node("pages", read())
    add_critique_loop(
        graph,
        reader,
        checks=[*plain_speech, cites_what_was_shown],
        reviewers=[fact_check(claim_checker)],
        then=stop_or("student", *usual_endings()),
    )
    graph.add_edge(START, "student")
    graph.add_conditional_edges("student", stop_or("pages", *usual_endings()))
    graph.add_edge("pages", "tutor")
    return graph
