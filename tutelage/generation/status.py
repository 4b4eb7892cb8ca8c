"""What a daemon says of itself: as JSON to programs, as a page to a person, as one line to systemd."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.text import Text

from tutelage.errors import TutelageError
from tutelage.generation.progress import duration
from tutelage.serving.circuit import CircuitState
from tutelage.transcripts.terminal import Aside, one_line

UNBOUNDED: Final = 1_000_000
"""The width where nobody looks: piped, a fact is one line, for grep."""
GIB: Final = 2**30

State = Literal["starting", "running", "idle", "paused", "waiting", "held", "draining"]
"""What a daemon is doing.

- starting: it reads what is there and looks for its endpoints
- running: dialogues are begun as others end
- idle: nothing is owed; it waits for new briefs
- paused: by command, nothing new begins; what is under way goes on
- waiting: something is away that it cannot go on without, a model's endpoints or room on the disk; it goes on by itself
- held: a watermark holds new dialogues back
- draining: it comes to its end
"""


class Part(BaseModel):
    """A part of the status. Keys that are not known here are kept: the daemon may be newer than whoever asks."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Progress(Part):
    """How far the run has come."""

    done: int = 0
    """Completed dialogues, those of earlier starts included."""
    target: int | None = None
    """Completed dialogues that are wanted; None if there is no end to them."""
    under_way: int = 0
    at_once: int = 0
    """How many dialogues may be under way."""
    tokens_per_second: float | None = None
    """Completion tokens, lately."""
    seconds_left: float | None = None
    """Until the target is met, at the latest pace; None while that cannot be known."""


class SetAside(Part):
    """A dialogue that failed again and again, and is left alone until it is retried."""

    id: str
    brief: str
    reason: str
    """As a transcript's `outcome.reason`."""


class EndpointStatus(Part):
    """One endpoint of a model."""

    model: str
    """The model's name in the config."""
    url: str
    state: CircuitState
    """Of its circuit breaker. open: nothing is sent to it; half_open: a few requests, to see whether it is back."""
    since: datetime | None = None
    """Since when it is lost."""
    in_flight: int = 0
    """Requests that it has not answered yet."""
    limit: int | None = None
    """Requests that may be open there, as admission finds out."""
    limited_by: str = ""
    """Why the limit is where it is: rising, steady, queue, kv_cache, preemption, latency, or pinned by the config."""
    queue: int | None = None
    """Requests that wait in it, by its own metrics; None where it has none."""
    kv_cache: float | None = None
    """The share of its KV cache that running requests hold, 0 to 1, by its own metrics."""
    cached: float | None = None
    """The share of prompt tokens that it found in its prefix cache since its start, 0 to 1, by its own metrics."""
    failures: int = 0
    """Faults since the daemon was started."""
    last_error: str | None = None
    """The kind of the last one: `no_answer`, `http_503`."""


class ServerStatus(Part):
    """One vLLM server that the daemon has launched."""

    name: str
    url: str
    state: str
    """starting, ready, waiting (it has ended, and will be started again), ended."""
    since: datetime
    pid: int | None = None
    gpus: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them."""
    restarts: int = 0
    last_error: str | None = None
    """Why it ended last."""


class Watermark(Part):
    """Something of which there is enough, or too much, to begin new dialogues."""

    name: str
    """As in the config under `watermarks:`. memory: the share in use; disk: GiB free; waiting: the longest queue."""
    now: float
    mark: float
    holds: bool = False
    """Whether it holds new dialogues back."""


class Disk(Part):
    """Bytes where the run folder is."""

    free: int
    used: dict[str, int] = Field(default_factory=dict)
    """By part of the run folder: transcripts, messages, checkpoints, ledger."""


class Reload(Part):
    """The last time that the config was to be read again."""

    at: datetime
    changed: list[str] = Field(default_factory=list)
    """The config's keys."""
    refused: str = ""
    """Why nothing was changed."""


class Status(Part):
    """What a daemon says of itself: the body of `GET /status`. Names are kept, more may be added. Times have a zone."""

    run: str
    graph: str
    folder: str
    pid: int
    version: str
    """Of Tutelage."""
    at: datetime
    """When this was so."""
    started: datetime
    state: State
    since: datetime
    """Since when it is in this state."""
    reason: str = ""
    """More of why it is in this state, if there is more to say."""
    progress: Progress = Progress()
    outcomes: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Finished dialogues of the whole run, by status and reason."""
    set_aside: int = 0
    """How many dialogues are set aside."""
    set_aside_first: list[SetAside] = Field(default_factory=list)
    """Ten of them at most."""
    endpoints: list[EndpointStatus] = Field(default_factory=list)
    servers: list[ServerStatus] = Field(default_factory=list)
    waiting_calls: int = 0
    """Calls that wait for an endpoint that answers."""
    queued_calls: int = 0
    """Calls that wait here, for their endpoints have as many open as may be."""
    watermarks: list[Watermark] = Field(default_factory=list)
    disk: Disk | None = None
    memory: int | None = None
    """Bytes that the daemon's process holds (resident)."""
    reload: Reload | None = None


def status_line(status: Status) -> str:
    """The status on one line, as for `systemctl status`."""
    progress = status.progress
    done = f"{progress.done:,} of {progress.target:,} done" if progress.target else f"{progress.done:,} done"
    parts = [f"{_state(status)}: {done}", f"{progress.under_way:,} under way"]
    if status.set_aside:
        parts.append(f"{status.set_aside:,} set aside")
    if down := sum(endpoint.state == "open" for endpoint in status.endpoints):
        parts.append(f"{down} of {len(status.endpoints)} endpoints down")
    return one_line(", ".join(parts)).plain


def as_json(data: Mapping[str, Any]) -> str:
    """The status as it is, for programs."""
    return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()


def render_status(data: Mapping[str, Any], console: Console | None = None) -> str:
    """The status as it is printed: wrapped and in colour at a terminal, a fact a line otherwise.

    Args:
        data: The body of `GET /status`.
        console: Where it will be printed; stdout if not given.

    Raises:
        TutelageError: It does not have the keys of a status.
    """
    try:
        status = Status.model_validate(data)
    except ValidationError as error:
        raise TutelageError(
            "what the daemon says of itself cannot be read, as of another version of Tutelage: restart the daemon, "
            f"or ask with --json ({error.errors()[0]['loc']}: {error.errors()[0]['msg']})"
        ) from error
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = UNBOUNDED
    with console.capture() as capture:
        console.print(_heading(status), soft_wrap=True)
        for name, lines in _facts(status):
            for number, line in enumerate(lines):
                console.print(Aside(line, " " * 14, "dim", first=f"  {'' if number else name:<12}"))
    return capture.get().rstrip("\n")


_STYLES: Final[dict[str, str]] = {"running": "bold green", "idle": "bold green", "waiting": "bold red"}
_ENDPOINTS: Final[dict[str, tuple[str, str]]] = {
    "closed": ("up", "green"),
    "half_open": ("coming back", "yellow"),
    "open": ("down", "bold red"),
}


def _state(status: Status) -> str:
    words = "held back" if status.state == "held" else status.state
    return f"{words} ({status.reason})" if status.reason else words


def _heading(status: Status) -> Text:
    since = duration((status.at - status.since).total_seconds())
    state = one_line(_state(status), _STYLES.get(status.state, "bold yellow"))
    return Text.assemble(one_line(status.run, "bold"), "  ", state, f" for {since}")


def _facts(status: Status) -> Iterator[tuple[str, list[Text]]]:
    """The names and lines of what there is to say."""
    yield "progress", [Text(" · ".join(_progress(status.progress)))]
    if status.outcomes:
        yield "finished", [one_line(line) for line in _outcomes(status.outcomes)]
    if status.set_aside:
        more = status.set_aside - len(status.set_aside_first)
        shown = [f"{each.id} of brief {each.brief}: {each.reason}" for each in status.set_aside_first]
        head = f"{status.set_aside:,}, to be tried again by `tutelage retry {status.folder}`"
        yield (
            "set aside",
            [one_line(line) for line in [head, *shown, *[f"and {more:,} more"] * (more > 0 < len(shown))]],
        )
    if status.endpoints:
        lines = [_endpoint(endpoint, status.at) for endpoint in status.endpoints]
        if status.queued_calls:
            lines.append(Text(f"{status.queued_calls:,} calls wait here for one with room"))
        if status.waiting_calls:
            lines.append(Text(f"{status.waiting_calls:,} calls wait for one that answers", "yellow"))
        yield "endpoints", lines
    if status.servers:
        yield "servers", [_server(server, status.at) for server in status.servers]
    if status.watermarks:
        yield "watermarks", [_watermark(watermark) for watermark in status.watermarks]
    if status.disk:
        parts = [f"{_size(size)} of {part}" for part, size in status.disk.used.items()]
        yield "disk", [one_line(" · ".join([*parts, f"{_size(status.disk.free)} free"]))]
    if status.reload:
        yield "reload", [_reload(status.reload, status.at)]
    yield "process", [one_line(" · ".join(_process(status)))]
    yield "folder", [one_line(status.folder)]


def _progress(progress: Progress) -> Iterator[str]:
    if progress.target:
        yield f"{progress.done:,} of {progress.target:,} completed ({100 * progress.done // progress.target}%)"
    else:
        yield f"{progress.done:,} completed"
    yield f"{progress.under_way:,} under way of at most {progress.at_once:,}"
    if progress.tokens_per_second is not None:
        yield f"{progress.tokens_per_second:,.0f} tokens/s"
    if progress.seconds_left is not None:
        yield f"{duration(progress.seconds_left)} left"


def _outcomes(outcomes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for status, reasons in outcomes.items():
        listed = sorted(reasons.items(), key=lambda item: -item[1])
        yield f"{sum(reasons.values()):,} {status}: " + ", ".join(f"{reason} {count:,}" for reason, count in listed)


def _endpoint(endpoint: EndpointStatus, now: datetime) -> Text:
    word, style = _ENDPOINTS[endpoint.state]
    since = f" for {duration((now - endpoint.since).total_seconds())}" if endpoint.since else ""
    parts = [f"{endpoint.in_flight:,} in flight"]
    if endpoint.limit is not None:
        parts[0] += f" of {endpoint.limit:,} ({endpoint.limited_by.replace('_', ' ')})"
    if endpoint.queue is not None:
        parts.append(f"{endpoint.queue:,} in its queue")
    if endpoint.kv_cache is not None:
        parts.append(f"KV cache {endpoint.kv_cache:.0%} in use")
    if endpoint.cached is not None:
        parts.append(f"{endpoint.cached:.0%} of prompts cached")
    if endpoint.last_error:
        parts.append(f"{endpoint.failures:,} failures, the last {endpoint.last_error}")
    name, rest = one_line(f"{endpoint.model} {endpoint.url}"), one_line(" · ".join(parts))
    return Text.assemble(name, " ", Text(word, style), f"{since} · ", rest)


def _server(server: ServerStatus, now: datetime) -> Text:
    parts = [f"{server.state} for {duration((now - server.since).total_seconds())}"]
    if server.pid is not None:
        parts.append(f"pid {server.pid}")
    if server.gpus:
        parts.append(f"GPU {','.join(server.gpus)}")
    if server.restarts:
        parts.append(f"{server.restarts} restarts" + (f", the last: {server.last_error}" if server.last_error else ""))
    return one_line(f"{server.name} {' · '.join(parts)}", "" if server.state == "ready" else "yellow")


def _watermark(watermark: Watermark) -> Text:
    now, mark = watermark.now, watermark.mark
    said = {
        "memory": f"memory {now:.0%} in use, mark {mark:.0%}",
        "disk": f"disk {now:,.1f} GiB free, mark {mark:g} GiB",
        "waiting": f"{now:,.0f} requests waiting at an endpoint, mark {mark:g}",
    }.get(watermark.name, f"{watermark.name} {now:g}, mark {mark:g}")
    return one_line(f"{said}: nothing new begins", "bold yellow") if watermark.holds else one_line(said)


def _reload(reload: Reload, now: datetime) -> Text:
    when = f"{duration((now - reload.at).total_seconds())} ago"
    if reload.refused:
        return one_line(f"{when}, refused: {reload.refused}", "yellow")
    return one_line(f"{when}, changed: {', '.join(reload.changed) or 'nothing'}")


def _process(status: Status) -> Iterator[str]:
    yield f"pid {status.pid}"
    yield f"up {duration((status.at - status.started).total_seconds())}"
    if status.memory is not None:
        yield f"{_size(status.memory)} of memory"
    yield f"Tutelage {status.version}"
    yield f"graph {status.graph}"


def _size(size: int) -> str:
    if size < 2**20 / 10:
        return f"{size / 2**10:,.0f} KiB"
    return f"{size / GIB:,.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:,.1f} MiB"
