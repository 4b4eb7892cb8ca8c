"""The simulated GPUs behave as vLLM's scheduler does, and as real ones were measured; the simulation is judged by them."""

import asyncio
import json
import statistics
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tutelage.testing import Latency
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.engine import Engine
from tutelage.testing.engine import Sequence as EngineSequence
from tutelage.testing.prefix_cache import PrefixCache

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "coral",
    "fleet_policies",
    "fleet_simulation",
    "simulated_fleet",
    "simulated_gpu",
    "view_cache",
    "virtual_time",
)


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark's modules: no part of the installed package, so found from the repository's root."""
    monkeypatch.syspath_prepend(ROOT)
    return SimpleNamespace(**{name: import_module(f"benchmarks.{name}") for name in MODULES})


def drive(gpu: Any, arrivals: Sequence[tuple[float, Any]]) -> dict[Any, float]:
    """Sends calls at their times; gives when each was done."""
    done: dict[Any, float] = {}
    due = list(arrivals)
    while due or gpu.is_busy:
        if due and due[0][0] <= gpu.wakes:
            gpu.submit(due[0][1], due[0][0])
            due.pop(0)
        else:
            now = gpu.wakes
            done |= dict.fromkeys(gpu.finish_leap(), now)
    return done


def backlog(sim: Any, hardware: Any, *, prompt: int, output: int, at_once: int, calls: int) -> float:
    """Generated tokens a second with so many calls open all the time, none of which shares anything."""
    gpu = sim.simulated_gpu.SimulatedGpu(hardware)
    numbers = iter(range(calls))

    def send(now: float) -> None:
        number = next(numbers, None)
        if number is not None:
            gpu.submit(sim.view_cache.Call(view=(number, ""), prompt=prompt, known=0, output=output), now)

    for _ in range(at_once):
        send(0.0)
    end = 0.0
    while gpu.is_busy:
        end = gpu.wakes
        for _ in gpu.finish_leap():
            send(end)
    return calls * output / end


# The roofline


def test_one_sequence_decodes_as_fast_as_was_measured_on_an_a100(sim: Any) -> None:
    """75 tokens/s: Llama-3.1-8B, vLLM 0.23, A100-40GB (johnmusgrave.com/p/vllm-throughput-latency-sweep-on)."""
    a100_40gb = sim.simulated_gpu.Hardware(bandwidth=1.555e12)
    assert 1 / a100_40gb.step(sequences=1, tokens=1, kv_tokens=1024) == pytest.approx(75, rel=0.02)


def test_a_full_batch_stays_below_what_was_measured_of_a_faster_engine(sim: Any) -> None:
    """128 tokens in, 128 out, A100-80GB: 5,500 tokens/s by a user of TensorRT-LLM, 6,553 by NVIDIA (TensorRT-LLM#2648)."""
    speed = backlog(sim, sim.simulated_gpu.Hardware(), prompt=128, output=128, at_once=300, calls=3000)
    assert 4000 < speed < 5500


def test_throughput_is_what_the_roofline_allows_and_no_more(sim: Any) -> None:
    """All tokens must be computed, and all steps read the weights: neither can be beaten, and one of them is nearly met."""
    hardware = sim.simulated_gpu.Hardware(step_overhead=0.0, sequence_overhead=0.0)
    compute = hardware.flops * hardware.flops_share / (2 * hardware.parameters) / (1000 + 100)
    assert 0.9 < backlog(sim, hardware, prompt=1000, output=100, at_once=256, calls=1500) / (100 * compute) <= 1
    weights = hardware.bandwidth * hardware.bandwidth_share / (2 * hardware.parameters)
    assert 0.9 < backlog(sim, hardware, prompt=10, output=100, at_once=1, calls=20) / weights <= 1


def test_the_kv_cache_is_as_large_as_vllm_makes_it(sim: Any) -> None:
    hardware = sim.simulated_gpu.Hardware()
    assert hardware.kv_bytes == 32 * 8 * 128 * 2 * 2
    assert 400_000 < hardware.blocks * hardware.block_size < 460_000


# Against the simulated endpoint's engine, which has tokens


def words(rng: Random, length: int) -> tuple[str, ...]:
    return tuple(str(rng.random()) for _ in range(length))


def conversations(sim: Any, rng: Random) -> Iterator[tuple[Any, tuple[str, ...], tuple[str, ...]]]:
    """Calls of eight views in any order, with the tokens of their prompts and completions."""
    said: dict[int, tuple[str, ...]] = {}
    for _ in range(120):
        view = rng.randrange(8)
        before = said.get(view, ())
        prompt, completion = before + words(rng, rng.randint(5, 60)), words(rng, rng.randint(1, 40))
        call = sim.view_cache.Call(view=(view, ""), prompt=len(prompt), known=len(before), output=len(completion))
        said[view] = (prompt + completion) if len(prompt) < 500 else ()
        yield call, prompt, completion


def test_the_books_by_view_are_those_by_block(sim: Any) -> None:
    """Where little is evicted and where much is, the same tokens are found."""
    for capacity in (60, 90, 140, 1000):
        rng = Random(capacity)
        views, blocks = (
            sim.view_cache.ViewCache(capacity=capacity, block_size=16),
            PrefixCache(capacity=capacity, block_size=16),
        )
        for call, prompt, completion in conversations(sim, rng):
            assert views.admit(call)
            lease = blocks.admit(prompt, "")
            assert lease is not None
            assert call.cached == lease.cached_tokens
            views.hold(-(-(call.prompt + call.output) // 16) - -(-call.prompt // 16))
            assert blocks.grow(lease, len(prompt) + len(completion))
            call.to_prefill, call.generated = 0, call.output
            views.release(call)
            blocks.release(lease, prompt + completion)
        assert views.hits == blocks.hits
        assert 0 < views.hits <= views.queries


@pytest.mark.parametrize(("blocks", "preempts"), [(2000, False), (120, True)])
def test_it_takes_as_long_as_the_engine_with_tokens(sim: Any, blocks: int, preempts: bool) -> None:
    """The same arrivals, batch, cache and times of a step: the same calls are done at the same time."""
    rng = Random(7)
    times = [rng.uniform(0, 3) for _ in range(80)]
    sizes = [(rng.randint(20, 400), rng.randint(5, 120)) for _ in times]
    latency = Latency(output_token=0.01, doubling_batch=50, prompt_token=1e-4)
    config = EndpointConfig(latency=latency, max_num_seqs=24, num_gpu_blocks=blocks, max_model_len=600)
    theirs, preemptions = sim.virtual_time.run(with_tokens(config, sorted(times), sizes))

    hardware = matching(sim, latency, blocks)
    gpu = sim.simulated_gpu.SimulatedGpu(hardware)
    ours = [
        sim.view_cache.Call(view=(number, ""), prompt=prompt, known=0, output=output)
        for number, (prompt, output) in enumerate(sizes)
    ]
    done = drive(gpu, list(zip(sorted(times), ours, strict=True)))

    assert (gpu.preemptions > 0) == (preemptions > 0) == preempts
    late = [done[call] - their for call, their in zip(ours, theirs, strict=True)]
    assert max(done.values()) == pytest.approx(max(theirs), rel=0.05)
    assert abs(statistics.fmean(late)) < 0.05 * statistics.fmean(theirs)


async def with_tokens(
    config: EndpointConfig, times: Sequence[float], sizes: Sequence[tuple[int, int]]
) -> tuple[list[float], int]:
    """When the simulated endpoint's engine is done with each, and how often it preempted."""
    engine, loop, rng = Engine(config), asyncio.get_running_loop(), Random(1)

    async def one(at: float, prompt: int, output: int) -> float:
        await asyncio.sleep(at)
        sequence = EngineSequence(prompt=words(rng, prompt), completion=words(rng, output), root="")
        await engine.submit([sequence])
        await sequence.moved.wait()
        return loop.time()

    jobs = (one(at, prompt, output) for at, (prompt, output) in zip(times, sizes, strict=True))
    return list(await asyncio.gather(*jobs)), engine.preemptions


def matching(sim: Any, latency: Latency, blocks: int) -> Any:
    """Hardware whose steps take as long as those of the simulated endpoint."""
    return sim.simulated_gpu.Hardware(
        step_overhead=latency.output_token,
        # Its steps do not count what decodes as computed tokens; these do.
        sequence_overhead=latency.output_token / latency.doubling_batch - latency.prompt_token,
        parameters=0.5,
        flops=1 / latency.prompt_token,
        flops_share=1.0,
        bandwidth=1e30,
        kv_memory=blocks * 16 * 131_072 + 1,
        max_num_seqs=24,
        max_num_batched_tokens=8192,
    )


def test_who_came_last_is_preempted_and_still_gets_all_its_tokens(sim: Any) -> None:
    hardware = sim.simulated_gpu.Hardware(kv_memory=20 * 16 * 131_072 + 1)
    gpu = sim.simulated_gpu.SimulatedGpu(hardware)
    first, second = (sim.view_cache.Call(view=(number, ""), prompt=100, known=0, output=150) for number in range(2))
    done = drive(gpu, [(0.0, first), (0.0, second)])
    assert gpu.preemptions == 1
    assert done[first] < done[second]
    assert gpu.generated_tokens == 300
    assert gpu.cache.usage == 0


# The dialogues and the fleet


def test_a_dialogue_is_as_long_as_matrix_has_published(sim: Any) -> None:
    shape = sim.coral.Shape()
    dialogues = [list(sim.coral.calls(number, shape, 1)) for number in range(3000)]
    assert statistics.fmean(sum(call.output for call in each) for each in dialogues) == pytest.approx(2002, rel=0.02)
    assert all(4 <= len(each) <= 40 for each in dialogues)


def test_the_prompts_of_a_view_grow_by_what_was_said(sim: Any) -> None:
    calls = [call for call in sim.coral.calls(1, sim.coral.Shape(turns=8.0), 3) if call.view[1] != "extractor"]
    assert [call.view[1] for call in calls] == (["teacher", "student"] * 10)[: len(calls)]
    assert len(calls) > 2
    for before, call in zip(calls, calls[2:], strict=False):
        assert call.known == before.prompt + before.output
        assert call.prompt > call.known


def outcome(sim: Any, policy: Any, **options: Any) -> Any:
    setting = sim.simulated_fleet.Setting(**{"gpus": 4, "warm_up": 40, "seconds": 40, **options})
    return sim.simulated_fleet.simulate(setting, policy)


def test_routing_finds_what_chance_does_not(sim: Any) -> None:
    """With as many calls under way, Tutelage's own routing finds more of the prompts cached, and makes more tokens."""
    ours = outcome(sim, lambda gpus: sim.fleet_policies.Tutelage(gpus, pinned=50))
    chance = outcome(sim, lambda gpus: sim.fleet_policies.Fixed(gpus, 50, "random"))
    assert ours.running == pytest.approx(chance.running, rel=0.1)
    assert ours.cached > 1.5 * chance.cached
    assert ours.tokens_per_second > 1.2 * chance.tokens_per_second


def test_the_limit_that_adapts_leaves_conversations_their_cache(sim: Any) -> None:
    """Where it went by queue and KV usage alone, it filled the cache with what runs: half of these tokens."""
    options = {"gpus": 2, "warm_up": 900, "seconds": 300, "call_cpu": 0.0}
    adaptive = outcome(sim, sim.fleet_policies.Tutelage, **options)
    known = outcome(sim, lambda gpus: sim.fleet_policies.Tutelage(gpus, pinned=75), **options)  # the best there is
    assert adaptive.tokens_per_second > 0.85 * known.tokens_per_second


def test_an_orchestrator_without_time_left_starves_gpus(sim: Any) -> None:
    """At 100 ms of CPU a call one process makes 10 calls a second, however many GPUs there are."""
    busy = outcome(sim, lambda gpus: sim.fleet_policies.Tutelage(gpus, pinned=50), call_cpu=0.1)
    idle = outcome(sim, lambda gpus: sim.fleet_policies.Tutelage(gpus, pinned=50))
    assert busy.orchestrator == pytest.approx(1, abs=0.01)
    assert idle.orchestrator == 0
    assert busy.tokens_per_second < 0.7 * idle.tokens_per_second


def test_the_same_seed_gives_the_same_outcome(sim: Any) -> None:
    def policy(gpus: int) -> Any:
        return sim.fleet_policies.Tutelage(gpus)

    assert outcome(sim, policy, gpus=2, seconds=10) == outcome(sim, policy, gpus=2, seconds=10)


def test_virtual_time_is_not_waited_for(sim: Any) -> None:
    async def sleep() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert sim.virtual_time.run(sleep()) == pytest.approx(86_400)


def test_who_waits_for_ever_is_no_silence(sim: Any) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is left that could happen"):
        sim.virtual_time.run(wait())


def test_the_benchmark_prints_its_assumptions_beside_its_table(
    sim: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert sim.fleet_simulation.main(["--gpus", "1", "--warm-up", "5", "--seconds", "5", "--json", str(figures)]) == 0
    said = capsys.readouterr().out
    assert "A simulation: no GPU was used" in said
    assert "523 tok/s for each A100" in said
    rows = json.loads(figures.read_bytes())["rows"]
    assert [row["label"] for row in rows] == [each.label for each in sim.fleet_simulation.CONTESTANTS]
    assert all(row["outcome"]["tokens_per_second"] > 0 for row in rows)
