"""A Socratic lesson: a student whose belief is held in code, and a tutor that thinks first and does not tell.

The student speaks; the tutor's draft must be plain speech, keep the answer to itself and stand before critic and
claim checker; a judge says whether it hit the belief, and code decides whether the student gives it up.
"""

from langgraph.graph import END, START, StateGraph

from tutelage import Cast, Dialogue, Reason, add_critique_loop, assess, needs, review, stop_or, unless_discarded
from tutelage.agents.arbiter import arbiter
from tutelage.agents.claim_checker import claim_checker
from tutelage.agents.critic import critic
from tutelage.agents.feedback_judge import feedback_judge
from tutelage.agents.leak_judge import leak_judge
from tutelage.agents.pupil import pupil
from tutelage.agents.socratic_tutor import socratic_tutor
from tutelage.agents.solver import solver
from tutelage.checks.answers import mastered
from tutelage.checks.arithmetic import arithmetic
from tutelage.checks.endings import usual_endings
from tutelage.checks.leaks import answer_in_sight, keeps_the_answer
from tutelage.checks.speech import plain_speech
from tutelage.evidence.fact_checking import fact_check
from tutelage.evidence.solving import solve
from tutelage.learners.acting import TRIES, in_character
from tutelage.learners.enrolment import enrol
from tutelage.learners.probes import probe


@needs("question", "answer", "misconception")
def socratic() -> StateGraph[Dialogue, Cast]:
    """Pupil, tutor with critic, claim checker and leak judge, feedback judge; probes before and after."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("enrol", enrol(pupil))
    graph.add_node("solve", solve(solver))
    graph.add_node("probe_before", probe(pupil, when="before"))
    add_critique_loop(
        graph,
        pupil,
        checks=[*plain_speech, in_character],
        max_revisions=TRIES - 1,
        then=stop_or("tutor", *usual_endings(mastered), end="probe_after"),
    )
    add_critique_loop(
        graph,
        socratic_tutor,
        checks=[*plain_speech, keeps_the_answer, arithmetic],
        reviewers=[critic, fact_check(claim_checker), review(leak_judge, when=answer_in_sight, discards=Reason.LEAK)],
        arbiter=arbiter,
        then=stop_or("feedback_judge", *usual_endings(), end="probe_after"),
    )
    graph.add_node("feedback_judge", assess(feedback_judge))
    graph.add_node("probe_after", probe(pupil, when="after"))
    graph.add_edge(START, "enrol")
    graph.add_edge("enrol", "solve")
    graph.add_conditional_edges("solve", unless_discarded("probe_before"))
    graph.add_edge("probe_before", "student")
    graph.add_edge("feedback_judge", "student")
    graph.add_edge("probe_after", END)
    return graph
