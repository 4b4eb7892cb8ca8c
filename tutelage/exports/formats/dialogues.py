"""Whole public dialogues, for people to read and to judge: what each speaker said to all, and nothing private.

`traces` shows them as they would be used: what was decided about a turn is done. `label-studio` shows what was said, with
what was decided beside it, for somebody is to decide again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tutelage.dialogue.turn import Turn
from tutelage.exports.formats.deciding import Decided, Writer, decided
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    IDENTITY,
    MESSAGES,
    TEXTS,
    Column,
    Format,
    LeftOut,
    Row,
    identity,
)
from tutelage.transcripts.decisions import Decision, Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript

_WRITERS: Final[Mapping[Writer, str]] = {"human": "a person", "judge": "a judge"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A turn as a dialogue shows it."""

    turn: Turn
    text: str
    by: str
    """Who wrote the text: the model, `model+adapter`, a person or a judge."""


def traces(judged: Judged, _: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each dialogue in which the role speaks, up to the first turn that was dropped."""
    said: list[Said] = []
    for turn in judged.transcript.turns:
        if judged.drops(turn.index):
            yield LeftOut.DROPPED
            break
        chosen = decided(judged, turn)
        said.append(_as_said(turn) if chosen is None else Said(turn=turn, text=chosen.text, by=_writer(chosen)))
    if any(each.turn.role == request.role for each in said):
        yield _row(judged, said, request)


def tasks(judged: Judged, _: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each dialogue, with every turn as it was said."""
    if judged.transcript.turns:
        yield _row(judged, [_as_said(turn) for turn in judged.transcript.turns], request)


def roles(transcript: Transcript) -> Iterator[str]:
    """Who spoke."""
    yield from (turn.role for turn in transcript.turns)


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "messages": Column(MESSAGES, "the dialogue: what the role said as the assistant's, all else as the user's"),
        "speakers": Column(TEXTS, "of each message, who said it"),
        "models": Column(TEXTS, "of each message, who wrote it: the model, `model+adapter`, `a person` or `a judge`"),
        "turns": Column(["integer"], "of each message, the turn's index in the dialogue, from 0"),
        **IDENTITY,
        "run": Column("text", "the run that it is from"),
        "graph": Column("text", "the graph that it ran on"),
        "title": Column("text", "the question that was asked, or what it was about"),
        "outcome": Column("text", "how it ended"),
        "decisions": Column(
            [{"turn": "number", "by": "text", "decision": "text", "text": "text", "reason": "text"}],
            "what was decided about it; `turn` is null where the whole dialogue is meant",
        ),
    }


def _as_said(turn: Turn) -> Said:
    return Said(turn=turn, text=turn.text, by=turn.accepted.call.player if turn.accepted else _WRITERS["human"])


def _writer(chosen: Decided) -> str:
    return chosen.attempt.call.player if chosen.source == "model" else _WRITERS[chosen.source]


def _row(judged: Judged, said: Sequence[Said], request: Request) -> Row:
    transcript = judged.transcript
    brief = transcript.brief
    return {
        "messages": [
            {"role": "assistant" if each.turn.role == request.role else "user", "content": each.text} for each in said
        ],
        "speakers": [each.turn.role for each in said],
        "models": [each.by for each in said],
        "turns": [each.turn.index for each in said],
        **identity(transcript, request.role),
        "run": transcript.run,
        "graph": transcript.graph.name,
        "title": brief.question or brief.topic or brief.id,
        "outcome": transcript.outcome.reason,
        "decisions": [_decision(each) for decisions in judged.decisions.values() for each in decisions],
    }


def _decision(decision: Decision) -> Row:
    return {
        "turn": decision.turn,
        "by": decision.by,
        "decision": decision.decision,
        "text": decision.text or "",
        "reason": decision.reason,
    }


TRACES: Final = Format(
    name="traces",
    rows=traces,
    roles=roles,
    columns=columns,
    about="reading: whole dialogues as the Hub's viewer shows them",
)
LABEL_STUDIO: Final = Format(
    name="label-studio",
    rows=tasks,
    roles=roles,
    columns=columns,
    with_dropped=True,
    about="review: whole dialogues as tasks for people",
)
