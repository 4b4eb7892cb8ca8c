"""`tutelage generate`, as a process of its own against a simulated endpoint: it meets its target, and loses nothing."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage import Transcript, read_transcripts
from tutelage.testing import Fault, Latency, SimulatedEndpoint
from tutelage.transcripts.messages import Prompts

COMMAND = (sys.executable, "-P", "-c", "import sys; from tutelage.cli import main; main()")
BRIEFS = 12


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", accept_rate=0.7) as endpoint:
        yield endpoint


def project(folder: Path, endpoint: SimulatedEndpoint, **config: Any) -> Path:
    lines = [
        {"id": f"b{n}", "topic": "Sums", "question": f"What is {n} + {n}?", "answer": "none"} for n in range(BRIEFS)
    ]
    (folder / "briefs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    everything = {
        "run": "r",
        "models": {"m": {"url": endpoint.url, "model": "m"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        "concurrency": 4,
        **config,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(everything))
    return path


def start(config: Path, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, "generate", str(config), "--out", str(config.parent / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(config: Path, **options: Any) -> tuple[int, str, str]:
    process = start(config, **options)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def transcripts(config: Path) -> list[Transcript]:
    def refuse(what: str) -> None:
        raise AssertionError(what)

    return list(read_transcripts(config.parent / "run", on_skip=refuse))


def lines(config: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in (config.parent / "run" / "transcripts").glob("*.jsonl"))


def wait_for_transcripts(config: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not (config.parent / "run" / "transcripts" / "00000.jsonl").exists() or lines(config) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_brief_is_done_once_and_the_folder_holds_what_the_contract_says(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    config = project(tmp_path, endpoint)
    code, out, err = finish(config)
    assert (code, "12 of 12 dialogues completed" in out) == (0, True), err
    done = transcripts(config)
    assert sorted(t.brief.id for t in done) == sorted(f"b{n}" for n in range(BRIEFS))
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        *("run.yaml", "transcripts", "messages.jsonl", "ledger.db"),
    }
    for line in err.splitlines():
        json.loads(line)  # where stderr is no terminal, whatever is logged is JSON
    raw = json.loads((tmp_path / "run" / "transcripts" / "00000.jsonl").read_text().splitlines()[0])
    assert raw["schema"] == "tutelage.transcript/1"
    assert {
        "id",
        "run",
        "graph",
        "brief",
        "turns",
        "outcome",
        "lineage",
        "attempt",
        "usage",
        "started",
        "finished",
    } < set(raw)
    call = raw["turns"][0]["attempts"][0]["call"]
    assert {"model", "endpoint", "sampling", "seed", "prompt_sha256", "prompt_tokens", "cached_tokens"} < set(call)


def test_every_text_was_answered_by_the_endpoint_and_every_prompt_can_be_rebuilt(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    answered = {text.strip() for answer in endpoint.answers() for text in answer["texts"]}
    calls = 0
    with Prompts(tmp_path / "run") as prompts:
        for transcript in transcripts(config):
            assert all(attempt.text in answered for turn in transcript.turns for attempt in turn.attempts)
            for call in transcript.calls():
                calls += 1
                assert prompts.messages(call.prompt_sha256)[0]["role"] == "system"
            assert transcript.usage.calls == len(list(transcript.calls()))
    assert calls == len(endpoint.answers())


def test_a_target_is_met_evenly_over_the_briefs(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint, target={"dialogues": 30})
    assert finish(config)[0] == 0
    of_brief = [transcript.brief.id for transcript in transcripts(config)]
    assert len(of_brief) == 30
    assert {of_brief.count(brief) for brief in of_brief} <= {2, 3}


def test_started_again_it_makes_nothing_more_and_a_higher_target_only_what_is_owed(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    calls = len(endpoint.requests())
    assert finish(config)[0] == 0
    assert len(endpoint.requests()) == calls
    before = (tmp_path / "run" / "transcripts" / "00000.jsonl").read_bytes()
    project(tmp_path, endpoint, target={"dialogues": 15})
    assert finish(config)[0] == 0
    after = (tmp_path / "run" / "transcripts" / "00000.jsonl").read_bytes()
    assert after.startswith(before)
    assert len({transcript.id for transcript in transcripts(config)}) == 15


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_is_finished_and_goes_on(
    tmp_path: Path, endpoint: SimulatedEndpoint, kill: signal.Signals
) -> None:
    """Also in the background of a shell, which has its jobs ignore SIGINT."""
    endpoint.configure(latency=Latency(first_token=0.05))
    config = project(tmp_path, endpoint)
    process = start(config, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    wait_for_transcripts(config, 3)
    process.send_signal(kill)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    finished = {transcript.id for transcript in transcripts(config)}
    assert 3 <= len(finished) < BRIEFS
    assert finish(config)[0] == 0
    assert lines(config) == len(transcripts(config)) == BRIEFS
    assert finished < {transcript.id for transcript in transcripts(config)}


def test_killed_again_and_again_it_loses_and_doubles_nothing(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    endpoint.configure(latency=Latency(first_token=0.02))
    config = project(tmp_path, endpoint, target={"dialogues": 36})
    chance = random.Random(7)
    for kills in range(1, 5):
        process = start(config)
        wait_for_transcripts(config, 5 * kills)
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.communicate()
    assert finish(config)[0] == 0
    assert lines(config) == len({transcript.id for transcript in transcripts(config)}) == 36


def test_a_torn_last_line_is_cut_and_its_dialogue_made_again(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    file = tmp_path / "run" / "transcripts" / "00000.jsonl"
    os.truncate(file, file.stat().st_size - 40)
    (tmp_path / "run" / "ledger.db").unlink()
    _, _, err = finish(config)
    assert "torn_line_cut" in err
    assert len(transcripts(config)) == BRIEFS


def test_a_last_line_without_its_newline_is_a_torn_one(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    file = tmp_path / "run" / "transcripts" / "00000.jsonl"
    os.truncate(file, file.stat().st_size - 1)
    (tmp_path / "run" / "ledger.db").unlink()
    assert "12 of 12 dialogues completed" in finish(config)[1]
    assert lines(config) == len(transcripts(config)) == BRIEFS


def test_transcripts_that_are_gone_are_owed_again_whatever_the_ledger_says(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    (tmp_path / "run" / "transcripts" / "00000.jsonl").unlink()
    assert finish(config)[0] == 0
    assert lines(config) == BRIEFS


def test_a_key_that_is_refused_in_mid_run_stops_it_and_uses_no_dialogue_up(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.05))
    config = project(tmp_path, endpoint)
    process = start(config)
    wait_for_transcripts(config, 2)
    endpoint.inject(Fault(kind="status", status=401))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert all(transcript.outcome.status == "completed" for transcript in transcripts(config))
    endpoint.clear_faults()
    assert finish(config)[0] == 0
    assert lines(config) == BRIEFS


def test_a_ledger_that_is_lost_or_no_database_is_made_again_from_the_transcripts(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    config = project(tmp_path, endpoint)
    finish(config)
    (tmp_path / "run" / "ledger.db").write_bytes(b"this is no database" * 100)
    calls = len(endpoint.requests())
    assert finish(config)[0] == 0
    assert len(endpoint.requests()) == calls
    assert lines(config) == BRIEFS


def test_a_full_disk_stops_the_run_with_what_is_whole(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    """Files may not grow over 128 KiB here: the nearest to a full disk that needs no root."""
    config = project(tmp_path, endpoint)

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, 128 * 1024))

    code, _, err = finish(config, preexec_fn=small_disk)
    assert code == 2
    assert "cannot be written" in err
    assert "Traceback" not in err
    whole = {transcript.id for transcript in transcripts(config)}
    assert finish(config)[0] == 0
    assert lines(config) == BRIEFS
    assert whole <= {transcript.id for transcript in transcripts(config)}


def test_a_dialogue_that_fails_is_written_down_with_its_reason_and_the_run_goes_on(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    endpoint.inject(Fault(kind="context", times=1))
    config = project(tmp_path, endpoint, concurrency=1)
    code, out, _ = finish(config)
    assert code == 0
    assert "11 of 12 dialogues completed, 1 failed" in out
    assert "failed: context_exceeded 1" in out
    (failed,) = (transcript for transcript in transcripts(config) if transcript.outcome.status == "failed")
    assert failed.outcome.reason == "context_exceeded"
    assert failed.outcome.detail


def test_what_was_drafted_before_a_failure_is_kept(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="wrong_shape", requests="shaped"))
    config = project(tmp_path, endpoint, target={"dialogues": 1})
    code, out, _ = finish(config)
    assert code == 1
    assert "failed: wrong_shape" in out
    one = transcripts(config)[0]
    assert one.turns == []
    assert one.unfinished is not None
    assert [attempt.status for attempt in one.unfinished.attempts] == ["pending"]
    assert {step.kind for step in one.unfinished.steps} == {"misfit"}


def test_where_everything_fails_a_target_is_given_up(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="context"))
    config = project(tmp_path, endpoint, target={"dialogues": 10})
    code, out, _ = finish(config)
    assert code == 1
    assert "0 of 10 dialogues completed, 40 failed" in out


def test_faults_that_heal_cost_no_dialogue(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(
        Fault(kind="status", status=500, probability=0.1),
        Fault(kind="status", status=429, retry_after=0.2, probability=0.05),
        Fault(kind="reset", probability=0.05),
        Fault(kind="invalid_json", probability=0.05),
        Fault(kind="truncated", probability=0.05),
        Fault(kind="empty", probability=0.05, requests="plain"),
    )
    config = project(tmp_path, endpoint)
    code, out, err = finish(config)
    assert code == 0, err
    assert "12 of 12 dialogues completed" in out


def test_an_endpoint_that_dies_in_mid_run_is_exit_code_3_and_costs_nothing_won(tmp_path: Path) -> None:
    with SimulatedEndpoint(model="m", latency=Latency(first_token=0.05)) as endpoint:
        config = project(tmp_path, endpoint)
        data = json.loads(config.read_text())
        data["models"]["m"]["patience"] = 1
        config.write_text(json.dumps(data))
        process = start(config)
        wait_for_transcripts(config, 2)
        endpoint.kill()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 3, err
        assert "Traceback" not in err
        won = len(transcripts(config))
        assert 2 <= won < BRIEFS
        assert all(transcript.outcome.status == "completed" for transcript in transcripts(config))
        endpoint.start()
        assert finish(config)[0] == 0
        assert lines(config) == BRIEFS
