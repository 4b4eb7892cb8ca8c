"""What the formats of exports have in common: what a format is, and how a role's calls become a row's columns.

A format gives rows as TRL reads them, for it has a trainer for each; a layout (`layouts/`) rewrites them for another tool.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from tutelage.dialogue.turn import Attempt, Call, Step, Turn
from tutelage.exports.request import Request
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript

Row: TypeAlias = dict[str, Any]
SCRUBBED: Final = "scrubbed"
"""Where a row carries, beside its columns, what the log of replaced personal data is to say of it, if it is written."""
Messages: TypeAlias = list[dict[str, str]]
Kind: TypeAlias = "str | Sequence[Kind] | Mapping[str, Kind]"
"""What a column holds: "text", "integer", "number" (which alone may be null), "flag", [kind] for a list, or {name: kind}."""

TEXTS: Final[Kind] = ["text"]
MESSAGES: Final[Kind] = [{"role": "text", "content": "text"}]
FLAGS: Final[Kind] = ["flag"]


class LeftOut(StrEnum):
    """Why something that might have been a row is none."""

    FORCED = "forced"
    EMPTY = "empty"
    IDENTICAL = "identical"
    REPEATED = "repeated"
    NOTHING_MENDED = "nothing mended"
    PROMPT_LOST = "prompt lost"
    REPLY_LOST = "reply lost"
    NOTES_LOST = "notes lost"
    DROPPED = "dropped"
    UNJUDGED = "unjudged"
    NO_ANSWER = "no answer"
    ANSWER_KNOWN = "answer known"
    REPLACED = "replaced"
    A_PERSONS = "a person's"
    MASKED = "masked"
    UNCHECKED = "unchecked"
    DISPUTED = "disputed"
    OTHER_JUDGE = "other judge"
    NOT_MINIMAL = "not minimal"
    VETOED = "vetoed"
    UNSCORED = "unscored"
    NARROW = "narrow"
    CAPPED = "capped"
    HISTORY = "history"
    SYSTEM_LATER = "system later"
    NO_ALTERNATION = "no alternation"
    MISREAD = "misread"
    FOREIGN = "foreign"
    ARTEFACT = "artefact"
    CUT_OFF = "cut off"
    IN_A_BENCHMARK = "in a benchmark"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near-duplicate"
    EXPORTED_BEFORE = "exported before"
    NO_SCORE = "no score"
    LOW_SCORE = "low score"
    LOPSIDED = "lopsided"
    LENGTH = "length"

    @property
    def about(self) -> str:
        """What it means, as the dataset card says it."""
        return _ABOUT[self]


_ABOUT = {
    LeftOut.FORCED: "the reviewers still refused what was said: no revision was better",
    LeftOut.EMPTY: "a text is empty",
    LeftOut.IDENTICAL: "the accepted text is the draft that was sent back, word for word",
    LeftOut.REPEATED: "the turn gives a row with the same words already",
    LeftOut.NOTHING_MENDED: "the draft has no issue that is not there in the accepted text, too",
    LeftOut.PROMPT_LOST: "the prompt is not in the run's messages.jsonl",
    LeftOut.REPLY_LOST: "the transcript has what code made of the reply, but not the reply itself",
    LeftOut.DROPPED: "a person or a judge decided against it",
    LeftOut.REPLACED: "somebody wrote or preferred other words, so what was said is not chosen",
    LeftOut.A_PERSONS: "a person said it, and nobody was sent a prompt for it",
    LeftOut.MASKED: "one turn is not to be learnt, and the trainer learns all: export without `whole_dialogue`",
    LeftOut.UNCHECKED: "no check from outside says whether the reviewer was right",
    LeftOut.DISPUTED: "a check from outside says that the reviewer was wrong",
    LeftOut.OTHER_JUDGE: "whoever sent the draft back was not asked about the accepted text",
    LeftOut.NOT_MINIMAL: "the revision changes too little, too much, or more than the one issue that was named",
    LeftOut.VETOED: "the better text was forbidden by a check",
    LeftOut.UNSCORED: "nobody scored both candidates",
    LeftOut.NARROW: "the scores of the two texts lie too close together, or the other way round",
    LeftOut.CAPPED: "the turn gives enough pairs of candidates already",
    LeftOut.UNJUDGED: "nobody said whether it is right: no reviewer and no person looked at it",
    LeftOut.NO_ANSWER: "the brief has no answer to verify a reply against",
    LeftOut.ANSWER_KNOWN: "the answer was in sight already: code cannot tell who gives it from who repeats it",
    LeftOut.ARTEFACT: "the words to be learnt have a label, a template token, talk about the reply, or break off",
    LeftOut.CUT_OFF: "the model had no tokens left",
    LeftOut.IN_A_BENCHMARK: "prompt or words share 13 words in a row with a benchmark, or hold a short item of it whole",
    LeftOut.DUPLICATE: "an earlier row says the same, in answer to the same",
    LeftOut.NEAR_DUPLICATE: "an earlier row says nearly the same, in answer to nearly the same",
    LeftOut.EXPORTED_BEFORE: "an earlier export has the row, or with dedup near one that says nearly the same",
    LeftOut.NO_SCORE: "the best were asked for, and nobody scored it",
    LeftOut.LOW_SCORE: "the best were asked for, and others scored higher",
    LeftOut.LOPSIDED: "one text of the pair is more than twice as long as the other",
    LeftOut.LENGTH: "so that chosen and rejected texts are about equally long on average",
    LeftOut.NOTES_LOST: "an earlier turn followed a note that no later prompt holds: export without `whole_dialogue`",
    LeftOut.HISTORY: "the tool would learn the assistant's messages in the prompt, too: export with `whole_dialogue`",
    LeftOut.SYSTEM_LATER: "the tool has a place for one system message, at the beginning",
    LeftOut.NO_ALTERNATION: "the tool wants user and assistant by turns, the user first",
    LeftOut.FOREIGN: "a line of people's rows (`mix`) that holds none of the format",
    LeftOut.MISREAD: "the tool would find the reply's beginning elsewhere: it is blank at an end, or in the tool's own words",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a format: the same kind of value in every row of every file."""

    kind: Kind
    about: str
    """What is in it, as the dataset card says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A format of training rows."""

    name: str
    rows: Callable[[Judged, Prompts, Request], Iterator[Row | LeftOut]]
    """The rows that a completed dialogue gives, and a reason for each that it does not give."""
    roles: Callable[[Transcript], Iterator[str]]
    """Whose words a completed dialogue has rows of, as often as they come."""
    columns: Callable[[Request], dict[str, Column]]
    """In the order in which they are written."""
    options: frozenset[str] = frozenset()
    """Which of the options in `OF_SOME_FORMATS` it has."""
    with_dropped: bool = False
    """Whether it has rows of dialogues that somebody decided against, too: for review."""
    about: str
    """What a row is for, as the dataset card says it."""


OF_SOME_FORMATS: Final = (
    "whole_dialogue",
    "forced",
    "with_private",
    "reasoning",
    "unchecked",
    "pairs",
    "gap",
    "minimal_edit",
    "balance_lengths",
)
"""The options of a request that not every format has: refused where they are given and mean nothing."""

IDENTITY = {
    "id": Column("text", "unique among the rows"),
    "dialogue": Column("text", "the transcript that it is from"),
    "brief": Column("text", "what was taught; split training and test data by it, not by row"),
    "role": Column("text", "whose words are to be learnt"),
    "origin": Column("text", "human where people wrote the row, else synthetic"),
}
"""The columns that say where a row is from, in every format."""


def identity(transcript: Transcript, role: str, *place: int | str) -> Row:
    """The columns of `IDENTITY`. The place in the dialogue makes the id unique."""
    id_ = "/".join(map(str, (transcript.id, *place)))
    return {
        "id": id_,
        "dialogue": transcript.id,
        "brief": transcript.brief.id,
        "role": role,
        "origin": transcript.lineage.origin,
    }


def accepted(turn: Turn) -> Attempt:
    """The attempt that was said, of a turn that a model made."""
    attempt = turn.accepted
    assert attempt is not None
    return attempt


def said(text: str) -> Messages:
    """A text as the assistant's message."""
    return [{"role": "assistant", "content": text}]


def thought(call: Call, text: str) -> str:
    """A text behind what the model thought before it, as models that reason write it; the text alone if it did not."""
    return f"<think>\n{call.reasoning.strip()}\n</think>\n\n{text}" if call.reasoning else text


def first_prompt(call: Call, steps: Sequence[Step], prompts: Prompts) -> Messages:
    """What a role was shown when it was first asked for a reply.

    A reply that did not fit its schema is asked for again, with a note at the end of the prompt. The note was for that
    one reply, so it is taken off again.

    Args:
        call: The call that gave the reply.
        steps: The turn's other calls; the replies that did not fit are among them.
        prompts: The run's prompts.

    Raises:
        KeyError: The run has no such prompt.
    """
    sha256 = call.prompt_sha256
    misfits = {step.call.prompt_sha256 for step in steps if step.kind == "misfit"}
    while misfits and (parent := prompts.parent(sha256)) in misfits:
        sha256 = parent
    return prompts.messages(sha256)
