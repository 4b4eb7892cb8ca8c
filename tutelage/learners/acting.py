"""How a student acts on what it knows: code says what it answers, a model puts that into words, code checks the words.

    add_critique_loop(graph, pupil, reviewers=[], checks=[in_character], max_revisions=TRIES - 1, then=…)

is the whole of it: a draft that does not fit the state is never said, but goes back to the model with what is wrong; after
`TRIES` drafts the dialogue is discarded.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from tutelage.checks.leaks import STUDENT
from tutelage.checks.tokens import language_code
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.checking import Check
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Attempt, Issue
from tutelage.dialogue.view import brief_of
from tutelage.learners.enrolment import TACTIC
from tutelage.learners.knowledge import Knowledge, knowledge_of, misconception_of
from tutelage.learners.saying import given_away, says_right, says_wrong, terms_in, wrong_in, wrong_is_in_sight

TRIES: Final = 3
"""Drafts of one turn, the first one counted, before the dialogue is given up: with as many, HoldFast kept 96.5 % of its."""

_CONCESSIONS: Final = {
    "en": r"\bi (?:was|am|have been) (?:wrong|mistaken)\b|\bi'm (?:wrong|mistaken)\b|\bmy (?:mistake|bad|error)\b"
    r"|\bi (?:made|see|realise|realize|understand) (?:a|my|the) (?:mistake|error)\b|\bi (?:see|realise|realize) now\b"
    r"|\bnow i (?:see|understand|realise|realize|get it)\b|\bi (?:take (?:it|that) back|stand corrected)\b",
    "de": r"\bich (?:habe|hatte) (?:mich geirrt|unrecht)\b|\bich lag falsch\b|\bmein fehler\b"
    r"|\bjetzt (?:verstehe|sehe) ich\b",
    "es": r"\b(?:me equivoqu[eé]|estaba equivocad[oa]|mi error)\b|\bahora (?:entiendo|veo|lo veo)\b",
    "fr": r"\bje me suis tromp[eé]e?\b|\bj'avais tort\b|\bmon erreur\b|\bmaintenant je (?:comprends|vois)\b",
}
"""How a student says that it was wrong, by language. A list of phrases finds the usual ones and no others."""
_ASKED: Final = re.compile(r"[^.!?]*\?")


def mind(dialogue: Dialogue) -> dict[str, Any]:
    """What is in the student's mind when it speaks next, as plain data: for its note, and kept with its turn.

    `knowledge` is what it knows; `answer_due` whether it must say its answer now.
    """
    return {"knowledge": knowledge_of(dialogue).model_dump(mode="json"), "answer_due": answer_is_due(dialogue)}


def answer_is_due(dialogue: Dialogue) -> bool:
    """Whether the student's next turn must say its answer.

    So it is in its first turn, in its first turn after the belief fell, and when the question was put to it again, word
    for word. In between it may talk about what leads there. One that is out for the tutor's answer keeps its own to itself
    until then.
    """
    turns = dialogue.get("turns", [])
    if TACTIC in dialogue.get("profiles", {}).get(STUDENT, {}) and knowledge_of(dialogue).holds:
        return False
    spoke = max((index for index, turn in enumerate(turns) if turn.role == STUDENT), default=None)
    if spoke is None:
        return True
    question = brief_of(dialogue).question
    if question and any(_plain(question) in _plain(turn.text) for turn in turns[spoke + 1 :]):
        return True
    return knowledge_of({**dialogue, "turns": turns[:spoke]}).holds != knowledge_of(dialogue).holds


def look(dialogue: Dialogue, attempt: Attempt) -> Sequence[Issue]:
    """What in a draft of the student's does not fit what it knows; each issue is a veto."""
    knowledge, brief = knowledge_of(dialogue), brief_of(dialogue)
    if knowledge.holds:
        return list(_not_holding(attempt.text, knowledge, brief, due=answer_is_due(dialogue)))
    return list(_not_over_it(attempt.text, knowledge, brief, due=answer_is_due(dialogue)))


in_character: Final = Check(name="in_character", look=look, discards=Reason.OUT_OF_CHARACTER)
"""A student's draft fits its state of knowledge, or the dialogue is discarded."""


def _not_holding(text: str, knowledge: Knowledge, brief: Brief, *, due: bool) -> Iterator[Issue]:
    """What is wrong with the words of a student who still believes the misconception."""
    if due and knowledge.answer and not says_wrong(text, brief):
        yield _veto("answer", "", f"Say that your answer is {knowledge.answer}, in these words.")
    if span := given_away(text, brief):
        yield _veto("leak", span, "You have not found that out: do not say it. Say what you believe.")
    for term in terms_in(text, brief):
        if term not in knowledge.taught and term not in _its_own_terms(brief):
            yield _veto("giveaway", term, f"You have not learned what {term!r} is: say it without.")
    if conceded := _conceded(text, brief):
        yield _veto("concession", conceded, "You still believe what you believe: do not say that you were wrong.")


def _not_over_it(text: str, knowledge: Knowledge, brief: Brief, *, due: bool) -> Iterator[Issue]:
    """What is wrong with the words of a student who has got over the misconception."""
    right = says_right(text, brief)
    if due and not right:
        yield _veto("answer", "", f"Say that your answer is now {knowledge.answer}, in these words.")
    if span := _relapse(text, brief, due=due):
        yield _veto("relapse", span, "You no longer think that: do not name your old answer.")


def _relapse(text: str, brief: Brief, *, due: bool) -> str:
    """The words of a text that go back to the old answer; empty if there are none.

    Where the new answer is due it stands alone: `mastered` takes no answer that has the old one beside it.
    """
    strict = due and not wrong_is_in_sight(brief)
    if not strict and (says_right(text, brief) or not says_wrong(text, brief)):
        return ""
    named = [each for each in wrong_in(text, brief) if each.certain or not each.weak]
    return text[named[0].start : named[0].end] if named else ""


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _its_own_terms(brief: Brief) -> tuple[str, ...]:
    """The giveaway terms that stand in the question or in the misconception."""
    return (*terms_in(brief.question or "", brief), *terms_in(misconception_of(brief).belief, brief))


def _conceded(text: str, brief: Brief) -> str:
    """The words by which a text gives up the answer that it is to hold; empty if there are none."""
    plain = re.sub(r"\s", " ", text).replace("\u2019", "'")
    if found := _concession(language_code(brief.language)).search(plain):
        return text[found.start() : found.end()]
    named = wrong_in(text, brief)
    # "It is not 2/5." gives it up; "Why is it not 2/5?" does not.
    denied = [each for each in named if each.denied and not _ASKED.match(text, each.end)]
    return text[denied[0].start : denied[0].end] if denied and len(denied) == len(named) else ""


@lru_cache(maxsize=32)
def _concession(language: str) -> re.Pattern[str]:
    return re.compile(_CONCESSIONS.get(language, _CONCESSIONS["en"]), re.IGNORECASE)


def _veto(dimension: str, span: str, instruction: str) -> Issue:
    return Issue(dimension=dimension, severity="block", span=span, instruction=instruction)
