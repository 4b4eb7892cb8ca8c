"""What engines say of their load, as they write it."""

import pytest

from tutelage.serving.engine_load import EngineLoad, parse_load

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b}"} 12.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b}"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a b}",reason="capacity"} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a b}"} 0.625
vllm:num_preemptions_total{engine="0",model_name="a b}"} 7.0
vllm:num_preemptions_created{engine="0",model_name="a b}"} 1.7e+09
vllm:prefix_cache_queries_total{engine="0",model_name="a b}"} 4000.0
vllm:prefix_cache_hits_total{engine="0",model_name="a b}"} 3000.0
vllm:prompt_tokens_total{engine="0",model_name="a b}"} 1.2345678e+07
vllm:generation_tokens_total{engine="0",model_name="a b}"} 500.0
"""
LLAMA_CPP = b"""# TYPE llamacpp:prompt_tokens_total counter\r
llamacpp:prompt_tokens_total 640\r
llamacpp:tokens_predicted_total 128\r
llamacpp:requests_processing 4\r
llamacpp:requests_deferred 5\r
"""


def load(**fields: int | float | None) -> EngineLoad:
    nothing = {
        "running": 0,
        "waiting": 0,
        "kv_usage": None,
        "preemptions": 0,
        "prefix_queries": 0,
        "prefix_hits": 0,
        "prompt_tokens": 0,
        "generation_tokens": 0,
    }
    return EngineLoad(**{**nothing, **fields})  # type: ignore[arg-type]


def test_vllm_says_all_there_is_to_know() -> None:
    assert parse_load(VLLM) == load(
        running=12,
        waiting=3,
        kv_usage=0.625,
        preemptions=7,
        prefix_queries=4000,
        prefix_hits=3000,
        prompt_tokens=12_345_678,
        generation_tokens=500,
    )


def test_llama_cpp_has_no_kv_cache_and_no_preemptions_to_speak_of() -> None:
    assert parse_load(LLAMA_CPP) == load(running=4, waiting=5, prompt_tokens=640, generation_tokens=128)


def test_sglang_has_names_of_its_own() -> None:
    metrics = b'sglang:num_running_reqs{m="x"} 9\nsglang:num_queue_reqs{m="x"} 2\nsglang:token_usage{m="x"} 0.28\n'
    assert parse_load(metrics) == load(running=9, waiting=2, kv_usage=0.28)


def test_the_engines_of_one_server_are_summed_up_and_the_fullest_cache_counts() -> None:
    """As with `--data-parallel-size 2`; a sample may carry the time at which it was taken."""
    second = VLLM.replace(b'engine="0"', b'engine="1"').replace(b"0.625", b"0.9 1700000000")
    assert parse_load(VLLM + second) == load(
        running=24,
        waiting=6,
        kv_usage=0.9,
        preemptions=14,
        prefix_queries=8000,
        prefix_hits=6000,
        prompt_tokens=24_691_356,
        generation_tokens=1000,
    )


@pytest.mark.parametrize(
    "metrics",
    [
        b"",
        b"<html>Not here</html>",
        b"# HELP vllm:num_requests_running 9\n# HELP vllm:num_requests_waiting 9\n",
        b"other:vllm:num_requests_running 9\nother:vllm:num_requests_waiting 9\n",
        b"vllm:num_requests_running 9\n",
        b"vllm:num_requests_running 9\nvllm:num_requests_waiting NaN\n",
        b"vllm:num_requests_running 9\nvllm:num_requests_waiting many\n",
        b"vllm:num_requests_running 9\nvllm:num_requests_waiting\n",
        b"python_info 1.0\nprocess_open_fds 12.0\n",
    ],
)
def test_what_does_not_name_the_requests_says_nothing(metrics: bytes) -> None:
    assert parse_load(metrics) is None


def test_a_value_that_is_no_number_is_passed_over() -> None:
    metrics = b'vllm:num_requests_running 1\nvllm:num_requests_waiting{engine="0"} NaN\n'
    metrics += b'vllm:num_requests_waiting{engine="1"} 2\nvllm:kv_cache_usage_perc NaN\n'
    assert parse_load(metrics) == load(running=1, waiting=2)
