"""Whether a server that runs does its work, and when to give it up."""

from dataclasses import dataclass
from http import HTTPStatus

from tutelage.serving.engine_load import EngineLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervision:
    """When a server is looked at, given up, and started again. All in seconds."""

    look: float = 5.0
    """Between two looks at `/health` and `/metrics`."""
    answer: float = 10.0
    """For its answer."""
    sick: float = 20.0
    """It may answer 503 for so long: vLLM ends by itself when its engine is dead, which takes three."""
    silent: float = 120.0
    """It may answer nothing for so long."""
    stuck: float = 600.0
    """It may have requests in its batch and make no token for so long: `/health` does not see an engine that hangs."""
    first_wait: float = 1.0
    longest_wait: float = 60.0
    """Before it is started again: 1, 2, 4, … 60."""
    well_after: float = 300.0
    """Having run for so long, the next wait is the first again."""
    report: float = 15.0
    """Between two lines for a person who waits for a start."""


class VitalSigns:
    """What was last seen of each.

    Args:
        patience: How long each may be amiss.
        now: A time in seconds, at which all is well.
    """

    def __init__(self, patience: Supervision, now: float) -> None:
        self._patience = patience
        self._answered = self._healthy = self._moved = now
        self._tokens: tuple[int, int] | None = None

    def verdict(self, now: float, health: int | None, load: EngineLoad | None) -> str | None:
        """Looks at it once.

        Args:
            now: A time in seconds.
            health: The status of `/health`; None where it did not answer.
            load: What `/metrics` says; None where it says nothing.

        Returns:
            Why it is to be given up; None if it is not.
        """
        if health is not None:
            self._answered = now
        if health != HTTPStatus.SERVICE_UNAVAILABLE:
            self._healthy = now
        tokens = None if load is None or load.running == 0 else (load.prompt_tokens, load.generation_tokens)
        if tokens is None or tokens != self._tokens:
            self._moved = now
        self._tokens = tokens
        if now - self._healthy > self._patience.sick:
            return "vLLM says of itself that its engine is dead (/health: 503)"
        if now - self._answered > self._patience.silent:
            return f"vLLM has hung: no answer on /health for {now - self._answered:.0f} s"
        if now - self._moved > self._patience.stuck:
            return f"vLLM's engine has hung: it has requests, and has made no token for {now - self._moved:.0f} s"
        return None
