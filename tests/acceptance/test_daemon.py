"""`tutelage daemon`, as a process of its own with real signals: it goes on, is told what to do, and loses nothing."""

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tutelage import Transcript, read_transcripts
from tutelage.generation.control_socket import connected_socket
from tutelage.testing import Fault, Latency, SimulatedEndpoint

pytestmark = pytest.mark.timeout(300)

COMMAND = (sys.executable, "-P", "-c", "import sys; from tutelage.cli import main; main()")
LONG = 100.0
"""Seconds that a busy machine may take for anything here."""


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", accept_rate=0.8) as endpoint:
        yield endpoint


def brief_line(name: str) -> str:
    return json.dumps({"id": name, "topic": "Sums", "question": f"What is {name}?", "answer": "none"}) + "\n"


class Running:
    """A daemon's process, and what can be asked of it."""

    def __init__(self, config: Path, **options: Any) -> None:
        self.folder = config.parent / "run"
        self.log = config.parent / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "daemon", str(config), "--out", str(self.folder)],
                stdout=subprocess.DEVNULL,
                stderr=log,
                **options,
            )

    @property
    def err(self) -> str:
        return self.log.read_text()

    def events(self) -> list[str]:
        return [json.loads(line).get("event", "") for line in self.err.splitlines() if line.startswith("{")]

    def ask(self, path: str, method: str = "GET") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = connected_socket(self.folder, LONG)
        with closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        return response.status, body.decode() if path == "/metrics" else json.loads(body)

    def status(self) -> dict[str, Any]:
        code, status = self.ask("/status")
        assert code == 200
        return dict(status)

    def until(self, holds: Callable[[dict[str, Any]], object], seconds: float = LONG) -> dict[str, Any]:
        """Waits until its status is so, and returns it."""
        deadline, status = time.monotonic() + seconds, {}
        while True:
            assert self.process.poll() is None, f"it has ended: {self.err}"
            with suppress(OSError, http.client.HTTPException):
                if holds(status := self.status()):
                    return status
            assert time.monotonic() < deadline, f"{status}\n{self.err}"
            time.sleep(0.05)

    def until_done(self, count: int) -> dict[str, Any]:
        return self.until(lambda status: status["progress"]["done"] >= count)

    def until_idle(self, done: int) -> dict[str, Any]:
        return self.until(lambda status: status["progress"]["done"] == done and status["state"] == "idle")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = LONG) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        """Has it drain."""
        self.send(signal.SIGTERM)
        assert self.wait() == 0, self.err
        assert "Traceback" not in self.err
        assert '"level":"error"' not in self.err


class Project:
    """A config with its briefs, and the daemons that were started with it."""

    def __init__(self, folder: Path, endpoint: SimulatedEndpoint | str) -> None:
        self.path = folder
        self.config = folder / "config.yaml"
        self.run = folder / "run"
        self.keys: dict[str, Any] = {}
        self.started: list[Running] = []
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        self.write(
            run="r",
            models={"m": {"url": url, "model": "m"}},
            briefs=[{"from": "briefs*.jsonl"}],
            limits={"messages": 4},
            concurrency=4,
            watermarks={"memory": 1, "disk": 0},
            daemon={"poll": 0.3},
        )

    def write(self, **keys: Any) -> None:
        self.keys |= keys
        self.config.write_text(json.dumps(self.keys))

    def briefs(self, count: int) -> "Project":
        (self.path / "briefs.jsonl").write_text("".join(brief_line(f"b{n}") for n in range(count)))
        return self

    def daemon(self, **options: Any) -> Running:
        self.started.append(Running(self.config, **options))
        return self.started[-1]

    def command(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, name, str(self.run), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)

    def transcripts(self) -> list[Transcript]:
        def refuse(what: str) -> None:
            raise AssertionError(what)

        return list(read_transcripts(self.run, on_skip=refuse))

    def lines(self) -> int:
        return sum(len(path.read_bytes().splitlines()) for path in (self.run / "transcripts").glob("*.jsonl"))

    def under_way(self) -> set[str]:
        """The dialogues that have a checkpoint."""
        with closing(sqlite3.connect(self.run / "checkpoints.db")) as database:
            return {thread for (thread,) in database.execute("SELECT DISTINCT thread FROM checkpoints")}

    def assert_all_done_once(self, count: int) -> None:
        done = self.transcripts()
        assert sorted(each.brief.id for each in done) == sorted(f"b{n}" for n in range(count))
        assert all(each.outcome.status == "completed" for each in done)
        assert self.lines() == count


@pytest.fixture
def project(tmp_path: Path, endpoint: SimulatedEndpoint) -> Iterator[Project]:
    project = Project(tmp_path, endpoint)
    yield project
    for each in project.started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def answered_twice(endpoint: SimulatedEndpoint) -> list[int]:
    counts = Counter(answer["seed"] for answer in endpoint.answers())
    return [seed for seed, count in counts.items() if count > 1]


def test_it_goes_on_with_new_briefs_and_ends_by_itself_when_a_target_is_met(project: Project) -> None:
    daemon = project.briefs(2).daemon()
    daemon.until_idle(2)
    assert daemon.ask("/readyz") == (200, {"ok": True})
    with (project.path / "briefs.jsonl").open("a") as file:
        file.write(brief_line("b2"))
    (project.path / "briefs-more.jsonl").write_text(brief_line("b3"))
    daemon.until_idle(4)
    project.assert_all_done_once(4)
    project.write(target={"dialogues": 6})
    daemon.send(signal.SIGHUP)
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.err
    assert len(project.transcripts()) == project.lines() == 6


def test_drained_in_mid_dialogue_it_goes_on_there_and_asks_for_nothing_twice(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.4))
    daemon = project.briefs(6).daemon()
    daemon.until(lambda _: len(endpoint.answers()) > 12)
    daemon.send(signal.SIGTERM)
    said = set()
    while daemon.process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            said.add((daemon.ask("/readyz")[0], daemon.status()["state"], daemon.ask("/livez")[0]))
    assert daemon.wait() == 0, daemon.err
    assert (503, "draining", 200) in said
    assert "Traceback" not in daemon.err
    assert not (project.run / "control.sock").exists()
    parked = project.under_way()
    assert parked
    assert parked.isdisjoint(each.id for each in project.transcripts())
    endpoint.configure(latency=Latency(first_token=0.02))
    again = project.daemon()
    again.until_idle(6)
    again.end()
    assert answered_twice(endpoint) == []
    project.assert_all_done_once(6)
    assert not project.under_way()


def test_what_fails_for_good_right_after_it_was_taken_up_again_keeps_what_was_said_before(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.2), accept_rate=0.2)
    project.write(limits={"messages": 8, "revisions": 4})
    daemon = project.briefs(4).daemon()
    daemon.until(lambda _: len(endpoint.answers()) > 40)
    daemon.end()
    parked = project.under_way()
    endpoint.inject(Fault(kind="schema", times=len(parked)))
    again = project.daemon()
    status = again.until(lambda status: status["state"] == "idle")
    assert status["set_aside"] >= 1
    again.end()
    assert "Blocked" not in again.err
    failed = [each for each in project.transcripts() if each.outcome.status == "failed"]
    assert {each.outcome.reason for each in failed} == {"schema_refused"}
    assert {each.id for each in failed} <= parked
    assert all(each.turns or each.unfinished for each in failed)
    assert any(each.unfinished and each.unfinished.attempts for each in failed)


def test_what_takes_longer_than_the_grace_is_cut_short_and_made_again(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    project.write(daemon={"poll": 0.3, "grace": 0.3})
    endpoint.configure(latency=Latency(first_token=0.05))
    daemon = project.briefs(5).daemon()
    daemon.until_done(1)
    endpoint.configure(latency=Latency(first_token=30))
    time.sleep(1)
    daemon.send(signal.SIGTERM)
    assert daemon.wait(25) == 0, daemon.err  # less than the calls would have taken
    assert "drain_cut_short" in daemon.events()
    assert "Traceback" not in daemon.err
    endpoint.configure(latency=Latency())
    again = project.daemon()
    again.until_idle(5)
    again.end()
    requests = endpoint.requests()
    asked = Counter(request["body"]["seed"] for request in requests)
    cut = {request["body"]["seed"] for request in requests if request["outcome"] == "disconnected"}
    assert {seed for seed, count in asked.items() if count > 1} <= cut
    assert cut
    project.assert_all_done_once(5)


def test_a_second_signal_ends_it_at_once_and_loses_nothing(project: Project, endpoint: SimulatedEndpoint) -> None:
    endpoint.configure(latency=Latency(first_token=0.05))
    daemon = project.briefs(5).daemon()
    daemon.until_done(1)
    endpoint.configure(latency=Latency(first_token=30))
    time.sleep(1)
    daemon.send(signal.SIGTERM)
    daemon.until(lambda status: status["state"] == "draining")
    daemon.send(signal.SIGINT)
    assert daemon.wait(20) == 130
    assert "Traceback" not in daemon.err
    endpoint.configure(latency=Latency())
    again = project.daemon()
    again.until_idle(5)
    again.end()
    assert answered_twice(endpoint) == []
    project.assert_all_done_once(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it_too(tmp_path: Path, number: signal.Signals) -> None:
    """Its endpoint takes connections and says nothing. In the background of a shell SIGINT is ignored at first."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        project = Project(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/v1").briefs(1)
        daemon = project.daemon(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        daemon.until(lambda status: status["state"] == "starting")
        assert daemon.ask("/readyz")[0] == 503
        assert daemon.ask("/reload", "POST")[0] == 409
        daemon.send(number)
        assert daemon.wait(20) == 0, daemon.err
    assert "Traceback" not in daemon.err
    assert "daemon_drained" in daemon.events()
    assert not project.run.exists()


def test_a_reload_is_taken_up_by_the_dialogues_that_are_under_way(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    project.write(limits={"messages": 60}, concurrency=2)
    daemon = project.briefs(4).daemon()
    daemon.until(lambda _: len(endpoint.answers()) > 12)
    under_way = project.under_way()
    project.write(
        limits={"messages": 8}, concurrency=3, roles={"tutor": {"temperature": 0.123}, "student": {"temperature": 0.5}}
    )
    before = len(endpoint.requests())
    daemon.send(signal.SIGHUP)
    status = daemon.until(lambda status: status["reload"])
    assert set(status["reload"]["changed"]) == {"limits", "concurrency", "roles"}
    assert status["progress"]["at_once"] == 3
    daemon.until_idle(4)
    earlier, later = (
        {request["body"]["temperature"] for request in requests}
        for requests in (endpoint.requests()[:before], endpoint.requests()[before + 6 :])  # some were in flight
    )
    assert {0.123, 0.5} <= later - earlier
    assert 0.123 not in earlier
    told = {each.id: len(each.turns) for each in project.transcripts()}
    assert len(under_way) == 2
    assert all(told[id_] < 60 for id_ in under_way)
    daemon.end()
    assert answered_twice(endpoint) == []
    project.assert_all_done_once(4)


def test_a_reload_that_cannot_be_is_refused_and_everything_goes_on(project: Project) -> None:
    daemon = project.briefs(2).daemon()
    daemon.until_idle(2)
    project.write(seed=1, concurrency=7)
    refused = project.command("reload")
    assert refused.returncode == 2
    assert "seed" in refused.stderr
    assert "Traceback" not in refused.stderr
    project.config.write_text("run: [")
    assert project.command("reload").returncode == 2
    status = daemon.status()
    assert status["reload"]["refused"]
    assert status["progress"]["at_once"] == 4
    del project.keys["seed"]
    project.write(models={"m": {"url": "http://127.0.0.1:9/v1", "model": "m"}})
    assert "models.m" in project.command("reload").stderr
    project.write(models={"m": {"url": status["endpoints"][0]["url"], "model": "m"}})
    project.briefs(3)
    done = project.command("reload")
    assert (done.returncode, done.stdout.strip()) == (0, "changed: concurrency")
    daemon.until_idle(3)
    daemon.end()


def test_a_brief_that_a_prompt_does_not_render_for_fails_alone(project: Project) -> None:
    """Dropped into a daemon, at its next start, and when the prompt has been mended and the dialogue is retried."""
    prompt = project.path / "prompts" / "tutor.md"
    prompt.parent.mkdir()
    prompt.write_text("You teach {{ brief.question.upper() }}\n")
    daemon = project.briefs(2).daemon()
    daemon.until_idle(2)
    (project.path / "briefs-more.jsonl").write_text(json.dumps({"id": "no question", "topic": "Sums"}) + "\n")
    status = daemon.until(lambda status: status["set_aside"] == 1)
    assert status["outcomes"]["failed"] == {"error:PromptError": 1}
    daemon.end()
    daemon = project.daemon()
    daemon.until_idle(2)
    prompt.write_text("You teach {{ brief.topic }}\n")
    assert project.command("reload").returncode == 0
    assert project.command("retry").stdout == "1 dialogue is made again\n"
    daemon.until_idle(3)
    daemon.end()


def test_briefs_that_are_gone_keep_no_reload_from_being_taken_up(project: Project) -> None:
    daemon = project.briefs(2).daemon()
    daemon.until_idle(2)
    project.briefs(1)
    daemon.until(lambda _: "briefs_gone" in daemon.events())
    project.write(limits={"messages": 6})
    reloaded = project.command("reload")
    assert (reloaded.returncode, reloaded.stdout) == (0, "changed: limits\n"), reloaded.stderr
    daemon.end()


def test_a_reload_moves_what_is_under_way_to_another_endpoint_even_while_paused(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    project.write(limits={"messages": 12})
    daemon = project.briefs(6).daemon()
    daemon.until(lambda _: len(endpoint.answers()) > 12)
    assert project.command("pause").stdout.strip() == "paused"
    with SimulatedEndpoint(model="m", accept_rate=0.8) as other:
        project.write(models={"m": {"url": other.url, "model": "m"}})
        assert project.command("reload").stdout.strip() == "changed: models"
        status = daemon.until(lambda status: status["progress"]["under_way"] == 0 and status["progress"]["done"] == 4)
        assert status["state"] == "paused"
        assert [each["url"] for each in status["endpoints"]] == [other.url]
        assert other.answers()
        endpoint.kill()
        assert project.command("resume").returncode == 0
        daemon.until_idle(6)
        daemon.end()
    project.assert_all_done_once(6)


def test_a_paused_run_whose_target_is_met_ends(project: Project, endpoint: SimulatedEndpoint) -> None:
    endpoint.configure(latency=Latency(first_token=0.2))
    project.write(target={"dialogues": 3})
    daemon = project.briefs(3).daemon()
    daemon.until(lambda status: status["progress"]["under_way"] == 3)
    project.command("pause")
    assert daemon.wait() == 0
    project.assert_all_done_once(3)


@contextmanager
def counting_listener(url: str) -> Iterator[list[float]]:
    """Takes an endpoint's place: it hangs up on whoever connects, and notes when that was."""
    port, connections = int(url.split(":")[2].split("/")[0]), list[float]()
    with socket.create_server(("127.0.0.1", port)) as server:
        server.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    server.accept()[0].close()
                    connections.append(time.monotonic())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield connections
        finally:
            over.set()
            thread.join()


def test_endpoints_that_are_gone_for_a_while_are_waited_for(project: Project, endpoint: SimulatedEndpoint) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    daemon = project.briefs(8).daemon()
    daemon.until_done(1)
    url = endpoint.url
    endpoint.kill()
    with counting_listener(url) as connections:
        status = daemon.until(lambda status: status["state"] == "waiting")
        assert "m" in status["reason"]
        since = len(connections)
        time.sleep(12)
        assert daemon.ask("/livez")[0] == 200
        code, said = daemon.ask("/readyz")
        assert (code, said["ok"]) == (503, False)
        assert "no endpoint of m answers" in said["reason"]
        assert len(connections) - since < 30  # probes, and looks at the endpoint's metrics
        assert re.search(r"m http://\S+ down for 1\d s ", project.command("status").stdout)
    endpoint.start()
    back = time.monotonic()
    daemon.until(lambda status: status["state"] == "running", 30)
    daemon.until_idle(8)
    assert time.monotonic() - back < 60
    assert daemon.process.poll() is None
    daemon.end()
    project.assert_all_done_once(8)


def test_drained_while_its_endpoints_are_gone_it_does_not_wait_for_them(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    daemon = project.briefs(6).daemon()
    daemon.until_done(1)
    endpoint.kill()
    daemon.until(lambda status: status["state"] == "waiting" and status["waiting_calls"])
    daemon.send(signal.SIGTERM)
    assert daemon.wait(30) == 0, daemon.err  # the grace is 60 s
    endpoint.start()
    again = project.daemon()
    again.until_idle(6)
    again.end()
    project.assert_all_done_once(6)


def test_what_waits_for_endpoints_that_are_gone_moves_on_to_others_by_a_reload(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    daemon = project.briefs(6).daemon()
    daemon.until_done(1)
    endpoint.kill()
    daemon.until(lambda status: status["state"] == "waiting" and status["waiting_calls"])
    with SimulatedEndpoint(model="m", accept_rate=0.8) as other:
        project.write(models={"m": {"url": other.url, "model": "m"}})
        assert project.command("reload").returncode == 0
        daemon.until_idle(6)
        daemon.end()
    project.assert_all_done_once(6)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB where the run folder will be."""
    folder = tmp_path / "run"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_full_for_a_while_loses_and_doubles_nothing(
    small_disk: Path, project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    daemon = project.briefs(8).daemon()
    daemon.until_done(1)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    status = daemon.until(lambda status: status["state"] == "waiting")
    assert "the run folder cannot be written" in status["reason"]
    assert daemon.ask("/livez")[0] == 200
    assert daemon.ask("/readyz")[0] == 503
    time.sleep(4)
    assert daemon.status()["state"] == "waiting"
    ballast.unlink()
    daemon.until_idle(8)
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    assert answered_twice(endpoint) == []
    project.assert_all_done_once(8)


def test_a_watermark_holds_new_dialogues_back_until_it_is_lowered(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    project.write(watermarks={"memory": 1, "disk": 1_000_000})
    daemon = project.briefs(2).daemon()
    daemon.until(lambda status: status["state"] == "held" and status["reason"] == "disk")
    time.sleep(2)
    assert endpoint.requests() == []
    assert "nothing new begins" in project.command("status").stdout
    project.write(watermarks={"memory": 1, "disk": 0})
    assert project.command("reload").stdout.strip() == "changed: watermarks"
    daemon.until_idle(2)
    daemon.end()


def cpu_seconds(process: "subprocess.Popen[Any]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def held_with_dialogues_due(project: Project, endpoint: SimulatedEndpoint) -> Running:
    """A daemon with four dialogues that are to be tried again at once, and that a watermark holds back."""
    endpoint.configure(latency=Latency(first_token=1.5))  # a watermark is looked at every two seconds
    endpoint.inject(Fault(kind="wrong_shape", requests="shaped"))
    daemon = project.briefs(4).daemon()
    daemon.until(lambda status: status["progress"]["under_way"] == 4)
    project.write(watermarks={"memory": 1, "disk": 1_000_000})
    project.command("reload")
    daemon.until(lambda status: status["state"] == "held" and status["progress"]["under_way"] == 0)
    return daemon


def assert_it_does_not_spin(daemon: Running) -> None:
    before, since = cpu_seconds(daemon.process), time.monotonic()
    time.sleep(4)
    assert cpu_seconds(daemon.process) - before < (time.monotonic() - since) / 4


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time is read from /proc")
def test_held_back_with_a_dialogue_to_be_tried_again_it_does_not_spin(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    daemon = held_with_dialogues_due(project, endpoint)
    assert_it_does_not_spin(daemon)
    assert daemon.status()["set_aside"] == 0
    endpoint.clear_faults()
    endpoint.configure(latency=Latency())
    project.write(watermarks={"memory": 1, "disk": 0})
    project.command("reload")
    daemon.until_idle(4)
    daemon.end()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="CPU time is read from /proc")
def test_refused_with_a_dialogue_to_be_tried_again_it_does_not_spin(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    daemon = held_with_dialogues_due(project, endpoint)
    endpoint.clear_faults()
    endpoint.inject(Fault(kind="status", status=401))
    project.write(watermarks={"memory": 1, "disk": 0}, concurrency=1)
    project.command("reload")
    daemon.until(lambda status: status["state"] == "waiting")
    assert_it_does_not_spin(daemon)
    endpoint.clear_faults()
    endpoint.configure(latency=Latency())
    project.command("reload")
    daemon.until_idle(4)  # what refused it is logged as an error


def test_with_a_target_and_no_brief_left_it_waits_for_some(project: Project) -> None:
    daemon = project.briefs(1).daemon()
    daemon.until_idle(1)
    daemon.end()
    (project.path / "briefs.jsonl").unlink()
    project.write(target={"dialogues": 4})
    daemon = project.daemon()
    daemon.until(lambda status: status["state"] == "idle")
    project.briefs(2)
    assert daemon.wait() == 0
    assert len(project.transcripts()) == project.lines() == 4


def test_a_ledger_that_another_process_locks_is_waited_for(project: Project, endpoint: SimulatedEndpoint) -> None:
    endpoint.configure(latency=Latency(first_token=0.05))
    daemon = project.briefs(8).daemon()
    daemon.until_done(1)
    with closing(sqlite3.connect(project.run / "ledger.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(8)
        done = daemon.status()["progress"]["done"]
        assert done < 8
        other.execute("ROLLBACK")
    daemon.until_idle(8)
    daemon.end()
    assert answered_twice(endpoint) == []
    project.assert_all_done_once(8)


@pytest.mark.parametrize("runs", [True, False])
def test_what_was_set_aside_is_made_again_when_asked(project: Project, endpoint: SimulatedEndpoint, runs: bool) -> None:
    """By the daemon that runs, or by the next one."""
    endpoint.inject(Fault(kind="context", times=1))
    daemon = project.briefs(3).daemon()
    status = daemon.until(lambda status: status["set_aside"] and status["state"] == "idle")
    assert status["outcomes"]["failed"] == {"context_exceeded": 1}
    (aside,) = status["set_aside_first"]
    assert aside["id"] in project.command("status").stdout
    if not runs:
        daemon.end()
    listed = project.command("retry", "--list").stdout
    assert aside["id"] in listed
    assert "context_exceeded" in listed
    retried = project.command("retry")
    assert (retried.returncode, retried.stdout[:2]) == (0, "1 "), retried.stderr
    if not runs:
        daemon = project.daemon()
    status = daemon.until_idle(3)
    assert status["set_aside"] == 0
    assert project.command("retry", "--list").stdout.strip() == "nothing is set aside"
    daemon.end()
    assert project.lines() == 4
    (again,) = (each for each in project.transcripts() if each.id == aside["id"])
    assert (again.attempt, again.outcome.status) == (2, "completed")
    assert {status: sum(reasons.values()) for status, reasons in status["outcomes"].items()} == {"completed": 3}
    counted = json.loads(project.command("stats", "--json").stdout)
    assert [(each["status"], each["dialogues"]) for each in counted["endings"]] == [("completed", 3)]


def test_a_second_daemon_on_the_same_folder_is_refused_and_disturbs_nothing(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    first = project.briefs(6).daemon()
    first.until_done(1)
    second = project.daemon()
    assert second.wait(40) == 2
    assert "in use by another process" in second.err
    assert "Traceback" not in second.err
    first.until_idle(6)
    first.end()
    project.assert_all_done_once(6)


def test_killed_outright_it_leaves_nothing_that_keeps_the_next_from_starting(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.1))
    first = project.briefs(6).daemon()
    first.until_done(1)
    first.process.kill()
    first.wait()
    assert (project.run / "control.sock").exists()
    asked = project.command("status")
    assert asked.returncode == 2
    assert "no daemon runs" in asked.stderr
    second = project.daemon()
    second.until_idle(6)
    second.end()
    assert len(answered_twice(endpoint)) <= 8  # of four dialogues under way, with two reviewers each
    project.assert_all_done_once(6)


def test_systemd_is_told(project: Project, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "n"))
        systemd.settimeout(LONG)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "2000000"}
        daemon = project.briefs(2).daemon(env=environment)

        def hear(until: str) -> list[str]:
            heard: list[str] = []
            while not any(line.startswith(until) for line in heard):
                heard += systemd.recv(4096).decode().splitlines()
            return heard

        before = hear("READY=1")
        assert any(line.startswith("STATUS=starting") for line in before)
        daemon.until_idle(2)
        hear("WATCHDOG=1")
        hear("STATUS=idle: 2 done")
        project.write(concurrency=5)
        daemon.send(signal.SIGHUP)
        hear("RELOADING=1")
        hear("READY=1")
        daemon.send(signal.SIGTERM)
        hear("STOPPING=1")
        assert daemon.wait() == 0


def test_its_queue_is_what_is_owed_and_not_under_way(project: Project, endpoint: SimulatedEndpoint) -> None:
    def numbers() -> tuple[float, float, float]:
        values = {
            family.name: family.samples[0].value
            for family in text_string_to_metric_families(daemon.ask("/metrics")[1])
            if family.samples
        }
        names = ("tutelage_completed_dialogues", "tutelage_under_way_dialogues", "tutelage_queue_dialogues")
        return values[names[0]], values[names[1]], values[names[2]]

    daemon = project.briefs(3).daemon()
    daemon.until_idle(3)
    assert numbers() == (3, 0, 0)
    project.write(concurrency=2)
    assert project.command("reload").returncode == 0
    endpoint.configure(latency=Latency(first_token=60))
    project.briefs(8)
    daemon.until(lambda status: status["progress"]["under_way"] == 2)
    assert numbers() == (3, 2, 3)
    project.write(target={"dialogues": 6})
    assert project.command("reload").returncode == 0
    assert numbers() == (3, 2, 1)
    daemon.process.kill()


def test_metrics_over_tcp_parse_and_rise_and_tell_no_texts_and_no_keys(
    project: Project, endpoint: SimulatedEndpoint
) -> None:
    key, token = "sk-very-secret-1234567890", "tok-very-secret-0987654321"
    project.write(
        models={"m": {"url": endpoint.url, "model": "m", "api_key": "${MODEL_KEY}"}},
        daemon={"poll": 0.3, "listen": "127.0.0.1:0", "token": "${CONTROL_TOKEN}"},
    )
    daemon = project.briefs(3).daemon(env={**os.environ, "MODEL_KEY": key, "CONTROL_TOKEN": token})
    daemon.until_idle(3)
    found = re.search(r"http://127\.0\.0\.1:(\d+)", next(x for x in daemon.err.splitlines() if "control_started" in x))
    assert found

    def get(path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=LONG)
        with closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def count() -> tuple[float, float]:
        code, text = get("/metrics", Authorization=f"Bearer {token}")
        assert code == 200
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        dialogues = sum(each.value for each in samples if each.name == "tutelage_dialogues_total")
        return dialogues, sum(each.value for each in samples if each.name == "tutelage_turns_total")

    assert get("/livez")[0] == get("/readyz")[0] == 200
    assert get("/metrics")[0] == 401
    dialogues, turns = count()
    assert dialogues == 3
    assert turns >= 3
    with (project.path / "briefs.jsonl").open("a") as file:
        file.write(brief_line("b3"))
    daemon.until_idle(4)
    assert count()[0] == 4
    assert count()[1] > turns
    said = "".join([daemon.ask("/metrics")[1], json.dumps(daemon.status()), project.command("status").stdout])
    daemon.end()
    said += daemon.err
    texts = {attempt.text for each in project.transcripts() for turn in each.turns for attempt in turn.attempts}
    assert len(texts) > 4
    assert not any(text in said for text in [*texts, key, token, "What is b0?"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"concurrenci": 3}, 2),
        ({"roles": {"nobody": {}}}, 2),
        ({"daemon": {"listen": "0.0.0.0:0"}}, 2),
        ({"models": {"m": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}, 3),
        ({"models": {"m": {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key": "${NOT_THERE}"}}}, 2),
    ],
)
def test_what_is_wrong_at_the_start_is_said_once_and_leaves_nothing_behind(
    project: Project, change: dict[str, Any], code: int
) -> None:
    project.briefs(1).write(**change)
    daemon = project.daemon()
    assert daemon.wait(60) == code, daemon.err
    assert "Traceback" not in daemon.err
    assert len([line for line in daemon.err.splitlines() if line.startswith("tutelage: ")]) == 1
    assert not project.run.exists()


def test_a_key_that_is_refused_in_mid_run_is_waited_for(project: Project, endpoint: SimulatedEndpoint) -> None:
    """Few requests come meanwhile, and a reload has it tried at once."""
    endpoint.configure(latency=Latency(first_token=0.1))
    daemon = project.briefs(6).daemon()
    daemon.until(lambda _: len(endpoint.answers()) > 8)
    endpoint.inject(Fault(kind="status", status=401))
    status = daemon.until(lambda status: status["state"] == "waiting")
    assert "401" in status["reason"]
    asked = len(endpoint.requests())
    time.sleep(2)
    assert len(endpoint.requests()) - asked <= 8  # those that were in flight
    assert daemon.process.poll() is None
    endpoint.clear_faults()
    daemon.send(signal.SIGHUP)
    daemon.until_idle(6)
    assert all(transcript.outcome.status == "completed" for transcript in project.transcripts())
