"""A run: keeps dialogues under way until nothing is owed, and has each that ends written down.

What was begun is finished first, then what is to be tried again, then what the briefs and the target ask for. A dialogue
that fails in a way that may heal is tried again later, from its last checkpoint; one that fails again and again is set
aside, with its reason, as a transcript.
"""

import asyncio
import heapq
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog
from langgraph.runtime import RunControl

from tutelage.briefs.sources import BriefIndex
from tutelage.config import Config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Cast
from tutelage.errors import AuthRefused, CallError, EndpointUnreachable, ModelNotServed, RunFolderError, ShapeError
from tutelage.generation.ledger import Ledger
from tutelage.generation.pace import Pace
from tutelage.generation.performance import NothingLeft, Stage
from tutelage.generation.recorder import Recorder
from tutelage.generation.run_watch import RunWatch, Stopwatch
from tutelage.generation.slots import Owed, Slots
from tutelage.telemetry.traces import dialogue_span

log = structlog.get_logger()

REFUSED_AGAIN: Final = 60.0
"""Seconds until a daemon tries an endpoint again that has refused a key or a model."""
LEDGER_AGAIN: Final = 2.0
"""Seconds until a ledger that another process keeps locked is read again."""
PACE_AGAIN: Final = 0.25
"""Seconds until a run whose endpoints are busy looks again whether they can take more."""
TRY_AGAIN: Final = (15.0, 60.0)
"""Seconds after which a dialogue is tried again whose endpoint failed it; one whose replies had no shape is at once."""


class Run:
    """One start of a run.

    Args:
        config: The run's config.
        stage: Where dialogues are played.
        cast: Who plays.
        briefs: What the dialogues are about.
        brief_at: Reads the brief at a position; None if it is gone, and its dialogue cannot be made.
        recorder: Writes down what is made.
        ledger: Knows what was finished before.
        read_brief: The brief of a dialogue that has failed, for a retry.
        watch: Is told what happens.
        at_once: How many dialogues may be under way, at most.
        pace: How many of them the endpoints can take just now.
        endless: Whether to wait for more when nothing is owed, as a daemon does.
        held_by: What keeps new dialogues from starting just now; whoever changes that calls `wake`.
    """

    def __init__(
        self,
        *,
        config: Config,
        stage: Stage,
        cast: Cast,
        briefs: BriefIndex,
        brief_at: Callable[[int], Awaitable[Brief | None]],
        recorder: Recorder,
        ledger: Ledger,
        read_brief: Callable[[str], Brief],
        watch: RunWatch,
        at_once: int,
        pace: Pace,
        endless: bool = False,
        held_by: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._config = config
        self._graph = config.graph
        self._stage = stage
        self._brief_at = brief_at
        self._recorder = recorder
        self._ledger = ledger
        self._read_brief = read_brief
        self._watch = watch
        self._tally = watch.tally
        self._endless = endless
        self._held_by = held_by
        self._wakened = asyncio.Event()
        self._under_way: dict[str, RunControl] = {}
        self._later: list[tuple[float, int, Owed]] = []
        """Dialogues to be tried again, by when."""
        self._first: list[Owed] = []
        """Dialogues that go before all that are new, the next one last."""
        self._moved: list[Owed] = []
        """Dialogues that were under way when `recast` was called: they go on, whatever keeps others from starting."""
        self._moving: list[tuple[set[str], asyncio.Event]] = []
        """By `recast`, the dialogues that were under way then and have not moved on."""
        self._slots = Slots(config, briefs, self._known)
        self.paused = False
        self.draining = False
        self.refusal: str | None = None
        """Why no dialogue goes on, where an endpoint refuses them all."""
        self._refused_until = 0.0
        self._look_for_retries = False
        self.reasons: Counter[tuple[str, str]] = Counter()
        """Of the dialogues that this start finished, by (status, reason)."""
        self.recast(cast, at_once, pace)
        self._take_up()

    def recast(self, cast: Cast, at_once: int, pace: Pace) -> asyncio.Event:
        """Has dialogues played by others: those under way from their next step on.

        Returns:
            What is set when nobody is played by those before any more.
        """
        self._cast = replace(cast, on_prompt=self._recorder.keep_prompt, journal=self._recorder, watch=self._watch)
        self._at_once, self._pace = at_once, pace
        for control in self._under_way.values():
            control.request_drain("recast")
        self.refusal, self._refused_until = None, 0.0
        moved_on = asyncio.Event()
        self._moving.append((set(self._under_way), moved_on))
        self._notice_who_moved_on()
        self.wake()
        return moved_on

    @property
    def at_once(self) -> int:
        """How many dialogues may be under way now: what the config allows, or less where the endpoints are busy."""
        dialogues = self._pace.dialogues(len(self._under_way))
        return self._at_once if dialogues is None else min(dialogues, self._at_once)

    def reconfigure(self, config: Config) -> None:
        """Takes a target, other briefs, or other models, into account."""
        self._config = config
        self._stage.reconfigure(config)
        self._slots.again(config)
        self.wake()

    def look_again(self) -> None:
        """Looks for what is owed from the beginning: there are new briefs."""
        self._slots.again()
        self.wake()

    def retry(self) -> None:
        """Makes the dialogues again that the ledger says are to be."""
        waiting, self._look_for_retries = self._waiting(), False
        for entry, retry in self._ledger.retries():
            if entry.id in self._under_way:
                self._look_for_retries = True  # it may be the one that has just failed: looked for again when it ends
            elif entry.id not in waiting:
                begun = entry.id in self._recorder.checkpoints.threads
                self._first.insert(0, Owed(id=entry.id, retry=retry, begun=begun))
        self.wake()

    def pause(self) -> None:
        """Starts no more dialogues; those under way go on."""
        self.paused = True

    def resume(self) -> None:
        """Starts dialogues again."""
        self.paused = False
        self.wake()

    def drain(self) -> None:
        """Starts no more dialogues, and stops those under way after the step that they are in."""
        self.draining = True
        for control in self._under_way.values():
            control.request_drain()
        self.wake()

    def wake(self) -> None:
        """Has the run look again at whether it may start a dialogue."""
        self._wakened.set()

    async def complete(self) -> None:
        """Makes what is owed, until the target is met, nothing is left to try, or the run is drained.

        Cancelled, it drops the steps that are under way; all steps before them are on disk.

        Raises:
            EndpointUnreachable: A model could not be reached any more. What was under way is owed still.
            AuthRefused, ModelNotServed: An endpoint has come to want another key, or to serve another model.
            UserError: The run folder cannot be written, a prompt does not render for some brief, a briefs file changed.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while not self.draining:
                    self._wakened.clear()
                    owed = await self._next()
                    if owed is not None and not self.draining:  # it may have been drained while that was looked up
                        self._begin(group, owed)
                        await asyncio.sleep(0)  # thousands that begin in one go would keep replies waiting
                    elif self._is_over():
                        break
                    else:
                        await self._wait()
        except BaseExceptionGroup as errors:
            # The first to fail cancelled the others: its error is the one that counts.
            raise errors.exceptions[0] from None

    def _begin(self, group: asyncio.TaskGroup, owed: Owed) -> None:
        control = self._under_way[owed.id] = RunControl()
        self._tally.under_way += 1
        group.create_task(self._make(owed, control))

    async def _next(self) -> Owed | None:
        """What to begin now; None if nothing, for now or for good."""
        if self.draining or len(self._under_way) >= self._at_once or time.monotonic() < self._refused_until:
            return None
        if self._moved:
            return self._moved.pop()
        if self.paused or self._held_by() or len(self._under_way) >= self.at_once:
            return None
        if self._first:
            return self._first.pop()
        if self._later and self._later[0][0] <= time.monotonic():
            return heapq.heappop(self._later)[-1]
        return None if self._has_enough() else await self._next_slot()

    async def _next_slot(self) -> Owed | None:
        try:
            return await self._slots.next()
        except sqlite3.OperationalError as error:
            if not self._endless:
                raise RunFolderError(f"the ledger cannot be read: {error}") from error
            log.warning("ledger_not_read", error=str(error), note="tried again soon")
            asyncio.get_running_loop().call_later(LEDGER_AGAIN, self.wake)
            return None

    def _has_enough(self) -> bool:
        target, tally = self._config.target.dialogues, self._tally
        return target is not None and tally.done + tally.under_way + len(self._later) >= target

    def _is_over(self) -> bool:
        """Whether nothing is under way, nothing waits, and nothing more will come."""
        if self._under_way or self._first or self._moved or self._later:
            return False
        target = self._config.target.dialogues
        return not self._endless or (target is not None and self._tally.done >= target)

    async def _wait(self) -> None:
        now, until = time.monotonic(), None
        if now < self._refused_until:
            until = self._refused_until
        elif not (self.paused or len(self._under_way) >= self._at_once or self._held_by()):
            # Where one of these keeps dialogues from starting, whoever changes that calls `wake`.
            if len(self._under_way) >= self.at_once:
                until = now + PACE_AGAIN
            elif self._later:
                until = self._later[0][0]
        try:
            await asyncio.wait_for(self._wakened.wait(), None if until is None else max(0.0, until - now))
        except TimeoutError:
            pass

    async def _make(self, owed: Owed, control: RunControl) -> None:
        try:
            with structlog.contextvars.bound_contextvars(dialogue=owed.id):
                await self._play(owed, control)
        finally:
            del self._under_way[owed.id]
            self._tally.under_way -= 1
            self._recorder.leave(owed.id)
            self._notice_who_moved_on(owed.id)
            if self._look_for_retries:
                self.retry()
            self.wake()

    async def _play(self, owed: Owed, control: RunControl) -> None:
        stopwatch = Stopwatch()
        brief = await self._brief_of(owed)
        if brief is None and not owed.begun:
            return
        if brief is not None:
            self._recorder.begin(owed.id, brief.id)
        if owed.begun:
            await asyncio.to_thread(self._recorder.remember_replies, owed.id)
        with dialogue_span(owed.id, run=self._config.run, graph=self._graph) as span:
            try:
                played = await self._stage.play(owed, brief, self._cast, control)
            except NothingLeft:
                span.ended(status="drained", reason="begun_anew")
                self._slots.again()
                return
            except (AuthRefused, ModelNotServed) as error:
                if not self._endless:
                    raise
                span.ended(status="drained", reason=error.reason)
                self._wait_for_consent(error)
                self._put_down(owed, brief)
                return
            except EndpointUnreachable:
                if not control.drain_requested:
                    raise
                played = None  # others play it on, at endpoints that answer
            except CallError as error:
                if not error.may_heal:
                    raise
                span.ended(status="failed", reason=error.reason)
                self._try_later(owed, brief, error)
                return
            if played is None:
                span.ended(status="drained", reason="drained")
                self._put_down(owed, brief)
                return
            outcome = played.transcript.outcome
            span.ended(status=outcome.status, reason=outcome.reason)
        await self._recorder.finish(played.transcript, played.line)
        self.refusal = None
        self.reasons[outcome.status, outcome.reason] += 1
        self._watch.dialogue_ended(outcome, stopwatch.lap())

    async def _brief_of(self, owed: Owed) -> Brief | None:
        """What it is about; None where that is gone, or stands in its checkpoint alone."""
        if owed.position is not None:
            return await self._brief_at(owed.position)
        if owed.brief is not None or not owed.retry:
            return owed.brief
        try:
            return self._read_brief(owed.id)
        except (RunFolderError, OSError) as error:
            log.error("retry_not_begun", error=str(error), note="what failed cannot be read any more")
            return None

    def _put_down(self, owed: Owed, brief: Brief | None) -> None:
        """It was drained: if not the whole run is, others play it on."""
        if not self.draining:
            self._moved.append(replace(owed, position=None, brief=brief, begun=True))

    def _wait_for_consent(self, error: CallError) -> None:
        """An endpoint wants another key, or does not serve a model any more: for a daemon, something to wait for."""
        if self.refusal is None:
            note = "tried again every minute, and at once by a reload"
            log.error("model_refused", reason=error.reason, error=str(error), note=note)
        self.refusal = str(error)
        self._refused_until = time.monotonic() + REFUSED_AGAIN

    def _try_later(self, owed: Owed, brief: Brief | None, error: CallError) -> None:
        pause = 0.0 if isinstance(error, ShapeError) else TRY_AGAIN[owed.tries]
        log.warning("dialogue_tried_again_later", reason=error.reason, error=str(error), seconds=pause)
        again = replace(owed, position=None, brief=brief, begun=True, tries=owed.tries + 1)
        heapq.heappush(self._later, (time.monotonic() + pause, id(again), again))

    def _notice_who_moved_on(self, id_: str | None = None) -> None:
        for players, moved_on in self._moving:
            players.discard(id_ or "")
            if not players:
                moved_on.set()
        self._moving = [each for each in self._moving if not each[1].is_set()]

    def _take_up(self) -> None:
        """What an earlier start left: first the retries, then what is under way already, so that this goes first."""
        self.retry()
        retried = {owed.id for owed in self._first}
        begun = sorted(self._recorder.checkpoints.threads - retried)
        if begun:
            log.info("dialogues_resumed", dialogues=len(begun))
        self._first += [Owed(id=id_, begun=True) for id_ in begun]

    def _known(self, ids: Sequence[str]) -> set[str]:
        taken = self._waiting() | self._under_way.keys()
        # What is to be made again is no new dialogue: `retry` has it made, as another attempt.
        return self._ledger.finished(ids) | taken.intersection(ids)

    def _waiting(self) -> set[str]:
        return {owed.id for owed in (*self._first, *self._moved, *(owed for *_, owed in self._later))}
