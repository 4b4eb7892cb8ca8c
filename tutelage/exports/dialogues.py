"""Whole public dialogues, for people to read and to judge: what each speaker said to all, and nothing private.

`traces` shows them as they would be used: what was decided about a turn is done. `label-studio` shows what was said, with
what was decided beside it, for somebody is to decide again.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tutelage.dialogue.turn import Turn
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
    player,
)
from tutelage.transcripts.decisions import Decision, Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript

A_PERSON: Final = "a person"


def traces(judged: Judged, _: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each dialogue in which the role speaks, up to the first turn that was dropped."""
    turns: list[tuple[Turn, str]] = []
    for turn in judged.transcript.turns:
        if judged.drops(turn.index):
            yield LeftOut.DROPPED
            break
        edits = judged.edits(turn.index)
        turns.append((turn, (edits[-1].text or turn.text) if edits else turn.text))
    if any(turn.role == request.role for turn, _ in turns):
        yield _row(judged, turns, request)


def tasks(judged: Judged, _: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each dialogue, with every turn as it was said."""
    if judged.transcript.turns:
        yield _row(judged, [(turn, turn.text) for turn in judged.transcript.turns], request)


def roles(transcript: Transcript) -> Iterator[str]:
    """Who spoke."""
    yield from (turn.role for turn in transcript.turns)


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "messages": Column(MESSAGES, "the dialogue: what the role said as the assistant's, all else as the user's"),
        "speakers": Column(TEXTS, "of each message, who said it"),
        "models": Column(TEXTS, "of each message, who wrote it: the model, `model+adapter`, or `a person`"),
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


def _row(judged: Judged, turns: Sequence[tuple[Turn, str]], request: Request) -> Row:
    transcript = judged.transcript
    brief = transcript.brief
    return {
        "messages": [
            {"role": "assistant" if turn.role == request.role else "user", "content": text} for turn, text in turns
        ],
        "speakers": [turn.role for turn, _ in turns],
        "models": [player(turn.accepted.call) if turn.accepted else A_PERSON for turn, _ in turns],
        "turns": [turn.index for turn, _ in turns],
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
