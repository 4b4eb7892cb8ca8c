"""How loaded an inference engine is, read from its `/metrics` in Prometheus's text format.

Names as of November 2026: vLLM (https://docs.vllm.ai/en/latest/usage/metrics.html; the older ones are of its V0 engine),
llama.cpp (https://github.com/ggml-org/llama.cpp/tree/master/tools/server, with `--metrics`), and SGLang
(https://docs.sglang.io/references/production_metrics.html, with `--enable-metrics`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """One look at an endpoint. Counters count from its start, and are 0 where it has none."""

    running: int
    """Requests in the batch."""
    waiting: int
    """Requests that wait for a place in it, those that were preempted among them."""
    kv_usage: float | None
    """The part of the KV cache that running requests hold, 0 to 1, of the fullest engine; None where it does not say."""
    preemptions: int
    """How often a running request was put back because no KV block was free, to be computed anew."""
    prefix_queries: int
    """Prompt tokens that were looked up in the prefix cache."""
    prefix_hits: int
    """And those that were found."""
    prompt_tokens: int
    generation_tokens: int


_NAMES: Final[dict[str, tuple[bytes, ...]]] = {
    "running": (b"vllm:num_requests_running", b"llamacpp:requests_processing", b"sglang:num_running_reqs"),
    "waiting": (b"vllm:num_requests_waiting", b"llamacpp:requests_deferred", b"sglang:num_queue_reqs"),
    "kv_usage": (
        b"vllm:kv_cache_usage_perc",
        b"vllm:gpu_cache_usage_perc",
        b"llamacpp:kv_cache_usage_ratio",
        b"sglang:token_usage",
    ),
    "preemptions": (b"vllm:num_preemptions_total", b"vllm:num_preemptions"),
    "prefix_queries": (b"vllm:prefix_cache_queries_total", b"vllm:gpu_prefix_cache_queries_total"),
    "prefix_hits": (b"vllm:prefix_cache_hits_total", b"vllm:gpu_prefix_cache_hits_total"),
    "prompt_tokens": (b"vllm:prompt_tokens_total", b"llamacpp:prompt_tokens_total", b"sglang:prompt_tokens_total"),
    "generation_tokens": (
        b"vllm:generation_tokens_total",
        b"llamacpp:tokens_predicted_total",
        b"sglang:generation_tokens_total",
    ),
}
"""By field, what engines call it."""


def parse_load(metrics: bytes) -> EngineLoad | None:
    """The load of all engines behind an endpoint: a data-parallel vLLM has a line for each of them.

    Args:
        metrics: What `/metrics` answered.

    Returns:
        Requests and counters summed up, and the KV cache of the fullest engine; None if it does not name the requests
        that run and wait: then it is no engine's, or of one that does not say.
    """
    running, waiting = _sum(metrics, "running"), _sum(metrics, "waiting")
    if running is None or waiting is None:
        return None
    return EngineLoad(
        running=running,
        waiting=waiting,
        kv_usage=max(_finite(metrics, "kv_usage"), default=None),
        preemptions=_sum(metrics, "preemptions") or 0,
        prefix_queries=_sum(metrics, "prefix_queries") or 0,
        prefix_hits=_sum(metrics, "prefix_hits") or 0,
        prompt_tokens=_sum(metrics, "prompt_tokens") or 0,
        generation_tokens=_sum(metrics, "generation_tokens") or 0,
    )


def _sum(metrics: bytes, field: str) -> int | None:
    values = _finite(metrics, field)
    return int(sum(values)) if values else None


def _finite(metrics: bytes, field: str) -> list[float]:
    """The values of the first of a field's names that has any."""
    for name in _NAMES[field]:
        values = [value for value in _samples(metrics, name) if math.isfinite(value)]
        if values:
            return values
    return []


def _samples(metrics: bytes, name: bytes) -> Iterator[float]:
    # Looked for, not parsed: the histograms around them make a hundred kilobytes, of each replica, each second.
    start = metrics.find(name)
    while start >= 0:
        end = start + len(name)
        if (start == 0 or metrics[start - 1 : start] == b"\n") and metrics[end : end + 1] in (b"{", b" ", b"\t"):
            line, _, _ = metrics[end : end + 4096].partition(b"\n")
            # A label's value may hold anything, also a brace and a space; the last brace ends the labels.
            _, _, sample = line.rpartition(b"}")
            try:
                yield float(sample.split()[0])
            except (ValueError, IndexError):
                pass
        start = metrics.find(name, end)
