"""A run whose critic is a panel of three models: in its transcripts, and killed in the middle."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from tutelage import read_transcripts
from tutelage.testing import Fault, SimulatedEndpoint

Endpoints = dict[str, SimulatedEndpoint]


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(SimulatedEndpoint(model=name, accept_rate=0.5))
            for name in ("one", "two", "three")
        }


def write_config(folder: Path, endpoints: Endpoints) -> Path:
    briefs = [{"id": f"b{n}", "topic": "Sums", "question": f"What is {n} + {n}?"} for n in range(2)]
    (folder / "briefs.jsonl").write_bytes(b"\n".join(map(orjson.dumps, briefs)))
    config = {
        "run": "judged",
        "graph": "lesson",
        "models": {name: {"url": endpoint.url, "model": name} for name, endpoint in endpoints.items()},
        "roles": {
            "tutor": {"model": "one"},
            "student": {"model": "one"},
            "fact_checker": {"model": "one"},
            "critic": {"model": "one", "panel": ["two", "three"]},
        },
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
    }
    path = folder / "config.json"
    path.write_bytes(orjson.dumps(config))
    return path


def start(config: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tutelage", "generate", str(config), "--out", str(config.parent / "run")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_each_draft_has_the_reviews_of_all_members_and_a_kill_asks_nobody_twice(
    tmp_path: Path, endpoints: Endpoints
) -> None:
    endpoints["three"].inject(Fault(kind="stall"))
    config = write_config(tmp_path, endpoints)
    process = start(config)
    try:
        _wait(lambda: endpoints["three"].stats()["under_way"] == endpoints["two"].stats()["answers"] == 2)
        time.sleep(0.5)  # until the journal's commit is on disk
    finally:
        process.kill()
        process.wait()
    endpoints["three"].clear_faults()
    assert start(config).wait(60) == 0

    transcripts = list(read_transcripts(tmp_path / "run"))
    assert len(transcripts) == 2
    for transcript in transcripts:
        for turn in transcript.turns:
            for attempt in turn.attempts if turn.role == "tutor" else ():
                assert [review.role for review in attempt.reviews] == ["critic"] * 3 + ["fact_checker"]
                models = [review.call.model for review in attempt.reviews if review.call]
                assert models == ["one", "two", "three", "one"]
    asked = Counter(answer["seed"] for name in ("one", "two") for answer in endpoints[name].answers())
    assert set(asked.values()) == {1}
    kept = sum(1 for transcript in transcripts for _ in transcript.calls())
    assert sum(asked.values()) + len(endpoints["three"].answers()) == kept


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline, "the panel was not asked in time"
        time.sleep(0.02)
