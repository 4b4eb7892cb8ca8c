"""What a user gets wrong: a clear message, the right exit code, and nothing half-written."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tutelage.cli import run_command
from tutelage.testing import SimulatedEndpoint

BRIEF = {"id": "a", "topic": "Fractions", "question": "1/2 + 1/3?", "answer": "5/6"}
GRAPH = """
from langgraph.graph import START, StateGraph
from tutelage import Agent, Cast, Dialogue, speak

def talk():
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("guide", speak(Agent(role="guide")))
    graph.add_edge(START, "guide")
    return graph

def nothing():
    return 3

def broken():
    graph = talk()
    graph.add_edge("guide", "nobody")
    return graph
"""


def project(folder: Path, url: str = "http://127.0.0.1:9/v1", **config: object) -> Path:
    """A project of one brief; the config's keys may be given otherwise."""
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n")
    everything = {
        "run": "r",
        "models": {"m": {"url": url, "model": "simulated"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 2},
        **config,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(everything))
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """What a command that must fail says on stderr."""
    assert run_command([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


def test_an_unknown_role(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "generate", project(tmp_path, roles={"tutr": {}}))
    assert "roles.tutr: the graph 'lesson' has no such role; it has tutor, critic, fact_checker, student" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("lessen", "there is no graph 'lessen': registered are debate, lesson"),
        ("graphs/none.py:talk", "no file"),
        ("graphs/mine.py:tlk", "mine.py has no function 'tlk'; it has talk, nothing, broken"),
        ("graphs/mine.py:nothing", "'nothing' is no graph: the function must return an uncompiled StateGraph, not int"),
        ("graphs/mine.py:broken", "the graph 'broken' does not compile: .*nobody"),
        (
            "graphs/bad.py:talk",
            "the graph 'graphs/bad.py:talk' does not import: ModuleNotFoundError: No module named 'nowhere'",
        ),
    ],
)
def test_a_graph_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], graph: str, message: str) -> None:
    import re

    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "mine.py").write_text(GRAPH)
    (tmp_path / "graphs" / "bad.py").write_text("import nowhere\n")
    said = refused(capsys, "generate", project(tmp_path, graph=graph))
    assert re.search(message, said), said


def test_a_prompt_with_an_undefined_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "tutor.md").write_text("Teach {{ brief.topic }}.{% if false %}{{ mood }}{% endif %}")
    said = refused(capsys, "generate", project(tmp_path))
    assert "prompt 'tutor'" in said
    assert "uses 'mood', which it is not given" in said


def test_a_prompt_that_asks_for_what_its_role_may_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "student.md").write_text("The answer is {{ brief.answer[0] }}.")
    said = refused(capsys, "generate", project(tmp_path))
    assert "prompt 'student'" in said
    assert "`sees`" in said


def test_a_graph_whose_prompt_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "graphs").mkdir()
    (tmp_path / "graphs" / "mine.py").write_text(GRAPH)
    said = refused(capsys, "generate", project(tmp_path, graph="graphs/mine.py:talk"))
    assert "there is no prompt 'guide': looked for guide.md" in said


def test_a_brief_without_what_the_graph_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = project(tmp_path)
    (tmp_path / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n" + '{"id": "b", "answer": "3"}\n')
    said = refused(capsys, "generate", config)
    assert "briefs.jsonl, line 2" in said
    assert "topic or question" in said


def test_a_broken_line_of_briefs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = project(tmp_path)
    (tmp_path / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n\n{broken\n")
    assert "briefs.jsonl, line 3" in refused(capsys, "generate", config)


def test_an_endpoint_that_does_not_answer_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "generate", project(tmp_path), code=3)
    assert "models.m: " in said
    assert "127.0.0.1:9" in said
    assert not (tmp_path / "runs" / "r").exists()


def test_a_model_that_the_endpoint_does_not_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatedEndpoint(model="other") as endpoint:
        said = refused(capsys, "generate", project(tmp_path, endpoint.url))
    assert "models.m: " in said
    assert "does not serve 'simulated', but 'other'" in said


def test_an_adapter_that_the_endpoint_does_not_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatedEndpoint(model="simulated") as endpoint:
        said = refused(capsys, "generate", project(tmp_path, endpoint.url, roles={"student": {"adapter": "v2"}}))
    assert "does not serve 'v2'" in said


def test_a_wrong_key_is_said_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong-and-secret")
    with SimulatedEndpoint(model="simulated", api_key="right") as endpoint:
        models = {"m": {"url": endpoint.url, "model": "simulated", "api_key": "${MY_KEY}"}}
        said = refused(capsys, "generate", project(tmp_path, models=models))
    assert "key" in said
    assert "sk-wrong-and-secret" not in said


def echo(how: str, key: str) -> tuple[int, str, str, str | None]:
    """Status, kind, body and redirect of an answer that repeats a key."""
    if how == "html":
        return 200, "text/html", f"<html><title>Bearer {key}</title></html>", None
    if how == "json":
        return 401, "application/json", json.dumps({"error": {"message": f"not {key}"}}), None
    if how == "redirect":
        return 302, "text/plain", "", f"http://elsewhere/login?key={key}&quoted={quote(key, safe='')}"
    if how == "models":
        return 200, "application/json", json.dumps({"data": [{"id": key}]}), None
    return 500, "text/plain", f"who is {key}?", None


class Echo(BaseHTTPRequestHandler):
    """Answers whatever it is asked with the key that it was sent."""

    how = "html"

    def do_GET(self) -> None:
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        status, kind, body, location = echo(self.how, key)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if location:
            self.send_header("Location", location)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echoing(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server of no model, which repeats keys in one of the ways of `echo`."""
    handler = type("EchoOneWay", (Echo,), {"how": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("echoing", "code", "message"),
    [
        ("html", 3, "a reply that is not JSON"),
        ("json", 2, "The API key was refused"),
        ("redirect", 2, "a redirect to 'http://elsewhere/login?key=***&quoted=***', which is not followed"),
        ("models", 2, "does not serve 'simulated', but '***'"),
        ("failure", 3, "HTTP 500: who is ***?"),
    ],
    indirect=["echoing"],
)
def test_what_is_no_model_is_named_and_the_key_that_it_repeats_is_not(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    echoing: str,
    code: int,
    message: str,
) -> None:
    key = "sk-very/secret+and=odd"
    monkeypatch.setenv("MY_KEY", key)
    models = {"m": {"url": echoing, "model": "simulated", "api_key": "${MY_KEY}"}}
    said = refused(capsys, "generate", project(tmp_path, models=models), code=code)
    assert "models.m: " in said
    assert echoing in said
    assert message in said
    assert key not in said
    assert quote(key, safe="") not in said


def test_a_run_folder_of_another_config_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SimulatedEndpoint(model="simulated") as endpoint:
        config = project(tmp_path, endpoint.url)
        assert run_command(["generate", str(config)]) == 0
        before = (Path("runs/r/transcripts/00000.jsonl")).read_bytes()
        capsys.readouterr()
        said = refused(capsys, "generate", project(tmp_path, endpoint.url, seed=8))
    assert "`seed` is 0, here it is 8" in said
    assert (Path("runs/r/transcripts/00000.jsonl")).read_bytes() == before


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("x")
    with SimulatedEndpoint(model="simulated") as endpoint:
        said = refused(capsys, "generate", project(tmp_path, endpoint.url), "--out", tmp_path / "precious")
    assert "is not empty and no run folder" in said
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["thesis.tex"]


def test_a_run_folder_that_another_process_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fcntl

    (tmp_path / "held").mkdir()
    with SimulatedEndpoint(model="simulated") as endpoint, (tmp_path / "held" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = refused(capsys, "generate", project(tmp_path, endpoint.url), "--out", tmp_path / "held")
    assert "in use by another process" in said


def test_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["generate"]) == 2
    assert run_command(["generat", "x.yaml"]) == 2
    assert run_command(["export", "r", "--format", "xml", "--out", "x"]) == 2


def test_a_run_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show", "nope"], ["stats", "nope"], ["export", "nope", "--format", "sft", "--out", "x"]):
        assert "there is no run 'nope'" in refused(capsys, *arguments)
