"""A run's numbers, how a person sees them, and what is written where nobody watches."""

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from rich.console import Console

from tutelage.generation import progress
from tutelage.generation.progress import Display, Tally, duration, show_progress
from tutelage.telemetry.logs import configure_logs


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def _logging() -> Iterator[None]:
    """Puts back what `configure_logs` changes for the whole interpreter."""
    root, own = logging.getLogger(), logging.getLogger("tutelage")
    before = (list(root.handlers), root.level, own.level)
    with warnings.catch_warnings():
        yield
        logging.captureWarnings(False)
    root.handlers[:], root.level, own.level = before
    structlog.reset_defaults()


def stderr_is(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, columns: int = 80) -> io.StringIO:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    return stream


def seen(tally: Tally, columns: int, note: str = "", **state: Any) -> list[str]:
    display = Display(tally, "fractions", lambda: note)
    for name, value in state.items():
        setattr(display, name, value)
    console = Console(file=io.StringIO(), width=columns, color_system=None, force_terminal=True)
    with console.capture() as capture:
        console.print(display)
    return capture.get().rstrip("\n").split("\n")


def running(clock: Clock, **numbers: int) -> Tally:
    tally = Tally(target=1200, clock=clock)
    for name, value in numbers.items():
        setattr(tally, name, value)
    return tally


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_shares_are_unknown_before_there_is_anything_to_share(clock: Clock) -> None:
    tally = Tally(clock=clock)
    assert (tally.acceptance, tally.cached, tally.left, tally.seconds_left) == (None, None, None, None)


def test_acceptance_is_of_reviewed_drafts_and_cached_is_of_prompt_tokens(clock: Clock) -> None:
    tally = running(clock, drafts=8, drafts_sent_back=2, prompt_tokens=1000, cached_tokens=640)
    assert (tally.acceptance, tally.cached) == (0.75, 0.64)


def test_dialogues_of_earlier_starts_count_towards_the_target(clock: Clock) -> None:
    assert running(clock, done_before=1000, completed=150).left == 50
    assert running(clock, done_before=1000, completed=201).left == 0


def test_tokens_per_second_forget_what_is_older_than_half_a_minute(clock: Clock) -> None:
    tally = Tally(clock=clock)
    for _ in range(60):
        clock.now += 1
        tally.completion_tokens += 1000
        tally.sample()
    assert tally.tokens_per_second == 1000
    for _ in range(30):
        clock.now += 1
        tally.completion_tokens += 10
        tally.sample()
    assert tally.tokens_per_second == 10


def test_time_left_is_unknown_until_a_dialogue_ends_then_follows_the_recent_pace(clock: Clock) -> None:
    tally = Tally(target=1000, done_before=100, clock=clock)
    clock.now += 60
    assert tally.seconds_left is None
    for _ in range(600):  # ten minutes at one a second, of which the last five count
        clock.now += 1
        tally.completed += 1
        tally.sample()
    assert tally.left == 300
    assert tally.seconds_left == pytest.approx(300)
    for _ in range(300):
        clock.now += 1
        tally.sample()
    assert tally.seconds_left is None
    tally.completed = 900
    assert tally.seconds_left == 0


def test_samples_are_bounded_however_long_a_run_takes(clock: Clock) -> None:
    tally = Tally(clock=clock)
    for _ in range(10_000):
        clock.now += 0.25
        tally.sample()
    assert len(tally._samples) <= progress.ENDINGS_WINDOW + 2


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (42.4, "42 s"),
        (59.7, "1 min"),
        (719, "12 min"),
        (3599, "1 h 0 min"),
        (12_000, "3 h 20 min"),
        (86_399, "1 d 0 h"),
        (457_200, "5 d 7 h"),
    ],
)
def test_a_span_of_time_is_said_to_two_digits_or_so(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_the_display_is_two_to_four_lines_and_never_wider_than_the_terminal(clock: Clock, columns: int) -> None:
    tally = running(clock, completed=412, under_way=256, failed=3, discarded=12, done_before=40, turns=105_312)
    tally.drafts, tally.drafts_sent_back, tally.prompt_tokens, tally.cached_tokens = 100, 29, 100, 64
    for note in ("", "gpu-2 does not answer " * 10):
        lines = seen(tally, columns, note)
        assert len(lines) == (4 if note else 3)
        assert max(map(len, lines)) <= columns


def test_the_display_says_what_counts(clock: Clock) -> None:
    tally = running(clock, completed=412, under_way=256, failed=3, turns=5312, drafts=100, drafts_sent_back=29)
    tally.prompt_tokens, tally.cached_tokens, tally.completion_tokens = 100, 64, 12_000
    clock.now += 10
    bar, dialogues, words = seen(tally, 80)
    assert bar.startswith("fractions ") and "412/1,200  34%" in bar and bar.rstrip().endswith("19 s left")
    assert dialogues.rstrip() == "256 under way · 3 failed"
    assert words.rstrip() == "5,312 turns · 1,200 tokens/s · 71% accepted · 64% cached"


def test_without_a_target_there_is_no_bar(clock: Clock) -> None:
    assert seen(Tally(clock=clock, completed=412), 80)[0].rstrip() == "fractions  412 dialogues  0 s so far"


def test_a_hundred_percent_is_said_only_when_all_is_done(clock: Clock) -> None:
    assert "1,199/1,200  99%" in seen(running(clock, completed=1199), 80)[0]
    assert "1,200/1,200 100%" in seen(running(clock, completed=1200), 80)[0]


def test_a_note_cannot_steer_the_terminal(clock: Clock) -> None:
    assert "\x1b" not in seen(running(clock), 80, "\x1b]0;owned\x07 [red]markup[/red]")[3]
    assert "[red]markup[/red]" in seen(running(clock), 80, "[red]markup[/red]")[3]


@pytest.mark.usefixtures("_logging")
async def test_piped_there_is_one_json_line_at_the_start_every_so_often_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs()
    tally = Tally(target=10)
    async with show_progress(tally, name="fractions", note=lambda: "a note", every=0.05):
        await asyncio.sleep(0.12)
        tally.completed = 10
    await asyncio.sleep(0.12)
    lines = json_lines(stderr)
    assert len(lines) == 4
    assert {line["event"] for line in lines} == {"progress"} and {line["run"] for line in lines} == {"fractions"}
    assert [line["state"] for line in lines] == ["running", "running", "running", "finished"]
    assert (lines[0]["done"], lines[-1]["done"], lines[-1]["seconds_left"]) == (0, 10, 0)
    assert lines[0]["note"] == "a note"


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(
    ("error", "state"),
    [(RuntimeError, "failed"), (asyncio.CancelledError, "interrupted"), (KeyboardInterrupt, "interrupted")],
)
async def test_however_it_ends_the_last_line_says_how_and_the_error_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException], state: str
) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs()
    with pytest.raises(error):
        async with show_progress(Tally(), name="fractions"):
            raise error
    assert json_lines(stderr)[-1]["state"] == state


async def test_at_a_terminal_the_last_state_stays_in_sight_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr = stderr_is(monkeypatch, Terminal())
    tally = Tally(target=10)

    async def run() -> None:
        async with show_progress(tally, name="fractions"):
            tally.completed = 7
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = stderr.getvalue().rpartition("fractions")[2]
    assert "7/10" in end and "interrupted after" in end
    assert end.rstrip("\n").endswith("\x1b[?25h"), "the cursor is shown again"
    assert sys.stderr is stderr


@pytest.mark.usefixtures("_logging")
async def test_a_log_line_stands_above_the_display_and_stdout_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stderr = stderr_is(monkeypatch, Terminal())
    configure_logs()
    async with show_progress(Tally(target=10), name="fractions"):
        structlog.get_logger("tutelage.test").warning("endpoint_slow", endpoint="http://gpu-2")
        print("a result")
    text = stderr.getvalue()
    assert text.index("endpoint_slow") < text.rindex("fractions")
    assert "a result" not in text and capsys.readouterr().out == "a result\n"


async def test_the_display_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """At four a second, 10 ms each would be 4 % of a core."""
    import time

    stderr_is(monkeypatch, Terminal())
    tally = Tally(target=1000)
    async with show_progress(tally, name="fractions"):
        before = time.process_time()
        await asyncio.sleep(1)
        assert time.process_time() - before < 0.1


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_gets_into_a_log_line(monkeypatch: pytest.MonkeyPatch, as_json: bool) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs(json=as_json)
    log = structlog.get_logger("tutelage.test")
    key = "sk-verysecret"
    log.info("a", api_key=key, headers={"Authorization": f"Bearer {key}"}, many=[{"LARGE_API_KEY": key}])
    log.info("b", url=f"http://user:{key}@host/v1?api_key={key}&n=1")
    log.info(f"an event with api_key={key}")  # noqa: G004 - so do others
    log.info("c", text=f"Authorization: Bearer {key}", other=f'{{"api_key": "{key}"}}', access_token=key)
    logging.getLogger("aiohttp").warning("d %s", f"authorization: {key}", extra={"password": key})
    try:
        local = key
        raise RuntimeError(f"refused: Bearer {local}")
    except RuntimeError:
        log.exception("e")
    assert key not in stderr.getvalue()
    assert "n=1" in stderr.getvalue() and "refused" in stderr.getvalue()


@pytest.mark.usefixtures("_logging")
def test_numbers_of_tokens_are_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs()
    structlog.get_logger().info("progress", completion_tokens=12, max_tokens=7)
    assert json_lines(stderr)[0] | {"completion_tokens": 12, "max_tokens": 7} == json_lines(stderr)[0]


@pytest.mark.usefixtures("_logging")
def test_lines_of_other_libraries_and_warnings_are_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs()
    structlog.contextvars.bind_contextvars(dialogue="d1")
    logging.getLogger("langgraph").warning("odd: %s", 1)
    warnings.simplefilter("always")
    warnings.warn("careful", stacklevel=1)
    structlog.contextvars.clear_contextvars()
    odd, careful = json_lines(stderr)
    assert (odd["event"], odd["level"], odd["dialogue"]) == ("odd: 1", "warning", "d1")
    assert "careful" in careful["event"]


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize(("verbose", "lines"), [(False, 1), (True, 2)])
def test_details_are_said_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, verbose: bool, lines: int) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs(verbose=verbose)
    log = structlog.get_logger("tutelage.test")
    log.debug("detail")
    log.info("event")
    assert len(json_lines(stderr)) == lines


@pytest.mark.usefixtures("_logging")
def test_a_logged_text_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = stderr_is(monkeypatch, io.StringIO())
    configure_logs(json=False)
    structlog.get_logger("tutelage.test").info("said \x1b]0;owned\x07", reply="\x1b[2J")
    assert "\x1b]" not in stderr.getvalue() and "\x1b[2J" not in stderr.getvalue() and "\x07" not in stderr.getvalue()
