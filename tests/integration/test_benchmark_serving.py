"""The benchmarks of serving in their short form: that they measure what they say. No timing is asserted."""

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tutelage.testing import Latency, SimulatedEndpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks: no part of the installed package, so found from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: import_module(f"benchmarks.{name}")


# Saturation


@pytest.fixture
def spoken(benchmark: Callable[[str], Any], tmp_path: Path) -> Iterator[tuple[Any, SimulatedEndpoint]]:
    """A small run of the graph that saturation is measured with, and the endpoint that it asked."""
    runs = benchmark("run_process")
    sampling = {"max_tokens": 8, "extra": {"ignore_eos": True, "cache_salt": "run"}}
    with SimulatedEndpoint(model=runs.MODEL, latency=Latency(first_token=0.02)) as endpoint:
        project = runs.Project.write(
            tmp_path,
            endpoint.url,
            briefs=4,
            graph=benchmark("saturation").GRAPH,
            roles=dict.fromkeys(("tutor", "classmate", "student"), sampling),
            limits={"messages": 4},
        )
        assert project.start().wait(60) == 0, project.said.read_text()
        yield project, endpoint


def test_the_closed_loop_makes_the_very_requests_of_the_run(
    benchmark: Callable[[str], Any], spoken: tuple[Any, SimulatedEndpoint]
) -> None:
    loop = benchmark("closed_loop")
    project, endpoint = spoken
    of_run = [request["body"] for request in endpoint.requests()]
    replay(loop, loop.calls_of_run(project, cache_salt="loop"), endpoint, clients=3)
    of_loop = [request["body"] for request in endpoint.requests()][len(of_run) :]
    assert {body.pop("cache_salt") for body in of_loop} == {"loop"}
    assert {body.pop("cache_salt") for body in of_run} == {"run"}
    assert len(of_run) == 4 * 4
    assert as_set(of_loop) == as_set(of_run)


def test_the_closed_loop_keeps_its_clients_busy_and_each_dialogue_in_order(
    benchmark: Callable[[str], Any], spoken: tuple[Any, SimulatedEndpoint]
) -> None:
    loop = benchmark("closed_loop")
    project, endpoint = spoken
    endpoint.forget()
    dialogues = loop.calls_of_run(project)
    started = {next(transcript.calls()).seed: transcript.started for transcript in project.transcripts()}
    times = [started[dialogue[0]["seed"]] for dialogue in dialogues]
    assert times == sorted(times)
    in_flight = replay(loop, dialogues, endpoint, clients=2)
    requests = endpoint.requests()
    arrived = {request["body"]["seed"]: request["received"] for request in requests}
    for dialogue in dialogues:
        arrivals = [arrived[body["seed"]] for body in dialogue]
        assert arrivals == sorted(arrivals)
    at_once = [
        sum(other["received"] <= one["received"] < other["received"] + other["seconds"] for other in requests)
        for one in requests
    ]
    assert max(at_once) == 2
    assert 1 < in_flight <= 2


def replay(loop: Any, dialogues: list[list[dict[str, Any]]], endpoint: SimulatedEndpoint, *, clients: int) -> float:
    bodies = [[json.dumps(body).encode() for body in dialogue] for dialogue in dialogues]
    return float(asyncio.run(loop.replay(bodies, endpoint.url, clients)))


def as_set(bodies: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(body, sort_keys=True) for body in bodies)


def test_calls_in_flight_are_counted_by_littles_law(
    benchmark: Callable[[str], Any], spoken: tuple[Any, SimulatedEndpoint]
) -> None:
    """Four dialogues at once, each with a call in flight nearly all the time."""
    assert 1 < benchmark("closed_loop").in_flight(spoken[0]) <= 4


def test_ramp_up_and_tail_do_not_count(benchmark: Callable[[str], Any]) -> None:
    """A hundred tokens a second in the middle, after a start that takes ten seconds and before a tail that takes twenty."""
    metrics = benchmark("engine_metrics")
    generated = [0.0] * 10 + [100.0 * second for second in range(11)] + [1000.0] * 20
    looks = [metrics.Look(at=float(second), generated=tokens) for second, tokens in enumerate(generated)]
    assert metrics.pace(looks) == pytest.approx(100)


def test_a_run_is_held_against_the_loop(benchmark: Callable[[str], Any], tmp_path: Path) -> None:
    latency = Latency(first_token=0.005, output_token=0.001)
    with SimulatedEndpoint(model="some", latency=latency) as endpoint:
        options = ["--url", endpoint.url, "--model", "some", "--rounds", "1", "--dialogues", "8", "--concurrency", "4"]
        code = benchmark("saturation").main([*options, "--messages", "3", "--json", str(tmp_path / "figures.json")])
    figures = json.loads((tmp_path / "figures.json").read_bytes())["models"]["some"]
    (made,) = figures["rounds"]
    assert made["run"]["work"] == made["loop"]["work"]
    assert made["run"]["work"]["generated"] == 8 * (64 + 48 + 32)
    assert made["run"]["work"]["cached"] > 0
    assert figures["share"] == pytest.approx(made["run"]["tokens_per_second"] / made["loop"]["tokens_per_second"])
    assert code == (figures["share"] < 0.95)


def test_two_that_did_not_do_the_same_work_are_not_compared(benchmark: Callable[[str], Any]) -> None:
    saturation, metrics = benchmark("saturation"), benchmark("engine_metrics")
    work = metrics.Work(prompt=1000, cached=500, generated=100)
    side = saturation.Side(tokens_per_second=1.0, in_flight=1.0, work=work)
    made = saturation.Round(run=side, loop=side, clients=1)
    saturation._check_same(made)
    for changed in (replace(work, cached=600), replace(work, generated=90), replace(work, prompt=1100)):
        with pytest.raises(SystemExit, match="did not do the same work"):
            saturation._check_same(replace(made, run=replace(side, work=changed)))


# The cached share


@pytest.mark.timeout(300)  # seven processes, which a busy machine starts slowly
def test_what_routing_wins_lies_between_round_robin_and_one_replica(
    benchmark: Callable[[str], Any], tmp_path: Path
) -> None:
    options = ["--replicas", "2", "--dialogues", "12", "--concurrency", "6", "--messages", "4"]
    code = benchmark("cached_share").main([*options, "--json", str(tmp_path / "figures.json")])
    (case,) = json.loads((tmp_path / "figures.json").read_bytes())["cases"]
    arms = [case[name] for name in ("round_robin", "tutelage", "one_replica")]
    assert arms[0]["share"] < arms[1]["share"]
    assert arms[0]["share"] < arms[2]["share"]
    for arm in arms:
        assert arm["by_transcripts"] == pytest.approx(arm["share"], abs=0.01)
        assert arm["prompt_tokens"] == arms[0]["prompt_tokens"]
    assert case["blocks"] * case["block_size"] * 2 >= 1.5 * case["working_set"]
    assert case["won"] == pytest.approx((arms[1]["share"] - arms[0]["share"]) / (arms[2]["share"] - arms[0]["share"]))
    assert code == (case["won"] < 0.9)


def test_a_balancer_gives_each_request_to_the_next_in_turn(benchmark: Callable[[str], Any]) -> None:
    with SimulatedEndpoint(model="some") as one, SimulatedEndpoint(model="some") as two:
        with benchmark("round_robin").RoundRobin([one.url, two.url]) as balancer:
            body = json.dumps({"model": "some", "messages": [{"role": "user", "content": "Hello"}]}).encode()
            for _ in range(6):
                request = urllib.request.Request(
                    f"{balancer.url}/chat/completions", body, {"Content-Type": "application/json"}
                )
                with urllib.request.urlopen(request, timeout=10) as response:
                    assert json.load(response)["choices"]
        assert (one.stats()["answers"], two.stats()["answers"]) == (3, 3)


# The loss of a replica


@pytest.mark.timeout(300)  # seven processes, which a busy machine starts slowly
def test_a_run_outlives_the_loss_of_a_replica(
    benchmark: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = benchmark("replica_loss")
    monkeypatch.setattr(loss, "SPAN", 0.3)
    monkeypatch.setattr(loss, "AT_ONCE", 4)
    monkeypatch.setattr(loss, "LATENCY", Latency(first_token=0.02, output_token=0.002))
    report = loss.play(tmp_path, replicas=3, dialogues=36, gone=1.0)
    assert report.proof.good
    assert report.proof.owed == 36
    assert report.moves.conversations == 3 * 36
    assert report.moves.held >= report.moves.moved > 0
    assert report.moves.spilt < 0.2
    killed = [look for look in report.looks if 0.2 < look.at < report.gone]
    assert killed[0].answered[0] == killed[-1].answered[0] > 0
    assert sum(killed[0].answered) < sum(killed[-1].answered) < sum(report.looks[-1].answered)


def test_only_the_conversations_of_the_killed_replica_may_move(
    benchmark: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = benchmark("replica_loss")
    monkeypatch.setattr(loss, "_places", lambda places: places)
    undisturbed = {"a": ["x", "x", "x"], "b": ["y", "y"], "c": ["x", "x"], "d": ["y"], "e": ["y", "z", "y"]}
    disturbed = {"a": ["x", "y", "x"], "b": ["y", "z"], "c": ["y", "y"], "d": ["y"], "e": ["y", "y", "y"]}
    moves = loss.moves_of(undisturbed, disturbed, "x")
    assert (moves.conversations, moves.held, moves.moved, moves.returned) == (5, 2, 2, 1)
    assert (moves.others, moves.undisturbed) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, []),
        ({"proof": {"lost": ["one"]}}, ["no dialogue is lost"]),
        ({"proof": {"doubled": ["one"]}}, ["none is doubled"]),
        ({"proof": {"differing": ["one"]}}, ["all words are the undisturbed run's"]),
        ({"taken_over": None}, ["the others take over within 10 s"]),
        ({"back": 10.1}, ["throughput is back within 10 s"]),
        ({"itself": 30.0}, ["the replica has its share again within 10 s"]),
        ({"moves": {"others": 1}}, ["of other conversations at most 2% more move than undisturbed"]),
        ({"moves": {"others": 1, "undisturbed": 1}}, []),
    ],
)
def test_what_is_not_as_it_must_be_is_named(
    benchmark: Callable[[str], Any], changes: dict[str, Any], missed: list[str]
) -> None:
    loss, proof = benchmark("replica_loss"), benchmark("proof")
    good = proof.Proof(owed=9, lost=[], doubled=[], calls=90, untrue=[], lost_prompts=[], differing=[])
    stayed = loss.Moves(conversations=27, held=7, moved=4, returned=3, others=0, undisturbed=0)
    seconds = {"taken_over": 1.0, "back": 1.0, "itself": 2.0}
    report = loss.Report(replicas=4, gone=5.0, before=9.0, during=7.0, **seconds, proof=good, moves=stayed, looks=[])
    inner = {
        name: replace(getattr(report, name), **changes.pop(name)) for name in ("proof", "moves") if name in changes
    }
    assert replace(report, **changes, **inner).missed() == missed
