"""Preference pairs: a draft that was sent back against the revision that the reviewers accepted.

The rows are what TRL's `DPOTrainer` reads, with an explicit prompt: what the role was shown before its first draft,
so nothing of the critique. Pairs of a draft and its revision: D'Oosterlinck et al. 2024, arXiv 2408.06266.
"""

from collections.abc import Iterator
from statistics import fmean

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.exports.request import Request
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
    player,
    said,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One pair for each draft of the role that was sent back."""
    transcript = judged.transcript
    for turn in transcript.turns:
        if turn.role != request.role:
            continue
        seen: set[str] = set()
        for number, draft in enumerate(turn.attempts):
            if draft.status == "rejected":
                yield _pair(transcript, turn, number, seen, prompts, request)
                seen.add(_words(draft.text))


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts were sent back."""
    for turn in transcript.turns:
        yield from (turn.role for attempt in turn.attempts if attempt.status == "rejected")


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "chosen": Column(MESSAGES, "the revision that was accepted by every reviewer"),
        "rejected": Column(MESSAGES, "the draft that was sent back"),
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0"),
        "attempt": Column("integer", "which draft of the turn the rejected one is, from 0"),
        "issues_fixed": Column(TEXTS, "what the draft was sent back for and the revision mended, by dimension"),
        "chosen_model": Column("text", "who wrote the revision: the model, or `model+adapter`"),
        "rejected_model": Column("text", "who wrote the draft"),
        "finish_reason": Column("text", "why the model stopped in `chosen`; `length` means that it was cut off"),
        "score_chosen": Column("number", "the mean of the scores that the reviewers gave to both texts; uncalibrated"),
        "score_rejected": Column("number", "the same for the draft"),
        "margin": Column("number", "score_chosen - score_rejected"),
    }


DPO = Format(
    name="dpo",
    rows=rows,
    roles=roles,
    columns=columns,
    about="preference training: a draft that reviewers sent back, and the revision that they accepted",
)


def _pair(
    transcript: Transcript, turn: Turn, number: int, seen: set[str], prompts: Prompts, request: Request
) -> Row | LeftOut:
    chosen, rejected = accepted(turn), turn.attempts[number]
    fixed = _issues_fixed(chosen, rejected)
    if reason := _why_not(chosen, rejected, fixed, seen):
        return reason
    try:
        prompt = first_prompt(turn.attempts[0].call, turn.steps, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    return {
        "prompt": prompt,
        "chosen": said(chosen.text),
        "rejected": said(rejected.text),
        **identity(transcript, request.role, turn.index, number),
        "turn": turn.index,
        "attempt": number,
        "issues_fixed": fixed,
        "chosen_model": player(chosen.call),
        "rejected_model": player(rejected.call),
        "finish_reason": chosen.call.finish_reason or "",
        **_scores(chosen, rejected),
    }


def _why_not(chosen: Attempt, rejected: Attempt, fixed: list[str], seen: set[str]) -> LeftOut | None:
    if chosen.forced:
        return LeftOut.FORCED
    if not chosen.text.strip() or not rejected.text.strip():
        return LeftOut.EMPTY
    if _words(chosen.text) == _words(rejected.text):
        return LeftOut.IDENTICAL
    if _words(rejected.text) in seen:
        return LeftOut.REPEATED
    return LeftOut.NOTHING_MENDED if _sent_back_for(rejected) and not fixed else None


def _words(text: str) -> str:
    return " ".join(text.split())


def _issues_fixed(chosen: Attempt, rejected: Attempt) -> list[str]:
    still_there = {issue.dimension for review in chosen.reviews for issue in review.issues if issue.severity != "minor"}
    return sorted(_sent_back_for(rejected) - still_there)


def _sent_back_for(draft: Attempt) -> set[str]:
    return {issue.dimension for review in draft.reviews if review.verdict == "revise" for issue in review.issues}


def _scores(chosen: Attempt, rejected: Attempt) -> Row:
    """Over the scores that both texts have, each by the same reviewer, so that the margin compares like with like."""
    of_chosen, of_rejected = _by_reviewer(chosen), _by_reviewer(rejected)
    both = sorted(of_chosen.keys() & of_rejected.keys())
    if not both:
        return {"score_chosen": None, "score_rejected": None, "margin": None}
    high, low = fmean(of_chosen[each] for each in both), fmean(of_rejected[each] for each in both)
    return {"score_chosen": high, "score_rejected": low, "margin": high - low}


def _by_reviewer(attempt: Attempt) -> dict[tuple[str, str], float]:
    return {(review.role, name): score for review in attempt.reviews for name, score in review.scores.items()}
