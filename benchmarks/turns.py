"""Turns per second of one process, where each call takes no time and where it takes 50 ms.

    python -m benchmarks.turns --rounds 3 --at 0:64 50:64 50:512

The competitors, their lesson and what makes it fair are those of `benchmarks.orchestration`; only the time that an
answer takes differs, and how many dialogues are under way. With few dialogues and slow answers all wait for the
endpoint; with many, the process is what limits, and that is what is asked here.
"""

import argparse
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Column, Table

from benchmarks.competitor import COMPETITORS
from benchmarks.orchestration import LABELS, Round, Setting, circumstances, is_missing, play_round, spread

ASKED: Final = ("tutelage", "loop", "usual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How long an answer takes, and how many dialogues are under way at once."""

    latency: float
    """Milliseconds."""
    concurrency: int

    def __str__(self) -> str:
        return f"{self.latency:g} ms a call, {self.concurrency} at once"


def main(arguments: Sequence[str] | None = None) -> int:
    """Plays all cases and prints the tables; 2 if a competitor's packages are not there."""
    options = _options(arguments)
    if is_missing(options.only):
        return 2
    played: dict[Case, list[Round]] = {case: [] for case in options.at}
    # Round by round through all cases: the machine's moods meet all of them.
    for number in range(options.rounds):
        for case, rounds in played.items():
            rounds.append(_play(number, case, options))
    _print(played, options)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(_as_data(played, options), option=orjson.OPT_INDENT_2))
    return 0


def ratios(rounds: Sequence[Round], of: str, to: str) -> list[float]:
    """Turns a second of one competitor as a multiple of another's, in each round."""
    return [each[of].turns_per_second / each[to].turns_per_second for each in rounds]


def most_possible(case: Case, rounds: Sequence[Round], *, messages: int, dialogues: int) -> float | None:
    """Turns a second if nothing but the answers took time; None where they take none.

    A tutor's turn is one draft and then its reviews, both at once; a revision is both once more. So a dialogue waits
    for two answers in a row for each draft, and for one for the student's turn.
    """
    if not case.latency:
        return None
    calls = next(iter(rounds[0].values())).calls / dialogues
    students = messages / 2
    drafts = (calls - students) / 3
    return min(case.concurrency, dialogues) * messages / ((2 * drafts + students) * case.latency / 1000)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.turns", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--at",
        nargs="+",
        type=_case,
        metavar="MS:CONCURRENCY",
        default=[_case(text) for text in ("0:64", "50:64", "50:512")],
        help="milliseconds that each answer takes, and dialogues under way at once",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--dialogues", type=int, metavar="N", help="of each competitor; as many as are under way at once"
    )
    parser.add_argument("--messages", type=int, default=8, help="public turns of a dialogue; an even number")
    parser.add_argument("--only", nargs="+", choices=COMPETITORS, default=list(ASKED), help="leave others out")
    parser.add_argument("--event-loop", choices=("uvloop", "asyncio"), default="uvloop", help="of all competitors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args(arguments)
    if options.messages % 2 or min(options.rounds, options.messages, options.dialogues or 1) < 1:
        parser.error("all numbers must be at least 1, and --messages even: tutor and student take turns")
    return options


def _case(text: str) -> Case:
    latency, _, concurrency = text.partition(":")
    try:
        case = Case(latency=float(latency), concurrency=int(concurrency))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not MS:CONCURRENCY, as 50:512") from None
    if case.latency < 0 or case.concurrency < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: the time must be 0 or more, the concurrency at least 1")
    return case


def _play(number: int, case: Case, options: argparse.Namespace) -> Round:
    setting = Setting(
        only=options.only,
        dialogues=_dialogues(case, options),
        messages=options.messages,
        concurrency=case.concurrency,
        event_loop=options.event_loop,
        latency=case.latency / 1000,
    )
    return play_round(number, setting, f"round {number + 1} of {options.rounds}, {case}")


def _dialogues(case: Case, options: argparse.Namespace) -> int:
    # Twice: while the last dialogues end, fewer are under way than the case says.
    return int(options.dialogues or 2 * case.concurrency)


def _print(played: dict[Case, list[Round]], options: argparse.Namespace) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = circumstances(options.only)
    print(
        f"turns a second of one process; dialogues of {options.messages} turns\n"
        f"Python {platform.python_version()}, {options.event_loop}, {facts['cpus']} CPUs\n"
        f"medians of {options.rounds} rounds (lowest to highest)"
    )
    table = Table(Column(no_wrap=True), *map(str, played))
    for name in options.only:
        table.add_row(LABELS[name], *(spread(_turns(rounds, name), 0) for rounds in played.values()))
    table.add_row("if only the answers took time", *(_most(case, rounds, options) for case, rounds in played.items()))
    console.print(table)
    if "tutelage" not in options.only or len(options.only) == 1:
        return
    table = Table(Column("Tutelage's turns a second, as a multiple of", no_wrap=True), *map(str, played))
    for name in options.only:
        if name != "tutelage":
            multiples = (spread(ratios(rounds, "tutelage", name), 2) for rounds in played.values())
            table.add_row(LABELS[name], *multiples)
    console.print(table)


def _turns(rounds: Sequence[Round], name: str) -> list[float]:
    return [each[name].turns_per_second for each in rounds]


def _most(case: Case, rounds: Sequence[Round], options: argparse.Namespace) -> str:
    most = most_possible(case, rounds, messages=options.messages, dialogues=_dialogues(case, options))
    return "no bound" if most is None else f"{most:,.0f}"


def _as_data(played: dict[Case, list[Round]], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "options": {name: value for name, value in vars(options).items() if name not in ("json", "at")},
        **circumstances(options.only),
        "cases": [
            {
                **asdict(case),
                "dialogues": _dialogues(case, options),
                "rounds": [{name: asdict(figures) for name, figures in each.items()} for each in rounds],
                "turns_per_second": {name: statistics.median(_turns(rounds, name)) for name in options.only},
            }
            for case, rounds in played.items()
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
