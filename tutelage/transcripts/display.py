"""`tutelage show`: a run's dialogues as a list, and one of them as a person would read it.

Text from models and users goes through `terminal.py`; without colour the layout alone says what is what.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich import box
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Call, Outcome, Review, Step, Turn
from tutelage.errors import RunFolderError
from tutelage.transcripts.calls import UNFINISHED
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.probe_display import OPENING, WHEN, probe_lines, together
from tutelage.transcripts.statistics import CallCount, count_calls
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import (
    Aside,
    clean,
    one_line,
    plain,
    print_parts,
    role_name,
    short_number,
    tell_skipped,
)
from tutelage.transcripts.transcript import Transcript, Unfinished

LISTED: Final = 40
"""How many dialogues a list has, unless all are asked for."""
ID_SHOWN: Final = 10
"""Characters of an id in a list: enough for `show` to find it again among a million."""
_NAMED: Final = 5
"""How many dialogues an error names."""
_WIDE: Final = 110
"""Columns from which on a list has room for the briefs' ids."""
_MISFIT_SHOWN: Final = 300
"""Characters of a reply that did not fit."""

_MARKS: Final = {"completed": ("✓", "green"), "discarded": ("~", "yellow"), "failed": ("✗", "red")}
_COLOURS: Final = ("cyan", "green", "magenta", "yellow", "blue")
_STATUS: Final = {
    "rejected": "sent back",
    "superseded": "not chosen",
    "pending": "still under review when the dialogue failed",
    "accepted": "accepted",
}
_SEVERITIES: Final = {"block": "bold red", "major": "red", "minor": "yellow"}


def show(
    run: Path | str,
    id: str | None = None,  # noqa: A002 - it is a dialogue's id
    *,
    everything: bool = False,
    prompts: bool = False,
    console: Console | None = None,
) -> None:
    """Prints a run's dialogues, newest last, or one of them in full.

    Args:
        run: The run's folder.
        id: A dialogue's id, or the beginning of one, if no other begins so; or `latest`.
        everything: List all dialogues, and not only the last `LISTED`.
        prompts: Show what each role was sent, too, rebuilt from `messages.jsonl`.
        console: Where to print; stdout if not given.

    Raises:
        RunFolderError: It is no run folder, it has no such dialogue, or several begin so.
    """
    console = console or Console()
    if id is None:
        _list(run, console, everything=everything)
        return
    transcript = _find(run, id)
    if not prompts:
        print_parts(console, _dialogue(transcript, None))
        return
    with Prompts(run) as sent:
        print_parts(console, _dialogue(transcript, _Shown(sent)))


# A list of dialogues.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What a list says of a dialogue: far less than its transcript, for there may be thousands."""

    id: str
    brief: str
    about: str
    outcome: Outcome
    turns: int
    sent_back: int
    tokens: int

    @classmethod
    def of(cls, transcript: Transcript) -> "_Row":
        attempts = [attempt for turn in transcript.turns for attempt in turn.attempts]
        attempts += transcript.unfinished.attempts if transcript.unfinished else []
        return cls(
            id=transcript.id,
            brief=transcript.brief.id,
            about=_about(transcript.brief),
            outcome=transcript.outcome,
            turns=len(transcript.turns),
            sent_back=sum(attempt.status == "rejected" for attempt in attempts),
            tokens=transcript.usage.prompt_tokens + transcript.usage.completion_tokens,
        )


def _list(run: Path | str, console: Console, *, everything: bool) -> None:
    rows: deque[_Row] = deque(maxlen=None if everything else LISTED)
    endings = dict.fromkeys(_MARKS, 0)
    for transcript in read_transcripts(run, on_skip=tell_skipped):
        rows.append(_Row.of(transcript))
        endings[transcript.outcome.status] += 1
    total = sum(endings.values())
    if not total:
        print_parts(console, [plain("no dialogues yet", "dim")])
        return
    parts: list[RenderableType] = [_table(rows, wide=console.width >= _WIDE), Text()]
    if (older := total - len(rows)) > 0:
        parts.append(plain(f"… and {older:,} more before these; --all lists them", "dim"))
    counted = ", ".join(f"{_MARKS[status][0]} {count:,} {status}" for status, count in endings.items() if count)
    parts.append(plain(f"{_count(total, 'dialogue')}: {counted}"))
    print_parts(console, parts)


def _table(rows: Iterable[_Row], *, wide: bool) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, expand=True, show_edge=False, header_style="bold", padding=(0, 1, 0, 0)
    )
    table.add_column("id", no_wrap=True, min_width=ID_SHOWN)
    if wide:
        table.add_column("brief", no_wrap=True, overflow="ellipsis", max_width=28, style="dim")
    table.add_column("about", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("outcome", overflow="fold", max_width=28)
    for header, width in (("turns", 5), ("sent\nback", 4), ("tokens", 6)):
        table.add_column(header, justify="right", no_wrap=True, min_width=width)
    for row in rows:
        numbers = [str(row.turns), str(row.sent_back or "·"), short_number(row.tokens)]
        brief = [one_line(row.brief)] if wide else []
        table.add_row(
            one_line(row.id[:ID_SHOWN], "cyan"),
            *brief,
            one_line(row.about),
            _ending(row.outcome, with_status=False),
            *numbers,
        )
    return table


LATEST: Final = "latest"
"""In place of an id: the dialogue that was finished last."""


def _find(run: Path | str, id: str) -> Transcript:  # noqa: A002
    found: list[Transcript] = []
    alike = 0
    newest: deque[str] = deque(maxlen=_NAMED)
    for transcript in read_transcripts(run, on_skip=tell_skipped):
        if transcript.id == id:
            return transcript
        if transcript.id.startswith(id):
            alike += 1
            found = [*found, transcript][:_NAMED]
        newest.append(_named(transcript))
        if id == LATEST:
            found = [transcript]
    if alike > 1:
        rest = f" and {alike - len(found):,} more" if alike > len(found) else ""
        raise RunFolderError(
            f"{alike:,} dialogues begin with {id!r}: {'; '.join(map(_named, found))}{rest}. Give more of the id"
        )
    if not found:
        candidates = f"the newest are {'; '.join(newest)}" if newest else "it has none yet"
        raise RunFolderError(
            f"the run {str(run)!r} has no dialogue {id!r}: {candidates}. `tutelage show` lists them all"
        )
    return found[0]


def _named(transcript: Transcript) -> str:
    about = one_line(_about(transcript.brief))
    about.truncate(40, overflow="ellipsis")
    return f"{clean(transcript.id)} ({about.plain})"


# One dialogue.


class _Shown:
    """What each role was sent: of each prompt what its role had not been sent before."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts
        self._before: dict[str, list[dict[str, str]]] = {}

    def to(self, role: str, prompt_sha256: str) -> RenderableType:
        heading = plain(f"{role_name(role)} was sent", "bold")
        try:
            messages = self._prompts.messages(prompt_sha256)
        except KeyError:
            return _barred(heading, plain(f"messages.jsonl does not hold this prompt: {prompt_sha256}", "red"), bar="┊")
        same = _same(self._before.get(role, []), messages)
        self._before[role] = messages
        parts: list[RenderableType] = [heading]
        if same:
            parts.append(plain(f"{_count(same, 'message')} as before, then", "dim italic"))
        for message in messages[same:]:
            parts += [plain(f"[{message['role']}]", "dim bold"), Aside(plain(message["content"], "dim"), "  ")]
        return _barred(*parts, bar="┊")


def _same(before: list[dict[str, str]], now: list[dict[str, str]]) -> int:
    for number, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return number
    return min(len(before), len(now))


def _dialogue(transcript: Transcript, shown: _Shown | None) -> Iterator[RenderableType]:
    yield from _opening(transcript)
    roles = list(dict.fromkeys(turn.role for turn in transcript.turns))
    colours = {role: _COLOURS[number % len(_COLOURS)] for number, role in enumerate(roles)}
    if opening := [step for turn in transcript.turns[:1] for step in turn.steps if step.kind in OPENING]:
        yield from _steps(opening, transcript.brief, shown)
    for turn in transcript.turns:
        yield Text()
        yield from _turn(turn, transcript.brief, colours[turn.role], shown)
    if transcript.unfinished is not None:
        yield Text()
        yield from _unfinished(transcript.unfinished, transcript.brief, shown)
    yield from _closing(transcript)


def _opening(transcript: Transcript) -> Iterator[RenderableType]:
    yield Rule(one_line(_about(transcript.brief), "bold"), style="dim", align="left")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in _facts_of(transcript):
        grid.add_row(key, value)
    yield grid
    yield Rule(style="dim")


def _facts_of(transcript: Transcript) -> Iterator[tuple[str, RenderableType]]:
    brief = transcript.brief
    yield "dialogue", plain(transcript.id + (f", try {transcript.attempt}" if transcript.attempt > 1 else ""))
    yield "brief", plain(", ".join(filter(None, (brief.id, brief.domain, brief.level, brief.language))))
    if brief.question and brief.question != _about(brief):
        yield "question", plain(brief.question)
    if brief.answer:
        yield "answer", plain(" · ".join(brief.answer))
    if brief.misconception:
        wrong = brief.misconception.predicts
        yield "misconception", plain(brief.misconception.belief + (f" (So: {wrong})" if wrong else ""))
    for number, fact in enumerate(brief.facts):
        yield "" if number else "facts", Aside(plain(fact), "  ", first="• ")
    for role, profile in transcript.profiles.items():
        yield role.replace("_", " "), Group(*_pairs(dict(profile)))
    if transcript.findings:
        yield "found", Group(*_pairs(transcript.findings))


def _turn(turn: Turn, brief: Brief, colour: str, shown: _Shown | None) -> Iterator[RenderableType]:
    heading = plain(f"{turn.index + 1}  {role_name(turn.role)}", f"bold {colour}")
    said = next((number for number, attempt in enumerate(turn.attempts) if attempt.status == "accepted"), None)
    if said is not None and turn.attempts[said].forced:
        heading.append(f"   forced: no revision was better, so draft {said + 1} was said all the same", "bold yellow")
    yield heading
    for number, attempt in enumerate(turn.attempts):
        yield from _sent(turn.role, attempt, shown)
        if number != said:
            yield _draft(f"draft {number + 1}, {_STATUS[attempt.status]}", attempt)
            yield Text()
    yield Aside(plain(turn.text))
    if said is not None and (remarks := [review for review in turn.attempts[said].reviews if review.issues]):
        yield Text()
        yield _barred(plain("with these remarks", "italic"), *_reviews(remarks))
    yield from _steps([step for step in turn.steps if turn.index or step.kind not in OPENING], brief, shown)
    judged = {step.role for step in turn.steps}
    if thoughts := {key: value for key, value in turn.private.items() if key not in judged}:
        yield Text()
        yield _barred(plain(f"{role_name(turn.role)} kept to itself", "italic"), *_pairs(thoughts))


def _judged(attempt: Attempt) -> list[tuple[str, Call]]:
    return [(review.role, review.call) for review in attempt.reviews if review.call]


def _sent(role: str, attempt: Attempt, shown: _Shown | None) -> Iterator[RenderableType]:
    for who, call in [(role, attempt.call), *_judged(attempt)]:
        if shown is not None:
            yield shown.to(who, call.prompt_sha256)
            yield Text()


def _draft(title: str, attempt: Attempt) -> RenderableType:
    reviews = [Text(), *_reviews(attempt.reviews)] if attempt.reviews else []
    return _barred(plain(title, "bold red"), Aside(plain(attempt.text, "dim"), "  "), *reviews)


def _reviews(reviews: Iterable[Review]) -> Iterator[RenderableType]:
    for review in reviews:
        mark, style = ("✓", "green") if review.verdict == "accept" else ("✗", "red")
        line = plain(f"{mark} {role_name(review.role)}: {review.verdict}", style)
        if review.scores:
            line.append("   ").append_text(
                one_line(", ".join(f"{key} {value:g}" for key, value in review.scores.items()))
            )
        yield line
        for issue in review.issues:
            what = plain(issue.severity, _SEVERITIES[issue.severity])
            what.append(" · ").append_text(one_line(issue.dimension, "bold"))
            if issue.span:
                what.append(", at ").append_text(one_line(f"“{issue.span}”"))
            yield Aside(what, "    ", first="  • ")
            yield Aside(one_line(issue.instruction), "      ", first="    → ")
            if issue.evidence:
                yield Aside(one_line(f"for: {issue.evidence}", "dim"), "      ")


def _steps(steps: Sequence[Step], brief: Brief, shown: _Shown | None) -> Iterator[RenderableType]:
    for replies in together(steps):
        yield Text()
        if replies[0].kind not in WHEN:
            yield from _step(replies[0], shown)
            continue
        if shown is not None:
            yield shown.to(replies[0].role, replies[0].call.prompt_sha256)
            yield Text()
        yield _barred(*probe_lines(replies, brief))


def _step(step: Step, shown: _Shown | None) -> Iterator[RenderableType]:
    if shown is not None:
        yield shown.to(step.role, step.call.prompt_sha256)
        yield Text()
    who = role_name(step.role)
    if step.kind == "misfit":
        text = one_line(step.text or "(nothing)", "dim")
        text.truncate(_MISFIT_SHOWN, overflow="ellipsis")
        cut = " (it was cut off)" if step.call.finish_reason == "length" else ""
        yield _barred(plain(f"{who} gave a reply that does not fit{cut}, and was asked again", "yellow"), text)
    else:
        yield _barred(plain(f"{who}, {one_line(step.kind).plain}", "italic"), *_as_pairs(step.text))


def _as_pairs(text: str) -> Iterator[RenderableType]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict):
        yield from _pairs(value)
    else:
        yield plain(text)


def _pairs(values: dict[str, Any]) -> Iterator[RenderableType]:
    for key, value in values.items():
        named = one_line(f"{key.replace('_', ' ')}:", "dim")
        if isinstance(value, dict | list) and any(isinstance(each, dict | list) for each in _items(value)):
            yield named
            yield from (Aside(plain(line), "  ") for line in _outline(value))
        else:
            said = value if isinstance(value, str) else orjson.dumps(value).decode()
            yield Aside(named.append(" ").append_text(plain(said)), "  ", first="")


def _items(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _outline(value: Any) -> Iterator[str]:
    """Nested data as lines for the eye."""
    if not isinstance(value, dict | list):
        yield " ".join(value.split()) if isinstance(value, str) else orjson.dumps(value).decode()
        return
    for key, each in value.items() if isinstance(value, dict) else (("-", each) for each in value):
        first, *rest = _outline(each) if each or not isinstance(each, dict | list) else ("none",)
        named = key if key == "-" else f"{key}:"
        if not isinstance(each, dict | list):
            yield f"{named} {first}"
        elif key == "-":
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
        else:
            yield named
            yield from (f"  {line}" for line in (first, *rest))


def _unfinished(unfinished: Unfinished, brief: Brief, shown: _Shown | None) -> Iterator[RenderableType]:
    yield plain("—  A turn that was never finished", "bold red")
    for number, attempt in enumerate(unfinished.attempts, start=1):
        yield from _sent(UNFINISHED, attempt, shown)
        yield _draft(f"draft {number}, {_STATUS[attempt.status]}", attempt)
    yield from _steps(unfinished.steps, brief, shown)


def _closing(transcript: Transcript) -> Iterator[RenderableType]:
    yield Text()
    yield Rule(style="dim")
    ending = _ending(transcript.outcome, with_status=True)
    ending.stylize("bold")
    yield ending
    if transcript.outcome.detail:
        yield Aside(plain(transcript.outcome.detail), "  ")
    yield Text()
    yield _calls(count_calls([transcript]))
    seconds = (transcript.finished - transcript.started).total_seconds()
    made = "  ".join(f"{name} {version}" for name, version in transcript.versions.items())
    yield Text()
    yield one_line(
        f"graph {transcript.graph.name} · {transcript.started:%Y-%m-%d %H:%M:%S %Z} · {seconds:.1f} s"
        + (f" · {made}" if made else ""),
        "dim",
    )


def _calls(counts: list[CallCount]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", show_footer=len(counts) > 1
    )
    total = {
        name: sum(getattr(count, name) for count in counts)
        for name in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds")
    }
    table.add_column("role", footer="all")
    table.add_column("model", overflow="fold")
    for name in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens"):
        table.add_column(name.replace("_", "\n"), justify="right", footer=f"{total[name]:,}")
    table.add_column("seconds", justify="right", footer=f"{total['seconds']:.1f}")
    for count in counts:
        table.add_row(
            one_line(count.role),
            one_line(count.player),
            f"{count.calls:,}",
            f"{count.prompt_tokens:,}",
            f"{count.cached_tokens:,}",
            f"{count.completion_tokens:,}",
            f"{count.seconds:.1f}",
        )
    return table


def _barred(*parts: RenderableType, bar: str = "│") -> RenderableType:
    return Aside(Group(*parts), f"   {bar} ", "dim")


def _ending(outcome: Outcome, *, with_status: bool) -> Text:
    mark, style = _MARKS[outcome.status]
    status = f"{outcome.status}: " if with_status else ""
    return one_line(f"{mark} {status}{outcome.reason}", style)


def _about(brief: Brief) -> str:
    return brief.topic or brief.question or brief.id


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
