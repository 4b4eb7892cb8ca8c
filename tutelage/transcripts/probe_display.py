"""Learning probes as `tutelage show` has them: each question once, with how often each choice was taken."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.console import RenderableType

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Step
from tutelage.transcripts.terminal import Aside, one_line, plain

WHEN: Final = {"probe_before": "before the lesson", "probe_after": "after the lesson"}
"""The kinds of steps that are replies to probes, and when they were asked."""

OPENING: Final = frozenset({"probe_before", "solution"})
"""The kinds of steps that come before the first words of a dialogue, though they are kept with its first turn."""


def together(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Steps one by one, but the replies to one probe together."""
    for _, group in groupby(enumerate(steps), key=lambda each: _place(*each)):
        yield [step for _, step in group]


def probe_lines(replies: Sequence[Step], brief: Brief) -> Iterator[RenderableType]:
    """What was asked, and what the student chose how often, the right choice and the misconception's marked."""
    step = replies[0]
    probes, number = brief.probes, int(step.data.get("probe", -1))
    question = probes[number].question if 0 <= number < len(probes) else f"probe {number}"
    yield plain(f"asked {WHEN[step.kind]}", "italic")
    yield plain(question)
    for choice, times in Counter(str(step.data.get("choice")) for step in replies).most_common():
        of_it = next(step.data for step in replies if str(step.data.get("choice")) == choice)
        mark, style = ("✓", "green") if of_it.get("correct") else ("✗", "red")
        line = plain(f"{mark} ", style).append_text(one_line(choice)).append(f": {times} of {len(replies)}")
        if of_it.get("misconception"):
            line.append(", as the misconception has it", "dim")
        yield Aside(line, "    ", first="  ")


def _place(number: int, step: Step) -> tuple[int, str, int]:
    """What the replies to one probe have in common, and no two other steps."""
    is_reply = step.kind in WHEN
    return (-1 if is_reply else number), step.kind, int(step.data.get("probe", -1)) if is_reply else -1
