"""Which replica gets a request: homes, bounded loads, and who moves when replicas come and go."""

from collections import Counter
from collections.abc import Iterable

import aiohttp
import pytest

from tutelage.serving import routing
from tutelage.serving.limit import AdaptiveLimit
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.request import Request
from tutelage.serving.routing import OVERLOAD, SLACK, Routing

KEYS = [f"dialogue-{number}/tutor" for number in range(2000)]


def replica(number: int, limit: int = 256) -> Replica:
    return Replica(f"http://gpu-{number}:8000/v1", limit=AdaptiveLimit(pinned=limit))


def request(key: str | None) -> Request:
    return Request("POST", "/chat/completions", aiohttp.ClientTimeout(), key=key)


def place(among: Routing, key: str | None) -> Replica:
    chosen = among.choose(request(key))
    assert chosen is not None
    return chosen


def places(among: Routing, keys: Iterable[str] = KEYS) -> dict[str, Replica]:
    return {key: place(among, key) for key in keys}


def keys_of(home: Replica, among: Routing, count: int) -> list[str]:
    keys = (key for key in map(str, range(100_000)) if place(among, key) is home)
    return [next(keys) for _ in range(count)]


# --- homes ----------------------------------------------------------------------------------------------------------


def test_keys_spread_evenly_over_replicas_and_stay() -> None:
    among = Routing([replica(number) for number in range(4)])
    first = places(among)
    assert all(400 < count < 600 for count in Counter(first.values()).values())
    assert places(among) == first


def test_a_replica_that_comes_takes_its_share_from_all_and_nothing_else_moves() -> None:
    old, new = [replica(number) for number in range(4)], replica(4)
    among = Routing(old)
    before = places(among)
    among.set([*old, new])
    after = places(among)
    moved = {key for key in KEYS if after[key] is not before[key]}
    assert {after[key] for key in moved} == {new}
    assert 300 < len(moved) < 500
    assert {before[key] for key in moved} == set(old), "it takes from each of them"


def test_only_the_keys_of_a_replica_that_goes_move() -> None:
    replicas = [replica(number) for number in range(4)]
    among = Routing(replicas)
    before = places(among)
    among.set(replicas[1:])
    after = places(among)
    assert all(after[key] is before[key] for key in KEYS if before[key] is not replicas[0])
    assert {after[key] for key in KEYS if before[key] is replicas[0]} == set(replicas[1:])


def test_keys_of_a_lost_replica_go_home_when_it_is_back() -> None:
    replicas = [replica(number) for number in range(3)]
    among = Routing(replicas)
    before = places(among)
    replicas[0].note(Fault("gone"))
    replicas[0].lose()
    among.renew()
    during = places(among)
    assert replicas[0] not in during.values()
    assert all(during[key] is before[key] for key in KEYS if before[key] is not replicas[0])
    replicas[0].try_again()
    among.renew()
    replicas[0].recover(replicas[0].failures)
    assert places(among) == before


def test_a_replica_that_has_just_been_found_gets_no_more_of_its_keys_than_it_has_trials() -> None:
    replicas = [replica(number) for number in range(2)]
    among = Routing(replicas)
    keys = keys_of(replicas[0], among, 20)
    replicas[0].lose()
    among.renew()
    replicas[0].try_again()
    among.renew()
    chosen = []
    for key in keys:
        chosen.append(place(among, key))
        chosen[-1].enter()
    assert chosen.count(replicas[0]) == 1
    replicas[0].recover(replicas[0].failures)
    assert {place(among, key) for key in keys} == {replicas[0]}, "it was not load that kept them away"


# --- bounded loads --------------------------------------------------------------------------------------------------


def test_at_low_load_nothing_spills() -> None:
    one, two = replica(1), replica(2)
    among = Routing([one, two])
    for key in keys_of(one, among, SLACK):
        assert place(among, key) is one
        one.enter()
    assert two.in_flight == 0


def test_no_replica_takes_much_more_than_the_mean() -> None:
    replicas = [replica(number) for number in range(4)]
    among = Routing(replicas)
    for key in keys_of(replicas[0], among, 400):
        place(among, key).enter()
    loads = [each.in_flight for each in replicas]
    assert sum(loads) == 400
    assert max(loads) <= OVERLOAD * 100 + SLACK + 1
    assert loads[0] == max(loads), "those that belong there stay as long as it can"


def test_loads_are_measured_against_limits() -> None:
    large, small = replica(1, limit=200), replica(2, limit=50)
    among = Routing([large, small])
    for key in map(str, range(150)):
        place(among, key).enter()
    assert small.in_flight <= OVERLOAD * 150 * 50 / 250 + SLACK + 1
    assert large.in_flight >= 100


def test_a_key_that_spilled_stays_where_its_cache_is_until_that_one_is_overloaded() -> None:
    one, two, three = replicas = [replica(number) for number in range(3)]
    among = Routing(replicas)
    one.in_flight, two.in_flight, three.in_flight = 200, 10, 10
    key = next(key for key in KEYS if keys_home(among, key) is one)
    away = place(among, key)
    assert away is not one
    one.in_flight = 0
    for _ in range(100):
        assert place(among, key) is away
    away.in_flight = 200
    assert place(among, key) is not away


def keys_home(among: Routing, key: str) -> Replica:
    """Where a key belongs, however busy that is."""
    return max(among.replicas, key=lambda each: each.weight(key))


def test_a_key_that_spilled_stays_also_when_its_own_replica_is_lost_or_goes() -> None:
    one, two, *_ = replicas = [replica(number) for number in range(5)]
    others = replicas[1:]
    among = Routing(replicas)
    one.in_flight = two.in_flight = 200
    keys = [key for key in KEYS if keys_home(among, key) is one][:50]
    away = places(among, keys)
    assert set(away.values()) == set(replicas[2:])
    one.in_flight = two.in_flight = 0
    one.lose()
    among.renew()
    assert places(among, keys) == away
    among.set(others)
    assert places(among, keys) == away


def test_a_key_that_spilled_while_its_own_replica_was_lost_goes_home_when_that_is_back() -> None:
    replicas = [replica(number) for number in range(3)]
    among = Routing(replicas)
    home = place(among, "a")
    home.lose()
    among.renew()
    second = place(among, "a")
    second.in_flight = 200
    third = place(among, "a")
    second.in_flight = 0
    assert place(among, "a") is third
    home.try_again()
    among.renew()
    home.recover(home.failures)
    assert (place(among, "a"), len({home, second, third})) == (home, 3)


def test_a_key_that_spilled_belongs_to_a_new_replica_as_any_other() -> None:
    replicas, new = [replica(number) for number in range(2)], replica(9)
    among = Routing(replicas)
    key = next(key for key in KEYS if keys_home(Routing([*replicas, new]), key) is new)
    keys_home(among, key).in_flight = 200
    place(among, key)
    among.set([*replicas, new])
    assert place(among, key) is new


def test_it_is_remembered_of_few_keys_that_they_spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "REMEMBERED_KEYS", 10)
    one, two = replica(1), replica(2)
    among = Routing([one, two])
    keys = keys_of(one, among, 50)
    one.in_flight, two.in_flight = 200, 0
    assert set(places(among, keys).values()) == {two}
    one.in_flight = 0
    assert Counter(places(among, keys).values()) == {one: 40, two: 10}


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_full_replica_gets_nothing_and_where_all_are_full_there_is_none_to_choose() -> None:
    one, two = replica(1, limit=2), replica(2, limit=3)
    among = Routing([one, two])
    for key in keys_of(one, among, 5):
        place(among, key).enter()
    assert (one.in_flight, two.in_flight) == (2, 3)
    assert among.choose(request("another")) is None
    assert among.choose(request(None)) is None
    one.leave(trial=False)
    assert place(among, None) is one


def test_without_a_key_the_least_busy_one_for_its_limit_is_chosen() -> None:
    one, two = replica(1, limit=10), replica(2, limit=100)
    among = Routing([one, two])
    one.in_flight, two.in_flight = 5, 20
    assert place(among, None) is two


# --- a request that failed -----------------------------------------------------------------------------------------


def test_a_request_goes_to_those_that_failed_it_least_and_waits_for_them_rather_than_fail_again() -> None:
    one, two = replica(1), replica(2, limit=4)
    among = Routing([one, two])
    failed = request("a")
    failed.add(Fault("HTTP 500", status=500), one)
    assert among.choose(failed) is two
    two.in_flight = 4
    assert among.choose(failed) is None, "a replica that fails at once always has places"
