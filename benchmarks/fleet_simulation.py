"""A queueing simulation of 8 and 64 GPUs: what Tutelage's routing and limits make of them, beside other ways.

    python -m benchmarks.fleet_simulation [--gpus 8 64] [--call-cpu 1.0] [--sensitivity] [--json FILE]

Nothing here has run on a GPU. The GPUs are a model (`simulated_gpu`), the dialogues are like Coral's (`coral`), and time is
virtual; Tutelage's routing, waiting room and limits are the real code (`fleet_policies`). All assumptions are printed
with the table. What it is good for is the ratio between two rows; how far the rows themselves move with the assumptions,
`--sensitivity` says.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.coral import TOKENS
from benchmarks.fleet_policies import Fixed, Policy, Tutelage
from benchmarks.simulated_fleet import Outcome, Setting, simulate
from benchmarks.simulated_gpu import Hardware

MATRIX_DIALOGUES: Final = 50
"""That Matrix had under way for each GPU on Coral: 12,400 on 248."""
MATRIX_TOKENS: Final = 523
"""A second of each of them: 129,833 on 248 A100."""
BEST_OF: Final = (50, 75, 100, 125, 150, 200, 256)
"""Dialogues under way at a GPU, of which the ideal takes the best."""
FEW: Final = 16
SEARCHED_ON: Final = 4
"""GPUs on which it is looked for: where each dialogue keeps to one, they have nothing to do with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A way of using GPUs."""

    label: str
    make: Callable[[int], Policy]
    """By the number of GPUs."""
    is_ours: bool = False
    """Whether its calls take the orchestrator's CPU; the others get theirs for nothing."""
    only_on_few: bool = False
    """Whether it is left out beyond `FEW` GPUs, where it takes long and says nothing new."""


CONTESTANTS: Final = (
    Contestant(label="random, 50 a GPU (as Matrix)", make=partial(Fixed, dialogues=MATRIX_DIALOGUES, choice="random")),
    Contestant(
        label="round robin, 50", make=partial(Fixed, dialogues=MATRIX_DIALOGUES, choice="round_robin"), only_on_few=True
    ),
    Contestant(
        label="random, 256 (vLLM's batch)", make=partial(Fixed, dialogues=256, choice="random"), only_on_few=True
    ),
    Contestant(label="Tutelage, in_flight: 50", make=partial(Tutelage, pinned=50), is_ours=True, only_on_few=True),
    Contestant(label="Tutelage, in_flight: 100", make=partial(Tutelage, pinned=100), is_ours=True),
    Contestant(label="Tutelage", make=Tutelage, is_ours=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contestant's outcome."""

    gpus: int
    label: str
    outcome: Outcome
    of_ideal: float
    """Its tokens a second, as a part of the ideal's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ideal:
    """What GPUs give if each dialogue keeps to one of them, nobody waits for an orchestrator, and the number under way is
    the best that there is."""

    dialogues: int
    outcome: Outcome
    forgets_nothing: Outcome
    """A full batch, beside a cache that holds everything: what no scheduling reaches."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulates all fleets and prints what came of them."""
    options = _options(arguments)
    base = Setting(gpus=1, warm_up=options.warm_up, seconds=options.seconds, seed=options.seed)
    console = Console(width=None if sys.stdout.isatty() else 120)
    ideal = find_ideal(base)
    rows = [row for gpus in options.gpus for row in play(base, ideal, gpus, options.call_cpu / 1000)]
    console.print(_table(rows, ideal))
    print("\n".join(_assumptions(base, options)))
    varied = list(vary(base, options.call_cpu / 1000)) if options.sensitivity else []
    if varied:
        console.print(_sensitivity_table(varied))
    if options.json is not None:
        data = _as_data(base, ideal, rows, varied, options)
        options.json.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))
    return 0


def find_ideal(base: Setting) -> Ideal:
    """Tries the fixed numbers of dialogues, each dialogue pinned to a GPU."""
    setting = replace(base, gpus=SEARCHED_ON)
    tried = {each: simulate(setting, partial(Fixed, dialogues=each, choice="pinned")) for each in BEST_OF}
    best = max(tried, key=lambda each: tried[each].tokens_per_second)
    elephant = replace(setting, hardware=replace(base.hardware, kv_memory=1e15))
    full = base.hardware.max_num_seqs
    return Ideal(
        dialogues=best,
        outcome=tried[best],
        forgets_nothing=simulate(elephant, partial(Fixed, dialogues=full, choice="pinned")),
    )


def play(
    base: Setting, ideal: Ideal, gpus: int, call_cpu: float, contestants: Sequence[Contestant] = CONTESTANTS
) -> Iterator[Row]:
    """All contestants on so many GPUs.

    Args:
        base: What is simulated.
        ideal: What they are held against.
        gpus: How many.
        call_cpu: Seconds of the orchestrator's core, of each call of ours.
        contestants: Who.
    """
    for each in contestants:
        if each.only_on_few and gpus > FEW:
            continue
        print(f"{gpus} GPUs: {each.label}", file=sys.stderr)
        setting = replace(base, gpus=gpus, call_cpu=call_cpu if each.is_ours else 0.0)
        outcome = simulate(setting, each.make)
        of_ideal = outcome.tokens_per_second / ideal.outcome.tokens_per_second
        yield Row(gpus=gpus, label=each.label, outcome=outcome, of_ideal=of_ideal)


def vary(base: Setting, call_cpu: float) -> Iterator[tuple[str, Row, Row, Row]]:
    """The Matrix-like and ours on 8 GPUs, with one assumption changed at a time, each with an ideal of its own."""
    hardware, shape = base.hardware, base.shape
    slower, faster = 1 / 1.3, 1.3
    changes = {
        "as above": base,
        "prefill 30 % slower": replace(base, hardware=_prefill(hardware, slower)),
        "prefill 30 % faster": replace(base, hardware=_prefill(hardware, faster)),
        "decoding 30 % slower": replace(base, hardware=_decode(hardware, slower)),
        "decoding 30 % faster": replace(base, hardware=_decode(hardware, faster)),
        "half the KV cache": replace(base, hardware=replace(hardware, kv_memory=hardware.kv_memory / 2)),
        "dialogues of 4 turns": replace(base, shape=replace(shape, turns=4.0)),
        "dialogues of 10 turns": replace(base, shape=replace(shape, turns=10.0)),
    }
    contestants = CONTESTANTS[0], CONTESTANTS[3], CONTESTANTS[-1]
    for label, setting in changes.items():
        print(label, file=sys.stderr)
        chance, routed, ours = play(setting, find_ideal(setting), 8, call_cpu, contestants)
        yield label, chance, routed, ours


def _prefill(hardware: Hardware, factor: float) -> Hardware:
    return replace(hardware, flops_share=hardware.flops_share * factor)


def _decode(hardware: Hardware, factor: float) -> Hardware:
    return replace(
        hardware,
        bandwidth_share=hardware.bandwidth_share * factor,
        step_overhead=hardware.step_overhead / factor,
        sequence_overhead=hardware.sequence_overhead / factor,
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fleet_simulation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--warm-up", type=int, default=900, metavar="SECONDS", help="simulated, before anything counts")
    parser.add_argument("--seconds", type=int, default=300, help="simulated, that count")
    parser.add_argument(
        "--call-cpu", type=float, default=1.0, metavar="MS", help="of the orchestrator's core, of each call"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the dialogues")
    parser.add_argument("--sensitivity", action="store_true", help="change one assumption at a time, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if min(*options.gpus, options.warm_up, options.seconds) < 1 or options.call_cpu < 0:
        parser.error("--gpus, --warm-up and --seconds must be at least 1, and --call-cpu not below 0")
    return options


def _table(rows: Sequence[Row], ideal: Ideal) -> Table:
    table = Table(
        "GPUs",
        Column("", no_wrap=True),
        *(Column(name, justify="right") for name in ("tok/s", "of ideal", "busy", "cached", "batch")),
        *(Column(name, justify="right") for name in ("queue", "held", "preempted", "core")),
    )
    number = 0
    for row in rows:
        if number not in (0, row.gpus):
            table.add_section()
        shown, number = str(row.gpus) if row.gpus != number else "", row.gpus
        table.add_row(shown, row.label, *_cells(row.outcome, f"{row.of_ideal:.0%}"))
    table.add_section()
    table.add_row("", f"ideal: pinned, {ideal.dialogues} a GPU", *_cells(ideal.outcome, "100%"))
    nothing = ideal.forgets_nothing
    share = nothing.tokens_per_second / ideal.outcome.tokens_per_second
    table.add_row("", "full batch, endless cache", *_cells(nothing, f"{share:.0%}"))
    return table


def _cells(outcome: Outcome, of_ideal: str) -> tuple[str, ...]:
    return (
        f"{outcome.tokens_per_second:,.0f}",
        of_ideal,
        f"{outcome.busy:.0%}",
        f"{outcome.cached:.0%}",
        f"{outcome.running:.0f}",
        f"{outcome.queued:.1f}",
        f"{outcome.waiting:.1f}",
        f"{outcome.preemptions:.1f}",
        f"{outcome.orchestrator:.0%}",
    )


def _sensitivity_table(varied: Sequence[tuple[str, Row, Row, Row]]) -> Table:
    names = ("as Matrix", "Tutelage, in_flight: 50", "ratio", "Tutelage", "ratio")
    table = Table("8 GPUs, tok/s a GPU", *(Column(name, justify="right") for name in names))
    for label, *rows in varied:
        chance, routed, ours = (row.outcome.tokens_per_second for row in rows)
        table.add_row(
            label, f"{chance:,.0f}", f"{routed:,.0f}", f"{routed / chance:.2f}", f"{ours:,.0f}", f"{ours / chance:.2f}"
        )
    return table


def _assumptions(base: Setting, options: argparse.Namespace) -> Iterator[str]:
    """What the table must be read with."""
    hardware, shape = base.hardware, base.shape
    alone = hardware.step(sequences=1, tokens=1, kv_tokens=1024)
    full = hardware.step(sequences=256, tokens=256, kv_tokens=256 * 1024)
    prefill = hardware.flops * hardware.flops_share / (2 * hardware.parameters)
    yield (
        "A simulation: no GPU was used. Ratios of rows mean more than rows. For each GPU: generated tokens a second; time"
        " spent computing; prompt tokens found in its cache; sequences in its batch and in its queue; calls that the"
        " orchestrator holds back; preemptions a minute. And how busy the orchestrator's one core is."
    )
    yield (
        f"GPU: A100-80GB, Llama-3.1-8B bf16. {hardware.bandwidth_share:.0%} of 2.04 TB/s, {hardware.flops_share:.0%} of 312"
        f" TFLOPS: a step takes {1000 * alone:.1f} ms for one sequence, {1000 * full:.1f} ms for 256 of 1,024 tokens;"
        f" {prefill:,.0f} prompt tokens/s."
    )
    yield (
        f"KV cache: {hardware.blocks:,} blocks of {hardware.block_size} tokens (0.9 of the memory, less weights and 2 GiB),"
        f" 128 KiB a token; {hardware.max_num_seqs} sequences, {hardware.max_num_batched_tokens:,} tokens a step."
    )
    yield (
        f"Dialogues: Coral's graph; {TOKENS:,} generated tokens (Matrix's paper), in {shape.turns:g} turns on the average"
        f" (assumed; 2 to {shape.most_turns}), {shape.utterance:.0f} tokens each, log-normal; after each turn an extractor"
        f" of {shape.verdict} tokens; instructions of {shape.system} tokens, questions of {shape.question:.0f} (assumed)."
    )
    yield (
        f"Orchestrator: Tutelage takes {options.call_cpu:g} ms of one core for each call (0.96 as measured by `make bench`);"
        " the others are given theirs for nothing. The network takes no time."
    )
    yield (
        f"Matrix has published {MATRIX_TOKENS} tok/s for each A100 (129,833 on 248): tokens of saved trajectories by the wall"
        " clock of a whole run, with its start, its stragglers, Ray, and prompts and turns that are not published. The first"
        " row is not that system: it is what this model makes of its number under way and its random choice. The distance"
        " between the two is the model's and the real world's, and no gain of anybody's."
    )


def _as_data(
    base: Setting,
    ideal: Ideal,
    rows: Sequence[Row],
    varied: Sequence[tuple[str, Row, Row, Row]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "hardware": asdict(base.hardware),
        "shape": asdict(base.shape),
        "ideal": asdict(ideal),
        "rows": [asdict(row) for row in rows],
        "sensitivity": [
            {"changed": label, "matrix_like": asdict(chance), "routed": asdict(routed), "tutelage": asdict(ours)}
            for label, chance, routed, ours in varied
        ],
        "matrix_published_tokens_per_second": MATRIX_TOKENS,
    }


if __name__ == "__main__":
    sys.exit(main())
