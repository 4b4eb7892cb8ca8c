"""The dashboard for Grafana: all that it asks Prometheus for is there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tutelage.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docs" / "grafana.json").read_text(encoding="utf-8"))
DOCUMENTED = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
OF_PROMETHEUS = {"instance", "le"}
"""Labels that Prometheus and its histograms add."""


def busy() -> Metrics:
    """A run to which everything has happened."""
    metrics = Metrics(run="fractions", graph="lesson")
    metrics.dialogue_ended(graph="lesson", status="completed", reason="mastered", seconds=90)
    metrics.turn_taken(role="tutor", seconds=4)
    metrics.draft_reviewed(role="tutor", status="rejected")
    metrics.call_answered(role="tutor", seconds=1.5, prompt_tokens=100, cached_tokens=80, completion_tokens=20)
    metrics.call_failed(role="critic", reason="wrong_shape")
    metrics.reply_misfit(role="critic")
    metrics.request_made(endpoint="http://gpu-1:8000/v1", role="tutor", code=200, seconds=1)
    metrics.committed(seconds=0.004, operations=130)
    metrics.transcripts_written()
    metrics.reloaded(refused=False)
    metrics.watch(
        state=lambda: "running",
        owed=lambda: 1,
        under_way=lambda: 1,
        completed=lambda: 1,
        target=lambda: 1,
        set_aside=lambda: 1,
        waiting=lambda: 1,
        in_flight=lambda: {"http://gpu-1:8000/v1": 1},
        limits=lambda: {"http://gpu-1:8000/v1": 64},
        queued=lambda: {"http://gpu-1:8000/v1": 2},
        kv_cache=lambda: {"http://gpu-1:8000/v1": 0.5},
        for_place=lambda: 3,
        allowed=lambda: 72,
        circuits=lambda: {"http://gpu-1:8000/v1": "closed"},
        held_by=tuple,
        bytes_on_disk=lambda: {"transcripts": 1},
        bytes_free=lambda: 1,
    )
    return metrics


def labels_by_name() -> dict[str, set[str]]:
    """Of each series that Prometheus reads from a run, the labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(busy().render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query, as (panel, expression, legend)."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("panel", "query", "legend"), [pytest.param(*each, id=each[0]) for each in queries()])
def test_a_query_asks_for_series_and_labels_that_there_are(panel: str, query: str, legend: str) -> None:
    known = labels_by_name()
    names = re.findall(r"\b(?:tutelage|process)_[a-z_]+", query)
    assert names
    for name in names:
        assert name in known
        assert f"{name}{{" in query, "each is of the chosen instances only"
    labels = OF_PROMETHEUS.union(*(known[name] for name in names))
    grouped = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
    matched = set(re.findall(r"[{,](\w+)(?:=|!)", query))
    assert grouped <= labels and matched <= labels
    aggregated = re.search(r"\b(sum|min|max)\b", query)
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert shown <= ((grouped - {"le"}) if aggregated else labels), "a legend has only the labels that are left"


def test_every_metric_of_ours_is_on_the_dashboard_and_in_the_documentation() -> None:
    asked = " ".join(query for _, query, _ in queries()) + str(DASHBOARD["templating"])
    families = list(text_string_to_metric_families(busy().render().decode()))
    ours = [family.name + ("_total" if family.type == "counter" else "") for family in families]
    ours = [name for name in ours if name.startswith("tutelage_")]
    assert len(ours) > 25
    assert [name for name in ours if name not in asked] == ["tutelage_build_info"]
    assert [name for name in ours if f"`{name}" not in DOCUMENTED] == []


def test_panels_lie_side_by_side() -> None:
    """Grafana has 24 columns; panels that overlap are pushed about."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
