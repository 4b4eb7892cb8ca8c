"""A dialogue as it stood when a draft was under review: what its reviewers were shown, put together from the transcript."""

import re
from collections.abc import Iterator
from typing import Final

from tutelage.dialogue.prompt_length import UNMEASURED
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Shortening, Turn
from tutelage.transcripts.transcript import Transcript

_SHORTENED: Final = re.compile(r"from turn (\d+) on turns 0 to (\d+) were shown (no more|as a summary)")
"""How an outcome's detail says it."""


def under_review(transcript: Transcript, turn: Turn) -> Dialogue | None:
    """The dialogue's state when the accepted draft of one of its turns was under review.

    Args:
        transcript: Of a dialogue.
        turn: One of its turns.

    Returns:
        The turns before, and the turn's attempts up to the accepted one, which has no reviews yet. None for a turn that
        no model drafted: a person's.
    """
    accepted = turn.accepted
    if accepted is None:
        return None
    earlier = turn.attempts[: turn.attempts.index(accepted)]
    draft = accepted.model_copy(update={"status": "pending", "forced": False, "reviews": []})
    return {
        "id": transcript.id,
        "retry": transcript.attempt - 1,
        "begun": transcript.started.timestamp(),
        "brief": transcript.brief,
        "profiles": transcript.profiles,
        "findings": transcript.findings,
        "turns": transcript.turns[: turn.index],
        "speaker": turn.role,
        "attempts": [*earlier, draft],
        "reviews": [],
        "steps": [],
        "shortened": [each for each in _shortenings(transcript) if each.at <= turn.index],
    }


def _shortenings(transcript: Transcript) -> Iterator[Shortening]:
    """Which turns were no longer shown, from which turn on: the outcome says so, and the steps have the summaries."""
    turns = (*transcript.turns, *transcript.cut_turns)
    summaries = (step.text for turn in turns for step in turn.steps if step.kind == "summary")
    for at, last, how in _SHORTENED.findall(transcript.outcome.detail or ""):
        summary = next(summaries, None) if how == "as a summary" else None
        yield Shortening(turns=int(last) + 1, at=int(at), rate=UNMEASURED, summary=summary)
