"""Supervised fine-tuning: a prompt as a role saw it, and what the role then said.

The rows are what TRL's `SFTTrainer` reads. With prompt and completion it computes its loss on the completion alone,
with any chat template; with `messages` it needs `assistant_only_loss=True` for that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import orjson

from tutelage.dialogue.turn import Call, Review, Turn
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    IDENTITY,
    MESSAGES,
    Column,
    Format,
    LeftOut,
    Messages,
    Row,
    accepted,
    first_prompt,
    identity,
    player,
    said,
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
    forced: bool = False

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
        turns = [_turn(turn) for turn in transcript.turns if turn.role == request.role]
        if turns:
            yield _whole_dialogue(transcript, turns, prompts, request)
        return
    for reply in _replies(transcript, request):
        yield reply if isinstance(reply, LeftOut) else _row(transcript, reply, prompts, request)


def roles(transcript: Transcript) -> Iterator[str]:
    """Who spoke, who reviewed and who assessed."""
    for turn in transcript.turns:
        yield turn.role
        yield from (review.role for attempt in turn.attempts for review in attempt.reviews if review.call)
        yield from (step.role for step in turn.steps if step.kind == "assessment")


def columns(request: Request) -> dict[str, Column]:
    """The columns of the rows."""
    finish = "why the model stopped; `length` means that the text was cut off"
    if request.whole_dialogue:
        learnt = {"messages": Column(MESSAGES, "the dialogue up to the role's last turn, as the role saw it")}
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
        "finish_reason": Column("text", finish),
    }


SFT = Format(
    name="sft",
    rows=rows,
    roles=roles,
    columns=columns,
    options=frozenset({"whole_dialogue", "forced", "with_private"}),
    about="supervised fine-tuning: what one role was shown, and what it then said",
)


def _row(transcript: Transcript, reply: Reply, prompts: Prompts, request: Request) -> Row | LeftOut:
    if reply.forced and not request.forced:
        return LeftOut.FORCED
    if not reply.text.strip():
        return LeftOut.EMPTY
    try:
        prompt = reply.prompt(prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    place = identity(transcript, request.role, *reply.place)
    return {"prompt": prompt, "completion": said(reply.text), **place, **_origin(reply)}


def _whole_dialogue(transcript: Transcript, turns: list[Reply], prompts: Prompts, request: Request) -> Row | LeftOut:
    # One refused turn spoils the whole row: trainers learn from every assistant message in it.
    if any(turn.forced for turn in turns) and not request.forced:
        return LeftOut.FORCED
    if not all(turn.text.strip() for turn in turns):
        return LeftOut.EMPTY
    last = turns[-1]
    try:
        prompt = last.prompt(prompts)
        notes_lost = _notes_lost(turns, prompt, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    if notes_lost:
        return LeftOut.NOTES_LOST
    return {"messages": prompt + said(last.text), **identity(transcript, request.role), **_origin(last)}


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
    finish_reason = reply.given.finish_reason or ""
    return {"turn": reply.turn.index, "model": player(reply.given), "finish_reason": finish_reason}


def _replies(transcript: Transcript, request: Request) -> Iterator[Reply | LeftOut]:
    for turn in transcript.turns:
        if turn.role == request.role:
            yield _turn(turn, with_private=request.with_private)
        yield from _reviews(turn, request.role)
        yield from _assessments(turn, request.role)


def _turn(turn: Turn, *, with_private: bool = False) -> Reply:
    said_at_last = accepted(turn)
    text = turn.text
    if with_private and said_at_last.private and text.strip():
        # As its schema has it: a model is asked for the utterance last.
        text = orjson.dumps({**said_at_last.private, "utterance": text}).decode()
    return Reply(
        place=(turn.index,),
        turn=turn,
        asked=turn.attempts[0].call,
        given=said_at_last.call,
        text=text,
        forced=said_at_last.forced,
    )


def _reviews(turn: Turn, role: str) -> Iterator[Reply | LeftOut]:
    for number, attempt in enumerate(turn.attempts):
        reviews = [(review, review.call) for review in attempt.reviews if review.role == role and review.call]
        # Of a panel there are several.
        for member, (review, call) in enumerate(reviews):
            place: tuple[int | str, ...] = (turn.index, number, role, *((member,) if member else ()))
            text = _review(review)
            if text is None:
                yield LeftOut.REPLY_LOST
            else:
                yield Reply(place=place, turn=turn, asked=call, given=call, text=text)


def _assessments(turn: Turn, role: str) -> Iterator[Reply]:
    for number, step in enumerate(turn.steps):
        if step.role == role and step.kind == "assessment":
            place = (turn.index, f"step{number}", role)
            yield Reply(place=place, turn=turn, asked=step.call, given=step.call, text=step.text)


def _review(review: Review) -> str | None:
    """A reviewer's reply: its own words where the transcript has them, and a plain verdict spelled anew.

    Claims and scores are what code made of a reply with a schema of its own, so none can be spelled from them.
    """
    if review.reply is not None:
        return review.reply
    if review.claims or review.scores:
        return None
    verdict = {"verdict": review.verdict, "issues": [issue.model_dump() for issue in review.issues]}
    return orjson.dumps(verdict).decode()
