"""Trials of a student: one wrong answer, then feedback of one kind, to see what the student gives way to.

The student's first answer is written by code and the same in all trials of a brief, so that they differ in nothing but the
feedback. Each feedback ends with the question, for the reply has to say what the student answers now.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite

from tutelage.checks.leaks import STUDENT, TUTOR
from tutelage.checks.tokens import language_code
from tutelage.dialogue.agent import Agent
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Cast, Limits
from tutelage.dialogue.checking import Check
from tutelage.dialogue.critique import add_critique_loop
from tutelage.dialogue.nodes import assess, speak
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, completed, stop_or
from tutelage.dialogue.turn import Outcome, Turn
from tutelage.dialogue.view import brief_of
from tutelage.learners.acting import TRIES
from tutelage.learners.feedback import FEEDBACK_JUDGE, Kind
from tutelage.learners.knowledge import misconception_of
from tutelage.learners.saying import given_away

_GENERIC: Final = {
    "en": ("That is not right. Think again.", "No, that is wrong. Try once more.", "Not quite. Have another look."),
    "de": ("Das stimmt nicht. Denk noch einmal nach.", "Nein, das ist falsch. Versuch es noch einmal.", "Nicht ganz."),
    "es": ("Eso no es correcto. Piénsalo otra vez.", "No, está mal. Inténtalo de nuevo.", "No del todo."),
    "fr": ("Ce n'est pas juste. Réfléchis encore.", "Non, c'est faux. Essaie encore une fois.", "Pas tout à fait."),
    "it": ("Non è giusto. Pensaci ancora.", "No, è sbagliato. Prova di nuovo.", "Non proprio."),
    "pt": ("Isso não está certo. Pense de novo.", "Não, está errado. Tente outra vez.", "Ainda não."),
}
"""Feedback with nothing in it, by language."""
_LEADS: Final = {
    "en": "Think about this:",
    "de": "Denk an dies:",
    "es": "Piensa en esto:",
    "fr": "Pense à ceci :",
    "it": "Pensa a questo:",
    "pt": "Pense nisto:",
}
"""What stands before that which would change a belief: an example, an experiment, a comparison."""


class Trial(Dialogue):
    """A dialogue whose tutor says what it was given to say."""

    kind: str
    """Of the feedback."""
    feedback: Annotated[list[str], operator.add]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a student of one brief is told, kind by kind: as many turns of each as its belief withstands."""

    brief: Brief
    feedback: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)
    """A kind that there is nothing for is not there."""

    def trial(self, kind: Kind, id_: str) -> Trial:
        """A dialogue that stands before its first feedback."""
        question, misconception = self.brief.question or "", misconception_of(self.brief)
        turns = [
            Turn(index=0, role=TUTOR, text=question, attempts=[]),
            Turn(index=1, role=STUDENT, text=misconception.predicts or "", attempts=[]),
        ]
        return Trial(id=id_, brief=self.brief, turns=turns, kind=kind, feedback=list(self.feedback[kind]))


def can_be_tried(brief: Brief) -> bool:
    """Whether a brief says what the student is asked, what it answers, and what would be right."""
    return bool(brief.question and brief.answer and brief.misconception and brief.misconception.predicts)


def lesson_on(brief: Brief, others: Iterable[Brief]) -> Lesson:
    """What the student of a brief is told.

    Targeted is what the brief says would change the belief, with one of its facts. Misaligned is what would change the
    belief of another brief: of the same language and, where there is one, of the same domain. What gives the answer away is
    left out of both.

    Args:
        brief: One that `can_be_tried`.
        others: Where another brief's reasons are taken from.
    """
    feedback: dict[Kind, Sequence[str]] = {
        "targeted": _reasons(brief, brief),
        "misaligned": next((reasons for other in _nearest(brief, others) if (reasons := _reasons(other, brief))), ()),
        "generic": _GENERIC.get(language_code(brief.language), _GENERIC["en"]),
    }
    rounds = range(misconception_of(brief).robustness)
    return Lesson(
        brief=brief,
        feedback={
            kind: tuple(f"{texts[number % len(texts)]} {brief.question}" for number in rounds)
            for kind, texts in feedback.items()
            if texts
        },
    )


def trial_graph(
    student: Agent, judge: Agent | Literal["perfect"] | None, checks: Sequence[Check]
) -> StateGraph[Trial, Cast]:
    """The graph of a trial: the tutor says what it was given, the judge judges it if there is one, the student replies.

    Args:
        student: Who is tried.
        judge: Judges the feedback before the student replies. A perfect one is code, and takes each for what it was given as.
        checks: What the student's words must pass, in `TRIES` drafts.
    """
    graph: StateGraph[Trial, Cast] = StateGraph(Trial, context_schema=Cast)
    graph.add_node(TUTOR, _say)
    graph.add_edge(START, TUTOR)
    if judge is None:
        graph.add_edge(TUTOR, student.role)
    else:
        graph.add_node(FEEDBACK_JUDGE, _judge_perfectly if judge == "perfect" else assess(judge))
        graph.add_edge(TUTOR, FEEDBACK_JUDGE)
        graph.add_edge(FEEDBACK_JUDGE, student.role)
    onward = stop_or(TUTOR, _all_is_said)
    if checks:
        add_critique_loop(graph, student, reviewers=[], checks=checks, max_revisions=TRIES - 1, then=onward)
    else:
        graph.add_node(student.role, speak(student))
        graph.add_conditional_edges(student.role, onward)
    return graph


async def _say(state: Trial, runtime: Runtime[Cast]) -> dict[str, Any]:
    turns = state["turns"]
    return {"turns": [Turn(index=len(turns), role=TUTOR, text=state["feedback"][_told(state)], attempts=[])]}


async def _judge_perfectly(state: Trial, runtime: Runtime[Cast]) -> dict[str, Any]:
    *before, last = state["turns"]
    judged = {FEEDBACK_JUDGE: {"reason": "It was given as such.", "feedback": state["kind"]}}
    return {"turns": Overwrite([*before, last.model_copy(update={"private": judged})])}


def _all_is_said(dialogue: Dialogue, limits: Limits) -> Outcome | None:
    rounds = misconception_of(brief_of(dialogue)).robustness
    return completed(Reason.ENDED) if _told(dialogue) == rounds else None


def _told(dialogue: Dialogue) -> int:
    """How often the tutor has given feedback; its first turn is the question."""
    return sum(turn.role == TUTOR for turn in dialogue["turns"]) - 1


def _reasons(source: Brief, for_: Brief) -> tuple[str, ...]:
    """What a brief has to say against its misconception, without what the answer of another one stands in."""
    changes = source.misconception.changes_when if source.misconception else ()
    changes, facts = (tuple(text for text in texts if not given_away(text, for_)) for texts in (changes, source.facts))
    lead = _LEADS.get(language_code(source.language), _LEADS["en"])
    reasons = [f"{lead} {change}" for change in changes] or [""] * len(facts)
    return tuple(f"{reason} {facts[n % len(facts)] if facts else ''}".strip() for n, reason in enumerate(reasons))


def _nearest(brief: Brief, others: Iterable[Brief]) -> list[Brief]:
    """The other briefs in the same language, those of the same domain first."""
    alike = [each for each in others if each.id != brief.id and each.language == brief.language]
    return sorted(alike, key=lambda each: each.domain != brief.domain)
