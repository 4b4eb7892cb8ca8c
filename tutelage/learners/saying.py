"""Which answer somebody's words give: the right one, the misconception's, or neither.

What makes a mention of an answer a claim is decided in `checks/mentions.py`: a small number or a word of any talk gives the
answer only where it is said to be it.
"""

from functools import lru_cache

from tutelage.checks.answers import FEW_WORDS, answer_in, claims, predicted_by
from tutelage.checks.mentions import Mention, mentions
from tutelage.dialogue.brief import Brief


def says_right(text: str, brief: Brief) -> bool:
    """Whether a text claims the right answer."""
    return bool(claims(text, brief))


def says_wrong(text: str, brief: Brief) -> bool:
    """Whether a text claims the misconception's answer."""
    short = len(text.split()) <= FEW_WORDS
    return any((each.certain or not each.weak or short) and not each.denied for each in wrong_in(text, brief))


def wrong_in(text: str, brief: Brief) -> tuple[Mention, ...]:
    """Where a text mentions the misconception's answer."""
    return mentions(text, predicted_by(brief), brief.answer, brief.question, brief.language)


# What a student knows is folded over all turns again whenever it is asked for: what follows is worked out once for each.
@lru_cache(maxsize=16_384)
def given_away(text: str, brief: Brief) -> str:
    """The words of a text that give the right answer away, as an answer or not; empty if none do.

    A form that stands in the question or in the misconception gives nothing away, nor does a calculation that the question
    asks for.
    """
    hidden = hidden_forms(brief)
    for each in answer_in(text, brief):
        span = text[each.start : each.end]
        asked = each.worked_out and (not each.certain or span in (brief.question or ""))
        if each.form in hidden and not asked and (each.certain or not each.weak):
            return span
    return ""


@lru_cache(maxsize=16_384)
def terms_in(text: str, brief: Brief) -> tuple[str, ...]:
    """The brief's giveaway terms that a text uses."""
    if not brief.giveaway:
        return ()
    found = mentions(text, brief.giveaway, predicted_by(brief), brief.question, brief.language)
    return tuple(dict.fromkeys(each.form for each in found if each.certain or not each.weak))


@lru_cache(maxsize=4096)
def hidden_forms(brief: Brief) -> frozenset[str]:
    """The forms of the right answer that stand neither in the question nor in the misconception."""
    own = (brief.misconception.belief, brief.misconception.predicts or "") if brief.misconception else ()
    in_sight = {
        each.form
        for text in (brief.question or "", *own)
        for each in mentions(text, brief.answer, language=brief.language)
        if not each.worked_out and (each.certain or not each.weak)
    }
    return frozenset(brief.answer) - in_sight


@lru_cache(maxsize=4096)
def wrong_is_in_sight(brief: Brief) -> bool:
    """Whether the misconception's answer stands in the question, so that naming it means little."""
    return any(
        not each.worked_out for each in mentions(brief.question or "", predicted_by(brief), language=brief.language)
    )
