"""The lesson of `make demo`: code looks at each draft of the tutor's before the reviewers do, and may send it back.

Run it with `tutelage generate examples/demo.yaml`, whose graph is `examples/checked_lesson.py:checked_lesson`.
"""

from dataclasses import replace

from langgraph.graph import START, StateGraph

from tutelage import Cast, Dialogue, add_critique_loop, max_messages, max_tokens, needs, speak, stop_or
from tutelage.agents import critic, fact_checker, student, tutor
from tutelage.checks.answers import mastered
from tutelage.checks.leaks import keeps_the_answer
from tutelage.checks.speech import plain_speech

# A dialogue is discarded if no draft passes them. Here the best draft is said nonetheless, and marked `forced`: a model as
# small as the demo's would have hardly a dialogue left.
CHECKS = [replace(check, discards=None) for check in (*plain_speech, keeps_the_answer)]


@needs("question", "answer")
def checked_lesson() -> StateGraph[Dialogue, Cast]:
    """The lesson, with checks."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    then = stop_or("student", max_messages())
    add_critique_loop(graph, tutor, reviewers=[critic, fact_checker], checks=CHECKS, then=then)
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", mastered, max_messages(), max_tokens))
    return graph
