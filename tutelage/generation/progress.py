"""How a run goes: numbers that it keeps up to date, shown to a person at a terminal, or as JSON lines otherwise."""

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import structlog
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

log = structlog.get_logger()

REFRESH: Final = 0.25
"""Seconds between two looks of a person at the display."""
WIDEST: Final = 80
"""Columns that the display takes at most: a terminal made narrower folds lines that no longer fit, and leaves bits."""
REPORT: Final = 10.0
"""Seconds between two lines where nobody watches."""
SPEED_WINDOW: Final = 30.0
"""Seconds over which tokens a second are counted."""
ENDINGS_WINDOW: Final = 300.0
"""Seconds over which completed dialogues are counted, to guess the time left: they come far less often than tokens."""

State = Literal["running", "finished", "drained", "interrupted", "failed"]


@dataclass(slots=True, kw_only=True)
class Tally:
    """The numbers of a run since it was started. The run changes them; what watches reads them."""

    target: int | None = None
    """Completed dialogues that are wanted, those of earlier starts included; None if there is no end to them."""
    done_before: int = 0
    """Dialogues completed in earlier starts of the run."""
    drained: bool = False
    """Whether the run was told to come to its end, done or not."""
    completed: int = 0
    discarded: int = 0
    failed: int = 0
    under_way: int = 0
    turns: int = 0
    calls: int = 0
    drafts: int = 0
    """Drafts that were reviewed."""
    drafts_sent_back: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the endpoint found in its prefix cache."""
    completion_tokens: int = 0
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Seconds."""
    started: float = field(init=False)
    """By the clock."""
    _samples: deque[tuple[float, int, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._samples = deque([(self.started, self.completion_tokens, self.completed)])

    @property
    def done(self) -> int:
        """Completed dialogues, those of earlier starts included."""
        return self.done_before + self.completed

    @property
    def left(self) -> int | None:
        """Dialogues yet to be completed; None without a target."""
        return None if self.target is None else max(0, self.target - self.done)

    @property
    def acceptance(self) -> float | None:
        """The share of the reviewed drafts that were accepted; None before the first."""
        return 1 - self.drafts_sent_back / self.drafts if self.drafts else None

    @property
    def cached(self) -> float | None:
        """The share of the prompt tokens that the endpoint found in its prefix cache; None before the first."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def seconds(self) -> float:
        """Since the start."""
        return self.clock() - self.started

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens a second over the last half minute, or since the start if that is later."""
        then, tokens, _ = self._sample(SPEED_WINDOW)
        elapsed = self.clock() - then
        return (self.completion_tokens - tokens) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until the target is met, at the pace of the last five minutes; None while that cannot be known."""
        then, _, completed = self._sample(ENDINGS_WINDOW)
        recently = self.completed - completed
        if self.left is None or not recently:
            return 0.0 if self.left == 0 else None
        return self.left * (self.clock() - then) / recently

    def sample(self) -> None:
        """Notes where the run stands now, for the rates. To be called now and then; a second holds one sample."""
        now = self.clock()
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, self.completion_tokens, self.completed))
        while len(self._samples) > 1 and self._samples[1][0] <= now - ENDINGS_WINDOW:
            self._samples.popleft()

    def numbers(self) -> dict[str, Any]:
        """All of it, for a log line: shares and rates rounded, times in seconds."""
        return {
            "done": self.done,
            "target": self.target,
            "done_before": self.done_before,
            "completed": self.completed,
            "discarded": self.discarded,
            "failed": self.failed,
            "under_way": self.under_way,
            "turns": self.turns,
            "calls": self.calls,
            "drafts": self.drafts,
            "drafts_sent_back": self.drafts_sent_back,
            "acceptance": _rounded(self.acceptance, 4),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "cached": _rounded(self.cached, 4),
            "completion_tokens": self.completion_tokens,
            "tokens_per_second": _rounded(self.tokens_per_second, 1),
            "seconds": _rounded(self.seconds, 1),
            "seconds_left": _rounded(self.seconds_left, 0),
        }

    def _sample(self, window: float) -> tuple[float, int, int]:
        """The newest sample that is as old as the window, or the oldest."""
        since = self.clock() - window
        return next((sample for sample in reversed(self._samples) if sample[0] <= since), self._samples[0])


def now_and_then(say: Callable[[], None], every: float = REPORT) -> Callable[[], None]:
    """What is called often, and says something at most once in so many seconds: where nobody watches."""
    last = time.monotonic()

    def called() -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            say()

    return called


@asynccontextmanager
async def show_progress(
    tally: Tally, *, name: str, note: Callable[[], str] | None = None, every: float = REPORT
) -> AsyncIterator[None]:
    """Shows how a run goes, on stderr, until the block is left: a live display at a terminal, JSON lines otherwise.

    Log lines that are written to `sys.stderr` meanwhile stand above the display. However the block is left, the last
    state stays to be seen.

    Args:
        tally: What the run keeps up to date.
        name: The run's name.
        note: Anything else that is worth a line now; the empty text for nothing.
        every: Seconds between two lines where nobody watches.
    """
    shown = _display if _at_terminal() else partial(_lines, every=every)
    with shown(tally, name, note or _nothing):
        yield


class Display:
    """A run as a person sees it: a bar, and two or three lines of numbers, never wider than the terminal."""

    def __init__(self, tally: Tally, name: str, note: Callable[[], str]) -> None:
        self.state: State = "running"
        self._tally = tally
        self._name = _printable(name)
        self._note = note

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, WIDEST)
        lines = [_fitting(self._dialogues(), width), _fitting(self._words(), width)]
        if note := _printable(self._note()):
            lines.append(Text(note, style="yellow", no_wrap=True, overflow="ellipsis"))
        yield Group(self._bar(width), *lines)

    def _bar(self, width: int) -> Table | Text:
        tally, name = self._tally, Text(self._name, style="bold", no_wrap=True, overflow="ellipsis")
        if tally.target is None:
            return Text.assemble(name, f"  {tally.done:,} dialogues  ", (self._when(), "dim"), overflow="ellipsis")
        share = tally.done / tally.target if tally.target else 1.0
        # Rounded down: 100% is said when all is done. Widths are those of the end, so that the bar keeps its own.
        count = f"{tally.done:,}/{tally.target:,} {math.floor(100 * min(share, 1)):3}%"
        row = Table.grid(padding=(0, 2, 0, 0), expand=True)
        row.width = width
        row.add_column(max_width=24, no_wrap=True)
        row.add_column(ratio=1, min_width=8)
        row.add_column(no_wrap=True, justify="right", min_width=2 * len(f"{tally.target:,}") + 6)
        row.add_column(no_wrap=True, min_width=12)
        bar = ProgressBar(total=max(1, tally.target), completed=tally.done)
        row.add_row(name, bar, count, Text(self._when(), style="dim"))
        return row

    def _when(self) -> str:
        if self.state != "running":
            return f"{self.state} after {duration(self._tally.seconds)}"
        left = self._tally.seconds_left
        return f"{duration(self._tally.seconds)} so far" if left is None else f"{duration(left)} left"

    def _dialogues(self) -> list[Text]:
        tally = self._tally
        parts = [Text(f"{tally.under_way:,} under way")]
        parts += [Text(f"{tally.failed:,} failed", style="red" if tally.failed else "")]
        if tally.discarded:
            parts.append(Text(f"{tally.discarded:,} discarded"))
        if tally.done_before:
            parts.append(Text(f"{tally.done_before:,} done before"))
        return parts

    def _words(self) -> list[Text]:
        tally = self._tally
        parts = [f"{tally.turns:,} turns", f"{tally.tokens_per_second:,.0f} tokens/s"]
        if tally.acceptance is not None:
            parts.append(f"{tally.acceptance:.0%} accepted")
        if tally.cached is not None:
            parts.append(f"{tally.cached:.0%} cached")
        return [Text(part) for part in parts]


def duration(seconds: float) -> str:
    """A span of time as a person says it, to two digits or so: `42 s`, `12 min`, `3 h 20 min`, `5 d 7 h`."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 60 * 24:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"


def _at_terminal() -> bool:
    return sys.stderr.isatty() and not Console(stderr=True).is_dumb_terminal


@contextmanager
def _display(tally: Tally, name: str, note: Callable[[], str]) -> Iterator[None]:
    display = Display(tally, name, note)
    # Only stderr is led round the display: results may be on their way through stdout to somewhere else.
    live = Live(display, console=Console(stderr=True), auto_refresh=False, redirect_stdout=False)

    def refresh() -> None:
        tally.sample()
        live.refresh()

    with live, _repeated(refresh, REFRESH), _ending(lambda state: setattr(display, "state", state), tally):
        yield


@contextmanager
def _lines(tally: Tally, name: str, note: Callable[[], str], *, every: float) -> Iterator[None]:
    def report(state: State = "running") -> None:
        tally.sample()
        said = {"note": note()} if note() else {}
        log.info("progress", run=name, state=state, **tally.numbers(), **said)

    report()
    with _repeated(report, every), _ending(report, tally):
        yield


@contextmanager
def _ending(say: Callable[[State], None], tally: Tally) -> Iterator[None]:
    """Says how the block was left."""
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt):
        say("interrupted")
        raise
    except BaseException:
        say("failed")
        raise
    say("drained" if tally.drained else "finished")


@contextmanager
def _repeated(action: Callable[[], None], seconds: float) -> Iterator[None]:
    """Does something every so many seconds. By timers of the loop: unlike a task, a timer is stopped without waiting."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal timer
        timer = loop.call_later(seconds, tick)
        action()

    timer = loop.call_later(seconds, tick)
    try:
        yield
    finally:
        timer.cancel()


def _fitting(parts: Sequence[Text], width: int) -> Text:
    """The parts that fit on one line, the first ones first."""
    line = Text(no_wrap=True, overflow="crop")
    for part in parts:
        joint = " · " if line else ""
        if line.cell_len + len(joint) + part.cell_len > width:
            break
        line.append(joint, style="dim").append_text(part)
    return line


def _printable(text: str) -> str:
    # A note may quote a server: nothing of it may steer the terminal.
    return "".join(character if character.isprintable() else " " for character in text)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _nothing() -> str:
    return ""
