"""The fault table in its short form: what heals costs no dialogue, what cannot heal is told truly."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIALOGUES = 10
AWAY = 6.0
"""Seconds for which the endpoint is gone: long enough for its circuit to open and for some probes."""


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module: no part of the installed package, so found from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    module = import_module("benchmarks.faults")
    monkeypatch.setenv(module.KEY, "")  # set by each row, and taken away after it
    return module


def play(faults: Any, folder: Path, name: str) -> Any:
    row = next(row for row in faults.rows(AWAY) if row.name.startswith(name))
    return faults.play(row, folder, DIALOGUES, None)


def test_many_faults_that_heal_cost_no_dialogue_and_few_requests(faults: Any, tmp_path: Path) -> None:
    made = play(faults, tmp_path, "all of these together")
    assert made.wrong == []
    assert made.struck > 0
    assert made.completed == DIALOGUES


def test_an_endpoint_that_is_gone_for_a_while_is_waited_for_and_hardly_asked(faults: Any, tmp_path: Path) -> None:
    made = play(faults, tmp_path, "gone")
    assert made.wrong == []
    assert made.completed == DIALOGUES
    assert 0 < made.dead <= 30  # 16 dialogues were under way, with two reviewers each
    assert made.recovered < 10


@pytest.mark.parametrize(
    ("name", "reason"), [("context too long", "context_exceeded"), ("schema refused", "schema_refused")]
)
def test_what_cannot_heal_fails_its_dialogues_with_the_true_reason(
    faults: Any, tmp_path: Path, name: str, reason: str
) -> None:
    made = play(faults, tmp_path, name)
    assert made.wrong == []
    assert made.struck == faults.FEW
    assert made.failed.keys() == {reason}
    assert made.completed + made.failed[reason] == DIALOGUES


def test_a_key_that_is_refused_stops_the_run_and_gives_no_dialogue_up(faults: Any, tmp_path: Path) -> None:
    made = play(faults, tmp_path, "key refused")
    assert made.wrong == []
    assert made.exit_code == 2
    assert made.completed == DIALOGUES
