"""Draws rows: bars under their words, and dots with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from tutelage.quality.intervals import Rate
from tutelage.reports.canvas import GRID, INK, MIDDLING, MUTED, PAPER, SERIES, SMALL, WIDTH, canvas, percent, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ROW: Final = 40
"""The height of a row: its words, and the bar under them."""

BAR: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of bars: parts of a whole, or of the longest row."""

    label: str
    value: str
    parts: Sequence[tuple[float, str]]
    """Each with its colour, the first one leftmost."""
    inside: Sequence[str] = field(default_factory=tuple)
    """What stands in the parts that have room for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """A row of dots: one number, measured in each run that has it."""

    label: str
    rates: Mapping[int, Rate]
    """By the number of the run."""


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
