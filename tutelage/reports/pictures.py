"""The pictures of one run or several: what each shows is said in its title, and labelled where it stands.

Colours are of Okabe and Ito's kind, told apart by people who see no red or no green; nothing is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from tutelage.quality.intervals import Rate
from tutelage.reports.canvas import (
    BAD,
    GOOD,
    GRID,
    INK,
    LOST,
    MIDDLING,
    MUTED,
    PAPER,
    SERIES,
    SMALL,
    WIDTH,
    canvas,
    percent,
    words,
)
from tutelage.reports.numbers import RunNumbers
from tutelage.reports.timeline import Window
from tutelage.transcripts.statistics import OTHER, Acceptance, CallCount
from tutelage.transcripts.terminal import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Key = tuple[tuple[str, str], ...]
"""What the colours mean: each with its words."""

MOST_ROWS: Final = 10
ROW: Final = 40
"""The height of a row: its words, and the bar under them."""
BAR: Final = 12
FEW: Final = 4
"""A share of fewer is not drawn over time."""
_ENDING_COLOURS: Final = {"completed": GOOD, "discarded": BAD, "failed": LOST}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture with its words."""

    title: str
    """What it shows, in a sentence."""
    svg: str
    key: Key = ()
    note: str = ""
    """What must be known to read it."""
    run: str = ""
    """Whose it is, where it is of one run of several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of bars: parts of a whole, or of the longest row."""

    label: str
    value: str
    parts: Sequence[tuple[float, str]]
    """Each with its colour, the first one leftmost."""
    inside: Sequence[str] = field(default_factory=tuple)
    """What stands in the parts that have room for it."""


def endings_picture(run: RunNumbers, order: Sequence[tuple[str, str]]) -> Picture:
    """How the dialogues of a run ended: status and reason, in the order given, so that runs can be compared."""
    total = run.statistics.dialogues
    counts: dict[tuple[str, str], int] = {(each.status, each.reason): each.dialogues for each in run.statistics.endings}
    shown = list(order[:MOST_ROWS])
    most = max((counts.get(each, 0) for each in shown), default=0) or 1
    bars = [
        Bar(
            label=prose(reason),
            value=_share(counts.get((status, reason), 0), total),
            parts=[(counts.get((status, reason), 0) / most, _ENDING_COLOURS[status])],
        )
        for status, reason in shown
    ]
    completed = sum(each.dialogues for each in run.statistics.endings if each.status == "completed")
    rest = sum(counts.values()) - sum(counts.get(each, 0) for each in shown)
    return Picture(
        title=f"{_how_many(completed, total)} {_many(total, 'dialogue')} were completed",
        svg=bars_svg(bars),
        key=tuple((colour, status) for status, colour in _ENDING_COLOURS.items() if _has(shown, status)),
        note=f"{rest:,} more ended in rarer ways." if rest else "",
        run=run.run,
    )


def ending_order(runs: Sequence[RunNumbers]) -> list[tuple[str, str]]:
    """All endings of some runs: completed, discarded, failed, the commonest of each first."""
    totals: dict[tuple[str, str], int] = {}
    for ending in (each for run in runs for each in run.statistics.endings):
        totals[ending.status, ending.reason] = totals.get((ending.status, ending.reason), 0) + ending.dialogues
    statuses = list(_ENDING_COLOURS)
    return sorted(totals, key=lambda each: (statuses.index(each[0]), -totals[each], each[1]))


def acceptance_picture(run: RunNumbers, roles: Sequence[str]) -> Picture:
    """What became of reviewed turns, by role."""
    by_role = {each.role: each for each in run.statistics.acceptance}
    bars = [_acceptance_bar(by_role.get(role) or Acceptance(role=role)) for role in roles]
    first = by_role.get(roles[0]) if roles else None
    share = first.at_first / first.turns if first else 0.0
    return Picture(
        title=f"{percent(share)} of {_whose(first.role)} turns pass at the first draft"
        if first
        else "Nothing reviewed",
        svg=bars_svg(bars),
        key=((GOOD, "at the first draft"), (MIDDLING, "after revision"), (BAD, "said though still refused")),
        run=run.run,
    )


def objections_picture(run: RunNumbers, most: int) -> Picture | None:
    """What reviewers and checks had against drafts, the commonest first.

    Args:
        run: The run.
        most: The objections that a bar as wide as the picture stands for.
    """
    found = [
        (reviewer.role, dimension, count) for reviewer in run.statistics.reviewers
        for dimension, count in reviewer.issues.items()
    ]  # fmt: skip
    if not found:
        return None
    found.sort(key=lambda each: (each[1] == OTHER, -each[2].total))
    total = sum(count.total for *_, count in found)
    bars = [
        Bar(
            label=f"{prose(role)}: {prose(dimension)}",
            value=f"{count.total:,}",
            parts=[(count.block / most, BAD), (count.major / most, MIDDLING), (count.minor / most, GRID)],
        )
        for role, dimension, count in found[:MOST_ROWS]
    ]
    rest = len(found) - len(bars)
    return Picture(
        title=f"{_many(total, 'objection')}, most often: {words(prose(found[0][1]), 30)}",
        svg=bars_svg(bars),
        key=((BAD, "blocks"), (MIDDLING, "major"), (GRID, "minor")),
        note=f"Not shown: {_many(rest, 'rarer kind')}." if rest > 0 else "",
        run=run.run,
    )


def most_objections(runs: Sequence[RunNumbers]) -> int:
    """How often the commonest objection was raised, of some runs."""
    counts = (count for run in runs for reviewer in run.statistics.reviewers for count in reviewer.issues.values())
    return max((count.total for count in counts), default=0)


def tokens_picture(run: RunNumbers, most: int) -> Picture | None:
    """Where the tokens went, by role and who played it.

    Args:
        run: The run.
        most: The tokens that a bar as wide as the picture stands for.
    """
    calls = sorted(run.statistics.calls, key=lambda each: -_tokens(each))
    if not calls or not most:
        return None
    bars = [
        Bar(
            label=prose(each.role),
            value=f"{short_number(_tokens(each))} · {short_number(each.calls)} {'call' if each.calls == 1 else 'calls'}",
            parts=[
                (each.completion_tokens / most, GOOD),
                ((each.prompt_tokens - each.cached_tokens) / most, MIDDLING),
                (each.cached_tokens / most, GRID),
            ],
        )
        for each in calls[:MOST_ROWS]
    ]
    prompt, cached = (sum(getattr(each, name) for each in calls) for name in ("prompt_tokens", "cached_tokens"))
    rest = len(calls) - len(bars)
    return Picture(
        title=f"{percent(cached / prompt)} of the prompts' tokens came from the cache"
        if cached
        else "No token of a prompt came from a cache",
        svg=bars_svg(bars),
        key=((GOOD, "written"), (MIDDLING, "read anew"), (GRID, "read from the cache")),
        note=f"Not shown: {_many(rest, 'role')} with fewer tokens." if rest > 0 else "",
        run=run.run,
    )


def most_tokens(runs: Sequence[RunNumbers]) -> int:
    """The tokens of the role that took the most, of some runs."""
    return max((_tokens(each) for run in runs for each in run.statistics.calls), default=0)


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
        title=f"Half of the completed dialogues have {_median(run.turns):,} turns or more",
        svg=drawn.svg,
        note=f"{_many(completed, 'completed dialogue')}, by their turns.",
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
                label = f"median {_median(counted):,}"
                axes.text(1, 1.08, label, transform=axes.transAxes, va="bottom", ha="right", color=MUTED, size=SMALL)
            last = number == len(roles) - 1
            axes.tick_params(labelbottom=last)
            axes.set_xlabel("words in a turn" if last else "")
    medians = (f"{prose(role)} {_median(run.words[role]):,}" for role in roles if run.words.get(role))
    return Picture(
        title=f"Median words of a turn: {', '.join(medians)}",
        svg=drawn.svg,
        note="How often turns were so long; the line is the median. The longest hundredth is not drawn.",
        run=run.run,
    )


def time_picture(run: RunNumbers, roles: Sequence[str]) -> Picture | None:
    """How shares went over a run: completed dialogues, and turns that passed at first."""
    if len(run.timeline) < 2:
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
        f"{_capital(name)}: from {percent(line[0][1].share)} to {percent(line[-1][1].share)}"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """A row of dots: one number, measured in each run that has it."""

    label: str
    rates: Mapping[int, Rate]
    """By the number of the run."""


def dots_svg(rows: Sequence[Dots]) -> str:
    """Shares of several runs with their intervals, one under the other."""
    heights = [24 + 17 * len(row.rates) + 8 for row in rows]
    scale, right = 262.0, WIDTH
    with canvas(sum(heights) + 20) as drawn:
        sheet = drawn.sheet()
        for share in (0, 0.25, 0.5, 0.75, 1):
            x = 4 + share * scale
            sheet.plot([x, x], [6, sum(heights)], color=GRID, linewidth=1, zorder=0)
            sheet.text(x, sum(heights) + 6, percent(share), color=MUTED, size=SMALL, ha="center", va="top")
        for row, top in zip(rows, accumulate(heights, initial=0), strict=False):
            # Over the lines behind it, so that its words are read on clear ground.
            sheet.text(
                0, top + 14, words(row.label, 56), va="center", bbox={"facecolor": PAPER, "linewidth": 0, "pad": 1}
            )
            for line, (number, rate) in enumerate(row.rates.items()):
                y, colour = top + 34 + 17 * line, SERIES[number % len(SERIES)]
                sheet.plot([4 + rate.low * scale, 4 + rate.high * scale], [y, y], color=colour, linewidth=3, alpha=0.4)
                sheet.plot([4 + rate.share * scale], [y], "o", color=colour, markersize=8, markeredgecolor=PAPER)
                sheet.text(right, y, f"of {rate.of:,}", color=MUTED, size=SMALL, ha="right", va="center")
                sheet.text(right - 72, y, percent(rate.share), size=SMALL, ha="right", va="center", weight="bold")
    return drawn.svg


def bars_svg(bars: Sequence[Bar]) -> str:
    """Rows of bars, each with its words above it."""
    with canvas(max(1, ROW * len(bars))) as drawn:
        sheet = drawn.sheet()
        for number, bar in enumerate(bars):
            top = number * ROW
            sheet.text(0, top + 11, words(bar.label, 46), va="center")
            sheet.text(WIDTH, top + 11, bar.value, va="center", ha="right", color=MUTED, size=SMALL)
            _draw_bar(sheet, bar, top + 21)
    return drawn.svg


def _draw_bar(sheet: "Axes", bar: Bar, top: float) -> None:
    inside = (*bar.inside, *[""] * len(bar.parts))
    sheet.barh(top + BAR / 2, WIDTH, height=1, color=GRID)
    left = 0.0
    for (share, colour), text in zip(bar.parts, inside, strict=False):
        width = share * WIDTH
        if width:
            gap = 1 if len(bar.parts) > 1 else 0
            sheet.barh(top + BAR / 2, max(width - gap, 0.8), left=left, height=BAR, color=colour)
        if text and width > 9 * len(text):
            ink = INK if colour in (MIDDLING, GRID) else PAPER
            sheet.text(left + 5, top + BAR / 2 + 0.5, text, color=ink, size=9, va="center", weight="bold")
        left += width


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
        axes.axvline(min(_median(counted), longest), color=INK, linewidth=1.5)


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


def _acceptance_bar(each: Acceptance) -> Bar:
    counts = (each.at_first, each.after_revision, each.forced)
    shares = [count / each.turns if each.turns else 0.0 for count in counts]
    return Bar(
        label=prose(each.role),
        value=_many(each.turns, "turn"),
        parts=list(zip(shares, (GOOD, MIDDLING, BAD), strict=True)),
        inside=[percent(share) for share in shares],
    )


def _middle(window: Window) -> float:
    return window.first + (window.dialogues - 1) / 2


def _share(count: int, of: int) -> str:
    return f"{count:,} · {percent(count / of)}" if count else "none"


def _how_many(count: int, of: int) -> str:
    return "All" if count == of else "None of" if not count else f"{percent(count / of)} of"


def _median(counted: Mapping[int, int]) -> int:
    return quantile(counted, 0.5)


def colour_of(role: str, roles: Sequence[str]) -> str:
    """The colour of a role, the same in all pictures of a page."""
    return SERIES[roles.index(role) % len(SERIES)]


def quantile(counted: Mapping[int, int], share: float) -> int:
    """The number that so large a share of those counted does not exceed."""
    total, below = sum(counted.values()), 0
    for number in sorted(counted):
        below += counted[number]
        if below >= share * total:
            return number
    return 0


def _tokens(count: CallCount) -> int:
    return count.prompt_tokens + count.completion_tokens


def _has(endings: Sequence[tuple[str, str]], status: str) -> bool:
    return any(each == status for each, _ in endings)


def prose(name: str) -> str:
    """A name of a role or an ending as words."""
    return words(name.replace("_", " "))


def _whose(role: str) -> str:
    return f"the {prose(role)}'s"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
