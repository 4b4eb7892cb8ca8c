"""How many dialogues are kept under way, by what the endpoints can take."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.generation.pace import FEWEST, SPARE, Pace


@dataclass
class StatedReplica:
    """What a pool says of one of its replicas."""

    limit: int
    in_flight: int = 0
    state: str = "closed"
    waiting_for_place: int = 0


@dataclass
class StatedPool:
    """A pool that is in the state that a test says."""

    stated: list[StatedReplica] = field(default_factory=list)

    def replicas(self) -> list[StatedReplica]:
        return self.stated


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("tutelage.generation.pace.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def settled(pace: Pace, under_way: int, clock: list[float]) -> int | None:
    for _ in range(200):
        clock[0] += 0.1
        allowed = pace.dialogues(under_way)
    return allowed


def test_without_endpoints_nothing_bounds_the_dialogues() -> None:
    assert Pace({}).dialogues(10_000) is None


def test_at_first_each_dialogue_is_taken_to_need_a_place_at_every_model(clock: list[float]) -> None:
    pools: Any = {"large": StatedPool([StatedReplica(16)]), "small": StatedPool([StatedReplica(400)])}
    assert Pace(pools).dialogues(0) == 16 * SPARE


def test_dialogues_that_are_mostly_elsewhere_leave_room_for_more(clock: list[float]) -> None:
    """Half of the dialogues have a call open at the large model: twice its places can be under way."""
    pools: Any = {"large": StatedPool([StatedReplica(100, in_flight=100)])}
    assert settled(Pace(pools), 200, clock) == pytest.approx(2 * 100 * SPARE, rel=0.02)


def test_the_model_with_the_least_room_counts(clock: list[float]) -> None:
    pools: Any = {
        "large": StatedPool([StatedReplica(10, in_flight=10, waiting_for_place=10)]),
        "small": StatedPool([StatedReplica(400, in_flight=20)]),
    }
    assert settled(Pace(pools), 40, clock) == pytest.approx(2 * 10 * SPARE, abs=1)


def test_a_lost_replica_has_no_places(clock: list[float]) -> None:
    replicas = [StatedReplica(64, in_flight=64), StatedReplica(64, state="open")]
    pools: Any = {"large": StatedPool(replicas)}
    assert settled(Pace(pools), 64, clock) == pytest.approx(64 * SPARE, abs=1)


def test_a_few_dialogues_are_under_way_in_any_case(clock: list[float]) -> None:
    pools: Any = {"large": StatedPool([StatedReplica(1, in_flight=1, waiting_for_place=500)])}
    assert settled(Pace(pools), 100, clock) == FEWEST


def test_between_two_looks_it_says_the_same(clock: list[float]) -> None:
    stated = StatedReplica(16)
    pools: Any = {"large": StatedPool([stated])}
    measured = Pace(pools)
    first = measured.dialogues(0)
    stated.limit = 64
    clock[0] += 0.01
    assert measured.dialogues(0) == first
    clock[0] += 1
    assert measured.dialogues(0) != first


def test_dialogues_that_wait_for_this_process_bring_no_more(clock: list[float]) -> None:
    """Where endpoints answer at once, calls are hardly ever open: more dialogues would only wait for the CPU."""
    pools: Any = {"large": StatedPool([StatedReplica(100, in_flight=1)])}
    assert settled(Pace(pools), 200, clock) == pytest.approx(2 * 100 * SPARE, rel=0.02)


def test_after_an_outage_no_more_begin_than_before_it(clock: list[float]) -> None:
    stated = StatedReplica(100, state="open")
    pools: Any = {"large": StatedPool([stated])}
    measured = Pace(pools)
    assert settled(measured, 200, clock) == FEWEST
    stated.state = "closed"
    assert settled(measured, 0, clock) == pytest.approx(2 * 100 * SPARE, rel=0.02)
