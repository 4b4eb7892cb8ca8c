"""How `tutelage estimate` looks: what a run will cost, on a screen of 80 columns or piped."""

from collections.abc import Callable, Iterator
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tutelage.generation.extrapolation import Estimate, Interval
from tutelage.transcripts.terminal import Aside, one_line, print_parts, short_number

PIPED: Final = 100
"""Columns where nobody looks."""
MUCH: Final = 0.1
"""Of our own tokens, the share from which on those of others are told."""


def render(estimate: Estimate, console: Console | None = None) -> str:
    """The estimate as text: in colour at a terminal, plain when piped.

    Args:
        estimate: What was worked out.
        console: Where it will be printed; stdout if not given.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPED
    with console.capture() as capture:
        print_parts(console, _parts(estimate))
    return capture.get().rstrip("\n")


def _parts(estimate: Estimate) -> Iterator[RenderableType]:
    yield one_line(estimate.run, "bold").append("   " + _work(estimate), "not bold")
    yield Text(_sample(estimate), "dim")
    yield Text()
    yield _roles(estimate)
    yield Text()
    yield _totals(estimate)
    if notes := list(_notes(estimate)):
        yield Text()
        for note in notes:
            yield Aside(
                one_line(note), "  ", first="! " if note is notes[0] and not estimate.sample.completed else "· "
            )


def _work(estimate: Estimate) -> str:
    if estimate.target is None:
        played = f", {estimate.done:,} played already" if estimate.done else ""
        return f"{_number(estimate.owed, 'dialogue')} owed, one for each brief{played}"
    done = f", {estimate.done:,} are there" if estimate.done else ""
    return f"{_number(estimate.owed, 'completed dialogue')} owed{done}"


def _sample(estimate: Estimate) -> str:
    sample = estimate.sample
    endings = ", ".join(f"{count} {ending}" for ending, count in sample.endings.items())
    of = f"{sample.briefs:,} of {_number(estimate.briefs, 'brief')}" if estimate.briefs > 1 else "1 brief"
    return f"sample: {_number(sample.dialogues, 'dialogue')} of {of} in {_time(sample.seconds)}: {endings}"


def _roles(estimate: Estimate) -> Table:
    table = Table(
        title="Calls and tokens", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False
    )
    table.pad_edge, table.padding = False, (0, 1, 0, 0)
    for header in ("\nrole", "\nmodel"):
        table.add_column(header, overflow="fold", no_wrap=header == "\nrole")
    for header in ("\ncalls", "prompt\ntokens", "\ncached", "completion\ntokens"):
        table.add_column(header, justify="right")
    for role in estimate.roles:
        player = f"{role.model} + {role.adapter}" if role.adapter else role.model
        tokens = (_short(role.prompt_tokens.value), _percent(role.cached_share), _short(role.completion_tokens.value))
        table.add_row(one_line(role.role), one_line(player), _short(role.calls.value), *tokens)
    tokens = (
        _short(estimate.prompt_tokens.value),
        _percent(estimate.cached_share),
        _short(estimate.completion_tokens.value),
    )
    table.add_row("all", "", _short(estimate.calls.value), *tokens, style="bold")
    return table


def _totals(estimate: Estimate) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("dialogues", _whole(estimate.dialogues.value), _between(estimate.dialogues, _whole)),
        ("completion tokens", _short(estimate.completion_tokens.value), _between(estimate.completion_tokens, _short)),
        ("prompt tokens", _short(estimate.prompt_tokens.value), _between(estimate.prompt_tokens, _short)),
        ("wall time", _time(estimate.seconds.value), f"{_between(estimate.seconds, _time)}{_at(estimate)}"),
    ]
    if estimate.gpus:
        hours, between = _hours(estimate.gpu_hours.value), _between(estimate.gpu_hours, _hours)
        rows.append(("GPU hours", hours, f"{between}, on {_number(estimate.gpus, 'GPU')}".removeprefix(", ")))
    rows.append(("disk", _bytes(estimate.bytes.value), _between(estimate.bytes, _bytes)))
    for row in rows:
        table.add_row(*row)
    return table


def _at(estimate: Estimate) -> str:
    said = f"at {estimate.speed:,.0f} completion tokens/s, {estimate.speed_from}"
    return f", {said}" if _between(estimate.seconds, _time) else said


def _notes(estimate: Estimate) -> Iterator[str]:
    sample = estimate.sample
    if not sample.completed:
        most = "each brief is played once all the same" if estimate.target is None else "a run gives up at the end"
        yield f"No dialogue of the sample was completed: see why before you start the run; {most}."
    if estimate.dialogues.low is not None:
        yield (
            f"In brackets: 95 % intervals, by bootstrap over the sample's {sample.dialogues} dialogues. What fails or is "
            "discarded is counted in."
        )
    if estimate.speed_from == "measured":
        yield (
            f"The speed is the sample's, with {sample.calls_in_flight:.1f} calls open on average: endpoints that are not "
            "full give less than they can, so the run may well take less. If a dialogue took no longer with "
            f"{min(estimate.at_once, round(estimate.dialogues.value)):,} under way (`concurrency`), it would take "
            f"{_time(estimate.fastest_seconds)}. For one figure give --speed: the completion tokens per second of all "
            "endpoints together under load, as `tutelage stats` or `vllm bench serve` say it."
        )
    elif estimate.seconds.value <= estimate.fastest_seconds:
        yield (
            f"At that speed the endpoints could do it sooner: what holds the run is `concurrency: {estimate.at_once}`, with "
            f"dialogues of {_time(sample.dialogue_seconds)} each."
        )
    others = sample.others_tokens_per_second
    if others is not None and others > MUCH * sample.tokens_per_second:
        yield f"The endpoints wrote {others:,.0f} tokens/s for others meanwhile, so the speed is not all that they have."
    if estimate.gpus_from == "endpoints":
        yield "GPUs: one for each endpoint was counted; give --gpus where that is not so."
    if sample.dialogues < 10:
        yield f"A sample of {sample.dialogues} says little: give a larger --sample."
    if sample.folder is not None:
        yield f"The sample is kept in {sample.folder}: `tutelage show {sample.folder}` shows it."


def _between(interval: Interval, show: Callable[[float], str]) -> str:
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return ""
    return f"({show(interval.low)} to {show(interval.high)})"


def _short(number: float) -> str:
    return short_number(round(number))


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def _bytes(count: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 2**10:,.0f} KiB"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, left = divmod(hours, 24)
    if days:
        return f"{days} d {left} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
