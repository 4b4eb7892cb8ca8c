"""The pictures of how numbers are distributed, and of how they went over a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from tutelage.quality.intervals import Rate
from tutelage.reports.canvas import GOOD, INK, MUTED, SMALL, canvas, percent, words
from tutelage.reports.numbers import RunNumbers
from tutelage.reports.picture import Picture, capital, colour_of, many, median, prose
from tutelage.reports.timeline import Window
from tutelage.transcripts.terminal import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FEW: Final = 4
"""A share of fewer is not drawn over time."""


def turns_picture(run: RunNumbers, longest: int) -> Picture | None:
    """How long completed dialogues were.

    Args:
        run: The run.
        longest: The most turns of a dialogue of the runs that it is compared with.
    """
    if not run.turns:
        return None
    step = max(1, -(-(longest + 1) // 40))
    heights: dict[int, int] = {}
    for turns, count in run.turns.items():
        heights[turns // step * step] = heights.get(turns // step * step, 0) + count
    with canvas(170) as drawn:
        axes = drawn.axes(left=2, right=2, top=26, bottom=38)
        middle = (step - 1) / 2
        axes.bar([start + middle for start in heights], list(heights.values()), width=step * 0.86, color=GOOD)
        axes.set(xlim=(-0.6, longest + step - 0.4), xlabel="turns")
        axes.set_yticks([])
        axes.margins(y=0)
        axes.locator_params(axis="x", integer=True)
        highest = max(heights, key=heights.__getitem__)
        label = short_number(heights[highest])
        axes.text(highest + middle, heights[highest], label, ha="center", va="bottom", size=SMALL)
    completed = sum(run.turns.values())
    return Picture(
        title=f"Half of the completed dialogues have {median(run.turns):,} turns or more",
        svg=drawn.svg,
        note=f"{many(completed, 'completed dialogue')}, by their turns.",
        run=run.run,
    )


def words_picture(run: RunNumbers, roles: Sequence[str], longest: int) -> Picture | None:
    """How long turns were, by role.

    Args:
        run: The run.
        roles: In the order in which they stand.
        longest: The words up to which they are drawn.
    """
    if not run.words:
        return None
    height = 62.0
    with canvas(height * len(roles) + 36) as drawn:
        for number, role in enumerate(roles):
            axes = drawn.axes(left=2, right=2, top=number * height + 20, height=height - 22)
            _draw_words(axes, run.words.get(role, {}), longest, colour=colour_of(role, roles))
            axes.text(0, 1.08, prose(role), transform=axes.transAxes, va="bottom")
            if counted := run.words.get(role):
                label = f"median {median(counted):,}"
                axes.text(1, 1.08, label, transform=axes.transAxes, va="bottom", ha="right", color=MUTED, size=SMALL)
            last = number == len(roles) - 1
            axes.tick_params(labelbottom=last)
            axes.set_xlabel("words in a turn" if last else "")
    medians = (f"{prose(role)} {median(run.words[role]):,}" for role in roles if run.words.get(role))
    return Picture(
        title=f"Median words of a turn: {', '.join(medians)}",
        svg=drawn.svg,
        note="How often turns were so long; the line is the median. The longest hundredth is not drawn.",
        run=run.run,
    )


def time_picture(run: RunNumbers, roles: Sequence[str]) -> Picture | None:
    """How shares went over a run: completed dialogues, and turns that passed at first."""
    if len(run.timeline) < 2 or run.timeline[0].dialogues < FEW:
        return None
    lines = {"completed": [(_middle(each), each.completed) for each in run.timeline]}
    colours = {"completed": INK}
    for role in roles:
        rates = [(_middle(each), each.at_first[role]) for each in run.timeline if role in each.at_first]
        if len(rates) > 1 and all(rate.of >= FEW for _, rate in rates):
            name = f"{prose(role)}, 1st draft"
            lines[name], colours[name] = rates, colour_of(role, roles)
    with canvas(210) as drawn:
        axes = drawn.axes(left=40, right=96, top=12, bottom=38)
        _draw_rates(axes, lines, colours)
        axes.set(xlim=(1, run.statistics.dialogues), xlabel="dialogues, as they were finished")
        draw_end_labels(axes, {name: line[-1][1].share for name, line in lines.items()}, colours)
    drifts = (
        f"{capital(name)}: from {percent(line[0][1].share)} to {percent(line[-1][1].share)}"
        for name, line in lines.items()
        if line[0][1].low > line[-1][1].high or line[-1][1].low > line[0][1].high
    )
    return Picture(
        title="; ".join(drifts) or "No clear drift over the run",
        svg=drawn.svg,
        note=f"Windows of {run.timeline[0].dialogues:,} dialogues, with 95 % intervals: completed ones, and turns whose "
        "first draft was accepted. Short dialogues end first, so the last windows hold the long ones.",
        run=run.run,
    )


def draw_end_labels(axes: "Axes", ends: Mapping[str, float], colours: Mapping[str, str]) -> None:
    """Names lines at their right ends, moved apart where they would touch."""
    low, high = axes.get_ylim()
    apart = 0.088 * (high - low)
    place = high + apart
    for name in sorted(ends, key=lambda each: -ends[each]):
        place = min(ends[name], place - apart)
        axes.annotate(
            words(name, 17), (1, place), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
            color=colours[name], size=SMALL, va="center", annotation_clip=False,
        )  # fmt: skip


def _draw_words(axes: "Axes", counted: Mapping[int, int], longest: int, *, colour: str) -> None:
    bins = 50
    heights = [0] * bins
    for number, count in counted.items():
        if number <= longest:
            heights[number * bins // (longest + 1)] += count
    axes.stairs(
        heights, [index * (longest + 1) / bins for index in range(bins + 1)], fill=True, color=colour, alpha=0.75
    )
    axes.set(xlim=(0, longest + 1), ylim=(0, max(*heights, 1)))
    axes.set_yticks([])
    if counted:
        axes.axvline(min(median(counted), longest), color=INK, linewidth=1.5)


def _draw_rates(axes: "Axes", lines: Mapping[str, list[tuple[float, Rate]]], colours: Mapping[str, str]) -> None:
    for name, line in lines.items():
        xs, rates = [x for x, _ in line], [rate for _, rate in line]
        axes.fill_between(
            xs, [rate.low for rate in rates], [rate.high for rate in rates], color=colours[name], alpha=0.1, linewidth=0
        )
        axes.plot(xs, [rate.share for rate in rates], color=colours[name])
    axes.set(ylim=(0, 1))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(axis="y")


def _middle(window: Window) -> float:
    return window.first + (window.dialogues - 1) / 2
