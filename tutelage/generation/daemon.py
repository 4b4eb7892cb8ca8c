"""`tutelage daemon`: a run that goes on for weeks, is told what to do while it does, and comes to its end when asked.

The customs are procrastinate's and systemd's: SIGTERM drains, a second signal ends it at once, SIGHUP reloads.
"""

import asyncio
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog
from langchain_core.language_models import BaseChatModel

from tutelage.config import Config, load_config
from tutelage.errors import ConfigError, RunFolderError, TutelageError, UserError
from tutelage.generation.admission import Admission
from tutelage.generation.casting import Casting, cast_of, check_roles, prompt_library
from tutelage.generation.control import ControlServer
from tutelage.generation.generate import RunSummary, fast_loop, summary
from tutelage.generation.lineage import with_training_read
from tutelage.generation.notify import Notifier
from tutelage.generation.pace import Pace
from tutelage.generation.progress import show_progress
from tutelage.generation.run_folder import RunFolder
from tutelage.generation.session import Means, Session, at_once, check_all_prompts, open_session, target_of
from tutelage.generation.standing import Standing, is_lost
from tutelage.generation.status import Reload, Status, status_line
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.telemetry.metrics import Metrics

log = structlog.get_logger()

FIXED: Final = ("run", "graph", "seed", "telemetry")
"""Keys of the config that a reload cannot change: dialogues' ids, courses and seeds come from the first three."""
FIXED_OF_DAEMON: Final = ("listen", "token")
REPORT: Final = 60.0
"""Seconds between two lines of progress where nobody watches."""
MARGIN: Final = 30.0
"""Seconds that the end takes beyond `daemon.grace` at most: what is written is still to be synced."""
SHOW_CURSOR: Final = b"\x1b[?25h\n"
STUCK: Final = 3
"""Ticks without a call in flight after which a drain is over."""
TICK: Final = 1.0
"""Seconds between two looks at its own state."""


class Daemon:
    """A run, kept going and controlled. `serve` is all of its life.

    Args:
        config: The config's file, which a reload reads again; or a config, which none can.
        out: The run's folder; `runs/NAME` if not given.
        models: Models by role, instead of the config's.
        callbacks: LangChain callback handlers.
        progress: Whether to show progress on stderr.
    """

    def __init__(
        self,
        config: Path | str | Mapping[str, Any] | Config,
        *,
        out: Path | str | None = None,
        models: Mapping[str, BaseChatModel] | None = None,
        callbacks: Sequence[Any] = (),
        progress: bool = False,
    ) -> None:
        self._source = config
        self._config = with_training_read(load_config(config))
        self._out = out
        self._models = models
        self._progress = progress
        self._callbacks = callbacks
        self._metrics = Metrics(run=self._config.run, graph=self._config.graph)
        self._notifier = Notifier.from_environment()
        self._standing = Standing(self._config)
        self._session: Session | None = None
        self._casts = AsyncExitStack()
        """The casts of reloads."""
        self._draining = False
        self._signals = 0
        self._life: asyncio.Task[Any] | None = None
        self._completing: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._reload_wanted = False
        """Whether it was asked to reload before it had begun."""
        self._reload_lock = asyncio.Lock()

    async def serve(self) -> RunSummary | None:
        """Makes dialogues until the target is met or it is drained.

        Returns:
            What the run has come to; None if it was drained before it had begun.

        Raises:
            UserError, EndpointUnreachable: As `generate` does at its start; later only if the folder cannot be written
                any more. A key or a model's name that an endpoint refuses later is waited for.
        """
        self._life = asyncio.current_task()
        started = time.monotonic()
        with self._signals_heard():
            try:
                async with AsyncExitStack() as stack:
                    session = await stack.enter_async_context(
                        open_session(self._config, out=self._out, means=self._means())
                    )
                    await self._begin(session, stack)
                    await self._go_on(session)
                    return replace(summary(session, time.monotonic() - started), drained=self._draining)
            except asyncio.CancelledError:
                if self._draining and self._session is None:
                    log.info("daemon_drained", note="before it had begun")
                    return None
                raise

    def _means(self) -> Means:
        return Means(
            models=self._models,
            callbacks=self._callbacks,
            patience=float("inf"),
            endless=True,
            held_by=self._standing.held_by,
            metrics=self._metrics,
            within=self._controlled,
        )

    @asynccontextmanager
    async def _controlled(self, folder: RunFolder) -> AsyncIterator[None]:
        self._standing.folder = folder.path
        async with (
            ControlServer(self, folder.path, self._config.daemon),
            self._notifier.told(lambda: status_line(self.status()), self.live),
        ):
            yield

    async def _begin(self, session: Session, stack: AsyncExitStack) -> None:
        admission = Admission(session.config.watermarks, session.folder.path, on_change=session.run.wake)
        admission.watch(session.casting.pools)
        await stack.enter_async_context(admission)
        stack.push_async_callback(self._leave_casts)
        if self._progress:
            tally, note = session.watch.tally, self._standing.note
            await stack.enter_async_context(show_progress(tally, name=session.config.run, note=note, every=REPORT))
        self._standing.begin(session, admission)
        self._standing.tell(self._metrics, session)
        self._session = session
        self._notifier.ready()
        log.info("daemon_ready", folder=str(session.folder.path), dialogues=session.watch.tally.done_before)

    async def _go_on(self, session: Session) -> None:
        housekeeping = asyncio.create_task(self._keep_house(session))
        self._completing = asyncio.create_task(session.run.complete())
        if self._reload_wanted:
            self._asked_to_reload()
        try:
            await self._completing
        except asyncio.CancelledError:
            if not self._draining or (self._life is not None and self._life.cancelling()):
                raise
        finally:
            self._standing.end(self._metrics)
            housekeeping.cancel()
            await asyncio.gather(housekeeping, return_exceptions=True)
        if self._draining:
            log.info(
                "daemon_drained", dialogues=len(session.recorder.checkpoints.threads), note="go on at the next start"
            )

    async def _keep_house(self, session: Session) -> None:
        """What is to be done now and then, whatever else happens."""
        look_at = time.monotonic() + self._config.daemon.poll
        stuck = 0
        while True:
            await asyncio.sleep(TICK)
            session.watch.tally.sample()
            self._standing.note_state()
            nothing_moves = self._standing.waiting_calls() and not self._standing.calls_in_flight()
            stuck = stuck + 1 if self._draining and nothing_moves else 0
            if stuck == STUCK:
                self._cut_short()  # what waits for an endpoint that is gone would wait for all of the grace
            if time.monotonic() >= look_at:
                try:
                    await self._look_for_briefs(session)
                except Exception:  # what is known of the briefs goes on being made
                    log.exception("briefs_not_looked_at")
                look_at = time.monotonic() + self._config.daemon.poll

    async def _look_for_briefs(self, session: Session) -> None:
        if session.watched_briefs is None:
            return
        look = await asyncio.to_thread(session.watched_briefs.look)
        if look.added or look.back:
            log.info("briefs_taken_up", new=look.added, back=len(look.back))
            session.run.look_again()

    # What it is told: `tutelage.generation.control.Controlled`.

    def pause(self) -> None:
        """Begins nothing new; what is under way goes on."""
        session = self._begun()
        session.run.pause()
        log.info("daemon_paused", under_way=session.watch.tally.under_way)

    def resume(self) -> None:
        """Takes back a pause."""
        self._begun().run.resume()
        log.info("daemon_resumed")

    def drain(self) -> None:
        """Comes to its end: what is under way stops behind its step, or is dropped when there is no more time."""
        if self._draining:
            return
        self._draining = self._standing.draining = True
        grace = self._config.daemon.grace
        log.info(
            "daemon_draining",
            under_way=self._session.watch.tally.under_way if self._session else 0,
            grace=grace,
            note="a second signal ends it at once",
        )
        self._notifier.stopping(grace + MARGIN)
        if self._session is None:
            if self._life is not None:
                self._life.cancel()
            return
        self._session.run.drain()
        self._session.watch.tally.drained = True
        asyncio.get_running_loop().call_later(grace, self._cut_short)

    async def reload(self) -> list[str]:
        """Reads the config again, and takes it up as a whole or not at all.

        Returns:
            The keys that changed.

        Raises:
            UserError: It does not hold, or changes what is fixed.
            EndpointUnreachable: A model that it names cannot be reached.
        """
        session = self._begun()
        async with self._reload_lock:
            self._refuse_if_ending()
            self._notifier.reloading()
            try:
                changed = await self._take_up(session)
            except TutelageError as error:
                self._standing.reloaded = Reload(at=datetime.now(UTC), refused=str(error))
                self._metrics.reloaded(refused=True)
                log.warning("reload_refused", error=str(error))
                raise error if isinstance(error, UserError) else ConfigError(str(error)) from error
            finally:
                self._notifier.ready()
            self._standing.reloaded = Reload(at=datetime.now(UTC), changed=changed)
            self._metrics.reloaded(refused=False)
            log.info("config_reloaded", changed=changed)
            return changed

    async def retry(self, ids: Sequence[str]) -> int:
        """Has dialogues that failed made again: these, or all."""
        session = self._begun()
        self._refuse_if_ending()
        wanted = list(ids) or [entry.id for entry in session.ledger.set_aside()]
        try:
            count = session.ledger.retry(wanted)
        except sqlite3.OperationalError as error:
            raise RunFolderError(f"the ledger cannot be written just now: {error}; ask again") from error
        if ids and count < len(set(ids)):
            log.warning("retry_of_others", asked=len(set(ids)), retried=count, note="the others did not fail")
        self._standing.retrying = True
        session.run.retry()
        return count

    def live(self) -> str | None:
        """An answer shows that the event loop turns, and whatever else ends ends the process."""
        return None

    def ready(self) -> str | None:
        """None, or why it makes no dialogues now."""
        state, reason = self._standing.state()
        return f"{state}: {reason}".rstrip(": ") if state in ("starting", "waiting", "draining") else None

    def metrics(self) -> bytes:
        """Prometheus text."""
        return self._metrics.render()

    def status(self) -> Status:
        """How it stands."""
        return self._standing.status()

    # How it does it.

    def _begun(self) -> Session:
        if self._session is None:
            raise RunFolderError("the daemon is still starting: ask again in a moment")
        return self._session

    def _refuse_if_ending(self) -> None:
        if self._draining or self._standing.over:
            raise RunFolderError("the daemon is coming to its end: start it again")

    def _cut_short(self) -> None:
        if self._completing is None or self._completing.done() or self._session is None:
            return
        count = self._session.watch.tally.under_way
        log.warning("drain_cut_short", dialogues=count, note="their last step is made again")
        self._completing.cancel()

    async def _take_up(self, session: Session) -> list[str]:
        if not isinstance(self._source, Path | str):
            raise ConfigError("the daemon was started with a config that is no file: there is nothing to read again")
        new = with_training_read(await asyncio.to_thread(load_config, self._source))
        changed = _changes(self._config, new)
        check_roles(new, session.graph)
        prompts = prompt_library(new, session.graph)
        check_all_prompts(prompts, session.graph, session.briefs, endless=True)
        async with AsyncExitStack() as casts:
            casting = await casts.enter_async_context(
                cast_of(
                    new,
                    session.graph,
                    prompts,
                    models=self._models,
                    logs=session.folder.logs,
                    endless=True,
                    on_request=session.watch.request_made,
                    fleets=session.fleets,
                )
            )
            self._refuse_if_ending()
            session.folder.rewrite(new)
            before, self._casts = self._casts, casts.pop_all()
        pools, admission = self._standing.pools(), self._standing.admission
        self._config = self._standing.config = new
        self._standing.casting = casting
        if session.watched_briefs is not None and "briefs" in changed:
            session.watched_briefs.follow(new.briefs)
        if admission is not None:
            admission.marks = new.watermarks
            admission.watch(casting.pools)
        session.watch.tally.target = target_of(new, session.briefs, self._means())
        session.run.reconfigure(new)
        moved_on = session.run.recast(casting.cast, at_once(new, casting), Pace(casting.pools))
        self._do_beside(_close(before, pools.values(), moved_on))
        self._do_beside(self._end_servers(session, casting, moved_on))
        return changed

    async def _end_servers(self, session: Session, casting: Casting, when: asyncio.Event) -> None:
        """Ends the servers that nobody plays by any more."""
        await when.wait()
        async with self._reload_lock:  # one that is under way may be launching servers that nobody plays by yet
            if casting is self._standing.casting:  # otherwise the reload after it does so
                wanted = casting.fleets.values()
                await session.fleets.end([fleet for fleet in session.fleets.running() if fleet not in wanted])

    async def _leave_casts(self) -> None:
        for task in (beside := list(self._beside)):
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await self._casts.aclose()

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._asked_to_end, number)
            loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload)
        except (RuntimeError, ValueError):  # not the main thread: whoever runs it there has signals of its own
            yield
            return
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _asked_to_end(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("daemon_ended_at_once", signal=signal.Signals(number).name)
            if sys.stderr.isatty():
                os.write(2, SHOW_CURSOR)  # the live display has hidden it
            os._exit(130)  # as abrupt as a crash, which loses nothing either
        self.drain()

    def _asked_to_reload(self) -> None:
        if self._session is None:
            self._reload_wanted = True
            return

        async def reload() -> None:
            try:
                await self.reload()
            except UserError:
                pass  # it is logged, and everything stays as it was
            except Exception:
                log.exception("reload_failed")

        self._do_beside(reload())

    def _do_beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)


def run_daemon(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    out: Path | str | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
    callbacks: Sequence[Any] = (),
    progress: bool = False,
) -> RunSummary | None:
    """`tutelage daemon` as a function: see `Daemon`."""
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(Daemon(config, out=out, models=models, callbacks=callbacks, progress=progress).serve())


async def _close(casts: AsyncExitStack, pools: Collection[EndpointPool], when: asyncio.Event) -> None:
    """Leaves the endpoints alone that nobody plays by any more; those of the start are the session's, but for their pools."""
    async with casts:
        while not when.is_set():
            for pool in filter(is_lost, pools):
                await pool.aclose()  # what waits there moves on at once: it might wait for ever
            with suppress(TimeoutError):
                await asyncio.wait_for(when.wait(), TICK)
        for pool in pools:
            await pool.aclose()


def _changes(old: Config, new: Config) -> list[str]:
    """The keys that differ.

    Raises:
        ConfigError: One of them is fixed.
    """
    was, is_ = old.as_written(), new.as_written()
    changed = [key for key in is_ if was.get(key) != is_[key]]
    fixed: list[str] = [key for key in FIXED if key in changed]
    fixed += [f"daemon.{key}" for key in FIXED_OF_DAEMON if was["daemon"][key] != is_["daemon"][key]]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)}: cannot change while the daemon runs; take the change back, or drain it and start it "
            f"{'with another run folder' if fixed[0] in ('run', 'graph', 'seed') else 'again'}"
        )
    return changed
