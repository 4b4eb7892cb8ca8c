"""The pictures of diversity: each measure beside what people write, and one of them over a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tutelage.quality.diversity import MEASURES, Band, Group, Measure
from tutelage.quality.uniformity import Measures
from tutelage.reports.canvas import BAND, GRID, MUTED, PAPER, SERIES, SMALL, WIDTH, canvas, percent, words
from tutelage.reports.curves import draw_end_labels
from tutelage.reports.numbers import RunNumbers
from tutelage.reports.picture import Picture, colour_of, prose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OVER_TIME: Final = next(measure for measure in MEASURES if measure.name == "vendi")
"""How many different texts there seem to be: of all measures the easiest to grasp."""
_SCALE: Final = 282.0
_LINE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One group's value of a measure."""

    label: str
    value: float
    colour: str


def diversity_picture(run: RunNumbers, roles: Sequence[str]) -> Picture | None:
    """Each measure, by role, beside what people write."""
    groups = [group for group in run.diversity.groups if group.model is None or _is_alone(group, run.diversity.groups)]
    if not groups:
        return None
    groups = sorted(groups, key=lambda group: roles.index(group.role))[: len(SERIES)]
    human = run.diversity.human
    heights = [22 + _LINE * len(groups) + 10] * len(MEASURES)
    with canvas(sum(heights)) as drawn:
        sheet = drawn.sheet()
        for number, measure in enumerate(MEASURES):
            lines = [
                _Line(label=prose(group.role), value=measure.of(group.measures), colour=colour_of(group.role, roles))
                for group in groups
            ]
            _draw_measure(sheet, measure, lines, _band(measure, groups, human), top=number * heights[0])
    return Picture(
        title=_title(groups[0], human),
        svg=drawn.svg,
        key=((BAND, "what people write"),),
        note=f"To the right: more diverse. {_sizes(groups)} {_whose_band(groups, human)}",
        run=run.run,
    )


def diversity_over_time_picture(run: RunNumbers, roles: Sequence[str]) -> Picture | None:
    """How many different turns there seem to be among each hundred, as the run went on."""
    curves = {role: points for role, points in run.diversity.over_time.items() if len(points) > 1}
    if not curves:
        return None
    colours = {prose(role): colour_of(role, roles) for role in curves}
    band = OVER_TIME.human(100)
    ends: dict[str, float] = {}
    with canvas(210) as drawn:
        axes = drawn.axes(left=30, right=76, top=12, bottom=38)
        for role, points in list(curves.items())[: len(SERIES)]:
            ys = [OVER_TIME.of(point.measures) for point in points]
            xs = [(index + 0.5) / len(ys) for index in range(len(ys))]
            axes.plot(xs, ys, color=colours[prose(role)])
            ends[prose(role)] = ys[-1]
        if band:
            axes.axhspan(band.low, band.high, color=BAND, linewidth=0, zorder=0)
            axes.text(0.01, band.high, "people", color=MUTED, size=SMALL, va="bottom")
        axes.set(xlim=(0, 1), ylim=(0, 1.15 * max(*ends.values(), band.high if band else 0)), xlabel="the run's course")
        axes.set_xticks([0, 1], ["start", "end"])
        axes.grid(axis="y")
        draw_end_labels(axes, ends, colours)
    role = next(iter(curves))
    first, last = (OVER_TIME.of(curves[role][end].measures) for end in (0, -1))
    return Picture(
        title=f"Among a hundred turns of the {prose(role)}: {first:.0f} different ones at first, {last:.0f} at the end",
        svg=drawn.svg,
        note="The Vendi score of 100 turns at a time: 1 if all were the same, 100 if no two shared a word.",
        run=run.run,
    )


def _draw_measure(sheet: "Axes", measure: Measure, lines: Sequence[_Line], band: Band | None, *, top: float) -> None:
    values = [line.value for line in lines] + ([band.low, band.high] if band else [])
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        share = (value - low) / (high - low)
        return 4 + _SCALE * (share if measure.higher_is_more_diverse else 1 - share)

    bottom = top + 22 + _LINE * len(lines)
    if band:
        left, right = sorted((place(band.low), place(band.high)))
        middle, height = (top + 20 + bottom) / 2, bottom - top - 18
        sheet.barh(middle, max(right - left, 3), left=left, height=height, color=BAND)
        said = f"people {value_of(measure, band.low)} to {value_of(measure, band.high)}"
        if band.low == band.high:
            said = f"people {value_of(measure, band.low)}"
        sheet.text(WIDTH, top + 11, said, color=MUTED, size=SMALL, ha="right", va="center")
    sheet.text(0, top + 11, words(measure.title), va="center")
    for number, line in enumerate(lines):
        y = top + 30 + _LINE * number
        sheet.plot([4, 4 + _SCALE], [y, y], color=GRID, linewidth=1, zorder=1)
        sheet.plot([place(line.value)], [y], "o", color=line.colour, markersize=8, markeredgecolor=PAPER)
        sheet.text(WIDTH - 64, y, value_of(measure, line.value), size=SMALL, ha="right", va="center", weight="bold")
        sheet.text(WIDTH - 58, y, words(line.label, 11), color=line.colour, size=SMALL, va="center")


def _band(measure: Measure, groups: Sequence[Group], human: Measures | None) -> Band | None:
    if human:
        return Band(low=measure.of(human), high=measure.of(human))
    return measure.human(groups[0].measures.texts)


def _title(group: Group, human: Measures | None) -> str:
    whose = f"the {prose(group.role)}'s turns"
    if human:
        alike = sum(
            measure.of(group.measures) < measure.of(human)
            if measure.higher_is_more_diverse
            else measure.of(group.measures) > measure.of(human)
            for measure in MEASURES
        )
        return f"By {alike} of {len(MEASURES)} measures, {whose} are more alike than people's"
    told = [measure.more_uniform_than_people(group.measures) for measure in MEASURES]
    if None in told:
        return f"How much alike {whose} are"
    return f"By {sum(map(bool, told))} of {len(MEASURES)} measures, {whose} are more alike than human teachers'"


def _sizes(groups: Sequence[Group]) -> str:
    return ", ".join(_size(groups)) + "."


def _size(groups: Sequence[Group]) -> Iterator[str]:
    for group in groups:
        yield f"{prose(group.role)}: {group.measures.texts:,} of {group.turns:,} turns"


def _whose_band(groups: Sequence[Group], human: Measures | None) -> str:
    if human:
        return f"People: {human.texts:,} of the texts that were given; samples of different sizes do not compare."
    if MEASURES[0].human(groups[0].measures.texts):
        return "The band holds nine in ten samples of so many turns by human teachers (MathDial)."
    return "There are too few turns to be compared with people's."


def _is_alone(group: Group, groups: Sequence[Group]) -> bool:
    return sum(each.role == group.role for each in groups) == 1


def value_of(measure: Measure, value: float) -> str:
    """A value of a measure, as it is printed."""
    return percent(value) if measure.name == "near_duplicates" else f"{value:,.{measure.decimals}f}"
