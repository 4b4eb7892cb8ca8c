"""Whether a text gives the answer away, and who did so first.

Where the answer is not in sight yet, code tells well: on human-labelled tutor replies a plain match of the value had
precision .91 and recall .94 there, against .48 where the problem already held it (SCIENCE.md, finding 5). So code decides
where the answer would be new, and a judge where it is in sight or where the text only leads up to it: `half of 7200`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low
from typing import Final, Literal

from tutelage.checks.answers import answer_in, claims, gives, predicted_by
from tutelage.checks.forms import quantities
from tutelage.checks.mentions import Mention, forms, mentions
from tutelage.checks.tokens import language_code, tokens
from tutelage.checks.wording import EITHER_OR, HINTS, OPPOSITES
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.checking import Check
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Attempt, Issue, Turn
from tutelage.dialogue.view import brief_of

NEAR: Final = Fraction(1, 20)
"""A number this close to the answer, as a part of it, narrows it down to it."""
STUDENT: Final = "student"
TUTOR: Final = "tutor"
LEAK_JUDGE: Final = "leak_judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """The words that give the answer away, or hand over a term that does."""

    form: str
    """The accepted form, or the term, as the brief has it."""
    how: Literal["exact", "value", "word", "giveaway"]
    """Exact: as the form is written. Value: the same value, written another way. Word: another form of its words."""
    start: int
    end: int
    span: str
    """The words of the text, as they stand there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstLeak:
    """Who gave the answer away before the student had come to it."""

    role: str
    turn: int
    """The turn's index."""
    how: str
    """As for a leak, or `judged`: a judge found that it gives the answer away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAnswer:
    """The first turn that gave the answer, and whether it should have."""

    kind: Literal["tutor_leak", "student_leak", "student_correct"]
    role: str
    turn: int
    how: str


def found(text: str, brief: Brief) -> Leak | None:
    """What in a text gives the brief's answer away, or hands over one of its giveaway terms, as far as code can tell."""
    return next(_leaks(text, brief), None)


def undecided(text: str, brief: Brief) -> bool:
    """Whether a text may give the answer away in a way that code cannot tell.

    It mentions the answer without claiming it, works it out (`half of 7200`), comes close to it (`between 3500 and 3700`),
    denies the other one of two, or spells a part of it.
    """
    return (
        any(not each.certain and not _is_asked(each, text, brief) for each in answer_in(text, brief))
        or _comes_close(text, brief)
        or _denies_the_other(text, brief)
        or _spells(text, brief)
    )


def is_in_sight(dialogue: Dialogue) -> bool:
    """Whether the answer already stands in the question or in what was said: a match then tells nothing new."""
    brief = brief_of(dialogue)
    return _is_in_question(brief) or any(_stands_in(turn.text, brief) for turn in dialogue.get("turns", ()))


def has_answered(turns: Sequence[Turn], brief: Brief) -> bool:
    """Whether the student has given the answer, so that the tutor may confirm it.

    A student whose state of knowledge holds the misconception has not, whatever it said.
    """
    return any(turn.role == STUDENT and not _is_misled(turn) and gives(turn.text, brief) for turn in turns)


def answer_in_sight(dialogue: Dialogue) -> bool:
    """Whether the draft under way is for a judge of leaks: `review(leak_judge, when=answer_in_sight)`.

    It is where the answer is in sight already, where the draft may give it away in a way that code cannot tell, and where
    the tutor's own plan says that it does (`reveals`); not once the student has given it.
    """
    brief, attempts = brief_of(dialogue), dialogue.get("attempts", [])
    if not brief.answer or has_answered(dialogue.get("turns", ()), brief):
        return False
    if is_in_sight(dialogue):
        return True
    return bool(attempts) and (attempts[-1].private.get("reveals") is True or undecided(attempts[-1].text, brief))


def brings_into_sight(turn: Turn, brief: Brief) -> bool:
    """Whether the answer is in sight after a turn, or given by the student, whatever was before."""
    return _stands_in(turn.text, brief) or has_answered((turn,), brief)


def unsaid_terms(terms: Iterable[str], texts: Sequence[str], language: str | None = None) -> tuple[str, ...]:
    """Those of some giveaway terms that stand in none of the texts."""
    return tuple(term for term in terms if not any(mentions(text, (term,), language=language) for text in texts))


def leaked_by(dialogue: Dialogue, attempt: Attempt) -> Sequence[Issue]:
    """The issue with a draft that gives away what nobody has said yet, and the student has not come to."""
    brief, turns = brief_of(dialogue), dialogue.get("turns", ())
    leak = _new_leak(attempt.text, brief, turns)
    return [_issue(leak)] if leak is not None else []


keeps_the_answer: Final = Check(name="keeps_the_answer", look=leaked_by, discards=Reason.LEAK)
"""Forbids a tutor's drafts that give the answer away; a dialogue in which no draft keeps it is discarded."""


def first_leak(turns: Sequence[Turn], brief: Brief) -> FirstLeak | None:
    """Who gave the answer away first, and where; None if nobody did before the student had come to it."""
    first = first_answer(turns, brief)
    if first is None or first.kind == "student_correct":
        return None
    return FirstLeak(role=first.role, turn=first.turn, how=first.how)


def first_answer(turns: Sequence[Turn], brief: Brief) -> FirstAnswer | None:
    """The first turn that gave the answer, if any did.

    A tutor's is a leak. A student's is one while its state of knowledge (`private["knowledge"]`) holds the misconception;
    without such a state it is taken to have come to the answer. Other roles are not shown the answer: a classmate who gives
    it has found it, and neither leaks it nor answers in the student's place.
    """
    for place, turn in enumerate(turns):
        if turn.role == STUDENT:
            if (mention := _given(turn, brief)) is not None:
                kind: Literal["student_leak", "student_correct"] = (
                    "student_leak" if _is_misled(turn) else "student_correct"
                )
                return FirstAnswer(kind=kind, role=turn.role, turn=turn.index, how=mention.how)
        elif turn.role == TUTOR and (how := _told(turn, brief, turns[:place])) is not None:
            return FirstAnswer(kind="tutor_leak", role=turn.role, turn=turn.index, how=how)
    return None


def judged_to_tell(turn: Turn) -> bool:
    """Whether a judge of leaks found that a turn gives the answer away; of a panel, most of its members."""
    reviews = turn.accepted.reviews if turn.accepted is not None else []
    revealed = [review.scores.get("reveals", 0.0) for review in reviews if review.role == LEAK_JUDGE]
    return bool(revealed) and median_low(revealed) >= 1.0


def leak_finding(turns: Sequence[Turn], brief: Brief) -> dict[str, dict[str, str | int]]:
    """Who leaked first, and in which turn, as a dialogue's `findings` keep it: under `first_leak`; empty if nobody did."""
    first = first_leak(turns, brief)
    return {} if first is None else {"first_leak": {"role": first.role, "turn": first.turn, "how": first.how}}


def _leaks(text: str, brief: Brief) -> Iterator[Leak]:
    for mention in answer_in(text, brief):
        if mention.certain:
            yield _leak(mention, mention.how, text)
    if brief.giveaway:
        for mention in mentions(text, brief.giveaway, predicted_by(brief), brief.question, brief.language):
            if mention.certain:
                yield _leak(mention, "giveaway", text)


def _leak(mention: Mention, how: Literal["exact", "value", "word", "giveaway"], text: str) -> Leak:
    span = text[mention.start : mention.end]
    return Leak(form=mention.form, how=how, start=mention.start, end=mention.end, span=span)


def _new_leak(text: str, brief: Brief, turns: Sequence[Turn]) -> Leak | None:
    leaks = list(_leaks(text, brief))
    if not leaks:
        return None
    if has_answered(turns, brief):
        return None
    seen = _is_in_question(brief) or any(_stands_in(turn.text, brief) for turn in turns)
    for leak in leaks:
        if leak.how == "giveaway":
            if not _is_known(leak.form, brief, turns):
                return leak
        elif not seen:
            return leak
    return None


def _is_known(term: str, brief: Brief, turns: Sequence[Turn]) -> bool:
    said = (brief.question or "", brief.topic or "", *(turn.text for turn in turns))
    return not unsaid_terms((term,), said, brief.language)


def _is_in_question(brief: Brief) -> bool:
    """Whether the question holds the answer: as a number, as words that are not in any talk, or among its choices."""
    return any(
        not each.worked_out
        and (each.certain or not each.weak or _is_number(each, brief) or _is_offered(each, text, brief))
        for text in (brief.question, brief.topic)
        if text
        for each in answer_in(text, brief)
    )


def _is_number(mention: Mention, brief: Brief) -> bool:
    return any(form.text == mention.form and form.value is not None for form in forms(brief.answer, brief.language))


def _is_offered(mention: Mention, text: str, brief: Brief) -> bool:
    """Whether it stands there as one of several: True or False."""
    read = [token.text for token in tokens(text, language_code(brief.language))]
    return any(word in EITHER_OR for word in read[max(0, mention.first - 3) : mention.last + 3])


def _stands_in(text: str, brief: Brief) -> bool:
    return any(not each.worked_out and (each.certain or not each.weak) for each in answer_in(text, brief))


def _is_asked(mention: Mention, text: str, brief: Brief) -> bool:
    """Whether a calculation only repeats the question's own."""
    code = language_code(brief.language)
    said = [token.text for token in tokens(text, code)[mention.first : mention.last]]
    asked = [token.text for token in tokens(brief.question or "", code)]
    size = len(said)
    return mention.worked_out and any(asked[n : n + size] == said for n in range(len(asked) - size + 1))


def _comes_close(text: str, brief: Brief) -> bool:
    values = [
        form.value for form in forms(brief.answer, brief.language) if form.value is not None and not form.value.is_small
    ]
    if not values:
        return False
    known = [each.amount for each in quantities(brief.question or "", brief.language)]
    known += [form.value.amount for form in forms(predicted_by(brief), brief.language) if form.value is not None]
    for said in quantities(text, brief.language):
        for value in values:
            units = {each.unit.dimension for each in (said, value) if each.unit is not None}
            near = 0 < abs(said.value - value.value) <= NEAR * abs(value.value)
            if near and len(units) < 2 and said.kind == value.kind and said.amount not in known:
                return True
    return False


def _denies_the_other(text: str, brief: Brief) -> bool:
    answers = {form.casefold() for form in brief.answer}
    for other in predicted_by(brief):
        is_one_of_two = any({other.casefold(), answer} == set(pair) for answer in answers for pair in OPPOSITES)
        if is_one_of_two and any(each.denied for each in mentions(text, (other,), language=brief.language)):
            return True
    return False


def _spells(text: str, brief: Brief) -> bool:
    if all(form.value is not None for form in forms(brief.answer, brief.language)):
        return False
    read = [token.text for token in tokens(text, language_code(brief.language))]
    return any((one, other) in HINTS for one, other in pairwise(read))


def _given(turn: Turn, brief: Brief) -> Mention | None:
    return claims(turn.text, brief)[0] if gives(turn.text, brief) else None


def _told(turn: Turn, brief: Brief, before: Sequence[Turn]) -> str | None:
    """How a tutor's turn gives the answer away: as code sees it, or as a judge of leaks has said."""
    leak = _new_leak(turn.text, brief, before)
    if leak is not None and leak.how != "giveaway":
        return leak.how
    return "judged" if judged_to_tell(turn) else None


def _is_misled(turn: Turn) -> bool:
    """Whether the student's state of knowledge holds the misconception while it speaks."""
    knowledge = turn.private.get("knowledge")
    return isinstance(knowledge, dict) and bool(knowledge.get("holds"))


def _issue(leak: Leak) -> Issue:
    if leak.how == "giveaway":
        evidence = f"The student does not know {leak.form!r} yet, and it gives the answer away."
        instruction = "Say it without this term, and ask what leads the student to it."
    else:
        evidence = f"It gives the answer, {leak.form}, and the student has not come to it."
        instruction = "Leave the answer out. Ask for the next step instead, so that the student finds it."
    return Issue(dimension="leak", severity="block", span=leak.span, evidence=evidence, instruction=instruction)
