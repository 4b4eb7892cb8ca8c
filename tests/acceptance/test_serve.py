"""`tutelage serve`, and `serve:` in a run, as a user gives them; a stand-in for vLLM (tests/stand_in) answers.

The processes, signals and ports are real. What real vLLM does under the same commands is shown in tests/real/test_serve.py.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tutelage import read_transcripts
from tutelage.serving.adapters import adapter_sha256

COMMAND = (sys.executable, "-P", "-c", "import sys; from tutelage.cli import main; main()")
ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parents[1] / "stand_in"
SLOW = {"latency": {"output_token": 0.002}}


def adapter(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def project(folder: Path, *, endpoint: dict[str, Any] | None = None, dialogues: int = 12, **serve: Any) -> Path:
    """A config whose one model is launched: the stand-in, with two adapters."""
    (folder / "records").mkdir()
    (folder / "briefs.jsonl").write_text('{"id": "b", "topic": "Sums"}\n')
    adapters = {name: str(adapter(folder / name, name.encode())) for name in ("a", "b")}
    environment = {
        "PYTHONPATH": f"{STAND_IN}:{ROOT}",
        "STAND_IN": str(folder / "records"),
        "STAND_IN_ENDPOINT": json.dumps(endpoint or {}),
    }
    launched = {"model": "m", "gpus_per_replica": 0, "adapters": adapters, "env": environment, "grace": 5, **serve}
    config = {
        "run": "r",
        "models": {"small": {"serve": launched}},
        "roles": {"tutor": {"adapter": "a"}, "student": {"adapter": "b"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        "target": {"dialogues": dialogues},
        "concurrency": 4,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a command; whatever still runs at the end of the test is killed."""
    started = []

    def begin(*arguments: Path | str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    until(lambda: not running(tmp_path))


def records(folder: Path) -> list[dict[str, Any]]:
    found = []
    for path in (folder / "records").glob("*.json"):
        with suppress(ValueError):  # it is being written
            found.append(json.loads(path.read_text()))
    return sorted(found, key=lambda record: record["started"])


def running(folder: Path) -> list[int]:
    """The processes of the launched servers that have not ended."""
    pids = [record[which] for record in records(folder) for which in ("pid", "engine")]
    return [pid for pid in pids if state(pid) not in "ZX"]


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def transcripts(folder: Path) -> list[Any]:
    return list(read_transcripts(folder / "run")) if (folder / "run" / "transcripts").exists() else []


def events(stderr: str) -> list[str]:
    return [json.loads(line)["event"] for line in stderr.splitlines() if line.startswith("{")]


Start = Callable[..., "subprocess.Popen[str]"]


def test_serve_says_where_its_servers_are_and_ends_them_when_told(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stdout, and systemd, where that has started it."""
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    systemd.settimeout(60)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    config = project(tmp_path, replicas=2)
    serving = start("serve", config)
    assert serving.stdout
    lines = [serving.stdout.readline().rstrip().split("\t") for _ in range(2)]
    assert [line[0] for line in lines] == ["small-0", "small-1"]
    assert {line[2] for line in lines} == {"m a b"} and {line[3] for line in lines} == {"CPU"}
    assert len(running(tmp_path)) == 4
    assert systemd.recv(4096) == b"READY=1"
    serving.send_signal(signal.SIGTERM)
    with systemd:
        assert systemd.recv(4096).startswith(b"STOPPING=1\n")
    out, err = serving.communicate(timeout=60)
    assert (serving.returncode, out) == (0, ""), err
    assert running(tmp_path) == []
    assert not list(tmp_path.glob(".tutelage-serve-*"))
    assert "loading the model" in (tmp_path / "logs" / "vllm-small-0.log").read_text()


def test_a_run_uses_the_servers_that_serve_has_launched(tmp_path: Path, start: Start) -> None:
    """They are there before it, and after it; a second `serve` of the config is refused."""
    config = project(tmp_path)
    serving = start("serve", config)
    until(lambda: list(tmp_path.glob(".tutelage-serve-*")))
    run = start("generate", config, "--out", tmp_path / "run")  # it waits until they are ready
    _, err = run.communicate(timeout=100)
    assert run.returncode == 0, err
    assert "servers_found" in events(err) and "servers_starting" not in events(err)
    assert len(running(tmp_path)) == 2
    second = start("serve", config)
    _, refusal = second.communicate(timeout=60)
    assert second.returncode == 2
    assert f"`tutelage serve` already runs for 'r' (process {serving.pid}): end that one first" in refusal
    config.write_text(config.read_text().replace('"grace": 5', '"grace": 6'))
    other = start("generate", config, "--out", tmp_path / "other")
    _, refusal = other.communicate(timeout=60)
    assert other.returncode == 2
    assert "runs this config's servers with other settings" in refusal


def test_serve_that_is_killed_leaves_no_process_and_another_may_begin(tmp_path: Path, start: Start) -> None:
    config = project(tmp_path, replicas=2)
    serving = start("serve", config)
    assert serving.stdout
    serving.stdout.readline()
    serving.kill()
    until(lambda: not running(tmp_path), 15)
    again = start("serve", config)
    assert again.stdout
    assert again.stdout.readline().startswith("small-0\t")


def test_a_second_signal_ends_the_servers_at_once(tmp_path: Path, start: Start) -> None:
    """The first one lets them finish: here a reply that takes minutes."""
    config = project(tmp_path, endpoint={"latency": {"output_token": 1}, "completion_spread": 0}, grace=600)
    # The first request, by which a server shows that it answers, is one token long.
    serving = start("serve", config)
    assert serving.stdout
    url = serving.stdout.readline().split("\t")[1]
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    body = json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 500, "min_tokens": 500}
    )
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.5)
        serving.send_signal(signal.SIGINT)
        time.sleep(1.5)
        assert serving.poll() is None and len(running(tmp_path)) == 2, "it drains"
        serving.send_signal(signal.SIGINT)
        serving.communicate(timeout=20)
    assert serving.returncode == 130
    assert running(tmp_path) == []


def test_a_run_launches_its_own_servers_and_ends_them(tmp_path: Path, start: Start) -> None:
    """Each role is played by its adapter, and transcripts name the adapter's weights."""
    config = project(tmp_path, replicas=2)
    run = start("generate", config, "--out", tmp_path / "run")
    out, err = run.communicate(timeout=100)
    assert run.returncode == 0, err
    assert out.startswith("12 of 12 dialogues completed")
    assert running(tmp_path) == []
    assert len(records(tmp_path)) == 2
    spoken = {
        (turn.role, attempt.call.adapter, attempt.call.adapter_sha256)
        for transcript in transcripts(tmp_path)
        for turn in transcript.turns
        for attempt in turn.attempts
    }
    assert spoken == {("tutor", "a", adapter_sha256(tmp_path / "a")), ("student", "b", adapter_sha256(tmp_path / "b"))}
    assert (tmp_path / "run" / "logs" / "vllm-small-1.log").exists()


def test_a_run_goes_on_while_a_server_is_started_again(tmp_path: Path, start: Start) -> None:
    config = project(tmp_path, endpoint=SLOW, replicas=2, dialogues=16)
    run = start("generate", config, "--out", tmp_path / "run")
    until(lambda: len(transcripts(tmp_path)) >= 2)
    os.kill(records(tmp_path)[0]["pid"], signal.SIGKILL)
    out, err = run.communicate(timeout=110)
    assert run.returncode == 0, err
    assert out.startswith("16 of 16 dialogues completed, in")
    assert "server_ended" in events(err)
    assert running(tmp_path) == []


def test_a_server_that_does_not_start_ends_the_run_with_the_end_of_its_log(tmp_path: Path, start: Start) -> None:
    """And the log is there to be read."""
    config = project(tmp_path, replicas=2, args=["--no-such-flag"])
    run = start("generate", config, "--out", tmp_path / "run")
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (2, "")
    assert "unrecognized arguments: --no-such-flag" in err.split("ends with:")[1]
    assert any("--no-such-flag" in log.read_text() for log in (tmp_path / "run" / "logs").iterdir())


def test_a_run_that_is_killed_leaves_no_process(tmp_path: Path, start: Start) -> None:
    config = project(tmp_path, endpoint=SLOW, replicas=2, dialogues=500)
    run = start("generate", config, "--out", tmp_path / "run")
    until(lambda: transcripts(tmp_path))
    assert len(running(tmp_path)) == 4
    run.kill()
    until(lambda: not running(tmp_path), 15)


def test_a_run_that_is_interrupted_ends_its_servers(tmp_path: Path, start: Start) -> None:
    config = project(tmp_path, endpoint=SLOW, dialogues=500)
    run = start("generate", config, "--out", tmp_path / "run")
    until(lambda: transcripts(tmp_path))
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130
    assert running(tmp_path) == []


def test_a_reload_leaves_servers_alone_whose_config_did_not_change(tmp_path: Path, start: Start) -> None:
    """And replaces those whose config did, without a dialogue lost; also when the change is taken back."""
    config = project(tmp_path, endpoint=SLOW, dialogues=500)
    daemon = start("daemon", config, "--out", tmp_path / "run")
    until(lambda: transcripts(tmp_path))
    config.write_text(config.read_text().replace('"concurrency": 4', '"concurrency": 5'))
    assert start("reload", tmp_path / "run").wait(60) == 0
    assert len(records(tmp_path)) == 1
    config.write_text(config.read_text().replace('"grace": 5', '"grace": 6'))
    assert start("reload", tmp_path / "run").wait(60) == 0
    old, new = records(tmp_path)
    until(lambda: state(old["pid"]) in "ZX" and state(old["engine"]) in "ZX")
    assert state(new["pid"]) not in "ZX"
    made = len(transcripts(tmp_path))
    until(lambda: len(transcripts(tmp_path)) > made + 2)
    config.write_text(config.read_text().replace('"grace": 6', '"grace": 5'))
    assert start("reload", tmp_path / "run").wait(60) == 0
    assert start("reload", tmp_path / "run").wait(60) == 0
    until(lambda: state(new["pid"]) in "ZX")
    assert len(records(tmp_path)) == 3 and len(running(tmp_path)) == 2
    daemon.send_signal(signal.SIGTERM)
    _, err = daemon.communicate(timeout=60)
    assert daemon.returncode == 0, err
    assert running(tmp_path) == []
    assert {transcript.outcome.status for transcript in transcripts(tmp_path)} == {"completed"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            '"adapter": "a"|"adapter": "c"',
            "roles.tutor.adapter: there is no adapter 'c' under `serve.adapters`; there is 'a', 'b'",
        ),
        (
            '"gpus_per_replica": 0|"gpus_per_replica": 2',
            "`serve:` needs 2 GPUs (1 * 2 for models.small), and 0 are free",
        ),
        ('"model": "m"|"model": "m", "python": "./no/python"', "models.small.serve.python: there is no interpreter"),
        ('/b"|/nowhere"', "models.small.serve.adapters.b:"),
    ],
)
def test_what_a_person_can_mend_is_said_before_anything_starts(
    tmp_path: Path, start: Start, change: str, message: str
) -> None:
    config = project(tmp_path)
    before, after = change.split("|")
    assert before in config.read_text()
    config.write_text(config.read_text().replace(before, after, 1))
    run = start("generate", config, "--out", tmp_path / "run")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2, err
    assert message in err
    assert records(tmp_path) == []


def test_serve_needs_a_model_to_launch(tmp_path: Path, start: Start) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        '{"run": "r", "briefs": [{"from": "b.jsonl"}], "models": {"m": {"url": "http://x/v1", "model": "m"}}}'
    )
    serving = start("serve", config)
    _, err = serving.communicate(timeout=60)
    assert (serving.returncode, "no model has a `serve:`" in err) == (2, True)
