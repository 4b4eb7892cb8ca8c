"""How many dialogues to keep under way: as many as keep the endpoints busy, and hardly more.

Too few, and a GPU waits for words to continue. Too many, and each dialogue waits so long between two of its turns that
its beginning has left the KV cache when it comes back. What an endpoint can take is its limit (`serving.limit`); how many
calls a dialogue has open at a time, one, or two where reviewers work side by side, or none while it is being written
down, is measured as the run goes.
"""

import math
import time
from collections.abc import Mapping
from typing import Final

from tutelage.serving.endpoint_pool import EndpointPool

SPARE: Final = 1.125
"""Calls that there are for each place: some wait here, so that a place that is free is taken at once."""
FEWEST: Final = 8
"""Dialogues that are under way in any case."""
LEAST_CALLS: Final = 0.5
"""Calls that a dialogue has open at all models together, at least. Where it has fewer, it waits for this process and not
for endpoints, and more dialogues would only wait with it."""
NEXT_TO_NONE: Final = 1e-3
"""Calls that a dialogue has open at a model that it does not call: how many it would have once it did is not known."""
HALF_LIFE: Final = 1.0
"""Seconds after which what was measured counts half."""
EVERY: Final = 0.05
"""Seconds between two looks at the endpoints, at least."""


class Pace:
    """How many dialogues may be under way, by what their models' endpoints can take.

    Args:
        pools: The endpoints, by model. Without any nothing bounds the dialogues.
    """

    def __init__(self, pools: Mapping[str, EndpointPool]) -> None:
        self._pools = pools
        self._calls_each = dict.fromkeys(pools, 1.0)
        """By model, the calls that a dialogue has open there, on the average. At first every call may go to any."""
        self._looked_at = -math.inf
        self._dialogues: int | None = None

    def dialogues(self, under_way: int) -> int | None:
        """How many dialogues may be under way; None where nothing bounds them.

        Args:
            under_way: How many are now.
        """
        now = time.monotonic()
        elapsed = now - self._looked_at
        if elapsed >= EVERY:
            self._looked_at = now
            self._measure(under_way, 1 - 0.5 ** (min(elapsed, HALF_LIFE) / HALF_LIFE))
            self._dialogues = self._most()
        return self._dialogues

    def _measure(self, under_way: int, weight: float) -> None:
        if not under_way:
            return
        for name, pool in self._pools.items():
            replicas = pool.replicas()
            calls = sum(replica.in_flight for replica in replicas) + max(each.waiting_for_place for each in replicas)
            self._calls_each[name] += weight * (max(calls / under_way, NEXT_TO_NONE) - self._calls_each[name])

    def _most(self) -> int | None:
        if not self._pools:
            return None
        return dialogues_for({name: (_places(pool), self._calls_each[name]) for name, pool in self._pools.items()})


def dialogues_for(models: Mapping[str, tuple[int, float]]) -> int:
    """How many dialogues keep the places of their models busy.

    Args:
        models: By name, the places at its endpoints, and the calls that a dialogue has open there, on the average, above 0.
    """
    few = max(1.0, LEAST_CALLS / sum(calls for _, calls in models.values()))
    return max(FEWEST, min(math.ceil(SPARE * places / (few * calls)) for places, calls in models.values()))


def _places(pool: EndpointPool) -> int:
    return sum(replica.limit for replica in pool.replicas() if replica.state == "closed")
