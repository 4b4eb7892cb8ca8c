"""What happens in a run, told to all who keep count of it: the progress that a person sees, and the metrics."""

from time import monotonic

from tutelage.dialogue.cast import CallWatch
from tutelage.dialogue.turn import Outcome, Turn
from tutelage.generation.progress import Tally
from tutelage.serving.endpoint_pool import RequestRecord
from tutelage.telemetry.logs import bound
from tutelage.telemetry.metrics import Metrics


class RunWatch(CallWatch):
    """Keeps the tally of a run, and its metrics if there are any.

    Args:
        tally: What progress is shown of.
        metrics: For Prometheus; a run that nobody scrapes has none.
        graph: The name of what dialogues run on.
    """

    def __init__(self, tally: Tally, metrics: Metrics | None, graph: str) -> None:
        self.tally = tally
        self.metrics = metrics
        self._graph = graph

    def call_answered(
        self, *, role: str, seconds: float, prompt_tokens: int, cached_tokens: int, completion_tokens: int
    ) -> None:
        self.tally.calls += 1
        self.tally.prompt_tokens += prompt_tokens
        self.tally.cached_tokens += cached_tokens
        self.tally.completion_tokens += completion_tokens
        if self.metrics is not None:
            self.metrics.call_answered(
                role=role,
                seconds=seconds,
                prompt_tokens=prompt_tokens,
                cached_tokens=cached_tokens,
                completion_tokens=completion_tokens,
            )

    def call_failed(self, *, role: str, reason: str) -> None:
        if self.metrics is not None:
            self.metrics.call_failed(role=role, reason=reason)

    def reply_misfit(self, *, role: str) -> None:
        if self.metrics is not None:
            self.metrics.reply_misfit(role=role)

    def request_made(self, request: RequestRecord) -> None:
        """An HTTP exchange came to its end."""
        if self.metrics is not None:
            self.metrics.request_made(
                endpoint=request.endpoint, role=bound("role"), code=request.code, seconds=request.seconds
            )

    def turn_taken(self, turn: Turn, seconds: float) -> None:
        """A turn was accepted, so long after the one before it."""
        self.tally.turns += 1
        reviewed = [attempt for attempt in turn.attempts if attempt.reviews]
        self.tally.drafts += len(reviewed)
        self.tally.drafts_sent_back += sum(attempt.status == "rejected" for attempt in reviewed)
        if self.metrics is not None:
            self.metrics.turn_taken(role=turn.role, seconds=seconds)
            for attempt in reviewed:
                self.metrics.draft_reviewed(role=turn.role, status="forced" if attempt.forced else attempt.status)

    def dialogue_ended(self, outcome: Outcome, seconds: float) -> None:
        """A dialogue's transcript is on disk, so long after it was begun or taken up again."""
        if outcome.status == "completed":
            self.tally.completed += 1
        elif outcome.status == "discarded":
            self.tally.discarded += 1
        else:
            self.tally.failed += 1
        if self.metrics is not None:
            self.metrics.transcripts_written()
            self.metrics.dialogue_ended(
                graph=self._graph, status=outcome.status, reason=outcome.reason, seconds=seconds
            )

    def committed(self, seconds: float, operations: int) -> None:
        """Checkpoints are on disk. Called in the writer's thread."""
        if self.metrics is not None:
            self.metrics.committed(seconds=seconds, operations=operations)


class Stopwatch:
    """Seconds from one moment to the next."""

    def __init__(self) -> None:
        self._since = monotonic()

    def lap(self) -> float:
        """Seconds since it was made, or since the last lap."""
        now = monotonic()
        seconds, self._since = now - self._since, now
        return seconds
