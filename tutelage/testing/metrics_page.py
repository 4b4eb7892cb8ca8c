"""What the simulated endpoint says at /metrics: those of vLLM's own metrics that tell how loaded and how fast it is."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from tutelage.testing.engine import Engine

_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
_REQUEST = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
)
"""vLLM's buckets, in seconds."""


class Histogram:
    """Counts by upper bound, as Prometheus has them."""

    def __init__(self, name: str, bounds: tuple[float, ...]) -> None:
        self.name = name
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, labels: str) -> Iterator[str]:
        """The histogram in Prometheus's text format."""
        yield f"# TYPE vllm:{self.name} histogram\n"
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'vllm:{self.name}_bucket{{{labels},le="{bound}"}} {float(total)}\n'
        yield f"vllm:{self.name}_count{{{labels}}} {float(total)}\n"
        yield f"vllm:{self.name}_sum{{{labels}}} {self._sum}\n"


class MetricsPage:
    """Counts what was finished, and writes it down together with how the engine stands.

    Args:
        engine: The engine.
        model: The name of the base model.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = f'engine="0",model_name="{model}"'
        self._cached = 0
        self._finished: Counter[str] = Counter()
        self._first_token = Histogram("time_to_first_token_seconds", _FIRST_TOKEN)
        self._request = Histogram("e2e_request_latency_seconds", _REQUEST)

    def book(self, *, cached: int, reasons: list[str], first_token: float, seconds: float) -> None:
        """Counts a request that was answered.

        Args:
            cached: Prompt tokens that were found in the cache.
            reasons: Why each of its choices finished.
            first_token: Seconds to its first token.
            seconds: Seconds to its last one.
        """
        self._cached += cached
        self._finished.update(reasons)
        self._first_token.observe(first_token)
        self._request.observe(seconds)

    def text(self) -> str:
        """The page."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        engine, cache, labels = self._engine, self._engine.cache, self._labels
        values: list[tuple[str, str, float]] = [
            ("gauge", "num_requests_running", len(engine.running)),
            ("gauge", "num_requests_waiting", len(engine.waiting)),
            ("gauge", "kv_cache_usage_perc", cache.usage),
            ("counter", "prefix_cache_queries_total", cache.queries),
            ("counter", "prefix_cache_hits_total", cache.hits),
            ("counter", "num_preemptions_total", engine.preemptions),
            ("counter", "prompt_tokens_total", engine.prompt_tokens),
            ("counter", "prompt_tokens_cached_total", self._cached),
            ("counter", "generation_tokens_total", engine.generated_tokens),
        ]
        for kind, name, value in values:
            yield f"# TYPE vllm:{name} {kind}\nvllm:{name}{{{labels}}} {float(value)}\n"
        yield "# TYPE vllm:request_success_total counter\n"
        for reason in ("stop", "length", "abort"):
            # vLLM 0.32 counts a tool call as a stop, and aborts not at all.
            count = (
                self._finished["stop"] + self._finished["tool_calls"] if reason == "stop" else self._finished[reason]
            )
            yield f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}\n'
        yield "# TYPE vllm:admission_rejections_total counter\n"
        yield f'vllm:admission_rejections_total{{{labels},reason="queue_full"}} {float(engine.rejections)}\n'
        yield "# TYPE vllm:cache_config_info gauge\n"
        sizes = f'block_size="{cache.block_size}",num_gpu_blocks="{cache.capacity}"'
        yield f'vllm:cache_config_info{{{sizes},engine="0"}} 1.0\n'
        yield from self._first_token.lines(labels)
        yield from self._request.lines(labels)
