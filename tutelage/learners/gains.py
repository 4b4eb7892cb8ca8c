"""What a student gained: solve rates before and after, and after how much tutoring it had the answer.

    solve-rate gain   the share of right replies to the probes after, less that before (arXiv 2505.15607)
    success@k         the share of dialogues whose student had the answer within the tutor's first k turns
    telling@k         the share of dialogues whose tutor gave it before that, within its first k turns

The latter two are MathDial's (arXiv 2305.14536). They belong together: a tutor that tells has success at once.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

from tutelage.checks.leaks import TUTOR
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Step, Turn
from tutelage.learners.techniques import first_said


def solve_rates(turns: Sequence[Turn], when: Literal["before", "after"]) -> dict[int, Fraction]:
    """By probe, the share of its replies that were right."""
    return _shares(turns, when, "correct")


def misconception_rates(turns: Sequence[Turn], when: Literal["before", "after"]) -> dict[int, Fraction]:
    """By probe, the share of its replies that were the misconception's."""
    return _shares(turns, when, "misconception")


def solve_rate_gain(turns: Sequence[Turn]) -> float | None:
    """How much more often the student was right after the dialogue than before, from -1 to 1.

    The mean over the probes that were asked both times, each as heavy as any other; None if there is none.
    """
    before, after = solve_rates(turns, "before"), solve_rates(turns, "after")
    gains = [after[probe] - before[probe] for probe in before.keys() & after.keys()]
    return float(sum(gains) / len(gains)) if gains else None


def solved_within(turns: Sequence[Turn], brief: Brief) -> int | None:
    """How many turns of the tutor it took until the student gave the answer; None if it never did."""
    said = first_said(turns, brief).student
    return None if said is None else _tutored(turns[:said])


def told_within(turns: Sequence[Turn], brief: Brief) -> int | None:
    """Which turn of the tutor, counted from 1, gave the answer before the student did; None if none did."""
    told = first_said(turns, brief).tutor
    return None if told is None else _tutored(turns[: told + 1])


def success_at(k: int, dialogues: Iterable[tuple[Sequence[Turn], Brief]]) -> float | None:
    """The share of dialogues whose student had the answer within the tutor's first k turns; None if there are none."""
    return _within(k, [solved_within(turns, brief) for turns, brief in dialogues])


def telling_at(k: int, dialogues: Iterable[tuple[Sequence[Turn], Brief]]) -> float | None:
    """The share of dialogues whose tutor gave the answer first, within its first k turns; None if there are none."""
    return _within(k, [told_within(turns, brief) for turns, brief in dialogues])


def _shares(turns: Sequence[Turn], when: str, what: str) -> dict[int, Fraction]:
    replies: dict[int, list[bool]] = {}
    for step in _probes(turns, f"probe_{when}"):
        replies.setdefault(step.data["probe"], []).append(step.data[what])
    return {probe: Fraction(sum(said), len(said)) for probe, said in replies.items()}


def _probes(turns: Sequence[Turn], kind: str) -> list[Step]:
    return [step for turn in turns for step in turn.steps if step.kind == kind]


def _tutored(turns: Sequence[Turn]) -> int:
    return sum(turn.role == TUTOR for turn in turns)


def _within(k: int, counts: Sequence[int | None]) -> float | None:
    return sum(count is not None and count <= k for count in counts) / len(counts) if counts else None
