"""The pictures of what became of dialogues, drafts and tokens: bars, labelled where they stand.

Colours are of Okabe and Ito's kind, told apart by people who see no red or no green; nothing is told by colour alone.
"""

from collections.abc import Sequence
from typing import Final

from tutelage.reports.bars import Bar, bars_svg
from tutelage.reports.canvas import BAD, GOOD, GRID, LOST, MIDDLING, percent, words
from tutelage.reports.numbers import RunNumbers
from tutelage.reports.picture import Picture, many, prose, whose
from tutelage.transcripts.statistics import OTHER, Acceptance, CallCount
from tutelage.transcripts.terminal import short_number

MOST_ROWS: Final = 10

_ENDING_COLOURS: Final = {"completed": GOOD, "discarded": BAD, "failed": LOST}


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
        title=f"{_how_many(completed, total)} {many(total, 'dialogue')} were completed",
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
        title=f"{percent(share)} of {whose(first.role)} turns pass at the first draft" if first else "Nothing reviewed",
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
        title=f"{many(total, 'objection')}, most often: {words(prose(found[0][1]), 30)}",
        svg=bars_svg(bars),
        key=((BAD, "blocks"), (MIDDLING, "major"), (GRID, "minor")),
        note=f"Not shown: {many(rest, 'rarer kind')}." if rest > 0 else "",
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
        note=f"Not shown: {many(rest, 'role')} with fewer tokens." if rest > 0 else "",
        run=run.run,
    )


def most_tokens(runs: Sequence[RunNumbers]) -> int:
    """The tokens of the role that took the most, of some runs."""
    return max((_tokens(each) for run in runs for each in run.statistics.calls), default=0)


def _acceptance_bar(each: Acceptance) -> Bar:
    counts = (each.at_first, each.after_revision, each.forced)
    shares = [count / each.turns if each.turns else 0.0 for count in counts]
    return Bar(
        label=prose(each.role),
        value=many(each.turns, "turn"),
        parts=list(zip(shares, (GOOD, MIDDLING, BAD), strict=True)),
        inside=[percent(share) for share in shares],
    )


def _tokens(count: CallCount) -> int:
    return count.prompt_tokens + count.completion_tokens


def _has(endings: Sequence[tuple[str, str]], status: str) -> bool:
    return any(each == status for each, _ in endings)


def _share(count: int, of: int) -> str:
    return f"{count:,} · {percent(count / of)}" if count else "none"


def _how_many(count: int, of: int) -> str:
    return "All" if count == of else "None of" if not count else f"{percent(count / of)} of"
