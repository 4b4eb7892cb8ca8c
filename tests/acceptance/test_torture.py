"""A run that is killed again and again: nothing lost, nothing twice, and only what was in flight is asked for again."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def torture(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module: no part of the installed package, so found from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.torture")


def assert_good(report: Any, *, kills: int) -> None:
    """Each of these by name, so that a failure says which."""
    proof, again = report.proof, report.again
    assert report.kills == kills
    assert proof.lost == []
    assert proof.doubled == []
    assert proof.untrue == []
    assert proof.lost_prompts == []
    assert proof.differing == []
    assert again.without_need == []
    assert again.made_again <= again.in_flight
    assert report.good


@pytest.mark.timeout(240)
def test_killed_twenty_times_it_loses_doubles_and_repeats_nothing(torture: Any, tmp_path: Path) -> None:
    report = torture.torture(tmp_path, kills=20)
    assert_good(report, kills=20)
    within = {end for end in report.ends if end.startswith("killed: ")}
    assert within == {f"killed: {place}" for place in torture.PLACES}
    assert report.again.made_again > 0  # else no kill has met a call in flight, and nothing was shown


@pytest.mark.timeout(180)
def test_with_a_full_disk_besides(torture: Any, tmp_path: Path) -> None:
    try:
        report = torture.torture(tmp_path, kills=4, troubles=["full_disk"])
    except PermissionError as error:
        pytest.skip(str(error))
    assert_good(report, kills=4)
    assert report.troubles["the disk was full"] > 0


@pytest.mark.timeout(180)
def test_with_its_ledger_locked_by_another_process_besides(torture: Any, tmp_path: Path) -> None:
    report = torture.torture(tmp_path, kills=4, troubles=["locked_ledger"])
    assert_good(report, kills=4)
    assert report.troubles["the ledger was locked"] > 0


@pytest.mark.timeout(180)
def test_with_torn_lines_and_the_clock_set_back_besides(torture: Any, tmp_path: Path) -> None:
    report = torture.torture(tmp_path, kills=5, troubles=["torn_line", "clock_back"])
    assert_good(report, kills=5)
    assert report.troubles["a line was torn"] > 0
    assert report.troubles["the clock was set back"] > 0
