"""Unpaired preferences: each draft by itself, and whether it was accepted or sent back.

The rows are what TRL's `KTOTrainer` reads. Ethayarajh et al. 2024, arXiv 2402.01306: a label is enough, no pair is
needed, so every verdict is of use. A draft that was said although reviewers still refused it has no label.
"""

from collections.abc import Iterator
from statistics import fmean

from tutelage.dialogue.turn import Turn
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    IDENTITY,
    MESSAGES,
    TEXTS,
    Column,
    Format,
    LeftOut,
    Messages,
    Row,
    first_prompt,
    identity,
    player,
    said,
)
from tutelage.exports.verdicts import Labelled, is_reviewed, labels
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each draft of the role that somebody accepted or sent back, and for each text that a person wrote."""
    transcript = judged.transcript
    reviewed = is_reviewed(transcript, request.role)
    for turn in transcript.turns:
        if turn.role != request.role:
            continue
        if not turn.attempts:
            yield LeftOut.A_PERSONS
            continue
        prompt = _prompt(turn, prompts)
        for label in labels(judged, turn, reviewed=reviewed):
            if isinstance(label, LeftOut):
                yield label
            elif prompt is None:
                yield LeftOut.PROMPT_LOST
            else:
                yield _row(transcript, turn, label, prompt)


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts somebody looked at."""
    yield from (role for role in {turn.role for turn in transcript.turns} if is_reviewed(transcript, role))


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "completion": Column(MESSAGES, "a draft, or what a person wrote in its place"),
        "label": Column(
            "flag", "whether it was accepted; false if it was sent back, or if a person wrote another text"
        ),
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0"),
        "by": Column("text", "who says so: `reviewers`, checks in code among them, or `people`"),
        "issues": Column(TEXTS, "what it was sent back for, by dimension"),
        "score": Column("number", "the mean of the scores that its reviewers gave it; uncalibrated"),
        "model": Column("text", "who wrote it: the model, or `model+adapter`; empty where a person did"),
        "finish_reason": Column("text", "why the model stopped; `length` means that the text was cut off"),
    }


KTO = Format(
    name="kto",
    rows=rows,
    roles=roles,
    columns=columns,
    about="unpaired preference training: drafts, and whether they were accepted or sent back",
)


def _prompt(turn: Turn, prompts: Prompts) -> Messages | None:
    try:
        return first_prompt(turn.attempts[0].call, turn.steps, prompts)
    except KeyError:
        return None


def _row(transcript: Transcript, turn: Turn, label: Labelled, prompt: Messages) -> Row:
    reviews = label.draft.reviews if label.draft else []
    scores = [score for review in reviews for score in review.scores.values()]
    refused = {issue.dimension for review in reviews if review.verdict == "revise" for issue in review.issues}
    row = {
        "prompt": prompt,
        "completion": said(label.text),
        "label": label.right,
        **identity(transcript, turn.role, turn.index, label.place),
        "turn": turn.index,
        "by": "people" if label.by_people else "reviewers",
        "issues": [] if label.right else sorted(refused),
        "score": fmean(scores) if scores else None,
        "model": player(label.call) if label.call else "",
        "finish_reason": (label.call.finish_reason if label.call else None) or "",
    }
    return row if label.call else {**row, "origin": "human"}
