"""Pairs that people decided: their own words against what was said, and the draft or candidate that they preferred."""

from collections.abc import Iterator

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.dialogue.weighing import is_sound
from tutelage.exports.formats.deciding import heard, preferred_by, words_of
from tutelage.exports.formats.pairs.pair import Pair, Source, compared
from tutelage.exports.rows import LeftOut
from tutelage.transcripts.decisions import Decision, Judged


def people(judged: Judged, turn: Turn, *, judges: bool) -> Iterator[Pair | LeftOut]:
    """A pair for each edit of a turn and each preference, or the reason why it gives none.

    An edit is preferred to what was said. Of drafts and candidates the preferred one is preferred to what was said or,
    where that is itself preferred, to each of the others.

    Args:
        judged: The dialogue, and what was decided about it.
        turn: With all its drafts and candidates.
        judges: Take what judges decided, too, where no person has spoken for any words.
    """
    if (said := turn.accepted) is None:
        return
    place = turn.attempts.index(said)
    for number, decision in enumerate(heard(judged.decisions.get(turn.index, ()))):
        if not (decision.is_a_persons or judges):
            continue
        if decision.decision == "edit" and decision.text:
            yield _edited(decision, decision.text, said, place, number)
        elif (preferred := preferred_by(decision, turn.attempts)) is not None:
            others = enumerate(turn.attempts) if preferred is said else [(place, said)]
            for index, other in others:
                if other is not preferred:
                    yield _preferred(decision, preferred, other, index, number)


def _edited(decision: Decision, text: str, said: Attempt, place: int, number: int) -> Pair | LeftOut:
    if not text.strip() or not said.text.strip():
        return LeftOut.EMPTY
    if words_of(text) == words_of(said.text):
        return LeftOut.IDENTICAL
    return Pair(
        source=_source(decision),
        place=("edit", number),
        chosen=text,
        rejected=said.text,
        chosen_by=None,
        rejected_by=said.call,
        attempt=place,
    )


def _preferred(decision: Decision, chosen: Attempt, rejected: Attempt, index: int, number: int) -> Pair | LeftOut:
    if not is_sound(chosen):
        return LeftOut.VETOED
    if not chosen.text.strip() or not rejected.text.strip():
        return LeftOut.EMPTY
    if words_of(chosen.text) == words_of(rejected.text):
        return LeftOut.IDENTICAL
    return Pair(
        source=_source(decision),
        place=("preference", number, index),
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_by=chosen.call,
        rejected_by=rejected.call,
        attempt=index,
        scores=compared(chosen, rejected),
    )


def _source(decision: Decision) -> Source:
    return "human" if decision.is_a_persons else "judge"
