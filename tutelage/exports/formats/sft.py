"""Supervised fine-tuning: a prompt as a role saw it, and what the role then said.

The rows are what TRL's `SFTTrainer` reads. With prompt and completion it computes its loss on the completion alone,
with any chat template; with `messages` it needs `assistant_only_loss=True` for that. In a whole dialogue, `train` says of
each message whether it is to be learnt: turns that nobody should learn from stay, for what follows answers them.

What people and judges decided about a turn is honoured: what was dropped is left out, and what was written or preferred
instead is learnt. A reviewer is learnt from where an outside check agrees with it (`agreement.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Final

import orjson

from tutelage.dialogue.turn import Call, Review, Turn
from tutelage.exports.formats.agreement import agreement
from tutelage.exports.formats.deciding import Writer, decided
from tutelage.exports.formats.reviews import reviews_by
from tutelage.exports.formats.scores import mean_score, scores_of
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    FLAGS,
    IDENTITY,
    MESSAGES,
    Column,
    Format,
    LeftOut,
    Messages,
    Row,
    first_prompt,
    identity,
    said,
    thought,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript

_PUBLICLY: Final = (
    "what it said, without what it thought before it in private fields, or the verdict that it gave, as JSON"
)
_PRIVATELY: Final = "what it replied, private fields and utterance as JSON where it has such fields, or its verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Something that a role said, or judged, in a dialogue."""

    place: tuple[int | str, ...]
    turn: Turn
    asked: Call
    """The call with the prompt that is to be learnt from: of several drafts the first one's."""
    given: Call
    """The call that gave the text."""
    text: str
    source: Writer = "model"
    score: float | None = None
    unfit: LeftOut | None = None
    """Why it is not to be learnt, if it is not."""

    def prompt(self, prompts: Prompts) -> list[dict[str, str]]:
        """What the role was shown: no draft that was sent back, and nothing of why.

        Raises:
            KeyError: The run has no such prompt.
        """
        return first_prompt(self.asked, self.turn.steps, prompts)


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each reply of the role, or one for the whole dialogue as the role saw it."""
    transcript = judged.transcript
    if request.whole_dialogue:
        turns = [_turn(judged, turn, request) for turn in transcript.turns if turn.role == request.role]
        if turns:
            yield _whole_dialogue(transcript, turns, prompts, request)
        return
    for reply in _replies(judged, request):
        yield reply if isinstance(reply, LeftOut) else _row(transcript, reply, prompts, request)


def roles(transcript: Transcript) -> Iterator[str]:
    """Who spoke, who reviewed and who assessed."""
    for turn in transcript.turns:
        if turn.attempts:  # a person's has none
            yield turn.role
        yield from (review.role for attempt in turn.attempts for review in attempt.reviews if review.call)
        yield from (step.role for step in turn.steps if step.kind == "assessment")


def columns(request: Request) -> dict[str, Column]:
    """The columns of the rows."""
    finish = "why the model stopped; `length` means that the text was cut off"
    if request.whole_dialogue:
        learnt = {
            "messages": Column(MESSAGES, "the dialogue up to the role's last turn, as the role saw it"),
            "train": Column(
                FLAGS, "of each message, whether it is to be learnt: the role's turns, but for refused ones"
            ),
        }
    else:
        learnt = {
            "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
            "completion": Column(MESSAGES, _PRIVATELY if request.with_private else _PUBLICLY),
        }
    return {
        **learnt,
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0; the last one of a whole dialogue"),
        "model": Column("text", "who played the role: the model, or `model+adapter`"),
        "source": Column("text", "who wrote the words: the `model`, or a `human` or a `judge` instead of it"),
        "finish_reason": Column("text", finish),
        "score": Column("number", "the mean of the reviewers' scores of the words that are learnt; uncalibrated"),
    }


SFT = Format(
    name="sft",
    rows=rows,
    roles=roles,
    columns=columns,
    options=frozenset({"whole_dialogue", "forced", "with_private", "reasoning", "unchecked"}),
    about="supervised fine-tuning: what one role was shown, and what it then said",
)


def _row(transcript: Transcript, reply: Reply, prompts: Prompts, request: Request) -> Row | LeftOut:
    if reply.unfit:
        return reply.unfit
    try:
        prompt = reply.prompt(prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    text = thought(reply.given, reply.text) if request.reasoning and reply.source == "model" else reply.text
    place = identity(transcript, request.role, *reply.place)
    return {"prompt": prompt, "completion": said(text), **place, **_origin(reply), "score": reply.score}


def _whole_dialogue(
    transcript: Transcript, turns: list[Reply | LeftOut], prompts: Prompts, request: Request
) -> Row | LeftOut:
    replies = [turn for turn in turns if isinstance(turn, Reply)]
    if len(replies) < len(turns):
        return next(turn for turn in turns if isinstance(turn, LeftOut))
    # What comes after the last turn that is to be learnt would be there for nothing.
    while replies and replies[-1].unfit:
        last_unfit = replies.pop().unfit
    if not replies:
        return last_unfit or LeftOut.EMPTY
    last = replies[-1]
    try:
        prompt = last.prompt(prompts)
        notes_lost = _notes_lost(replies, prompt, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    if notes_lost:
        return LeftOut.NOTES_LOST
    messages = prompt + said(last.text)
    scores = [reply.score for reply in replies if reply.score is not None and not reply.unfit]
    return {
        "messages": messages,
        "train": _train(messages, replies),
        **identity(transcript, request.role),
        **_origin(last),
        "score": fmean(scores) if scores else None,
    }


def _train(messages: Messages, replies: list[Reply]) -> list[bool]:
    """Which messages are to be learnt. From the end, for the oldest turns may no longer be shown."""
    flags, last = [False] * len(messages), len(messages) - 1
    spoken = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    for place, reply in zip(reversed(spoken), reversed(replies), strict=False):
        # What was written instead of an earlier turn is not what the others answered.
        flags[place] = not reply.unfit and (place == last or reply.text == messages[place]["content"])
    return flags


def _notes_lost(turns: list[Reply], prompt: Messages, prompts: Prompts) -> bool:
    """Whether an earlier turn that stands in the last one's prompt was spoken with a note that does not stand there.

    Raises:
        KeyError: The run has no such prompt.
    """
    heard = [message["content"] for message, answer in pairwise(prompt) if answer["role"] == "assistant"]
    # From the end, for the oldest turns may no longer be shown.
    for turn, without in zip(reversed(turns[:-1]), reversed(heard), strict=False):
        then = turn.prompt(prompts)[-1]["content"]
        if then != without and then.startswith(without):
            return True
    return False


def _origin(reply: Reply) -> Row:
    # Whoever wrote the words anew was not cut off where the model was.
    finish_reason = (reply.given.finish_reason or "") if reply.source == "model" else ""
    row = {
        "turn": reply.turn.index,
        "model": reply.given.player,
        "source": reply.source,
        "finish_reason": finish_reason,
    }
    return {**row, "origin": "human"} if reply.source == "human" else row


def _replies(judged: Judged, request: Request) -> Iterator[Reply | LeftOut]:
    for turn in judged.transcript.turns:
        if turn.role == request.role:
            yield _turn(judged, turn, request)
        yield from _reviews(judged, turn, request)
        yield from _assessments(turn, request.role)


def _turn(judged: Judged, turn: Turn, request: Request) -> Reply | LeftOut:
    now = decided(judged, turn)
    if now is None:
        return LeftOut.A_PERSONS
    text, unfit = now.text, None
    if judged.drops(turn.index):
        unfit = LeftOut.DROPPED
    elif now.forced and not request.forced:
        unfit = LeftOut.FORCED
    elif not text.strip():
        unfit = LeftOut.EMPTY
    elif request.with_private and now.attempt.private:
        # As its schema has it: a model is asked for the utterance last.
        text = orjson.dumps({**now.attempt.private, "utterance": text}).decode()
    return Reply(
        place=(turn.index,),
        turn=turn,
        asked=turn.attempts[0].call,
        given=now.attempt.call,
        text=text,
        source=now.source,
        score=None if now.is_edited else mean_score(scores_of(now.attempt)),
        unfit=unfit,
    )


def _reviews(judged: Judged, turn: Turn, request: Request) -> Iterator[Reply | LeftOut]:
    for given in reviews_by(request.role, turn):
        text, call = given.reply, given.call
        if text is None:
            yield LeftOut.REPLY_LOST
        elif not request.unchecked and (reason := _doubt(given.review, judged, turn, given.number)):
            yield reason
        else:
            yield Reply(place=given.place, turn=turn, asked=call, given=call, text=text)


def _doubt(review: Review, judged: Judged, turn: Turn, number: int) -> LeftOut | None:
    agrees = agreement(review, judged, turn, number)
    if agrees is None:
        return LeftOut.UNCHECKED
    return None if agrees else LeftOut.DISPUTED


def _assessments(turn: Turn, role: str) -> Iterator[Reply]:
    for number, step in enumerate(turn.steps):
        if step.role == role and step.kind == "assessment":
            place = (turn.index, f"step{number}", role)
            unfit = LeftOut.EMPTY if not step.text.strip() else None
            yield Reply(place=place, turn=turn, asked=step.call, given=step.call, text=step.text, unfit=unfit)
