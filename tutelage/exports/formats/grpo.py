"""Prompts with a verifier, for reinforcement learning: what a role was shown, and what tells whether its reply is good.

The rows are what TRL's `GRPOTrainer` reads; `tutelage.exports.rewards` has its reward functions. A tutor is to keep the
answer to itself, any other speaker to give it. There are rows only up to the turn that brings the answer into sight: from
then on code cannot tell a reply that gives it from one that repeats it.

The columns `answer`, `predicts` and `giveaway` are for the verifier. No prompt holds them unless the role was shown them.
"""

from collections.abc import Iterator, Sequence

from tutelage.checks.leaks import TUTOR, brings_into_sight, is_in_sight, unsaid_terms
from tutelage.dialogue.turn import Turn
from tutelage.exports.request import Request
from tutelage.exports.rewards import GIVES_THE_ANSWER, KEEPS_THE_ANSWER, brief_to_verify, reward
from tutelage.exports.rows import (
    IDENTITY,
    MESSAGES,
    TEXTS,
    Column,
    Format,
    LeftOut,
    Row,
    accepted,
    first_prompt,
    identity,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for each turn of the role before which nobody had given the answer."""
    transcript, brief = judged.transcript, judged.transcript.brief
    is_known = is_in_sight({"brief": brief, "turns": []})
    unsaid = unsaid_terms(brief.giveaway, (brief.question or "", brief.topic or ""), brief.language)
    for turn in transcript.turns:
        if turn.role == request.role:
            if not turn.attempts:
                yield LeftOut.A_PERSONS
            elif not brief.answer:
                yield LeftOut.NO_ANSWER
            elif judged.drops(turn.index):
                yield LeftOut.DROPPED
            elif is_known:
                yield LeftOut.ANSWER_KNOWN
            else:
                yield _row(transcript, turn, unsaid, prompts)
        if not is_known:
            is_known = brings_into_sight(turn, brief)
            unsaid = unsaid_terms(unsaid, (turn.text,), brief.language)


def roles(transcript: Transcript) -> Iterator[str]:
    """Who spoke."""
    yield from (turn.role for turn in transcript.turns)


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "verifier": Column("text", "what the reply is rewarded for: `gives_the_answer`, or `keeps_the_answer`"),
        "question": Column("text", "what was asked"),
        "answer": Column(TEXTS, "the accepted forms of the answer, the canonical one first"),
        "predicts": Column("text", "the misconception's answer, which is wrong; empty if there is none"),
        "giveaway": Column(TEXTS, "terms that would give the answer away, of those that were not said before"),
        "language": Column("text", "the language of the dialogue; empty for English"),
        "reference": Column("text", "what was said in the dialogue"),
        "reward": Column(
            "number", "what the verifier gives the reference: 1.0, 0.0, or 0.5 where only a judge could tell"
        ),
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0"),
        "seed": Column("number", "the seed that the reference was sampled with; null if none was sent"),
        "model": Column("text", "who wrote the reference: the model, or `model+adapter`"),
        "finish_reason": Column("text", "why the model stopped there; `length` means that the text was cut off"),
    }


GRPO = Format(
    name="grpo",
    rows=rows,
    roles=roles,
    columns=columns,
    about="reinforcement learning: what one role was shown, and what its reply is verified against",
)


def _row(transcript: Transcript, turn: Turn, unsaid: Sequence[str], prompts: Prompts) -> Row | LeftOut:
    brief, said = transcript.brief, accepted(turn)
    verifier = KEEPS_THE_ANSWER if turn.role == TUTOR else GIVES_THE_ANSWER
    about: Row = {
        "question": brief.question or "",
        "answer": list(brief.answer),
        "predicts": (brief.misconception and brief.misconception.predicts) or "",
        "giveaway": list(unsaid),
        "language": brief.language or "",
    }
    try:
        prompt = first_prompt(turn.attempts[0].call, turn.steps, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    return {
        "prompt": prompt,
        "verifier": verifier,
        **about,
        "reference": turn.text,
        "reward": reward(verifier, turn.text, brief_to_verify(**about)),
        **identity(transcript, turn.role, turn.index),
        "turn": turn.index,
        "seed": said.call.seed,
        "model": said.call.player,
        "finish_reason": said.call.finish_reason or "",
    }
