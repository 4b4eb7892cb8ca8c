"""What `tutelage doctor` finds, and how it is printed."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final, Self

from pydantic import SecretStr
from rich.console import Console
from rich.text import Text

from tutelage.serving.redaction import without_key
from tutelage.transcripts.terminal import Aside, one_line

UNBOUNDED: Final = 1_000_000
"""The width where nobody looks: piped, a finding is one line, for grep."""


class Level(StrEnum):
    """How a check came out."""

    FINE = "✓"
    WARNING = "!"
    """A run can begin; its results may not be what was hoped for."""
    PROBLEM = "✗"
    """A run would not begin, or its dialogues would fail."""


_STYLES: Final = {Level.FINE: "green", Level.WARNING: "bold yellow", Level.PROBLEM: "bold red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    group: str
    """What was looked at: the config, the briefs, one endpoint."""
    level: Level
    text: str
    """What was found, and what to do about it."""
    unreachable: bool = False
    """Whether it is an endpoint that gave no answer at all."""

    @property
    def exit_code(self) -> int:
        """What the command exits with, if it found nothing worse."""
        if self.level is not Level.PROBLEM:
            return 0
        return 3 if self.unreachable else 2


class Notes:
    """Findings of one group, as they are made.

    Args:
        group: What is looked at.
        secret: A key, which a server may repeat in whatever it says, and no finding does.
    """

    def __init__(self, group: str, *, secret: SecretStr | None = None) -> None:
        self.group = group
        self._secret = secret
        self._findings: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._findings)

    def fine(self, text: str) -> Self:
        """A check that came out well."""
        return self._add(Level.FINE, text)

    def warning(self, text: str) -> Self:
        """A check that came out so that someone should know."""
        return self._add(Level.WARNING, text)

    def problem(self, text: str, *, unreachable: bool = False) -> Self:
        """A check that failed. Each line of the text is a finding of its own."""
        for line in text.splitlines():
            self._add(Level.PROBLEM, line, unreachable=unreachable)
        return self

    def _add(self, level: Level, text: str, *, unreachable: bool = False) -> Self:
        said = without_key(text, self._secret)
        self._findings.append(Finding(group=self.group, level=level, text=said, unreachable=unreachable))
        return self


def render(findings: Sequence[Finding], console: Console | None = None) -> str:
    """The findings as they are printed: by group, one line each, and in colour and wrapped at a terminal.

    Args:
        findings: Those of one group beside each other.
        console: Where they will be printed; stdout if not given.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    with console.capture() as capture:
        for group, members in groupby(findings, key=lambda finding: finding.group):
            console.print(one_line(group, "bold"), soft_wrap=True)
            for finding in members:
                mark, style = f"  {finding.level} ", _STYLES[finding.level]
                console.print(Aside(one_line(finding.text), " " * len(mark), style, first=mark))
            console.print()
        console.print(_summary(findings))
    return capture.get().rstrip("\n")


def _summary(findings: Sequence[Finding]) -> Text:
    counts = Counter(finding.level for finding in findings)
    problems, warnings = counts[Level.PROBLEM], counts[Level.WARNING]
    said = [
        f"{number} {what}{'s' * (number > 1)}"
        for number, what in ((problems, "problem"), (warnings, "warning"))
        if number
    ]
    worst = Level.PROBLEM if problems else Level.WARNING if warnings else Level.FINE
    return Text(f"{worst} {' and '.join(said) or 'All is well'}", _STYLES[worst])
