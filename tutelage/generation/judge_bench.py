"""Has judges judge the turns of a run, many at once, and writes down what they decide as soon as they do.

What an author has judged before is not judged again, so a judging that was killed goes on where it was: a decision is on
disk before its turn counts as judged.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
from structlog.contextvars import bound_contextvars

from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.judging import family
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Turn
from tutelage.errors import AuthRefused, CallError, EndpointUnreachable, ModelNotServed, TutelageError, UserError
from tutelage.generation.group_commit import GroupCommit
from tutelage.generation.judge_display import show_judging
from tutelage.generation.judge_summary import JudgeSummary, JudgeTally
from tutelage.generation.reviewers import Judge, Opinion
from tutelage.generation.session import unhurried_collector
from tutelage.transcripts.decisions import Decision, Decisions, append_decisions, read_decisions
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript
from tutelage.transcripts.under_review import under_review

log = structlog.get_logger()

PATIENCE: Final = 20.0
"""Seconds for which a write is tried again where the disk is full."""
_ENDS_IT: Final = (EndpointUnreachable, AuthRefused, ModelNotServed, UserError)
"""What is no turn's own matter."""


def completed(run: Path | str, on_skip: Callable[[str], None] = tell_skipped) -> Iterator[Transcript]:
    """The dialogues of a run that can be judged: those that came to their end.

    Raises:
        RunFolderError: It is no run folder.
    """
    return (each for each in read_transcripts(run, on_skip=on_skip) if each.outcome.status == "completed")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owed:
    """A turn that somebody is to judge."""

    judge: Judge
    tally: JudgeTally
    turn: Turn
    dialogue: Dialogue


class Bench:
    """All who judge a run's turns, and what they have made of them.

    Args:
        folder: The run's.
        role: Whose turns are judged.
        judges: Who judges them.
        seed: The run's, which what is drawn by chance in its dialogues comes from.
        again: Judge also what they have judged before.
    """

    def __init__(self, folder: Path, role: str, judges: Sequence[Judge], seed: int, *, again: bool) -> None:
        self._folder = folder
        self._role = role
        self._judges = [(judge, JudgeTally(by=judge.by)) for judge in judges]
        self._seed = seed
        self._again = again
        self._roles: set[str] = set()
        """Whose turns there are."""
        self._writers: set[str] = set()
        """The models that wrote what is judged."""

    async def judge_all(self, summary: JudgeSummary, at_once: int, progress: bool) -> None:
        """Judges what is owed, many dialogues at once.

        Raises:
            EndpointUnreachable, AuthRefused, ModelNotServed: Nobody judges any more.
            UserError: A prompt does not render, nobody speaks in the role, or the decisions cannot be written.
        """

        def skip(what: str) -> None:
            summary.unreadable += 1
            tell_skipped(what)

        summary.reviewers = [tally for _, tally in self._judges]
        async with AsyncExitStack() as stack:
            append_decisions(self._folder, [])  # what cannot be written is said before a model is asked
            before = read_decisions(self._folder, on_skip=skip)
            append = partial(append_decisions, self._folder)
            writer = GroupCommit[Decision]("decisions", append, patience=PATIENCE).start()
            stack.push_async_callback(asyncio.to_thread, writer.close)
            stack.enter_context(unhurried_collector())
            advance = stack.enter_context(show_judging(self._folder, summary.reviewers, shown=progress))
            owed = self._owed(before, skip)
            await _together([self._work(owed, writer, advance) for _ in range(at_once)])
        if self._roles and self._role not in self._roles:
            raise UserError(f"nobody speaks as {self._role!r}: give --role, one of {', '.join(sorted(self._roles))}")
        self._warn_of_relatives()

    def _owed(self, before: Decisions, skip: Callable[[str], None]) -> Iterator[list[_Owed]]:
        """What is to be judged, dialogue by dialogue."""
        for transcript in completed(self._folder, skip):
            self._roles.update(turn.role for turn in transcript.turns)
            yield [
                owed
                for turn in transcript.turns
                if turn.role == self._role and (dialogue := under_review(transcript, turn)) is not None
                for owed in self._of_turn(transcript, turn, dialogue, before)
            ]

    def _of_turn(self, transcript: Transcript, turn: Turn, dialogue: Dialogue, before: Decisions) -> Iterator[_Owed]:
        self._writers.add(dialogue["attempts"][-1].call.model)
        dialogue["seed"] = Occasion(dialogue=transcript.id, turn=0).seed(self._seed, "", 0)
        for judge, tally in self._judges:
            if not self._again and before.has(transcript.id, turn.index, judge.by):
                tally.known += 1
            else:
                yield _Owed(judge=judge, tally=tally, turn=turn, dialogue=dialogue)

    def _warn_of_relatives(self) -> None:
        """Warns where a judge is of the family of those who wrote: a model likes its own family's words."""
        written = set(map(family, self._writers)) - {None}
        for judge, _ in self._judges:
            if judging := written.intersection(map(family, judge.models)):
                log.warning(
                    "judges_of_own_family", speaker=self._role, family=sorted(map(str, judging)), judges=[judge.by]
                )

    async def _work(
        self, owed: Iterator[list[_Owed]], writer: GroupCommit[Decision], advance: Callable[[], None]
    ) -> None:
        """Judges one dialogue after the other, and of each one turn after the other.

        What a reviewer is shown of a turn begins with what it was shown of the turn before: the endpoint's prefix cache
        has it by then.
        """
        for of_dialogue in owed:
            for each in of_dialogue:
                opinion = await _opinion(each)
                if opinion is not None:
                    await writer.put(_decision(each, opinion))
                    _count(each, opinion)
            advance()


async def _opinion(owed: _Owed) -> Opinion | None:
    with bound_contextvars(dialogue=owed.dialogue["id"]):
        try:
            opinion = await owed.judge.opinion(owed.dialogue)
        except _ENDS_IT:
            raise
        except Exception as error:  # a reviewer or a check of the user's own may raise anything
            reason = error.reason if isinstance(error, CallError) else f"error:{type(error).__name__}"
            unexpected = None if isinstance(error, TutelageError) else error
            log.warning("turn_not_judged", turn=owed.turn.index, by=owed.judge.by, reason=reason, exc_info=unexpected)
            owed.tally.failed[reason] += 1
            return None
    if opinion is None:
        owed.tally.nothing += 1
    return opinion


def _decision(owed: _Owed, opinion: Opinion) -> Decision:
    return Decision(
        id=owed.dialogue["id"],
        turn=owed.turn.index,
        by=owed.judge.by,
        decision=opinion.decision,
        text=opinion.text,
        reason=opinion.reason,
    )


def _count(owed: _Owed, opinion: Opinion) -> None:
    tally = owed.tally
    tally.kept += opinion.decision == "keep"
    tally.overruled += opinion.overruled
    tally.preferred += opinion.decision == "prefer"
    tally.dropped += opinion.decision == "drop"
    if opinion.decision == "drop":
        tally.against.update({issue.dimension for issue in opinion.issues if issue.severity != "minor"})
    if opinion.prompts and (shown := _shown_in_run(owed)):
        tally.reviewed += 1
        tally.as_shown += bool(shown & opinion.prompts)


def _shown_in_run(owed: _Owed) -> set[str]:
    """The prompts of the role's reviews in the run; none where it was asked again for a reply that did not fit."""
    accepted, role = owed.turn.accepted, owed.judge.role
    if accepted is None or any(step.kind == "misfit" and step.role == role for step in owed.turn.steps):
        return set()
    return {review.call.prompt_sha256 for review in accepted.reviews if review.role == role and review.call}


async def _together(working: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Waits for all; where one cannot go on, or at Ctrl-C, all end."""
    tasks = [asyncio.create_task(each) for each in working]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
