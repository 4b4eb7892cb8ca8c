"""Every example runs as its docstring says: as a file, by a user, in a process of its own."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tutelage import generate, read_transcripts
from tutelage.config import load_config
from tutelage.testing import SimulatedEndpoint

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command: object, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *map(str, command)],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert f"examples/{path.stem}" in (ast.get_docstring(ast.parse(text)) or "")


def test_a_graph_of_one_s_own_takes_under_40_lines() -> None:
    assert len((EXAMPLES / "own_graph.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_config_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGE_URL", "http://gpu-1:8000/v1")
    monkeypatch.setenv("SMALL_URL", "http://gpu-2:8000/v1")
    assert load_config(path).run


def test_own_servers(tmp_path: Path) -> None:
    with (
        SimulatedEndpoint(model="Qwen/Qwen3-32B") as large,
        SimulatedEndpoint(model="Qwen/Qwen3-4B", adapters=("v2",)) as small,
    ):
        said = run(EXAMPLES / "own_servers.py", large.url, "Qwen/Qwen3-32B")
        assert said.startswith("tutor: ")
        env = {"LARGE_URL": large.url, "SMALL_URL": small.url, "TUTELAGE_TARGET__DIALOGUES": "3"}
        cli = "import sys; from tutelage.cli import main; main()"
        said = run("-c", cli, "generate", EXAMPLES / "own_servers.yaml", "--out", tmp_path / "run", env=env)
        assert "3 of 3 dialogues completed" in said
    adapters = {
        (turn.role, attempt.call.adapter)
        for transcript in read_transcripts(tmp_path / "run")
        for turn in transcript.turns
        for attempt in turn.attempts
    }
    assert adapters == {("tutor", None), ("student", "v2")}


def test_own_graph(tmp_path: Path) -> None:
    """The graph, with the models that a test gives it: the embedded model plays it in `make demo`'s way."""
    with SimulatedEndpoint(model="m") as endpoint:
        config = load_config(EXAMPLES / "own_graph.yaml")
        data = {**config.as_written(), "models": {"m": {"url": endpoint.url, "model": "m"}}}
        data["graph"] = str(EXAMPLES / "own_graph.py") + ":tour"
        data["briefs"] = [{"from": str(EXAMPLES / "briefs" / "history.jsonl")}]
        assert generate(data, out=tmp_path / "run").met
    roles = {turn.role for transcript in read_transcripts(tmp_path / "run") for turn in transcript.turns}
    assert roles == {"guide", "visitor"}


def test_read_and_export(tmp_path: Path) -> None:
    with SimulatedEndpoint(model="m", accept_rate=0.5) as endpoint:
        models = {"m": {"url": endpoint.url, "model": "m"}}
        briefs = [{"from": str(EXAMPLES / "briefs" / "language.jsonl")}]
        generate({"run": "r", "models": models, "briefs": briefs, "limits": {"messages": 4}}, out=tmp_path / "run")
    said = run(EXAMPLES / "read_and_export.py", tmp_path / "run", tmp_path / "out")
    assert "[system] You are a patient tutor." in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tutor-sft", "student-sft", "tutor-dpo"}


def test_quickstart(tmp_path: Path) -> None:
    """Plays with the real embedded model."""
    said = run(EXAMPLES / "quickstart.py")
    assert "2 of 2 dialogues completed" in said
    assert "tutor: " in said
