"""The benchmark runs, and judges what it measures. No timing is asserted; the usual stack's packages are not needed."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tutelage.dialogue.prompt import PromptLibrary

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--rounds", "1", "--dialogues", "3", "--messages", "4", "--concurrency", "2"]


@pytest.fixture
def orchestration(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's module: no part of the installed package, so found from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.orchestration")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.orchestration", *TINY, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_it_prints_its_tables_and_writes_its_figures(tmp_path: Path) -> None:
    done = run("--only", "tutelage", "graph", "loop", "--json", str(tmp_path / "figures.json"))

    assert done.returncode in (0, 1), done.stderr
    assert "CPU, ms a call" in done.stdout
    assert "as a multiple of" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_bytes())
    calls = {each["calls"] for figures_of in figures["rounds"] for each in figures_of.values()}
    assert len(calls) == 1  # of all three
    assert calls.pop() >= 3 * 2 * 4  # two lesson rounds of tutor, two reviewers, student
    assert all(each["cpu_per_call"] > 0 for figures_of in figures["rounds"] for each in figures_of.values())
    assert done.returncode == any(bound["verdict"] == "missed" for bound in figures["bounds"])


@pytest.mark.parametrize(
    ("tutelage", "verdict"),
    [([4.0, 4.0, 4.0], "goal"), ([4.0, 4.1, 9.0], "bound"), ([1.0, 8.1, 9.0], "missed")],
)
def test_the_median_of_the_ratios_decides(orchestration: Any, tutelage: list[float], verdict: str) -> None:
    bound = orchestration.Bound(of="tutelage", to="loop", most=8, goal=4)
    assert bound.judge(rounds(orchestration, tutelage, [1.0, 1.0, 1.0])) == verdict


def test_ratios_are_taken_within_a_round(orchestration: Any) -> None:
    """A machine that is slow for a whole round does not change them."""
    bound = orchestration.Bound(of="tutelage", to="loop", most=8, goal=4)
    assert bound.ratios(rounds(orchestration, [5.0, 50.0], [1.0, 10.0])) == [5.0, 5.0]


def rounds(orchestration: Any, tutelage: list[float], loop: list[float]) -> list[dict[str, Any]]:
    def figures(cpu: float) -> Any:
        return orchestration.Figures(calls=1, cpu_per_call=cpu, turns_per_second=1, endpoint_cpu_per_call=1)

    return [{"tutelage": figures(ours), "loop": figures(theirs)} for ours, theirs in zip(tutelage, loop, strict=True)]


def test_the_bounds_are_those_of_the_budgets(orchestration: Any) -> None:
    assert {(bound.to, bound.most, bound.goal) for bound in orchestration.BOUNDS} == {
        ("usual", 0.2, 0.1),
        ("loop", 8, 4),
    }


def test_competitors_that_send_other_prompts_are_not_compared(
    orchestration: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = PromptLibrary.render

    def other(self: PromptLibrary, name: str, /, **values: object) -> str:
        return rendered(self, name, **values) + (" Be brief." if name == "critic" else "")

    monkeypatch.setattr(PromptLibrary, "render", other)  # of this process: the hand-written loop's scripts only
    with pytest.raises(SystemExit, match="did not send the same prompts"):
        orchestration.main([*TINY, "--only", "tutelage", "loop"])


def test_a_missing_stack_is_named_with_what_to_install(
    orchestration: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(orchestration, "find_spec", lambda name: None)
    assert orchestration.main(TINY) == 2
    assert "pip install -e '.[bench]'" in capsys.readouterr().err
