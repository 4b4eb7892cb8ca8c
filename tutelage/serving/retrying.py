"""How often, and after which pauses, a request is tried again.

A request that failed is tried once at each replica, then with growing pauses. Whether it is to blame, or the endpoint, is
told by what others were answered meanwhile: if nothing was, the endpoint counts as lost, and the request waits with all
others until it is found again.
"""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from tutelage.errors import EndpointFailed
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.request import Request, unreachable

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
"""Seconds before each attempt that follows when all replicas failed: 0.5, 1, 2, … 30, times a random 0.5 to 1."""
REMEMBERED_KEYS: Final = 65_536
"""For how many keys it is remembered that their last request failed for good."""

_log = structlog.get_logger()
_T = TypeVar("_T")


class Retrying:
    """Tries requests of a pool again.

    Args:
        replicas: Gives those that there are.
        lose: Is told of one that counts as lost.
        retries: How many more attempts follow when each replica has been tried once.
        longest: Seconds after the first failure, waiting not counted, after which none begins.
    """

    def __init__(
        self,
        replicas: Callable[[], Sequence[Replica]],
        lose: Callable[[Replica], None],
        *,
        retries: int,
        longest: float,
    ) -> None:
        self.answered = 0
        """How many replies there were from any replica: whoever calls counts them here."""
        self._replicas = replicas
        self._lose = lose
        self._retries = retries
        self._longest = longest
        self._failing: dict[str, None] = {}
        """Keys whose last request failed for good, the oldest first."""

    async def persist(self, request: Request, attempt: Callable[[Request], Awaitable[_T]]) -> _T:
        """Tries a request again that failed once.

        Raises:
            EndpointFailed: It had faults until nothing more was to be hoped for, and others were answered meanwhile; or
                there were none, and it was still answered with errors.
        """
        first = [request.last]
        failed_at, answered = time.monotonic(), self.answered

        async def again() -> _T:
            # The attempt that was made without tenacity is its first one, so that it costs nothing where nothing fails.
            if first:
                raise first.pop()
            return await attempt(request)

        def goes_on(error: BaseException) -> bool:
            return isinstance(error, Fault) and not self._gives_up(request, failed_at, answered)

        retrying = AsyncRetrying(
            retry=retry_if_exception(goes_on),
            wait=lambda state: self._pause(request),
            before_sleep=partial(log_retry, request),
        )
        try:
            return await retrying(again)
        except Fault:
            self._remember(request.key)
        alone = request.heard > 1 and self.answered == answered
        meanwhile = (
            "the endpoint answers with errors, and was asked for nothing else"
            if alone
            else "other requests were answered meanwhile, but not this one"
        )
        raise EndpointFailed(f"{meanwhile}: {unreachable(request)}")

    def succeeded(self, key: str | None) -> None:
        """A request of a key was answered: its next one has all its retries again."""
        if self._failing and key is not None:
            self._failing.pop(key, None)

    def _remember(self, key: str | None) -> None:
        """Notes that the last request of a key failed for good."""
        if key is None:
            return
        self._failing.pop(key, None)
        self._failing[key] = None
        if len(self._failing) > REMEMBERED_KEYS:
            del self._failing[next(iter(self._failing))]

    def _gives_up(self, request: Request, failed_at: float, answered: int) -> bool:
        replicas = self._replicas()
        failed_before = request.key is not None and request.key in self._failing
        attempts = 1 if failed_before else len(replicas) + self._retries
        late = time.monotonic() - failed_at - request.waited > self._longest
        if request.heard < attempts and not late:
            return False
        if failed_before or self.answered > answered:
            return True
        if request.heard >= 2 * attempts and request.is_refused_with_errors:
            return True  # the server is there; with nobody else to ask it, this request would be tried for ever
        # Nothing else was answered either, so it is not this request's fault: it waits, and the others with it.
        for replica in replicas:
            self._lose(replica)
        return False

    def _pause(self, request: Request) -> float:
        """Seconds until the next attempt: none while a replica is left that was not asked, or none is left to ask."""
        replicas = self._replicas()
        able = [replica for replica in replicas if replica.circuit.state != "open"]
        if not able:
            return request.last.retry_after or 0.0
        if any(replica not in request.faults for replica in able):
            return 0.0
        return backoff(request, max(0, request.heard - len(replicas)))


def backoff(request: Request, further: int) -> float:
    """Seconds until the next attempt, after so many that followed the first at each replica."""
    seconds = min(LONGEST_WAIT, FIRST_WAIT * 2.0**further) * random.uniform(0.5, 1.0)
    return max(seconds, request.last.retry_after or 0.0)


def log_retry(request: Request, state: RetryCallState) -> None:
    """Logs that a request is about to be tried again."""
    if state.next_action:
        _log.debug(
            "call_retried",
            endpoint=request.last.url,
            fault=request.last.kind,
            attempts=request.attempts,
            seconds=round(state.next_action.sleep, 2),
        )
