"""Metrics: what is counted, under which names, and that they stay few."""

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tutelage.telemetry.metrics import _GAUGES, MOST_VALUES, OTHER, Gauges, Metrics


def scraped(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By name and labels, what Prometheus would read."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return scraped(metrics)[name, frozenset(labels.items())]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(run="fractions", graph="lesson")


def test_dialogues_are_counted_by_graph_outcome_and_reason(metrics: Metrics) -> None:
    for _ in range(2):
        metrics.dialogue_ended(graph="lesson", status="completed", reason="mastered", seconds=90)
    metrics.dialogue_ended(graph="lesson", status="failed", reason="context_exceeded", seconds=3)
    labels = {"graph": "lesson", "outcome": "completed"}
    assert value(metrics, "tutelage_dialogues_total", **labels, reason="mastered") == 2
    assert value(metrics, "tutelage_dialogue_duration_seconds_sum", **labels) == 180
    assert value(metrics, "tutelage_dialogue_duration_seconds_bucket", **labels, le="64.0") == 0
    assert value(metrics, "tutelage_dialogue_duration_seconds_bucket", **labels, le="128.0") == 2


def test_a_call_counts_its_tokens_and_its_time_by_role(metrics: Metrics) -> None:
    metrics.call_answered(role="tutor", seconds=1.5, prompt_tokens=100, cached_tokens=80, completion_tokens=20)
    metrics.call_answered(role="critic", seconds=0.5, prompt_tokens=7, cached_tokens=0, completion_tokens=3)
    assert value(metrics, "tutelage_prompt_tokens_total", role="tutor") == 100
    assert value(metrics, "tutelage_cached_tokens_total", role="tutor") == 80
    assert value(metrics, "tutelage_completion_tokens_total", role="critic") == 3
    assert value(metrics, "tutelage_call_duration_seconds_count", role="tutor") == 1
    assert value(metrics, "tutelage_call_duration_seconds_sum", role="critic") == 0.5


def test_requests_are_counted_by_endpoint_role_and_code(metrics: Metrics) -> None:
    url = "http://gpu-1:8000/v1"
    metrics.request_made(endpoint=url, role="tutor", code=200, seconds=1)
    metrics.request_made(endpoint=url, role="tutor", code=503, seconds=1)
    metrics.request_made(endpoint=url, role=None, code="no_answer", seconds=1)
    assert value(metrics, "tutelage_endpoint_requests_total", endpoint=url, role="tutor", code="503") == 1
    assert value(metrics, "tutelage_endpoint_requests_total", endpoint=url, role="", code="no_answer") == 1
    assert value(metrics, "tutelage_endpoint_request_duration_seconds_count", endpoint=url) == 3


def test_what_else_happens_is_counted(metrics: Metrics) -> None:
    before = time.time()
    metrics.turn_taken(role="tutor", seconds=4)
    metrics.draft_reviewed(role="tutor", status="rejected")
    metrics.call_failed(role="critic", reason="wrong_shape")
    metrics.reply_misfit(role="critic")
    metrics.committed(seconds=0.004, operations=130)
    metrics.transcripts_written(3)
    metrics.reloaded(refused=True)
    assert value(metrics, "tutelage_turns_total", role="tutor") == 1
    assert value(metrics, "tutelage_turn_duration_seconds_sum", role="tutor") == 4
    assert value(metrics, "tutelage_drafts_total", role="tutor", status="rejected") == 1
    assert value(metrics, "tutelage_failed_calls_total", role="critic", reason="wrong_shape") == 1
    assert value(metrics, "tutelage_misfit_replies_total", role="critic") == 1
    assert value(metrics, "tutelage_checkpoint_commit_duration_seconds_count") == 1
    assert value(metrics, "tutelage_checkpoint_operations_total") == 130
    assert value(metrics, "tutelage_transcripts_written_total") == 3
    assert value(metrics, "tutelage_last_transcript_written_timestamp_seconds") >= before
    assert value(metrics, "tutelage_reloads_total", outcome="refused") == 1


def test_gauges_are_read_at_each_scrape(metrics: Metrics) -> None:
    under_way = 3
    metrics.watch(
        under_way=lambda: under_way,
        owed=lambda: 7,
        state=lambda: "paused",
        circuits=lambda: {"http://gpu-1/v1": "open"},
        held_by=lambda: ("disk", "waiting:http://gpu-1", "waiting:http://gpu-2"),
        bytes_on_disk=lambda: {"transcripts": 12},
    )
    assert value(metrics, "tutelage_under_way_dialogues") == 3
    under_way = 4
    assert value(metrics, "tutelage_under_way_dialogues") == 4
    assert value(metrics, "tutelage_queue_dialogues") == 7
    assert value(metrics, "tutelage_run_state", state="paused") == 1
    assert value(metrics, "tutelage_run_state", state="running") == 0
    assert value(metrics, "tutelage_endpoint_circuit", endpoint="http://gpu-1/v1", state="open") == 1
    assert value(metrics, "tutelage_endpoint_circuit", endpoint="http://gpu-1/v1", state="closed") == 0
    assert value(metrics, "tutelage_admission_held", watermark="disk") == 1
    assert value(metrics, "tutelage_admission_held", watermark="waiting") == 1
    assert value(metrics, "tutelage_admission_held", watermark="memory") == 0
    assert value(metrics, "tutelage_disk_bytes", part="transcripts") == 12


def test_every_gauge_that_can_be_watched_has_a_name() -> None:
    assert set(_GAUGES) == set(Gauges.__annotations__)


def test_reasons_of_the_user_s_making_are_bounded(metrics: Metrics) -> None:
    """A graph may end its dialogues for any reason, and raise any error: that must not fill Prometheus or our memory."""
    for number in range(10 * MOST_VALUES):
        metrics.dialogue_ended(graph="mine", status="failed", reason=f"error:Mine{number}", seconds=1)
    names = [(name, dict(labels)) for name, labels in scraped(metrics)]
    reasons = [labels["reason"] for name, labels in names if name == "tutelage_dialogues_total"]
    assert len(reasons) == MOST_VALUES + 1
    labels = {"graph": "mine", "outcome": "failed"}
    assert value(metrics, "tutelage_dialogues_total", **labels, reason=OTHER) == 9 * MOST_VALUES
    assert len(metrics._dialogues) == MOST_VALUES
    metrics.dialogue_ended(graph="mine", status="failed", reason="error:Mine0", seconds=1)
    assert value(metrics, "tutelage_dialogues_total", **labels, reason="error:Mine0") == 2


def test_texts_in_labels_cannot_break_out_of_them(metrics: Metrics) -> None:
    reason = 'a "quoted"\nline\\'
    metrics.dialogue_ended(graph="lesson", status="completed", reason=reason, seconds=1)
    assert value(metrics, "tutelage_dialogues_total", graph="lesson", outcome="completed", reason=reason) == 1


def test_two_runs_in_one_process_count_apart(metrics: Metrics) -> None:
    other = Metrics(run="decimals", graph="debate")
    metrics.turn_taken(role="tutor", seconds=1)
    assert ("tutelage_turns_total", frozenset({("role", "tutor")})) not in scraped(other)
    assert value(other, "tutelage_run_info", run="decimals", graph="debate") == 1


def test_names_follow_prometheus_s_customs(metrics: Metrics) -> None:
    """One prefix, base units, counters end in _total, and no series about when a series began."""
    metrics.call_answered(role="tutor", seconds=1.5, prompt_tokens=100, cached_tokens=80, completion_tokens=20)
    names = {name for name, _ in scraped(metrics)}
    assert not [name for name in names if not re.fullmatch(r"(tutelage|process)_[a-z0-9_]+", name)]
    assert not [name for name in names if re.search(r"_(created|ms|minutes|kilobytes|percent)$", name)]
    for family in text_string_to_metric_families(metrics.render().decode()):
        samples = {sample.name for sample in family.samples}
        assert family.documentation
        if family.type == "counter":
            assert all(name.endswith("_total") for name in samples)


def test_the_process_and_the_build_are_told(metrics: Metrics) -> None:
    names = {name for name, _ in scraped(metrics)}
    assert {"process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total"} <= names
    assert "tutelage_build_info" in names
