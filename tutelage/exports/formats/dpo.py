"""Preference pairs: of two texts for one turn, the better one and the worse one.

They come from revisions, from candidates of one prompt, and from people (`pairs/`); the column `source` says which. The
rows are what TRL's `DPOTrainer` reads, with an explicit prompt: what the role was shown before its first draft, so nothing
of the critique.
"""

from collections.abc import Iterator

from tutelage.dialogue.turn import Turn
from tutelage.exports.formats.deciding import decided, words_of
from tutelage.exports.formats.pairs.pair import Pair
from tutelage.exports.formats.pairs.people import people
from tutelage.exports.formats.pairs.revisions import revisions
from tutelage.exports.formats.pairs.siblings import siblings
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    IDENTITY,
    MESSAGES,
    TEXTS,
    Column,
    Format,
    LeftOut,
    Row,
    first_prompt,
    identity,
    said,
    thought,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """The pairs of the role's turns."""
    for turn in judged.transcript.turns:
        # A turn with one draft that nobody said anything about has nothing to compare.
        if turn.role != request.role or (len(turn.attempts) < 2 and turn.index not in judged.decisions):
            continue
        for pair in _once_each(_pairs(judged, turn, request)):
            yield pair if isinstance(pair, LeftOut) else _row(judged.transcript, turn, pair, prompts, request)


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts were sent back, and who had candidates that were not chosen."""
    for turn in transcript.turns:
        yield from (turn.role for attempt in turn.attempts if attempt.status in ("rejected", "superseded"))


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(MESSAGES, "what the role was shown before its first draft"),
        "chosen": Column(MESSAGES, "the better text"),
        "rejected": Column(MESSAGES, "the worse text"),
        **IDENTITY,
        "turn": Column("integer", "the turn's index in the dialogue, from 0"),
        "attempt": Column("integer", "which attempt at the turn the rejected text is, from 0"),
        "source": Column(
            "text",
            "what says which is better: `revision` (the reviewers that sent the one back and accepted the other), "
            "`sibling` (the scores of two candidates of one prompt), `human` or `judge` (an edit or a preference)",
        ),
        "issues_fixed": Column(TEXTS, "of a revision: what the draft was sent back for and it mended, by dimension"),
        "chosen_model": Column(
            "text", "who wrote the chosen text: the model, or `model+adapter`; empty where it was written instead"
        ),
        "rejected_model": Column("text", "who wrote the rejected text"),
        "finish_reason": Column("text", "why the model stopped in `chosen`; `length` means that it was cut off"),
        "score_chosen": Column("number", "the mean of the scores that both texts got by the same judges; uncalibrated"),
        "score_rejected": Column("number", "the same for the rejected text"),
        "margin": Column("number", "score_chosen - score_rejected"),
    }


DPO = Format(
    name="dpo",
    rows=rows,
    roles=roles,
    columns=columns,
    options=frozenset({"reasoning", "pairs", "gap", "minimal_edit", "balance_lengths"}),
    about="preference training: two texts for one turn, of which reviewers, verifiers or people found one better",
)


def _pairs(judged: Judged, turn: Turn, request: Request) -> Iterator[Pair | LeftOut]:
    """What people say comes first: what says otherwise of the same two texts is a repetition."""
    if (now := decided(judged, turn)) is None:
        return
    if judged.drops(turn.index):
        yield LeftOut.DROPPED
        return
    if request.pairs in ("all", "people"):
        yield from people(judged, turn, judges=request.pairs == "all")
    if request.pairs in ("all", "revisions"):
        yield from revisions(turn, now, minimal_edit=request.minimal_edit)
    if request.pairs in ("all", "siblings"):
        yield from siblings(turn, now, gap=request.gap)


def _once_each(pairs: Iterator[Pair | LeftOut]) -> Iterator[Pair | LeftOut]:
    seen: set[frozenset[str]] = set()
    for pair in pairs:
        if isinstance(pair, LeftOut):
            yield pair
            continue
        texts = frozenset((words_of(pair.chosen), words_of(pair.rejected)))
        yield LeftOut.REPEATED if texts in seen else pair
        seen.add(texts)


def _row(transcript: Transcript, turn: Turn, pair: Pair, prompts: Prompts, request: Request) -> Row | LeftOut:
    try:
        prompt = first_prompt(turn.attempts[0].call, turn.steps, prompts)
    except KeyError:
        return LeftOut.PROMPT_LOST
    chosen, rejected = pair.chosen, pair.rejected
    # Thoughts on one side alone would teach whether to think, and not what to say.
    if request.reasoning and pair.chosen_by and pair.chosen_by.reasoning and pair.rejected_by.reasoning:
        chosen, rejected = thought(pair.chosen_by, chosen), thought(pair.rejected_by, rejected)
    high, low = pair.scores or (None, None)
    return {
        "prompt": prompt,
        "chosen": said(chosen),
        "rejected": said(rejected),
        **identity(transcript, request.role, turn.index, *pair.place),
        "turn": turn.index,
        "attempt": pair.attempt,
        "source": pair.source,
        "issues_fixed": list(pair.issues_fixed),
        "chosen_model": pair.chosen_by.player if pair.chosen_by else "",
        "rejected_model": pair.rejected_by.player,
        "finish_reason": (pair.chosen_by.finish_reason or "") if pair.chosen_by else "",
        "score_chosen": high,
        "score_rejected": low,
        "margin": None if high is None or low is None else high - low,
    }
