"""What a turn must be like to be said: checks of a draft, made of the detectors, and what each has found in a dialogue.

`plain_speech` is what a speaker's critique loop is given: a draft with a fault goes back with the words that are meant.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from tutelage.checks.artefacts import broken_off, label, meta_text, template_token
from tutelage.checks.languages import slipped_into
from tutelage.checks.praise import false_praise
from tutelage.checks.roles import speaks_as_other
from tutelage.checks.similarity import repeated
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.checking import Check
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason
from tutelage.dialogue.turn import Attempt, Issue, Turn
from tutelage.dialogue.view import brief_of


class Fault(StrEnum):
    """What can be wrong with the way a turn is said."""

    LABEL = "label"
    TEMPLATE_TOKEN = "template_token"
    META_TEXT = "meta_text"
    WRONG_LANGUAGE = "wrong_language"
    SPOKE_FOR_OTHER = "spoke_for_other"
    SPOKE_AS_OTHER = "spoke_as_other"
    TRUNCATED = "truncated"
    REPETITION = "repetition"
    FALSE_PRAISE = "false_praise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A turn, or a draft of one, in its place."""

    text: str
    role: str
    finish_reason: str | None
    before: Sequence[Turn]
    brief: Brief

    @classmethod
    def draft(cls, dialogue: Dialogue, attempt: Attempt) -> "Said":
        """A draft of the turn under way."""
        return cls(
            text=attempt.text,
            role=dialogue.get("speaker", ""),
            finish_reason=attempt.call.finish_reason,
            before=dialogue.get("turns", ()),
            brief=brief_of(dialogue),
        )

    @classmethod
    def turn(cls, turns: Sequence[Turn], index: int, brief: Brief) -> "Said":
        """A turn that was said."""
        turn = turns[index]
        return cls(
            text=turn.text,
            role=turn.role,
            finish_reason=turn.accepted.call.finish_reason if turn.accepted else None,
            before=turns[:index],
            brief=brief,
        )


Detector: TypeAlias = Callable[[Said], str | None]
"""The words that are at fault, or what shows it; None if nothing is."""


def _label(said: Said, *, of_other: bool) -> str | None:
    found = label(said.text, said.role, {turn.role for turn in said.before})
    return found[0] if found and found[1] == of_other else None


def _language(said: Said) -> str | None:
    about = " ".join(text for text in (said.brief.topic, said.brief.domain, said.brief.question) if text)
    return slipped_into(said.text, said.brief.language, about)


DETECTORS: Final[dict[Fault, Detector]] = {
    Fault.LABEL: lambda said: _label(said, of_other=False),
    Fault.TEMPLATE_TOKEN: lambda said: template_token(said.text),
    Fault.META_TEXT: lambda said: meta_text(said.text),
    Fault.WRONG_LANGUAGE: _language,
    Fault.SPOKE_FOR_OTHER: lambda said: _label(said, of_other=True),
    Fault.SPOKE_AS_OTHER: lambda said: speaks_as_other(said.text, said.role),
    Fault.TRUNCATED: lambda said: broken_off(said.text, said.finish_reason),
    Fault.REPETITION: lambda said: repeated(said.text, [turn.text for turn in said.before if turn.role == said.role]),
    Fault.FALSE_PRAISE: lambda said: false_praise(said.text, said.before, said.brief),
}
INSTRUCTIONS: Final[dict[Fault, str]] = {
    Fault.LABEL: "Say it without your name in front of it.",
    Fault.TEMPLATE_TOKEN: "Give only words that are spoken.",
    Fault.META_TEXT: "Give what you say itself, with nothing about it, before it or after it.",
    Fault.WRONG_LANGUAGE: "Say it in the language of the lesson.",
    Fault.SPOKE_FOR_OTHER: "Speak only for yourself, and stop where the other one would speak.",
    Fault.SPOKE_AS_OTHER: "Stay in your own role: this is what the other one would say.",
    Fault.TRUNCATED: "Say it shorter, in whole sentences.",
    Fault.REPETITION: "You have said this before. Go on from what was said since.",
    Fault.FALSE_PRAISE: "What the student said is wrong: do not call it right.",
}


def faults(turns: Sequence[Turn], brief: Brief) -> Iterator[tuple[int, Fault, str]]:
    """What is wrong with the turns of a dialogue that was said: index of the turn, fault, the words that are meant."""
    for index in range(len(turns)):
        said = Said.turn(turns, index, brief)
        for fault, detector in DETECTORS.items():
            if words := detector(said):
                yield index, fault, words


def _check(name: str, *kinds: Fault, discards: str | None = None) -> Check:
    def look(dialogue: Dialogue, attempt: Attempt) -> Sequence[Issue]:
        said = Said.draft(dialogue, attempt)
        return [_issue(fault, said, words) for fault in kinds if (words := DETECTORS[fault](said))]

    return Check(name=name, look=look, discards=discards)


def _issue(fault: Fault, said: Said, words: str) -> Issue:
    pointed_at = words in said.text
    return Issue(
        dimension=fault.value,
        severity="block",
        span=words if pointed_at else "",
        evidence="" if pointed_at else words,
        instruction=INSTRUCTIONS[fault],
    )


in_role = _check("in_role", Fault.SPOKE_FOR_OTHER, Fault.SPOKE_AS_OTHER, discards=Reason.ROLE_FLIP)
"""Nobody speaks for another one, or as another one would."""
whole = _check("whole", Fault.TRUNCATED, discards=Reason.TRUNCATED)
"""A turn comes to its end."""
unadorned = _check(
    "unadorned", Fault.LABEL, Fault.TEMPLATE_TOKEN, Fault.META_TEXT, Fault.WRONG_LANGUAGE, discards=Reason.ARTEFACT
)
"""A turn is only what is said: no labels, no template tokens, nothing about the reply itself, no other language."""
not_said_before = _check("not_said_before", Fault.REPETITION, discards=Reason.REPETITION)
"""Nobody says again what they said before."""
earned_praise = _check("earned_praise", Fault.FALSE_PRAISE)
"""The misconception's answer is not called right; if it is in every draft, the best one is said nonetheless."""

plain_speech: Final[tuple[Check, ...]] = (in_role, whole, unadorned, not_said_before, earned_praise)
"""What any speaker's drafts are to pass: `add_critique_loop(…, checks=[*plain_speech, …])`."""
