"""What a run counts, for Prometheus: dialogues, turns, drafts, calls, tokens, and what its disk and endpoints are like.

Whoever sees something happen says so (`metrics.call_answered(role=…, seconds=…, …)`); what is better read than counted is
looked up when Prometheus asks (`metrics.watch(under_way=…)`). Nothing here is global: each `Metrics` has a registry of its
own. Names follow https://prometheus.io/docs/practices/naming/. No label holds a dialogue's id, and where the values of a
label are of the user's making, only so many are told apart: the series stay few however long a run goes on.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from time import time
from typing import Any, Final, Generic, TypedDict, TypeVar, Unpack

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of `Metrics.render`: https://prometheus.io/docs/instrumenting/exposition_formats/."""

MOST_VALUES: Final = 256
"""So many values of one label are told apart; what comes after them is counted under `OTHER`."""
OTHER: Final = "other"

RUN_STATES: Final = ("starting", "running", "idle", "paused", "waiting", "held", "draining")
CIRCUIT_STATES: Final = ("closed", "half_open", "open")
WATERMARKS: Final = ("memory", "disk", "waiting")

CALL_BUCKETS: Final = tuple(0.01 * 2**n for n in range(17))
"""10 ms to 11 minutes: those of OpenTelemetry's `gen_ai.client.operation.duration`, and three more for long replies."""
DIALOGUE_BUCKETS: Final = tuple(float(2**n) for n in range(15))
"""1 s to 4.5 hours."""
TURN_BUCKETS: Final = tuple(0.125 * 2**n for n in range(14))
"""125 ms to 17 minutes: a turn is some calls."""
COMMIT_BUCKETS: Final = tuple(0.0005 * 2**n for n in range(14))
"""0.5 ms to 4 s: the fsync of a good disk to that of a bad one."""


class Gauges(TypedDict, total=False):
    """What can be watched: each a function that is called at every scrape, in the thread that renders."""

    state: Callable[[], str]
    """Of the run: one of `RUN_STATES`."""
    owed: Callable[[], int]
    """Dialogues that are owed and not under way."""
    under_way: Callable[[], int]
    """Dialogues that are under way."""
    completed: Callable[[], int]
    """Dialogues of the whole run that are completed, earlier starts included."""
    target: Callable[[], int]
    """Completed dialogues that are asked for."""
    set_aside: Callable[[], int]
    """Dialogues that failed again and again, and wait for a retry."""
    waiting: Callable[[], int]
    """Calls that wait for an endpoint: all of a model's are down."""
    in_flight: Callable[[], Mapping[str, int]]
    """Requests that are sent and not answered, by endpoint."""
    limits: Callable[[], Mapping[str, int]]
    """Requests that may be open at each endpoint, as admission finds out."""
    queued: Callable[[], Mapping[str, int]]
    """Requests that wait in an endpoint, by its own metrics; endpoints that do not say are left out."""
    kv_cache: Callable[[], Mapping[str, float]]
    """The share of an endpoint's KV cache that its running requests hold; endpoints that do not say are left out."""
    for_place: Callable[[], int]
    """Calls that wait here, for their endpoints have as many open as may be."""
    allowed: Callable[[], int]
    """Dialogues that may be under way: fewer than `concurrency` where the endpoints are busy."""
    circuits: Callable[[], Mapping[str, str]]
    """By endpoint, its circuit breaker's state: one of `CIRCUIT_STATES`."""
    held_by: Callable[[], Iterable[str]]
    """What keeps new dialogues from starting: of `WATERMARKS`; what is behind a colon is left out (`waiting:URL`)."""
    bytes_on_disk: Callable[[], Mapping[str, int]]
    """By part of the run folder: transcripts, messages, checkpoints, ledger."""
    bytes_free: Callable[[], int]
    """On the disk that the run folder is on."""


_GAUGES: Final[Mapping[str, tuple[str, str, Sequence[str]]]] = {
    "state": ("tutelage_run_state", "What the run is doing: 1 for the state that it is in", ("state",)),
    "owed": ("tutelage_queue_dialogues", "Dialogues that are owed and not under way", ()),
    "under_way": ("tutelage_under_way_dialogues", "Dialogues that are under way", ()),
    "completed": ("tutelage_completed_dialogues", "Completed dialogues of the whole run, earlier starts included", ()),
    "target": ("tutelage_target_dialogues", "Completed dialogues that are asked for", ()),
    "set_aside": ("tutelage_set_aside_dialogues", "Dialogues that failed again and again, and wait for a retry", ()),
    "waiting": ("tutelage_waiting_calls", "Calls that wait for an endpoint that answers", ()),
    "in_flight": ("tutelage_endpoint_in_flight_requests", "Requests that are sent and not answered", ("endpoint",)),
    "limits": ("tutelage_endpoint_limit_requests", "Requests that may be open", ("endpoint",)),
    "queued": ("tutelage_endpoint_queued_requests", "Requests that wait in the endpoint", ("endpoint",)),
    "kv_cache": ("tutelage_endpoint_kv_cache_ratio", "Share of the KV cache that running requests hold", ("endpoint",)),
    "for_place": ("tutelage_queued_calls", "Calls that wait here for an endpoint with room", ()),
    "allowed": ("tutelage_allowed_dialogues", "Dialogues that may be under way", ()),
    "circuits": ("tutelage_endpoint_circuit", "1 for the state that the circuit breaker is in", ("endpoint", "state")),
    "held_by": ("tutelage_admission_held", "1 where a watermark keeps new dialogues from starting", ("watermark",)),
    "bytes_on_disk": ("tutelage_disk_bytes", "Size of the run folder's parts", ("part",)),
    "bytes_free": ("tutelage_disk_free_bytes", "Free on the disk that the run folder is on", ()),
}


class Metrics:
    """The metrics of one run.

    Args:
        run: The run's name.
        graph: The name of what its dialogues run on.
    """

    def __init__(self, *, run: str, graph: str) -> None:
        self._registry = _Registry()
        self._seen: dict[str, set[str]] = {}
        ProcessCollector(registry=self._registry)
        self._info("tutelage_build", "What runs", version=version("tutelage"), python=platform.python_version())
        self._info("tutelage_run", "Which run it is", run=run, graph=graph)
        self._watched = _Watched()
        self._registry.register(self._watched)
        counter, histogram = self._counter, self._histogram

        self._dialogues = counter("tutelage_dialogues", "Dialogues that ended", "graph", "outcome", "reason")
        self._dialogue_seconds = histogram(
            "tutelage_dialogue_duration_seconds",
            "Since it began or was taken up again",
            DIALOGUE_BUCKETS,
            "graph",
            "outcome",
        )
        self._turns = counter("tutelage_turns", "Turns that were accepted", "role")
        self._turn_seconds = histogram(
            "tutelage_turn_duration_seconds", "From the end of the turn before", TURN_BUCKETS, "role"
        )
        self._drafts = counter("tutelage_drafts", "Drafts that were reviewed, by what became of them", "role", "status")

        self._call_seconds = histogram(
            "tutelage_call_duration_seconds", "Calls that were answered, retries included", CALL_BUCKETS, "role"
        )
        self._failed_calls = counter("tutelage_failed_calls", "Calls that failed for good", "role", "reason")
        self._misfits = counter("tutelage_misfit_replies", "Replies empty or not fitting their schema", "role")
        self._prompt_tokens = counter("tutelage_prompt_tokens", "Tokens of prompts, cached ones included", "role")
        self._cached_tokens = counter("tutelage_cached_tokens", "Prompt tokens found in a prefix cache", "role")
        self._completion_tokens = counter("tutelage_completion_tokens", "Tokens of completions", "role")

        self._requests = counter(
            "tutelage_endpoint_requests", "HTTP requests, each retry counted", "endpoint", "role", "code"
        )
        self._request_seconds = histogram(
            "tutelage_endpoint_request_duration_seconds",
            "HTTP requests, whatever came of them",
            CALL_BUCKETS,
            "endpoint",
        )

        self._commit_seconds = histogram(
            "tutelage_checkpoint_commit_duration_seconds", "Commits of checkpoints", COMMIT_BUCKETS
        )[()]
        self._operations = counter("tutelage_checkpoint_operations", "Checkpoints and writes that were committed")[()]
        self._transcripts = counter("tutelage_transcripts_written", "Transcripts that are safe on disk")[()]
        self._written: Gauge | None = None
        self._reloads = counter("tutelage_reloads", "Reloads of the config", "outcome")

    def dialogue_ended(self, *, graph: str, status: str, reason: str, seconds: float) -> None:
        """A dialogue ended: its outcome, and how long it took since it began or was taken up again."""
        self._dialogues[graph, status, reason].inc()
        self._dialogue_seconds[graph, status].observe(seconds)

    def turn_taken(self, *, role: str, seconds: float) -> None:
        """A turn was accepted, so long after the one before it."""
        self._turns[role,].inc()
        self._turn_seconds[role,].observe(seconds)

    def draft_reviewed(self, *, role: str, status: str) -> None:
        """A draft was reviewed: it was accepted, rejected, superseded, or accepted only because it was forced."""
        self._drafts[role, status].inc()

    def call_answered(
        self, *, role: str, seconds: float, prompt_tokens: int, cached_tokens: int, completion_tokens: int
    ) -> None:
        """A model answered, so long after it was first asked."""
        key = (role,)
        self._call_seconds[key].observe(seconds)
        self._prompt_tokens[key].inc(prompt_tokens)
        self._cached_tokens[key].inc(cached_tokens)
        self._completion_tokens[key].inc(completion_tokens)

    def call_failed(self, *, role: str, reason: str) -> None:
        """A call failed for good: the error's `reason`."""
        self._failed_calls[role, reason].inc()

    def reply_misfit(self, *, role: str) -> None:
        """A reply was empty or did not fit its schema."""
        self._misfits[role,].inc()

    def request_made(self, *, endpoint: str, role: str | None, code: int | str, seconds: float) -> None:
        """An HTTP request came to its end: its status, or what kind of fault there was instead (`no_answer`)."""
        self._requests[endpoint, role or "", str(code)].inc()
        self._request_seconds[endpoint,].observe(seconds)

    def committed(self, *, seconds: float, operations: int) -> None:
        """A commit of checkpoints is on disk, with so many puts, writes and deletions."""
        self._commit_seconds.observe(seconds)
        self._operations.inc(operations)

    def transcripts_written(self, count: int = 1) -> None:
        """So many more transcripts are safe on disk now."""
        if self._written is None:  # a time of which there is none yet would be one of 1970
            self._written = Gauge(
                "tutelage_last_transcript_written_timestamp_seconds",
                "When a transcript was last safe on disk",
                registry=self._registry,
            )
        self._transcripts.inc(count)
        self._written.set(time())

    def reloaded(self, *, refused: bool) -> None:
        """The config was reloaded, or the new one was refused."""
        self._reloads["refused" if refused else "accepted",].inc()

    def watch(self, **gauges: Unpack[Gauges]) -> None:
        """Has values looked up at each scrape from now on; what is watched already is replaced."""
        self._watched.sources.update(gauges)

    def unwatch(self, *gauges: str) -> None:
        """Has values looked up no more: what they come from is about to be closed."""
        for gauge in gauges:
            self._watched.sources.pop(gauge, None)

    def render(self) -> bytes:
        """All of it in Prometheus's text format, `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _info(self, name: str, said: str, **labels: str) -> None:
        Info(name, said, registry=self._registry).info(labels)

    def _counter(self, name: str, said: str, *labels: str) -> "_Series[Counter]":
        return _Series(Counter(name, said, labels, registry=self._registry), labels, self._seen)

    def _histogram(self, name: str, said: str, buckets: Sequence[float], *labels: str) -> "_Series[Histogram]":
        metric = Histogram(name, said, labels, buckets=buckets, registry=self._registry)
        return _Series(metric, labels, self._seen)


Kind = TypeVar("Kind", Counter, Histogram)


class _Series(dict[tuple[str, ...], Kind], Generic[Kind]):
    """A metric's series by the values of its labels: counting in one that is known costs one look into a dict."""

    def __init__(self, metric: Kind, labels: Sequence[str], seen: dict[str, set[str]]) -> None:
        super().__init__()
        self._metric: Kind = metric
        self._seen = [seen.setdefault(label, set()) for label in labels]

    def __missing__(self, values: tuple[str, ...]) -> Kind:
        told_apart = tuple(map(_bounded, self._seen, values))
        series: Kind = self._metric.labels(*told_apart) if values else self._metric
        if told_apart == values:
            self[values] = series
        return series


def _bounded(seen: set[str], value: str) -> str:
    if value not in seen:
        if len(seen) >= MOST_VALUES:
            return OTHER
        seen.add(value)
    return value


class _Registry(CollectorRegistry):
    """Without the series that say when each other series was created: they would be a third of all."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _Watched(Collector):
    """What is looked up at each scrape."""

    def __init__(self) -> None:
        self.sources: dict[str, Any] = {}
        """By a key of `Gauges`, the function that tells."""

    def collect(self) -> Iterable[Metric]:
        for source, look in self.sources.items():
            name, said, labels = _GAUGES[source]
            family = GaugeMetricFamily(name, said, labels=labels)
            for values, number in _samples(source, look()):
                family.add_metric(values, number)
            yield family


def _samples(source: str, found: Any) -> Iterator[tuple[Sequence[str], float]]:
    if source == "state":
        yield from (((state,), float(state == found)) for state in RUN_STATES)
    elif source == "held_by":
        holders = {holder.partition(":")[0] for holder in found}
        yield from (((mark,), float(mark in holders)) for mark in WATERMARKS)
    elif source == "circuits":
        for endpoint, now in found.items():
            yield from (((endpoint, state), float(state == now)) for state in CIRCUIT_STATES)
    elif isinstance(found, Mapping):
        yield from (((label,), float(value)) for label, value in found.items())
    else:
        yield (), float(found)
