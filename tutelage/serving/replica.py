"""One replica of a model, as its pool sees it: how it is doing, and what counts as a fault of it."""

import hashlib
import math
import time
from dataclasses import dataclass, field
from typing import Final

import structlog
from yarl import URL

from tutelage.serving.circuit import Circuit, CircuitState
from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.prompt_memory import PromptMemory

AVOID_SECONDS: Final = 5.0
"""How long a replica that failed is tried only after the others."""
GATEWAY_FAULTS: Final = frozenset({502, 504})
"""What a proxy says when the server behind it does not answer."""
FULL: Final = frozenset({429, 503})
"""What a server says that has too much to do."""

_log = structlog.get_logger()


class Fault(Exception):
    """One attempt failed in a way that may heal."""

    def __init__(
        self, what: str, *, status: int | None = None, retry_after: float | None = None, refused: bool = False
    ) -> None:
        super().__init__(what)
        self.status = status
        """Of the reply, if there was one."""
        self.retry_after = retry_after
        self.refused = refused
        """Whether nobody listened, so that nothing was asked."""
        self.url = ""

    @property
    def is_loss(self) -> bool:
        """Whether the server may be gone."""
        return self.status is None or self.status in GATEWAY_FAULTS

    @property
    def is_alive(self) -> bool:
        """Whether the server is there and asks to wait."""
        return self.status == 429 or (self.status in FULL and self.retry_after is not None)

    @property
    def kind(self) -> str:
        """What a log may say of it: no words of the endpoint's."""
        return "no_answer" if self.status is None else "bad_reply" if self.status == 200 else f"http_{self.status}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """How one replica of a pool is doing."""

    url: str
    state: CircuitState
    in_flight: int
    """Requests that it has not answered yet."""
    waiting: int
    """Calls that wait because all replicas of the pool are lost; the same for each."""
    failures: int
    """Faults since the pool was made."""
    last_error: str | None
    """The kind of the last one: `no_answer`, `bad_reply`, `http_503`."""
    lost_at: float | None = None
    """When its circuit opened, on the monotonic clock; None while it is closed."""
    limit: int = 0
    """How many requests may be open at it at once."""
    limited_by: str = ""
    """What its limit follows: `pinned`, `rising`, `steady`, `queue`, `kv_cache`, `preemption`, `prefixes`, `latency`."""
    load: EngineLoad | None = None
    """What it said of its load last; None where it says nothing."""
    waiting_for_place: int = 0
    """Calls that wait because all replicas that are not lost are at their limits; the same for each."""


@dataclass(slots=True, eq=False)
class Replica:
    """An endpoint of a pool, and what is known of it."""

    url: str
    """Its base URL."""
    name: str | None = None
    """The host that requests name, with its port, where `url` has an address that was looked up for it."""
    server_hostname: str | None = None
    """And whose certificate it must have, without the port."""
    in_flight: int = 0
    answered: int = 0
    """How many whole replies it has given."""
    failures: int = 0
    """How often it was avoided or given up."""
    avoided_until: float = 0.0
    """On the monotonic clock; 0 while it is well, infinite while its circuit is open."""
    circuit: Circuit = field(default_factory=Circuit)
    faults: int = 0
    """How many requests had a fault."""
    last_error: str | None = None
    """The kind of the last fault."""
    last_words: str = ""
    """What went wrong last, in the endpoint's words: for the user, and not for logs."""
    limit: AdaptiveLimit = field(default_factory=AdaptiveLimit)
    """How many requests may be open at it at once."""
    prompts: PromptMemory = field(default_factory=PromptMemory)
    """What its conversations sent it last."""
    bound: int = 0
    """And so many beside the load of the others: routing sets it."""
    load: EngineLoad | None = None
    """What it said of its load last; None where it says nothing."""
    addresses: dict[str, URL] = field(default_factory=dict)

    def address(self, path: str) -> URL:
        """The URL of a path under the base URL, parsed once."""
        address = self.addresses.get(path)
        if address is None:
            address = self.addresses[path] = URL(self.url + path)
        return address

    @property
    def root(self) -> str:
        """The URL of its server, under which there are `/health` and `/metrics`."""
        return self.url.removesuffix("/v1")

    def state(self, *, waiting: int = 0, waiting_for_place: int = 0) -> ReplicaState:
        """How it is doing, beside so many calls of its pool that wait."""
        return ReplicaState(
            url=self.url,
            state=self.circuit.state,
            in_flight=self.in_flight,
            waiting=waiting,
            failures=self.faults,
            last_error=self.last_error,
            lost_at=None if self.circuit.state == "closed" else self.circuit.lost_at,
            limit=self.limit.limit,
            limited_by=self.limit.reason,
            load=self.load,
            waiting_for_place=waiting_for_place,
        )

    def enter(self) -> bool:
        """A request takes a place; gives whether it is one on trial, of which `leave` must be told."""
        self.in_flight += 1
        return self.avoided_until > 0 and self.circuit.enter()

    def leave(self, *, trial: bool) -> None:
        """A request gives its place back."""
        self.in_flight -= 1
        if trial:
            self.circuit.leave()

    def weight(self, key: str) -> bytes:
        """How much a key belongs here, beside other replicas."""
        return hashlib.blake2b(f"{self.url} {key}".encode(), digest_size=8).digest()

    def note(self, fault: Fault) -> None:
        """A request had a fault."""
        self.faults += 1
        self.last_error, self.last_words = fault.kind, str(fault)

    def avoid(self, fault: Fault) -> None:
        """Others are tried first, for a while."""
        # One that is merely full keeps its conversations, unless it says itself for how long to stay away.
        seconds = fault.retry_after or (0.0 if fault.status in FULL else AVOID_SECONDS)
        if seconds:
            self.failures += 1
            self.avoided_until = max(self.avoided_until, time.monotonic() + seconds)

    def lose(self) -> None:
        """Nothing more is sent, until a probe was answered and `try_again` called."""
        self.failures += 1
        self.avoided_until = math.inf
        if self.circuit.open():
            _log.warning("endpoint_lost", endpoint=self.url, fault=self.last_error)

    def try_again(self) -> None:
        """It answered a probe: a few requests may go."""
        self.avoided_until = time.monotonic()
        self.circuit.half_open()

    def recover(self, failures: int) -> None:
        """It answered a request that was sent when it had that many `failures`."""
        # If it failed since then, that says nothing: a server that drains still finishes what it has.
        if self.failures != failures:
            return
        self.avoided_until = 0.0
        lost_at = self.circuit.lost_at
        if self.circuit.close():
            _log.info("endpoint_back", endpoint=self.url, seconds=round(time.monotonic() - lost_at, 1))
