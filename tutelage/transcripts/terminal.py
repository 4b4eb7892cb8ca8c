"""Printing at a terminal: what models and users wrote, made safe, and what is set apart from it.

Their text is data wherever it is shown: nothing in it is read as markup, and no code in it reaches the terminal, where
it could recolour what follows, move the cursor, set the clipboard, or turn a line about.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.style import StyleType
from rich.text import Text

from tutelage.dialogue.view import name

_NEWLINES = dict.fromkeys([0x2028, 0x2029], "\n")
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {
    0x7F: "\N{SYMBOL FOR DELETE}"
}
_UNSEEN = dict.fromkeys(
    [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\N{REPLACEMENT CHARACTER}"
)
_SAFE = _NEWLINES | _CONTROLS | _UNSEEN
"""C0 controls become their pictures (`␛`), C1 controls and what overrides the direction of writing become `\ufffd`."""


def clean(text: str) -> str:
    """The text without anything that a terminal would obey. Newlines and tabs stay."""
    return text.replace("\r\n", "\n").translate(_SAFE)


def plain(text: object, style: StyleType = "") -> Text:
    """The text to be printed as it stands: clean, and no markup is read in it."""
    return Text(clean(str(text)), style=style)


def one_line(text: object, style: StyleType = "") -> Text:
    """Like `plain`, on one line, however many it had."""
    return Text(clean(" ".join(str(text).split())), style=style)


def role_name(role: str) -> str:
    """A role's name as prose, clean: `fact_checker` as `Fact checker`."""
    return " ".join(clean(name(role)).split())


def tell_skipped(what: str) -> None:
    """Says on stderr that a line of a run could not be read; for `read_transcripts`."""
    Console(stderr=True).print(plain(f"left out, for it cannot be read: {what}", "yellow"), soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Aside:
    """Something set apart by what stands before each of its lines: a bar, a bullet, or nothing but room.

    No line of it ends in spaces, so that what is piped into a file is as clean as what is written by hand.
    """

    body: RenderableType
    before: str = "   "
    style: StyleType = ""
    first: str | None = None
    """What stands before the first line, if it is not the same."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style(self.style)
        width = max(20, options.max_width - len(self.before))
        before = self.before if self.first is None else self.first
        for line in console.render_lines(self.body, options.update(width=width), pad=False):
            yield from _without_end_spaces([Segment(before, style), *line])
            yield Segment.line()
            before = self.before


def _without_end_spaces(line: list[Segment]) -> list[Segment]:
    while line and not (text := line[-1].text.rstrip(" ")):
        line.pop()
    return [*line[:-1], line[-1]._replace(text=text)] if line else []


def print_parts(console: Console, parts: Iterable[RenderableType]) -> None:
    """Prints one part after the other."""
    for part in parts:
        console.print(Aside(part, ""))


def short_number(number: int) -> str:
    """A number in at most six characters: 950, 12.3k, 4.5M."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)
