"""How a daemon stands, read from what it is made of: for its status, its metrics and systemd."""

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from tutelage.config import Config
from tutelage.generation.admission import Admission
from tutelage.generation.casting import Casting
from tutelage.generation.memory import resident_memory
from tutelage.generation.session import Session
from tutelage.generation.status import (
    GIB,
    Disk,
    EndpointStatus,
    Progress,
    Reload,
    ServerStatus,
    SetAside,
    State,
    Status,
    Watermark,
)
from tutelage.serving.endpoint_pool import EndpointPool, ReplicaState
from tutelage.serving.engine_load import EngineLoad
from tutelage.telemetry.metrics import Metrics

log = structlog.get_logger()

SHOWN_SET_ASIDE = 10


class Standing:
    """What a daemon has come to. The daemon says here what has happened to it; whoever asks is told from here.

    Args:
        config: The config that it is started with.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        """The one that holds now."""
        self.folder = Path()
        """The run's."""
        self.session: Session | None = None
        """None while it starts."""
        self.casting: Casting | None = None
        """Who plays now: that of the session, or of the last reload."""
        self.admission: Admission | None = None
        self.draining = False
        self.over = False
        """Whether its files are being closed, and nothing can be asked of them any more."""
        self.reloaded: Reload | None = None
        self._started = datetime.now(UTC)
        self._state: State = "starting"
        self._since = self._started
        self._counts: dict[str, dict[str, int]] = {}
        """Of the dialogues that earlier starts finished, by status and reason."""
        self.retrying = False
        """Whether dialogues that are counted as failed may be made again."""

    def begin(self, session: Session, admission: Admission) -> None:
        """The run is open: from now on there is more to say."""
        self._counts, self.retrying = session.ledger.counts(), bool(session.ledger.retries())
        self.admission, self.casting, self.session = admission, session.casting, session

    def status(self) -> Status:
        """All that there is to say."""
        state, reason = self.note_state()
        said = Status(
            run=self.config.run,
            graph=self.config.graph,
            folder=str(self.folder),
            pid=os.getpid(),
            version=version("tutelage"),
            at=datetime.now(UTC),
            started=self._started,
            state=state,
            since=self._since,
            reason=reason,
            reload=self.reloaded,
            memory=resident_memory(),
        )
        if self.session is None or self.over:
            return said
        return said.model_copy(update=self._particulars(self.session))

    def note_state(self) -> tuple[State, str]:
        """The state that it is in, and why; logged where it is another than before."""
        state, reason = self.state()
        if state != self._state:
            log.info("daemon_state_changed", state=state, **({"reason": reason} if reason else {}))
            self._state, self._since = state, datetime.now(UTC)
        return state, reason

    def state(self) -> tuple[State, str]:
        """The state that it is in, and why."""
        session = self.session
        if self.draining:
            return "draining", ""
        if session is None:
            return "starting", ""
        if (trouble := session.recorder.trouble) is not None:
            return "waiting", f"the run folder cannot be written: {trouble}"
        lost = [name for name, pool in self.pools().items() if is_lost(pool)]
        if lost:
            return "waiting", f"no endpoint of {', '.join(lost)} answers"
        if session.run.refusal is not None:
            return "waiting", session.run.refusal
        if session.run.paused:
            return "paused", ""
        if held := self.held_by():
            return "held", ", ".join(held)
        return ("running", "") if session.watch.tally.under_way else ("idle", "")

    def note(self) -> str:
        """What the display of progress says besides its numbers."""
        state, reason = self.state()
        return "" if self.over or state in ("running", "idle") else f"{state} {reason}".strip()

    def held_by(self) -> tuple[str, ...]:
        """What keeps new dialogues from starting."""
        return self.admission.held_by() if self.admission is not None else ()

    def pools(self) -> Mapping[str, EndpointPool]:
        """The endpoints of each model."""
        return self.casting.pools if self.casting is not None else {}

    def waiting_calls(self) -> int:
        """Calls that wait for an endpoint that answers."""
        return sum(max((replica.waiting for replica in pool.replicas()), default=0) for pool in self.pools().values())

    def queued_calls(self) -> int:
        """Calls that wait here, for their endpoints have as many open as may be."""
        pools = self.pools().values()
        return sum(max((replica.waiting_for_place for replica in pool.replicas()), default=0) for pool in pools)

    def calls_in_flight(self) -> int:
        """Calls that an endpoint has not answered yet."""
        return sum(self._by_endpoint(lambda replica: replica.in_flight).values())

    def tell(self, metrics: Metrics, session: Session) -> None:
        """Has metrics look here for what is not counted."""
        tally = session.watch.tally
        metrics.watch(
            state=lambda: self.state()[0],
            under_way=lambda: tally.under_way,
            owed=lambda: self._owed(session),
            completed=lambda: tally.done,
            target=lambda: tally.target or 0,
            set_aside=session.ledger.count_set_aside,
            waiting=self.waiting_calls,
            in_flight=lambda: self._by_endpoint(lambda replica: replica.in_flight),
            limits=lambda: self._by_endpoint(lambda replica: replica.limit),
            queued=lambda: self._by_load(lambda load: load.waiting),
            kv_cache=lambda: self._by_load(lambda load: load.kv_usage),
            for_place=self.queued_calls,
            allowed=lambda: session.run.at_once,
            circuits=lambda: self._by_endpoint(lambda replica: replica.state),
            held_by=self.held_by,
            bytes_on_disk=session.bytes_on_disk,
            bytes_free=self._free,
        )

    def end(self, metrics: Metrics) -> None:
        """Its files are about to be closed: what is in them is told no more."""
        self.over = True
        metrics.unwatch("owed", "set_aside", "bytes_on_disk")

    def _particulars(self, session: Session) -> dict[str, Any]:
        tally = session.watch.tally
        return {
            "progress": Progress(
                done=tally.done,
                target=tally.target,
                under_way=tally.under_way,
                at_once=session.run.at_once,
                tokens_per_second=round(tally.tokens_per_second, 1),
                seconds_left=tally.seconds_left,
            ),
            "outcomes": self._outcomes(session),
            "set_aside": session.ledger.count_set_aside(),
            "set_aside_first": [
                SetAside(id=each.id, brief=each.brief, reason=each.reason)
                for each in session.ledger.set_aside(SHOWN_SET_ASIDE)
            ],
            "endpoints": [
                self._endpoint(model, replica) for model, pool in self.pools().items() for replica in pool.replicas()
            ],
            "servers": [
                ServerStatus(
                    name=server.name,
                    url=server.url,
                    state=server.state,
                    since=server.since,
                    pid=server.pid,
                    gpus=server.gpus,
                    restarts=server.restarts,
                    last_error=server.last_error,
                )
                for fleet in session.fleets.running()
                for server in fleet.states()
            ],
            "waiting_calls": self.waiting_calls(),
            "queued_calls": self.queued_calls(),
            "watermarks": self._watermarks(),
            "disk": Disk(free=self._free(), used=session.bytes_on_disk()),
        }

    def _endpoint(self, model: str, replica: ReplicaState) -> EndpointStatus:
        load = replica.load
        ago = None if replica.lost_at is None else timedelta(seconds=time.monotonic() - replica.lost_at)
        return EndpointStatus(
            model=model,
            url=replica.url,
            state=replica.state,
            since=None if ago is None else datetime.now(UTC) - ago,
            in_flight=replica.in_flight,
            limit=replica.limit,
            limited_by=replica.limited_by,
            queue=None if load is None else load.waiting,
            kv_cache=None if load is None else load.kv_usage,
            cached=load.prefix_hits / load.prefix_queries if load and load.prefix_queries else None,
            failures=replica.failures,
            last_error=replica.last_error,
        )

    def _outcomes(self, session: Session) -> dict[str, dict[str, int]]:
        if self.retrying:
            return session.ledger.counts()  # a scan, and so not always
        outcomes = {status: dict(reasons) for status, reasons in self._counts.items()}
        for (status, reason), count in session.run.reasons.items():
            reasons = outcomes.setdefault(status, {})
            reasons[reason] = reasons.get(reason, 0) + count
        return outcomes

    def _owed(self, session: Session) -> int:
        """Dialogues that are not under way and yet to be made: by the target, or one for each brief."""
        tally = session.watch.tally
        left = tally.left
        if left is None:
            left = len(session.briefs) - sum(sum(reasons.values()) for reasons in self._outcomes(session).values())
        return max(0, left - tally.under_way)

    def _by_endpoint(self, of: Callable[[ReplicaState], Any]) -> dict[str, Any]:
        return {replica.url: of(replica) for pool in self.pools().values() for replica in pool.replicas()}

    def _by_load(self, of: Callable[[EngineLoad], float | None]) -> dict[str, Any]:
        loads = self._by_endpoint(lambda replica: replica.load)
        said = {url: of(load) for url, load in loads.items() if load is not None}
        return {url: value for url, value in said.items() if value is not None}

    def _readings(self) -> dict[str, Any]:
        return self.admission.readings() if self.admission is not None else {}

    def _free(self) -> int:
        return int((self._readings().get("disk") or {}).get("free", 0))

    def _watermarks(self) -> list[Watermark]:
        marks, readings = self.config.watermarks, self._readings()
        held = {holder.partition(":")[0] for holder in readings.get("held_by", ())}
        waiting = [count for count in (readings.get("waiting") or {}).values() if count is not None]
        now = {
            "memory": (readings.get("memory") or {}).get("share"),
            "disk": None if readings.get("disk") is None else readings["disk"]["free"] / GIB,
            "waiting": max(waiting, default=None),
        }
        return [
            Watermark(name=name, now=value, mark=getattr(marks, name), holds=name in held)
            for name, value in now.items()
            if value is not None
        ]


def is_lost(pool: EndpointPool) -> bool:
    """Whether none of a model's endpoints answers."""
    return all(replica.state != "closed" for replica in pool.replicas())
