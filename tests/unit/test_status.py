"""What a daemon's status reads like."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from tutelage.errors import TutelageError
from tutelage.generation.status import Status, render_status, status_line

NOW = datetime(2026, 8, 1, 12, 0, tzinfo=UTC)

SPEED = {"tokens_per_second": 512.3, "seconds_left": 12_000}
UP = {"model": "large", "url": "http://gpu-1:8000/v1", "state": "closed", "in_flight": 128, "queue": 3}
DOWN = {
    "model": "large",
    "url": "http://gpu-2:8000/v1",
    "state": "open",
    "since": NOW - timedelta(minutes=5),
    "failures": 7,
    "last_error": "no_answer",
}


def status(**changes: Any) -> Status:
    values: dict[str, Any] = {
        "run": "fractions",
        "graph": "lesson",
        "folder": "runs/fractions",
        "pid": 4711,
        "version": "0.1.0",
        "at": NOW,
        "started": NOW - timedelta(days=2),
        "state": "running",
        "since": NOW - timedelta(hours=3, minutes=20),
        "progress": {"done": 1234, "target": 10_000, "under_way": 256, "at_once": 256, **SPEED},
        "outcomes": {"completed": {"out_of_turns": 34, "mastered": 1200}, "failed": {"context_exceeded": 3}},
        "set_aside": 3,
        "set_aside_first": [{"id": "a1b2", "brief": "halves", "reason": "wrong_shape"}],
        "endpoints": [UP, DOWN],
        "waiting_calls": 12,
        "watermarks": [
            {"name": "memory", "now": 0.93, "mark": 0.9, "holds": True},
            {"name": "disk", "now": 120.04, "mark": 1},
            {"name": "waiting", "now": 3, "mark": 64},
        ],
        "disk": {"free": 120 * 2**30, "used": {"transcripts": 3 * 2**30, "checkpoints": 5 * 2**20}},
        "memory": 2**29,
        "reload": {"at": NOW - timedelta(minutes=1), "changed": ["roles", "limits"]},
        **changes,
    }
    return Status.model_validate(values)


def page(shown: Status) -> str:
    return render_status(shown.model_dump(mode="json"), Console(force_terminal=False))


def test_a_person_reads_a_fact_a_line() -> None:
    assert page(status()).splitlines() == [
        "fractions  running for 3 h 20 min",
        "  progress    1,234 of 10,000 completed (12%) · 256 under way of at most 256 · 512 tokens/s · 3 h 20 min left",
        "  finished    1,234 completed: mastered 1,200, out_of_turns 34",
        "              3 failed: context_exceeded 3",
        "  set aside   3, to be tried again by `tutelage retry runs/fractions`",
        "              a1b2 of brief halves: wrong_shape",
        "              and 2 more",
        "  endpoints   large http://gpu-1:8000/v1 up · 128 in flight · 3 in its queue",
        "              large http://gpu-2:8000/v1 down for 5 min · 0 in flight · 7 failures, the last no_answer",
        "              12 calls wait for one that answers",
        "  watermarks  memory 93% in use, mark 90%: nothing new begins",
        "              disk 120.0 GiB free, mark 1 GiB",
        "              3 requests waiting at an endpoint, mark 64",
        "  disk        3.0 GiB of transcripts · 5.0 MiB of checkpoints · 120.0 GiB free",
        "  reload      1 min ago, changed: roles, limits",
        "  process     pid 4711 · up 2 d 0 h · 0.5 GiB of memory · Tutelage 0.1.0 · graph lesson",
        "  folder      runs/fractions",
    ]


def test_a_daemon_that_has_just_begun_has_little_to_say() -> None:
    bare = {
        name: getattr(status(), name) for name in ("run", "graph", "folder", "pid", "version", "at", "started", "since")
    }
    assert page(Status(**bare, state="starting")).splitlines() == [
        "fractions  starting for 3 h 20 min",
        "  progress    0 completed · 0 under way of at most 0",
        "  process     pid 4711 · up 2 d 0 h · Tutelage 0.1.0 · graph lesson",
        "  folder      runs/fractions",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "waiting", "reason": "no endpoint of large answers"}, "waiting (no endpoint of large answers)"),
        ({"state": "held", "reason": "memory"}, "held back (memory)"),
        ({"state": "draining"}, "draining"),
    ],
)
def test_a_state_says_why(changes: dict[str, str], words: str) -> None:
    assert page(status(**changes)).startswith(f"fractions  {words} for")
    assert status_line(status(**changes)).startswith(f"{words}: 1,234 of 10,000 done")


def test_systemd_gets_one_line() -> None:
    assert status_line(status(reason="a\nb")) == (
        "running (a b): 1,234 of 10,000 done, 256 under way, 3 set aside, 1 of 2 endpoints down"
    )


def test_nothing_in_a_status_steers_the_terminal() -> None:
    wild = "\x1b]52;c;x\x07\x9b31m[red]\nx"
    shown = status(
        run=wild,
        folder=wild,
        reason=wild,
        graph=wild,
        version=wild,
        outcomes={wild: {wild: 1}},
        set_aside_first=[{"id": wild, "brief": wild, "reason": wild}],
        endpoints=[{"model": wild, "url": wild, "state": "open", "last_error": wild}],
        watermarks=[{"name": wild, "now": 1, "mark": 1}],
        disk={"free": 1, "used": {wild: 1}},
        reload={"at": NOW, "refused": wild},
    )
    for text in (page(shown), status_line(shown)):
        assert not any(character in text for character in "\x1b\x07\x9b")
        assert "[red]" in text
    assert len(page(shown).splitlines()) == 13


def test_a_status_of_a_newer_daemon_is_read_and_kept() -> None:
    data = {**status().model_dump(mode="json"), "weather": "fine"}
    assert render_status(data, Console(force_terminal=False)) == page(status())
    assert Status.model_validate(data).model_dump(mode="json") == data


def test_a_status_that_cannot_be_read_is_said_to_be_anothers() -> None:
    with pytest.raises(TutelageError, match="another version"):
        render_status({"run": "fractions"})


def test_at_a_terminal_lines_are_wrapped_beside_their_names() -> None:
    shown = render_status(status().model_dump(mode="json"), Console(force_terminal=True, width=60, color_system=None))
    assert "256 under\n              way of at most 256" in shown
