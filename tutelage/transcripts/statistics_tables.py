"""How `tutelage stats` looks: tables that fit a terminal, or JSON."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tutelage.transcripts.caching import CacheUse
from tutelage.transcripts.statistics import Statistics, Throughput, read_statistics
from tutelage.transcripts.terminal import one_line, print_parts, short_number

_SHOWN_DIMENSIONS: Final = 8


def print_stats(run: Path | str, *, json: bool = False, block: int = 1, console: Console | None = None) -> None:
    """Prints a run's statistics as tables, or as one JSON object.

    Raises:
        RunFolderError: It is no run folder.
    """
    console = console or Console()
    statistics = read_statistics(run, block=block)
    if json:
        console.file.write(statistics.model_dump_json(indent=2) + "\n")
        return
    print_parts(console, _tables(statistics))


def _tables(statistics: Statistics) -> Iterator[RenderableType]:
    heading = one_line(statistics.run, "bold")
    yield heading.append(f"   {statistics.dialogues:,} dialogue{'' if statistics.dialogues == 1 else 's'}")
    if statistics.throughput is not None:
        yield _pace(statistics.throughput)
    for table in (_endings, _acceptance, _reviewers, _spoken, _calls_table, _caching):
        drawn = table(statistics)
        if drawn.row_count:
            yield Text()
            yield drawn
    if silent := [use.player for use in statistics.caching if use.run_tokens and not use.cached_tokens]:
        yield Text()
        yield _silence(silent)


def _pace(throughput: Throughput) -> Text:
    return Text(
        f"{_duration(throughput.seconds)} from {throughput.started:%Y-%m-%d %H:%M %Z} · "
        f"{throughput.dialogues_per_hour:,.0f} dialogues/h\n"
        f"tokens/s: {throughput.completion_tokens_per_second:,.0f} of completions, "
        f"{throughput.prompt_tokens_per_second:,.0f} of prompts",
        "dim",
    )


def _endings(statistics: Statistics) -> Table:
    table = _table("Endings", "status", "reason", numbers=("dialogues", "share"))
    for ending in statistics.endings:
        share = _percent(ending.dialogues, statistics.dialogues)
        table.add_row(ending.status, one_line(ending.reason), f"{ending.dialogues:,}", share)
    return table


def _acceptance(statistics: Statistics) -> Table:
    table = _table("Drafts", "role", numbers=("turns", "at first", "after revision", "forced", "sent back"))
    for each in statistics.acceptance:
        shares = [_with_share(count, each.turns) for count in (each.at_first, each.after_revision, each.forced)]
        table.add_row(one_line(each.role), f"{each.turns:,}", *shares, f"{each.sent_back:,}")
    return table


def _reviewers(statistics: Statistics) -> Table:
    table = _table("Reviewers", "role", numbers=("accept", "revise"))
    table.add_column("issues (block/major/minor)", overflow="fold")
    for reviewer in statistics.reviewers:
        named = list(reviewer.issues.items())[:_SHOWN_DIMENSIONS]
        issues = [f"{dimension} {count.block}/{count.major}/{count.minor}" for dimension, count in named]
        if (rest := len(reviewer.issues) - len(named)) > 0:
            issues.append(f"and {rest} more")
        total = reviewer.accept + reviewer.revise
        verdicts = [_with_share(count, total) for count in (reviewer.accept, reviewer.revise)]
        table.add_row(one_line(reviewer.role), *verdicts, one_line(", ".join(issues)))
    return table


def _spoken(statistics: Statistics) -> Table:
    table = _table("Length", "", numbers=("mean", "median", "least", "most"))
    spreads = {"turns per dialogue": statistics.turns} if statistics.turns else {}
    for what, spread in (
        spreads | {f"words per turn, {role}": each for role, each in statistics.words.items()}
    ).items():
        row = (f"{spread.mean:,.1f}", f"{spread.median:,}", f"{spread.least:,}", f"{spread.most:,}")
        table.add_row(one_line(what), *row)
    return table


def _calls_table(statistics: Statistics) -> Table:
    headers = ("\ncalls", "prompt\ntokens", "\ncached", "compl.\ntokens", "s/\ncall", "cut\noff", "mis-\nfits")
    table = _table("Calls", "\nrole", "\nmodel", numbers=headers)
    for count in statistics.calls:
        cached = _percent(count.cached_tokens, count.prompt_tokens)
        tokens = (short_number(count.prompt_tokens), cached, short_number(count.completion_tokens))
        mean = f"{count.seconds / count.calls:.2f}"
        failures = [short_number(number) if number else "·" for number in (count.cut_off, count.misfits)]
        table.add_row(one_line(count.role), one_line(count.player), f"{count.calls:,}", *tokens, mean, *failures)
    return table


def _caching(statistics: Statistics) -> Table:
    headers = ("prompt\ntokens", "\nfound", "in one\ndialogue", "in the\nrun")
    table = _table("Prefix cache: what was found again of the prompts, and what could have been", "\nrole", "\nmodel")
    for header in headers:
        table.add_column(header, justify="right")
    everything = CacheUse(role="all", model="")
    for use in statistics.caching:
        everything.add(use)
    for use in [*statistics.caching, everything] if len(statistics.caching) > 1 else statistics.caching:
        shares = [
            _percent(tokens, use.prompt_tokens) for tokens in (use.cached_tokens, use.dialogue_tokens, use.run_tokens)
        ]
        table.add_row(one_line(use.role), one_line(use.player), short_number(use.prompt_tokens), *shares)
    return table


def _silence(players: list[str]) -> Text:
    names = ", ".join(dict.fromkeys(players))
    return one_line(
        f"Nothing was found for {names}: where that is vLLM, it says what it finds only when it is started with "
        "--enable-prompt-tokens-details",
        "dim",
    )


def _table(title: str, *texts: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    table.pad_edge = False
    table.padding = (0, 1, 0, 0)
    for text in texts:
        table.add_column(text, overflow="fold", no_wrap=text.strip() == "role")
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _with_share(count: int, total: int) -> str:
    return f"{count:,} ({_percent(count, total)})" if count else "·"


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.0f} %" if total else "·"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
