"""A request to the replicas of a model, and all that went wrong with it so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp

from tutelage.errors import EndpointRefused, EndpointUnreachable
from tutelage.serving.replica import FULL, Fault, Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One HTTP exchange of a call, for metrics. The probes of lost replicas and the lists of models are none."""

    endpoint: str
    code: str
    """The HTTP status, or `no_answer`, `bad_reply` (200, but no usable JSON), `cancelled`."""
    seconds: float


@dataclass(slots=True, eq=False)
class Request:
    """What is asked, and how it went."""

    method: str
    path: str
    """Under the base URL."""
    timeout: aiohttp.ClientTimeout
    body: bytes | Callable[[], bytes] | None = None
    key: str | None = None
    """Requests of one key belong to one replica."""
    order: float = 0.0
    """Of those that wait for a place, the lowest goes first."""
    id: str | None = None
    is_stream: bool = False
    """Whether its reply is to come as server-sent events."""
    faults: dict[Replica, tuple[Fault, ...]] = field(default_factory=dict)
    """What went wrong so far, by replica."""
    last: Fault = field(init=False)
    """And what went wrong last."""
    waited: float = 0.0
    """Seconds that it waited for a replica."""
    known: float = 0.0
    """The part of its prompt that the replica which it was sent to had of its key before."""
    status: int = 0
    """Of the last reply, if there was one."""
    on_trial: bool = False
    """Whether the place that it has is one of the few at a replica that has just been found again."""

    @property
    def attempts(self) -> int:
        """How often it was sent."""
        return sum(map(len, self.faults.values()))

    @property
    def heard(self) -> int:
        """Attempts at which somebody listened. The others asked nothing, and their replica's circuit is open since."""
        return sum(not fault.refused for faults in self.faults.values() for fault in faults)

    @property
    def is_refused_with_errors(self) -> bool:
        """Whether each attempt was answered, with an error that says neither that the server is gone nor that it is full."""
        return not any(fault.is_loss or fault.status in FULL for faults in self.faults.values() for fault in faults)

    def add(self, fault: Fault, replica: Replica) -> None:
        """An attempt has failed."""
        fault.url, self.last = replica.url, fault
        self.faults[replica] = (*self.faults.get(replica, ()), fault)

    def headers(self, replica: Replica) -> dict[str, str]:
        """What goes along when it is sent to a replica."""
        headers = {} if replica.name is None else {"Host": replica.name}
        if self.id is not None:
            # Another id for each attempt: the server may still be busy with the last one.
            headers["X-Request-Id"] = f"{self.id}-{1 + self.attempts}" if self.faults else self.id
        return headers

    def code(self, error: BaseException | None) -> str:
        """How an exchange of it ended, for its record."""
        if error is None:
            return "200"
        if isinstance(error, Fault):
            return error.kind.removeprefix("http_")
        return str(self.status) if isinstance(error, EndpointRefused) else "cancelled"


def unreachable(
    request: Request, replicas: Sequence[Replica] = (), *, waited: float | None = None
) -> EndpointUnreachable:
    """The error for a request that no replica answered, with what each of them said last.

    Args:
        request: It, with its faults.
        replicas: Those that are lost, whose own last words may be later than what it heard of them.
        waited: Seconds that it waited for them.
    """
    attempts = "one attempt" if request.attempts == 1 else f"{request.attempts or 'no'} attempts"
    waiting = "" if waited is None else f" and {waited:.0f} s of waiting for it to come back"
    last = {replica.url: str(faults[-1]) for replica, faults in request.faults.items()}
    last |= {replica.url: replica.last_words or last.get(replica.url, "") for replica in replicas}
    return EndpointUnreachable(
        f"no usable answer after {attempts}{waiting} ({'; '.join(f'{url}: {what}' for url, what in last.items())}). "
        "Check that the server runs at that URL, is not overloaded, and can be reached from here; its log says more. "
        "`tutelage doctor` asks every endpoint."
    )


class Spent(NamedTuple):
    """The tokens of a call, as far as the endpoint says."""

    completion: int = 0
    prompt: int = 0
    cached: int | None = None
    """Prompt tokens that were found in the prefix cache; None where it does not say."""


def spent(reply: dict[str, Any]) -> Spent | None:
    """What a reply, or a chunk of one, says of its tokens; None if nothing."""
    usage = reply.get("usage")
    if not isinstance(usage, dict) or not isinstance(completion := usage.get("completion_tokens"), int):
        return None
    prompt, details = usage.get("prompt_tokens"), usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Spent(completion, prompt if isinstance(prompt, int) else 0, cached if isinstance(cached, int) else None)
