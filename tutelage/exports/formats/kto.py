"""Unpaired preferences: each draft by itself, and whether it was accepted or sent back.

The rows are what TRL's `KTOTrainer` reads. Ethayarajh et al. 2024, arXiv 2402.01306: a label is enough, no pair is
needed, so every verdict is of use. A draft that was said although reviewers still refused it has no label.

For a reviewer's role the rows are its reviews, with the label that outside checks give them (`agreement.py`): whether they
agree with its verdict. A review about which they say nothing has none.
"""

from collections.abc import Iterator

from tutelage.dialogue.turn import Turn
from tutelage.exports.formats.agreement import agreement
from tutelage.exports.formats.reviews import Reviewed, reviews_by
from tutelage.exports.formats.scores import mean_score, scores_of
from tutelage.exports.formats.verdicts import Labelled, is_reviewed, labels
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
    said,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each draft of the role that has a label, for what was written instead, and for each review that it gave."""
    transcript = judged.transcript
    reviewed = is_reviewed(transcript, request.role)
    for turn in transcript.turns:
        if turn.role == request.role:
            prompt = _prompt(turn, prompts)
            for label in labels(judged, turn, reviewed=reviewed):
                if isinstance(label, LeftOut):
                    yield label
                elif prompt is None:
                    yield LeftOut.PROMPT_LOST
                else:
                    yield _row(transcript, turn, label, prompt)
        for given in reviews_by(request.role, turn):
            yield _review(judged, turn, given, prompts)


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts somebody looked at, and who reviewed."""
    speakers = dict.fromkeys(turn.role for turn in transcript.turns)
    yield from (role for role in speakers if is_reviewed(transcript, role))
    for turn in transcript.turns:
        yield from (review.role for attempt in turn.attempts for review in attempt.reviews if review.call)


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "completion": Column(MESSAGES, "a draft, or what was written in its place; of a reviewer, its review"),
        "label": Column(
            "flag",
            "whether it was accepted; false if it was sent back, or if another text was written for it; of a review, "
            "whether outside checks agree",
        ),
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0"),
        "by": Column(
            "text", "who says so: `reviewers`, code among them; later `people` or `judges`; of a review, `checks`"
        ),
        "issues": Column(TEXTS, "what it was sent back for, by dimension"),
        "model": Column("text", "who played the role: the model, or `model+adapter`"),
        "source": Column("text", "who wrote the words: the `model`, or a `human` or a `judge` instead of it"),
        "finish_reason": Column("text", "why the model stopped; `length` means that the text was cut off"),
        "score": Column("number", "the mean of the scores that its reviewers gave it; uncalibrated"),
    }


KTO = Format(
    name="kto",
    rows=rows,
    roles=roles,
    columns=columns,
    about="unpaired preference training: drafts, and whether they were accepted or sent back",
)


def _prompt(turn: Turn, prompts: Prompts) -> Messages | None:
    if not turn.attempts:
        return None
    try:
        return first_prompt(turn.attempts[0].call, turn.steps, prompts)
    except KeyError:
        return None


def _review(judged: Judged, turn: Turn, given: Reviewed, prompts: Prompts) -> Row | LeftOut:
    text, agrees = given.reply, agreement(given.review, judged, turn, given.number)
    if text is None:
        return LeftOut.REPLY_LOST
    if agrees is None:
        return LeftOut.UNCHECKED
    try:
        prompt = first_prompt(given.call, turn.steps, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    return {
        "prompt": prompt,
        "completion": said(text),
        "label": agrees,
        **identity(judged.transcript, given.review.role, *given.place),
        "turn": turn.index,
        "by": "checks",
        "issues": [],
        "model": given.call.player,
        "source": "model",
        "finish_reason": given.call.finish_reason or "",
        "score": None,
    }


def _row(transcript: Transcript, turn: Turn, label: Labelled, prompt: Messages) -> Row:
    draft = label.draft
    refused = {issue.dimension for each in draft.reviews if each.verdict == "revise" for issue in each.issues}
    row = {
        "prompt": prompt,
        "completion": said(label.text),
        "label": label.right,
        **identity(transcript, turn.role, turn.index, label.place),
        "turn": turn.index,
        "by": label.by,
        "issues": [] if label.right else sorted(refused),
        "model": draft.call.player,
        "source": label.source,
        "finish_reason": "" if label.is_edit else draft.call.finish_reason or "",
        "score": None if label.is_edit else mean_score(scores_of(draft)),
    }
    return {**row, "origin": "human"} if label.source == "human" else row
