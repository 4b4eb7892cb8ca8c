"""What the limit on calls in flight comes to, beside the best limit that never moves, in simulated time.

    python -m benchmarks.limits [--only TEXT …] [--seed 1] [--json FILE]

Dialogues in a closed loop on one GPU under vLLM, each with one call at a time. Tutelage's own AdaptiveLimit looks at its
metrics about once a second, or, where it has none, at replies alone; beside it each scenario is played with fixed limits,
of which the best is known only afterwards. A fixed part of each later prompt counts as found in the prefix cache.
"""

import argparse
import heapq
import json
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from benchmarks.counted_gpu import Call, Gpu, Hardware
from tutelage.serving.limit import AdaptiveLimit

ROUND_TRIP = 0.01
"""Seconds on the way there and back."""
FACTORS = (0.5, 0.65, 0.75, 0.85, 0.92, 1, 1.08, 1.18, 1.35, 1.7, 2.5)
"""Of the mean adaptive limit: so far around it the best fixed one is sought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Dialogues without end: each is followed by another."""

    dialogues: int = 400
    turns: int = 4
    prompt: int = 400
    """Tokens of a first prompt."""
    grows: int = 200
    """Tokens that each turn adds to it."""
    reply: float = 200
    """Tokens, in the mean."""
    cached: float = 0.8
    """The part of a later prompt that is found in the prefix cache."""
    spread: float = 0.5
    """The sigma of their log-normal distribution; 0 makes all equally long."""


_A100 = Hardware()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One GPU and what is asked of it."""

    name: str
    workload: Workload = Workload()
    hardware: Hardware = _A100
    warm_up: float = 100
    seconds: float = 300
    """With the warm-up."""
    shows_metrics: bool = True
    lets_through: int | None = None
    """Requests that a proxy in front of the GPU passes on at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen at a look, of the first client's limit."""

    at: float
    limit: int
    reason: str
    in_flight: int
    running: int
    waiting: int
    kv_usage: float
    preemptions: int
    tokens: int


@dataclass(slots=True, eq=False)
class _Client:
    limit: AdaptiveLimit
    ready: deque["_Dialogue"] = field(default_factory=deque)
    in_flight: int = 0


@dataclass(slots=True, eq=False)
class _Dialogue:
    turn: int
    client: _Client
    sent: float = 0.0


class ClosedLoop:
    """Clients, each with a limit of its own, and dialogues that go on as soon as they may.

    What is simulated may be changed between two calls of `run`: `workload`, or the GPU, by `restart`.

    Args:
        scenario: What is simulated.
        limits: One for each client.
        seed: Of lengths, and of the times of looks.
    """

    def __init__(self, scenario: Scenario, *limits: AdaptiveLimit, seed: int = 1) -> None:
        self.scenario = scenario
        self.workload = scenario.workload
        self.clients = [_Client(limit) for limit in limits]
        self.looks: list[Look] = []
        self.now = 0.0
        self._random = random.Random(seed)
        self._gpu = Gpu(scenario.hardware)
        self._calls: dict[Call, _Dialogue] = {}
        self._ends = 0
        self._events: list[tuple[float, int, Callable[[Call], None], Call]] = []
        self._held_back: deque[Call] = deque()
        self._numbers = count()
        self._next_look = 0.5
        self._under_way = 0

    def run(self, until: float) -> Sequence[Look]:
        """Goes on until then, and gives the looks of that time."""
        seen = len(self.looks)
        self._begin()
        while self.now < until:
            self.now = min(self._next_look, self._gpu.wakes, self._events[0][0] if self._events else math.inf)
            if self._gpu.wakes <= self.now:
                for call in self._gpu.finish_step():
                    self._later(self._answered, call)
                    self._pass_on()
            while self._events and self._events[0][0] <= self.now:
                _, _, happens, call = heapq.heappop(self._events)
                happens(call)
            if self._next_look <= self.now:
                self._look()
            for client in self.clients:
                self._send(client)
        return self.looks[seen:]

    def restart(self, seconds: float) -> None:
        """The GPU's server crashes, and is back after so many seconds; what it had is asked again."""
        self._gpu = Gpu(self.scenario.hardware)
        self._events.clear()
        self._held_back.clear()
        for dialogue in self._calls.values():
            dialogue.client.in_flight -= 1
            dialogue.client.ready.append(dialogue)
        self._calls.clear()
        self.now += seconds
        self._next_look = self.now + 0.5

    def _begin(self) -> None:
        while self._under_way < self.workload.dialogues:
            number = next(self._numbers)
            client = self.clients[number % len(self.clients)]
            # Those that are there from the beginning are somewhere in their course.
            turn = 0 if self.looks else self._random.randrange(self.workload.turns)
            client.ready.append(_Dialogue(turn, client))
            self._under_way += 1

    def _send(self, client: _Client) -> None:
        while client.ready and client.in_flight < client.limit.limit:
            dialogue, load = client.ready.popleft(), self.workload
            reply = load.reply * math.exp(self._random.gauss(0, load.spread) - load.spread**2 / 2)
            prompt = load.prompt + load.grows * dialogue.turn
            new = prompt if dialogue.turn == 0 else math.ceil(prompt * (1 - load.cached))
            call = Call(prompt=prompt, reply=max(1, round(reply)), to_compute=new)
            self._calls[call] = dialogue
            dialogue.sent = self.now
            client.in_flight += 1
            self._later(self._arrived, call)

    def _later(self, happens: Callable[[Call], None], call: Call) -> None:
        heapq.heappush(self._events, (self.now + ROUND_TRIP / 2, next(self._numbers), happens, call))

    def _arrived(self, call: Call) -> None:
        self._held_back.append(call)
        self._pass_on()

    def _pass_on(self) -> None:
        load = self._gpu.load()
        room = math.inf if self.scenario.lets_through is None else self.scenario.lets_through
        room -= load.running + load.waiting
        while self._held_back and room > 0:
            self._gpu.submit(self._held_back.popleft(), self.now)
            room -= 1

    def _answered(self, call: Call) -> None:
        dialogue = self._calls.pop(call)
        client = dialogue.client
        client.in_flight -= 1
        client.limit.answered(seconds=self.now - dialogue.sent, tokens=call.reply)
        dialogue.turn += 1
        if dialogue.turn < self.workload.turns:
            client.ready.append(dialogue)
            return
        self._under_way -= 1
        self._begin()

    def _look(self) -> None:
        self._next_look = self.now + self._random.uniform(0.9, 1.1)
        load = self._gpu.load()
        for client in self.clients:
            client.limit.observe(
                load if self.scenario.shows_metrics else None,
                in_flight=client.in_flight,
                waiting=len(client.ready),
                now=self.now,
            )
        first = self.clients[0]
        self.looks.append(
            Look(
                at=self.now,
                limit=first.limit.limit,
                reason=first.limit.reason,
                in_flight=first.in_flight,
                running=load.running,
                waiting=load.waiting + len(self._held_back),
                kv_usage=load.kv_usage or 0.0,
                preemptions=load.preemptions,
                tokens=load.generation_tokens,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a limit has come to. All but the last two are of the time after the warm-up."""

    limit: float
    """In the mean over the looks, like the next two."""
    running: float
    queue: float
    """Requests that wait at the server."""
    tokens_per_second: float
    preemptions: int
    swing: float
    """Between the 5th and the 95th percentile of the limit, as a part of its mean."""
    preemptions_before: int
    """In the warm-up."""
    batches: tuple[int, ...] = field(repr=False)
    """What ran at each look, from the start."""

    def looks_until(self, running: float) -> int | None:
        """How many looks it took until so many ran."""
        return next((look for look, batch in enumerate(self.batches, 1) if batch >= running), None)


def outcome(looks: Sequence[Look], warm_up: float) -> Outcome:
    """Sums up what was seen."""
    first, *rest = [look for look in looks if look.at >= warm_up]
    last, mean = rest[-1], fmean(look.limit for look in rest)
    percentiles = quantiles([look.limit for look in rest], n=20)
    return Outcome(
        limit=mean,
        running=fmean(look.running for look in rest),
        queue=fmean(look.waiting for look in rest),
        tokens_per_second=(last.tokens - first.tokens) / (last.at - first.at),
        preemptions=last.preemptions - first.preemptions,
        swing=(percentiles[-1] - percentiles[0]) / mean,
        preemptions_before=first.preemptions,
        batches=tuple(look.running for look in looks),
    )


def play(scenario: Scenario, limit: AdaptiveLimit, *, seed: int = 1) -> Outcome:
    """Plays a scenario with one client."""
    return outcome(ClosedLoop(scenario, limit, seed=seed).run(scenario.seconds), scenario.warm_up)


def fixed(scenario: Scenario, around: float, *, factors: Sequence[float] = FACTORS, seed: int = 1) -> list[Outcome]:
    """The outcomes of fixed limits around one."""
    limits = sorted({max(1, round(around * factor)) for factor in factors})
    return [play(scenario, AdaptiveLimit(pinned=limit), seed=seed) for limit in limits]


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The one that gave most."""
    return max(outcomes, key=lambda each: each.tokens_per_second)


_SMALL = Hardware(step=0.004, kv_token=1.9e-8, prompt_token=1.4e-5, kv_tokens=1_500_000, max_num_batched_tokens=8192)
_LARGE = Hardware(step=0.028, kv_token=4.7e-8, prompt_token=2e-4, kv_tokens=300_000)
SCENARIOS = (
    Scenario(name="a batch of 256 binds"),
    Scenario(name="a batch of 64 binds", hardware=Hardware(max_num_seqs=64)),
    Scenario(
        name="a batch of 1,024 binds",
        hardware=replace(_SMALL, max_num_seqs=1024),
        workload=Workload(dialogues=1500, reply=400),
    ),
    Scenario(name="replies of 20 tokens", workload=Workload(reply=20, prompt=200, grows=50), hardware=_SMALL),
    Scenario(name="prompts bind, replies are short", workload=Workload(reply=40, prompt=3000, turns=1)),
    Scenario(name="1B, fast", hardware=_SMALL),
    Scenario(name="70B, slow", hardware=_LARGE, warm_up=300, seconds=1200),
    Scenario(
        name="KV binds, long replies",
        workload=Workload(reply=900, turns=1),
        hardware=Hardware(kv_tokens=120_000),
        warm_up=300,
        seconds=1200,
    ),
    Scenario(
        name="KV binds, all replies equally long",
        workload=Workload(reply=900, turns=1, spread=0),
        hardware=Hardware(kv_tokens=120_000),
        warm_up=300,
        seconds=1200,
    ),
    Scenario(
        name="KV binds, a few replies very long",
        workload=Workload(reply=700, turns=1, spread=1),
        hardware=Hardware(kv_tokens=120_000),
        warm_up=300,
        seconds=1200,
    ),
    Scenario(
        name="KV binds, prompts grow",
        workload=Workload(turns=10, grows=500),
        hardware=Hardware(kv_tokens=200_000),
        warm_up=300,
        seconds=1200,
    ),
    Scenario(
        name="KV binds, some 20 fit",
        workload=Workload(reply=600, prompt=1000),
        hardware=Hardware(kv_tokens=35_000),
        warm_up=300,
        seconds=1200,
    ),
    Scenario(name="a proxy lets 100 through", lets_through=100, warm_up=300, seconds=1200),
    Scenario(
        name="no metrics, a batch of 256",
        workload=Workload(dialogues=1200),
        shows_metrics=False,
        warm_up=400,
        seconds=2000,
    ),
    Scenario(
        name="no metrics, a batch of 64",
        hardware=Hardware(max_num_seqs=64),
        shows_metrics=False,
        warm_up=400,
        seconds=2000,
    ),
)


def _row(scenario: Scenario, seed: int) -> dict[str, Any]:
    ours = play(scenario, AdaptiveLimit(), seed=seed)
    outcomes = fixed(scenario, ours.limit, seed=seed)
    quiet = best([each for each in outcomes if not each.preemptions])
    return {
        "scenario": scenario.name,
        "ours": ours,
        "best": best(outcomes),
        "quiet": quiet,
        "full": ours.looks_until(0.95 * quiet.running),
    }


def _line(row: dict[str, Any]) -> str:
    most, quiet, ours = row["best"], row["quiet"], row["ours"]
    part, quiet_part = (ours.tokens_per_second / each.tokens_per_second for each in (most, quiet))
    return (
        f"{row['scenario']:<36}{most.limit:>5.0f}{most.tokens_per_second:>8.0f}{most.preemptions:>6}"
        f"{ours.limit:>8.0f}{ours.tokens_per_second:>8.0f}{ours.preemptions:>6}{ours.queue:>7.1f}{ours.swing:>7.0%}"
        f"{row['full'] or '-':>6}{part:>9.1%}{quiet_part:>8.1%}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], help="scenarios whose names hold one of these")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    print(f"{'':<36}{'best fixed limit':^19}{'adaptive limit':^42}{'of the best':^17}")
    print(
        f"{'':<36}{'limit':>5}{'tok/s':>8}{'pre.':>6}{'limit':>8}{'tok/s':>8}{'pre.':>6}{'queue':>7}{'swing':>7}{'full':>6}"
        f"{'':>9}{'quiet':>8}"
    )
    rows = []
    for scenario in SCENARIOS:
        if any(text in scenario.name for text in given.only):
            rows.append(_row(scenario, given.seed))
            print(_line(rows[-1]), flush=True)
    if given.json:
        plain = [
            {key: asdict(value) if isinstance(value, Outcome) else value for key, value in row.items()} for row in rows
        ]
        given.json.write_text(json.dumps(plain, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
