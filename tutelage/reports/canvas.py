"""Draws the pictures of a report: matplotlib's SVG, made to take its colours and its letters from the page around it.

So one picture serves a light and a dark page, and its words can be read aloud, searched and copied. Lengths are in pixels
of a picture that is as wide as on the narrowest screen; the page makes it wider, never narrower than it can be read.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tutelage.errors import ExportError
from tutelage.transcripts.terminal import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH: Final = 400
"""Of a picture."""
SIZE: Final = 12
"""Of its letters."""
SMALL: Final = 10.5

INK: Final = "#000001"
MUTED: Final = "#000002"
GRID: Final = "#000003"
PAPER: Final = "#000004"
GOOD: Final = "#000005"
MIDDLING: Final = "#000006"
BAD: Final = "#000007"
LOST: Final = "#000008"
BAND: Final = "#000009"
SERIES: Final = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016")
"""Of what is told apart by colour only where it is also told apart by a label: runs, roles."""
PAGE_NAMES: Final = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--card",
    GOOD: "--good",
    MIDDLING: "--middling",
    BAD: "--bad",
    LOST: "--lost",
    BAND: "--band",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)},
}
"""The page's names of the colours. In matplotlib they are colours that nothing else has."""

_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tutelage",
    "text.parse_math": False,  # a role may be called `$x$`
    "text.color": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib; the page's letters are narrower
    "font.size": SIZE,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "figure.facecolor": "none",
    "figure.dpi": 72,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": SMALL,
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": SMALL,
    "ytick.major.size": 0,
    "ytick.major.pad": 6,
}


class Canvas:
    """A picture that is being drawn; `svg` is what it has come to.

    Args:
        figure: What matplotlib draws on.
        height: Of the picture.
    """

    def __init__(self, figure: "Figure", height: float) -> None:
        self._figure = figure
        self._height = height
        self.svg = ""

    def axes(
        self, *, left: float = 0, right: float = 0, top: float = 0, bottom: float = 0, height: float | None = None
    ) -> "Axes":
        """Axes that leave so much room at each side; with a `height`, that far down from `top`."""
        if height is not None:
            bottom = self._height - top - height
        place = (
            left / WIDTH,
            bottom / self._height,
            (WIDTH - left - right) / WIDTH,
            (self._height - top - bottom) / self._height,
        )
        axes = self._figure.add_axes(place)
        axes.set_axisbelow(True)
        return axes

    def sheet(self) -> "Axes":
        """Axes without any marks over the whole picture, in its pixels, from the upper left corner."""
        axes = self.axes()
        axes.set(xlim=(0, WIDTH), ylim=(self._height, 0))
        axes.set_axis_off()
        return axes


@contextmanager
def canvas(height: float) -> Iterator[Canvas]:
    """A picture of that height, to be drawn on inside the context, and taken as `svg` after it.

    Raises:
        ExportError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ExportError(
            "the page's pictures are drawn by matplotlib: pip install 'tutelage[report]'; `--json` gives the numbers"
        ) from error
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        drawn = Canvas(figure, height)
        yield drawn
        drawn.svg = _as_svg(figure)


def words(text: object, most: int = 40) -> str:
    """A name as it can stand in a picture: on one line, clean, and cut if it is long."""
    line = " ".join(clean(str(text)).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def percent(share: float) -> str:
    """A share as per cent: two that are not 0 or 1 do not look as if they were."""
    value = 100 * share
    if 0 < value < 0.95 or 99.05 < value < 100:
        return f"{value:.1f} %" if 0.05 <= value <= 99.95 else ("< 0.1 %" if value < 1 else "> 99.9 %")
    return f"{value:.0f} %"


def _as_svg(figure: "Figure") -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style type=.*?</style>", "", svg, flags=re.DOTALL)
    # Ids of groups are the same in all pictures of a page, and nothing refers to them.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", svg)
    return re.sub(
        r"(fill|stroke): (#0000(?:0[1-9]|1[1-6]))", lambda match: f"{match[1]}: var({PAGE_NAMES[match[2]]})", svg
    )
