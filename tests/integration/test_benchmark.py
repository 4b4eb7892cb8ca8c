"""The benchmark runs, and judges what it measures. No timing is asserted; the usual stack's packages are not needed."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tutelage.dialogue.asking import Occasion
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.generation.slots import dialogue_id
from tutelage.testing import SimulatedEndpoint

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
    bound = orchestration.Bound(what="CPU a call", of="tutelage", to="loop", bound=8, goal=4)
    assert bound.judge(rounds(orchestration, tutelage, [1.0, 1.0, 1.0])) == verdict


@pytest.mark.parametrize(("pace", "verdict"), [(0.8, "goal"), (0.7, "bound"), (0.5, "missed")])
def test_of_turns_a_second_more_is_better(orchestration: Any, pace: float, verdict: str) -> None:
    def figures(turns: float) -> Any:
        return orchestration.Figures(calls=1, cpu_per_call=1, turns_per_second=turns, endpoint_cpu_per_call=1)

    bound = orchestration.Bound(what="turns a second", of="tutelage", to="undurable", bound=0.6, goal=0.8)
    assert bound.judge([{"tutelage": figures(100 * pace), "undurable": figures(100)}]) == verdict


def test_ratios_are_taken_within_a_round(orchestration: Any) -> None:
    """A machine that is slow for a whole round does not change them."""
    bound = orchestration.Bound(what="CPU a call", of="tutelage", to="loop", bound=8, goal=4)
    assert bound.ratios(rounds(orchestration, [5.0, 50.0], [1.0, 10.0])) == [5.0, 5.0]


def rounds(orchestration: Any, tutelage: list[float], loop: list[float]) -> list[dict[str, Any]]:
    def figures(cpu: float) -> Any:
        return orchestration.Figures(calls=1, cpu_per_call=cpu, turns_per_second=1, endpoint_cpu_per_call=1)

    return [{"tutelage": figures(ours), "loop": figures(theirs)} for ours, theirs in zip(tutelage, loop, strict=True)]


def test_the_bounds_are_those_of_the_budgets(orchestration: Any) -> None:
    assert {(bound.what, bound.to, bound.bound, bound.goal) for bound in orchestration.BOUNDS} == {
        ("turns a second", "undurable", 0.6, 0.8),
        ("CPU a call", "usual", 0.2, 0.1),
        ("CPU a call", "loop", 8, 4),
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


# Killed at any moment


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks, by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: import_module(f"benchmarks.{name}")


@pytest.fixture
def finished(benchmark: Callable[[str], Any], tmp_path: Path) -> Iterator[tuple[Any, list[dict[str, Any]], Any]]:
    """A small run, what the endpoint says that it answered, and the same run once more."""
    runs = benchmark("run_process")
    config: dict[str, Any] = {"limits": {"messages": 2}, "seed": 11}
    with SimulatedEndpoint(model=runs.MODEL) as endpoint:
        projects = [runs.Project.write(tmp_path / name, endpoint.url, briefs=4, **config) for name in ("one", "two")]
        for process in [project.start() for project in projects]:
            assert process.wait(60) == 0
        yield projects[0], endpoint.answers(), projects[1]


def test_a_run_to_which_nothing_happened_is_proved(
    benchmark: Callable[[str], Any], finished: tuple[Any, list[dict[str, Any]], Any]
) -> None:
    project, answers, undisturbed = finished
    proof = benchmark("proof").prove(project, answers=answers, undisturbed=undisturbed)
    assert proof.good
    assert (proof.owed, proof.calls) == (4, sum(t.usage.calls for t in project.transcripts()))


def test_what_is_doubled_lost_or_untrue_is_found(
    benchmark: Callable[[str], Any], finished: tuple[Any, list[dict[str, Any]], Any]
) -> None:
    project, answers, undisturbed = finished
    file = project.run / "transcripts" / "00000.jsonl"
    first, second, third, _ = file.read_bytes().splitlines(keepends=True)
    said = json.loads(third)["turns"][0]["text"]
    file.write_bytes(first + first + second + third.replace(json.dumps(said).encode(), b'"Never said."'))
    (project.run / "messages.jsonl").write_bytes(b"")

    proof = benchmark("proof").prove(project, answers=answers, undisturbed=undisturbed)
    assert proof.doubled == [json.loads(first)["id"]]
    assert len(proof.lost) == 1
    assert proof.differing == [json.loads(third)["id"]]
    assert len(proof.lost_prompts) == proof.calls

    proof = benchmark("proof").prove(undisturbed, answers=answers[1:], undisturbed=project)
    assert proof.untrue == []  # each of the endpoint's answers was given twice, once to each run
    half = [answer for answer in answers if answer["seed"] % 2]
    assert benchmark("proof").prove(undisturbed, answers=half, undisturbed=undisturbed).untrue != []


@pytest.mark.parametrize(
    ("again", "without_need"),
    [
        ([("critic", 1), ("fact_checker", 1)], 0),  # both reviews of the first draft were in flight
        ([("tutor", 0)], 1),  # its reviews had been asked for, so its reply was on disk
    ],
)
def test_only_calls_of_the_last_step_may_be_made_again(
    benchmark: Callable[[str], Any], tmp_path: Path, again: list[tuple[str, int]], without_need: int
) -> None:
    accounts = benchmark("calls_made_again")
    project = benchmark("run_process").Project.write(tmp_path, "http://unused/v1", briefs=1, limits={}, seed=11)
    dialogue = dialogue_id("benchmark", "brief-0", 0)
    asked = [("tutor", 0), ("critic", 1), ("fact_checker", 1), *again]
    records = [
        {
            "number": number,
            "body": {"seed": Occasion(dialogue=dialogue, turn=0, attempt=attempt).seed(11, role, 0)},
            "received": float(number),
            "seconds": 0.5,
            "outcome": "answered",
        }
        for number, (role, attempt) in enumerate(asked, start=1)
    ]
    lives = [
        accounts.Life(end="killed", ended=4.0, requests=3, finished=frozenset()),
        accounts.Life(end="finished", ended=9.0, requests=len(asked), finished=frozenset({dialogue})),
    ]
    account = accounts.calls_made_again(project, records, lives, messages=2)
    assert (account.calls, account.in_flight, account.made_again) == (3, 2, len(again))
    assert len(account.without_need) == without_need
    assert account.good == (without_need == 0)


# Steady for weeks


def test_a_short_soak_is_sampled_and_drawn(benchmark: Callable[[str], Any], tmp_path: Path) -> None:
    soak = benchmark("soak")
    samples, start = soak.soak(tmp_path, 400, 0.05, tmp_path / "samples.jsonl")
    assert len((tmp_path / "samples.jsonl").read_bytes().splitlines()) == len(samples)
    assert [sample.dialogues for sample in samples] == sorted(sample.dialogues for sample in samples)
    assert start > 0
    assert samples[-1].transcripts > 0
    if find_spec("matplotlib"):
        soak.draw(samples, tmp_path / "soak.svg")
        assert b"<svg" in (tmp_path / "soak.svg").read_bytes()


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"memory": 1_000}, ["memory grows by at most 5% over the last half"]),
        ({"handles": 1}, ["open files grow by at most 16 over the last half"]),
        ({"checkpoints": 200_000}, ["checkpoints.db uses at most 4 MiB"]),
    ],
)
def test_what_grows_with_the_length_of_a_run_is_found(
    benchmark: Callable[[str], Any], changes: dict[str, int], missed: list[str]
) -> None:
    """Each change is what one more percent of the dialogues adds."""
    soak = benchmark("soak")
    grows = {"memory": 0, "handles": 0, "checkpoints": 0, **changes}
    still = {"checkpoint_files": 0, "ledger": 0, "transcripts": 0, "messages": 0}
    samples = [
        soak.Sample(
            seconds=float(part),
            dialogues=10 * part,
            memory=100_000 + max(0, part - 20) * grows["memory"],
            handles=80 + part * grows["handles"],
            checkpoints=1000 + part * grows["checkpoints"],
            **still,
        )
        for part in range(101)
    ]
    report = soak.judge(samples, 1000, start=1.0)
    assert report.missed() == missed
    assert report.turns_per_second == pytest.approx(20)
    assert soak.judge(samples, 1000, start=6.0).missed() == [*missed, "the finished run is opened within 5 s"]


def test_dialogues_under_way_at_once_are_measured(benchmark: Callable[[str], Any], tmp_path: Path) -> None:
    figures = benchmark("under_way").measure(tmp_path, dialogues=40, turns=1.0, latency=0.3)
    assert figures.requests >= 40
    assert figures.handles > 40
    assert figures.peak > figures.idle > 0
