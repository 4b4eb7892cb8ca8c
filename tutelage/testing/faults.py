"""What the simulated endpoint does wrong on purpose: which requests, how often, and in what way."""

from collections.abc import Iterable
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FaultKind = Literal[
    "status", "reset", "stall", "slow", "context", "schema", "truncated", "invalid_json", "wrong_shape", "empty"
]
RequestKind = Literal["chat", "completions", "embeddings", "shaped", "plain", "stream", "whole"]


class Fault(BaseModel):
    """One way to fail, and the requests that meet it. Of several faults, the first that strikes a request counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    """`status`: an error reply. `reset`: the connection is reset. `stall`: no reply, ever. `slow`: a right reply, late.
    `context`: 400, as for a prompt that is too long. `schema`: 400, as for a schema that cannot be followed; it strikes
    only where one is asked for. `truncated`: the body ends half way. `invalid_json`: the body is not JSON. `wrong_shape`:
    the text is JSON that does not fit the schema asked for. `empty`: the text is empty."""
    status: int = Field(default=500, ge=400, le=599)
    """The HTTP status, for `status`."""
    retry_after: float | None = Field(default=None, ge=0)
    """Seconds in a Retry-After header, for `status`."""
    delay: float = Field(default=1.0, ge=0)
    """Seconds, for `slow`."""
    probability: float = Field(default=1.0, ge=0, le=1)
    """The share of the matching requests that are struck, drawn with the endpoint's seed."""
    times: int | None = Field(default=None, ge=0)
    """How many requests are struck at most; None for no end."""
    model: str | None = None
    """Only requests for this model or adapter."""
    requests: RequestKind | None = None
    """Only requests of this kind: `shaped` ones ask for a schema, a regex or a choice, `plain` ones do not; `stream`
    ones ask for server-sent events, `whole` ones do not."""


class FaultInjector:
    """Decides, request by request, which fault strikes.

    Args:
        faults: tried in order.
        seed: the same faults, seed and order of requests strike the same requests.
    """

    def __init__(self, faults: Iterable[Fault], seed: int) -> None:
        self.faults: list[Fault] = []
        self.struck: list[int] = []
        """How many requests each fault has struck."""
        self._seed = seed
        self._rngs: list[Random] = []
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        """More faults, tried after those that are there."""
        for fault in faults:
            self._rngs.append(Random(f"fault/{self._seed}/{len(self.faults)}"))
            self.faults.append(fault)
            self.struck.append(0)

    def clear(self) -> None:
        """No faults from here on."""
        self.faults, self.struck, self._rngs = [], [], []

    def strike(self, model: str, kinds: frozenset[RequestKind]) -> Fault | None:
        """The fault that strikes a request for `model` that is of all these `kinds`, if any does."""
        for position, fault in enumerate(self.faults):
            if not _matches(fault, model, kinds) or self._is_spent(position):
                continue
            if fault.probability >= 1 or self._rngs[position].random() < fault.probability:
                self.struck[position] += 1
                return fault
        return None

    def _is_spent(self, position: int) -> bool:
        times = self.faults[position].times
        return times is not None and self.struck[position] >= times


def _matches(fault: Fault, model: str, kinds: frozenset[RequestKind]) -> bool:
    if fault.kind in ("wrong_shape", "schema") and "shaped" not in kinds:
        return False
    return fault.model in (None, model) and (fault.requests is None or fault.requests in kinds)
