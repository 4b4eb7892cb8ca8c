"""The limit on calls in flight, on a simulated GPU in simulated seconds: what it comes to, and how soon."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tutelage.serving.engine_load import EngineLoad
from tutelage.serving.limit import CEILING, SILENT, STANDING, START, AdaptiveLimit

with pytest.MonkeyPatch.context() as patch:  # no part of the installed package, so found from the repository's root
    patch.syspath_prepend(Path(__file__).resolve().parents[2])
    from benchmarks.counted_gpu import Hardware
    from benchmarks.limits import ClosedLoop, Look, Outcome, Scenario, Workload, best, fixed, outcome, play

LONG_REPLIES = Scenario(
    name="KV binds",
    workload=Workload(reply=900, turns=1),
    hardware=Hardware(kv_tokens=120_000),
    warm_up=200,
    seconds=800,
)

AROUND = (0.75, 0.88, 0.95, 1.05, 1.2)
"""Fixed limits as parts of ours. (`python -m benchmarks.limits` tries more.)"""


def load(
    *, running: int, waiting: int = 0, kv_usage: float | None = 0.3, preemptions: int = 0, tokens: int = 0
) -> EngineLoad:
    return EngineLoad(
        running=running,
        waiting=waiting,
        kv_usage=kv_usage,
        preemptions=preemptions,
        prefix_queries=0,
        prefix_hits=0,
        prompt_tokens=0,
        generation_tokens=tokens,
    )


def looked(limit: AdaptiveLimit, *loads: EngineLoad | None, in_flight: int | None = None) -> list[int]:
    """The limit after each look, while calls wait."""
    limits = []
    for now, each in enumerate(loads):
        open_now = limit.limit if in_flight is None else in_flight
        limit.observe(each, in_flight=open_now, waiting=100, now=float(now))
        limits.append(limit.limit)
    return limits


def part_of_best(scenario: Scenario, ours: Outcome) -> float:
    """Our throughput beside that of the best fixed limit."""
    return ours.tokens_per_second / best(fixed(scenario, ours.limit, factors=AROUND)).tokens_per_second


def steady(looks: Sequence[Look]) -> Outcome:
    return outcome(looks, looks[0].at)


@pytest.mark.parametrize(
    ("scenario", "looks", "queue"),
    [
        (Scenario(name="256"), 12, 20),
        (Scenario(name="64", hardware=Hardware(max_num_seqs=64)), 5, 10),
        (Scenario(name="70B", hardware=Hardware(step=0.028, prompt_token=2e-4), warm_up=200, seconds=500), 20, 20),
        (
            Scenario(name="20 tokens", workload=Workload(reply=20, prompt=200, grows=20, cached=0.95), seconds=160),
            12,
            45,
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else "",
)
def test_a_batch_is_soon_full_and_stays_so_with_a_short_queue(scenario: Scenario, looks: int, queue: int) -> None:
    ours = play(scenario, AdaptiveLimit())
    full = ours.looks_until(0.97 * scenario.hardware.max_num_seqs)
    assert full is not None and full <= looks
    assert part_of_best(scenario, ours) >= 0.98
    assert ours.queue <= queue
    assert ours.swing <= 0.1
    assert ours.preemptions == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_kv_cache_is_nearly_full_and_nothing_is_preempted_once_it_is_known(seed: int) -> None:
    ours = play(LONG_REPLIES, AdaptiveLimit(), seed=seed)
    assert ours.preemptions == 0
    assert ours.queue < 1
    assert ours.swing <= 0.3
    assert part_of_best(LONG_REPLIES, ours) >= 0.98


def test_replies_that_all_end_together_do_not_make_the_limit_rise_and_fall_with_them() -> None:
    scenario = replace(LONG_REPLIES, workload=Workload(reply=900, turns=1, spread=0))
    ours = play(scenario, AdaptiveLimit())
    assert ours.preemptions == 0
    assert ours.swing <= 0.1
    assert part_of_best(scenario, ours) >= 0.98


def test_without_a_limit_that_follows_it_the_same_cache_is_preempted_all_the_time() -> None:
    """Or else the tests above would prove nothing."""
    assert play(LONG_REPLIES, AdaptiveLimit(pinned=256)).preemptions > 100


def test_prompts_that_grow_with_their_dialogues_are_preempted_next_to_never() -> None:
    scenario = replace(
        LONG_REPLIES, workload=Workload(turns=10, grows=500), hardware=Hardware(kv_tokens=200_000), seconds=1100
    )
    ours = play(scenario, AdaptiveLimit())
    calls = ours.tokens_per_second * 900 / scenario.workload.reply
    assert ours.preemptions <= calls / 1000
    assert part_of_best(scenario, ours) >= 0.98


def test_longer_prompts_bring_it_down_and_shorter_ones_up_again() -> None:
    loop = ClosedLoop(LONG_REPLIES, AdaptiveLimit())
    before = steady(loop.run(400)[200:])
    loop.workload = Workload(reply=900, turns=1, prompt=3000)
    longer = steady(loop.run(900)[200:])
    loop.workload = LONG_REPLIES.workload
    again = steady(loop.run(1300)[200:])
    assert longer.limit < 0.5 * before.limit
    assert longer.preemptions == again.preemptions == 0
    assert again.limit == pytest.approx(before.limit, rel=0.1)


def test_load_that_comes_and_goes_finds_the_limit_where_it_was() -> None:
    loop = ClosedLoop(Scenario(name="256"), AdaptiveLimit())
    before = loop.run(60)[-1].limit
    loop.workload = replace(loop.workload, dialogues=40)
    away = loop.run(160)
    assert away[-1].in_flight <= 40
    assert away[-1].limit == before
    assert away[-1].reason == "steady"
    loop.workload = replace(loop.workload, dialogues=400)
    assert max(look.running for look in loop.run(175)) == 256


def test_a_server_that_was_restarted_is_soon_full_again() -> None:
    loop = ClosedLoop(Scenario(name="256"), AdaptiveLimit())
    loop.run(60)
    loop.restart(30)
    after = loop.run(105)
    full = next(number for number, look in enumerate(after, 1) if look.running >= 250)
    assert full <= 8
    assert after[-1].waiting <= 24


def test_what_comes_to_a_restarted_server_at_once_is_half_of_what_it_had() -> None:
    """All of it is young, and will take more of the cache than what was there before."""
    limit = AdaptiveLimit()
    before = looked(limit, *[load(running=CEILING, tokens=tokens) for tokens in (100, 200, 300, 400)])[-1]
    (after,) = looked(limit, load(running=0, tokens=5), in_flight=before)
    assert after == before // 2


def test_two_who_share_an_endpoint_get_half_of_it_each() -> None:
    loop = ClosedLoop(Scenario(name="256"), *(one := [AdaptiveLimit(), AdaptiveLimit()]))
    ours = outcome(loop.run(300), 100)
    assert ours.running > 250
    assert ours.queue <= 20
    assert abs(one[0].limit - one[1].limit) <= 0.2 * one[0].limit


def test_a_limit_that_does_not_bind_does_not_grow() -> None:
    scenario = Scenario(name="few", workload=Workload(dialogues=START - 4), seconds=120, warm_up=10)
    limit = AdaptiveLimit()
    play(scenario, limit)
    assert (limit.limit, limit.reason) == (START, "steady")


def test_a_pinned_limit_never_moves() -> None:
    limit = AdaptiveLimit(pinned=500)
    ours = play(replace(LONG_REPLIES, seconds=300), limit)
    assert ours.preemptions > 0 and (ours.limit, ours.swing) == (500, 0)
    assert (limit.limit, limit.reason) == (500, "pinned")


def test_it_grows_up_to_its_ceiling_where_nothing_speaks_against_it() -> None:
    limit = AdaptiveLimit(ceiling=100)
    looked(limit, *[load(running=CEILING)] * 10)
    assert (limit.limit, limit.reason) == (100, "steady")
    assert AdaptiveLimit(ceiling=8).limit == 8
    assert AdaptiveLimit().limit == START < CEILING


def test_a_queue_at_one_look_or_two_takes_nothing_away() -> None:
    limit = AdaptiveLimit()
    queue = load(running=16, waiting=16)
    assert looked(limit, *[queue] * (STANDING - 1)) == [START] * (STANDING - 1)
    assert looked(limit, load(running=32)) > [START]


def test_a_queue_that_stands_goes_and_what_runs_stays() -> None:
    limit = AdaptiveLimit()
    after = looked(limit, *[load(running=16, waiting=16)] * STANDING)[-1]
    assert 16 < after < START
    assert limit.reason == "queue"


def test_where_little_runs_little_waits() -> None:
    """As in front of the four slots of a llama.cpp."""
    limit = AdaptiveLimit()
    for _ in range(10):
        looked(limit, load(running=4, waiting=limit.limit - 4))
    assert limit.limit == 8


def test_a_queue_that_flows_into_the_batch_is_left_alone() -> None:
    """As when many long prompts come at once."""
    flowing = [load(running=running, waiting=32 - running) for running in (4, 8, 12, 16, 20)]
    assert looked(AdaptiveLimit(), *flowing) == [START] * 5


def test_of_one_full_cache_nothing_more_is_taken_until_replies_have_made_it_so() -> None:
    limit = AdaptiveLimit()
    (first,) = looked(limit, load(running=32, kv_usage=0.97))
    assert 0.9 * START <= first < START
    assert limit.reason == "kv_cache"
    assert looked(limit, *[load(running=32, kv_usage=0.99)] * 5, in_flight=32) == [first] * 5
    assert looked(limit, load(running=first, kv_usage=0.99)) < [first]


def test_a_preemption_is_heeded_at_once_and_takes_half_at_most() -> None:
    limit = AdaptiveLimit()
    risen, after = looked(limit, load(running=32), load(running=4, waiting=44, preemptions=9))
    assert after == risen // 2
    assert limit.reason == "preemption"


def test_preemptions_from_before_our_time_do_not_count() -> None:
    assert looked(AdaptiveLimit(), load(running=32, preemptions=500)) > [START]


def test_a_request_that_fills_the_cache_alone_may_still_run() -> None:
    limit = AdaptiveLimit()
    for _ in range(200):
        looked(limit, load(running=1, waiting=limit.limit - 1, kv_usage=1.0))
    assert limit.limit == 1


def test_an_engine_that_falls_silent_for_a_moment_is_not_taken_for_one_without_metrics() -> None:
    limit = AdaptiveLimit()
    (risen,) = looked(limit, load(running=START))
    for _ in range(SILENT - 1):
        for _ in range(2 * risen):
            limit.answered(seconds=5.0, tokens=100)
        assert looked(limit, None) == [risen]


@pytest.mark.parametrize(("batch", "dialogues"), [(256, 700), (64, 200)])
def test_without_metrics_replies_alone_lead_to_a_full_batch(batch: int, dialogues: int) -> None:
    scenario = Scenario(
        name="no metrics",
        shows_metrics=False,
        hardware=Hardware(max_num_seqs=batch),
        workload=Workload(dialogues=dialogues),
        warm_up=400,
        seconds=1200,
    )
    ours = play(scenario, limit := AdaptiveLimit())
    assert part_of_best(scenario, ours) >= 0.97
    assert ours.limit < 2 * batch
    assert limit.reason == "latency"


def test_a_server_that_answered_one_at_a_time_is_tried_with_more_once_it_is_faster() -> None:
    limit, open_replies = AdaptiveLimit(), 0.0

    def serve(looks: int, *, one_at_a_time: bool) -> None:
        nonlocal open_replies
        for now in range(looks):
            seconds = float(limit.limit) if one_at_a_time else 1.0
            open_replies += limit.limit / seconds
            while open_replies >= 1:
                open_replies -= 1
                limit.answered(seconds=seconds, tokens=100)
            limit.observe(None, in_flight=limit.limit, waiting=1000, now=float(now))

    serve(20_000, one_at_a_time=True)
    assert limit.limit <= 2
    serve(20_000, one_at_a_time=False)
    assert limit.limit > 500


def test_a_proxy_that_holds_requests_back_is_found_out_by_replies() -> None:
    """The engine behind it says all the time that it has room."""
    scenario = Scenario(name="proxy", lets_through=60, workload=Workload(dialogues=1500), warm_up=300, seconds=1200)
    ours = play(scenario, limit := AdaptiveLimit())
    assert part_of_best(scenario, ours) >= 0.97
    assert ours.limit < 4 * 60
    assert limit.reason in ("latency", "rising")


def answer(limit: AdaptiveLimit, prompts: int, *, forgotten: float = 0.0) -> None:
    """Replies to prompts of which 400 tokens are known, and of which that part finds no more than a system prompt."""
    for number in range(prompts):
        cached = 32 if number % 20 < 20 * forgotten else 400
        limit.answered(seconds=10, tokens=200, known=400, cached=cached)


def test_conversations_that_find_their_beginnings_evicted_bring_it_down() -> None:
    limit = AdaptiveLimit()
    answer(limit, 64, forgotten=0.75)
    assert looked(limit, load(running=32, kv_usage=0.6))[-1] < START
    assert limit.reason == "prefixes"


def test_it_goes_back_for_that_once_and_then_looks_what_became_of_it() -> None:
    limit = AdaptiveLimit()
    answer(limit, 64, forgotten=0.75)
    (low,) = looked(limit, load(running=32, kv_usage=0.6))
    answer(limit, 2 * START, forgotten=1)  # these had been evicted by then
    assert set(looked(limit, *[load(running=low, kv_usage=0.6)] * 30)) == {low}
    answer(limit, 4 * START)
    limit.observe(load(running=low, kv_usage=0.6), in_flight=low, waiting=100, now=60)
    assert limit.limit > low


def test_it_stays_where_it_is_while_a_few_are_evicted() -> None:
    limit = AdaptiveLimit()
    answer(limit, 64, forgotten=0.75)
    (low,) = looked(limit, load(running=32, kv_usage=0.6))
    answer(limit, 6 * START, forgotten=0.15)
    assert set(looked(limit, *[load(running=low, kv_usage=0.6)] * 30)) == {low}


def test_where_little_of_the_cache_runs_evictions_are_not_for_the_limit_to_mend() -> None:
    limit = AdaptiveLimit()
    answer(limit, 64, forgotten=0.75)
    assert looked(limit, load(running=32, kv_usage=0.05))[-1] >= START


def test_an_endpoint_that_does_not_say_what_it_found_is_not_taken_for_one_that_forgets() -> None:
    limit = AdaptiveLimit()
    for _ in range(200):
        limit.answered(seconds=10, tokens=200, known=400, cached=None)
    assert looked(limit, load(running=32, kv_usage=0.6))[-1] >= START
