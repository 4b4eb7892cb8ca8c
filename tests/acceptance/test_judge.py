"""`tutelage judge`, as a process of its own against simulated endpoints: what is dropped is in no export, nothing is lost."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage import read_transcripts
from tutelage.testing import Latency, SimulatedEndpoint
from tutelage.transcripts.decisions import FILE, Decision, read_decisions

COMMAND = (sys.executable, "-P", "-c", "import sys; from tutelage.cli import main; main()")
BRIEFS = 12
TURNS = 2 * BRIEFS
"""Of the tutor: each dialogue has four turns."""


@pytest.fixture(scope="module")
def generator() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", accept_rate=0.7) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, generator: SimulatedEndpoint) -> Path:
    """A project with a run that no test changes."""
    folder = tmp_path_factory.mktemp("project")
    briefs = [{"id": f"b{n}", "topic": "Sums", "question": f"What is {n} + {n}?"} for n in range(BRIEFS)]
    (folder / "briefs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in briefs))
    config = write_config(folder, "config.yaml", m={"url": generator.url, "model": "m"})
    code, _, err = tutelage("generate", config, "--out", folder / "run", within=folder)
    assert code == 0, err
    return folder


@pytest.fixture
def run(played: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be judged."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", played / "run", folder], check=True)
    return folder


@pytest.fixture
def judge() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="judge", accept_rate=0.5, adapters=("strict",)) as endpoint:
        yield endpoint


def write_config(folder: Path, name: str, *, roles: dict[str, Any] | None = None, **models: Any) -> Path:
    settings = {
        "run": "r",
        "models": models,
        "roles": roles or {},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        "concurrency": 4,
    }
    (folder / name).write_text(json.dumps(settings))
    return folder / name


def judging(folder: Path, endpoint: SimulatedEndpoint, **options: Any) -> Path:
    """A config by which another model judges."""
    return write_config(folder, "judge.yaml", judge={"url": endpoint.url, "model": "judge", **options})


def start(*arguments: Any, within: Path, **options: Any) -> "subprocess.Popen[str]":
    command = [*COMMAND, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=within, text=True, **{**pipes, **options})


def tutelage(*arguments: Any, within: Path) -> tuple[int, str, str]:
    process = start(*arguments, within=within)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def decisions(run: Path) -> list[Decision]:
    return list(read_decisions(run, on_skip=pytest.fail))


def lines(run: Path) -> list[bytes]:
    return (run / FILE).read_bytes().splitlines() if (run / FILE).exists() else []


def said_by_tutor(run: Path) -> set[tuple[str, int]]:
    transcripts = read_transcripts(run, on_skip=pytest.fail)
    return {(each.id, turn.index) for each in transcripts for turn in each.turns if turn.role == "tutor"}


def test_what_another_model_drops_is_in_no_export(run: Path, tmp_path: Path, judge: SimulatedEndpoint) -> None:
    code, out, err = tutelage("judge", run, "--by", "critic", "--config", judging(tmp_path, judge), within=tmp_path)
    assert code == 0, err
    found = decisions(run)
    dropped = {(each.id, each.turn) for each in found if each.decision == "drop"}
    assert {(each.id, each.turn) for each in found} == said_by_tutor(run)
    assert 0 < len(dropped) < TURNS
    assert {each.by for each in found} == {"judge:critic/judge"}
    assert f"{TURNS} turns of tutor judged, {TURNS - len(dropped)} kept, {len(dropped)} dropped" in out
    assert "judge:critic/judge and the run" in out
    assert "κ" in out
    texts = {
        (each.id, turn.index): turn.text
        for each in read_transcripts(run, on_skip=pytest.fail)
        for turn in each.turns
        if turn.role == "tutor"
    }
    options = ("--format", "sft", "--files", "jsonl", "--forced", "--dedup", "none")
    code, out, err = tutelage("export", run, *options, "--out", tmp_path / "set", within=tmp_path)
    assert code == 0, err
    assert "mostly_synthetic_exported" in err
    assert "mostly_synthetic_exported" not in out, "results alone go to stdout"
    rows = [json.loads(line) for file in (tmp_path / "set").rglob("*.jsonl") for line in file.read_text().splitlines()]
    learnt = Counter(row["completion"][-1]["content"] for row in rows)
    assert learnt == Counter(text for place, text in texts.items() if place not in dropped)


def test_the_runs_own_reviewer_is_shown_the_same_prompts_and_says_the_same(
    run: Path, played: Path, generator: SimulatedEndpoint
) -> None:
    generator.forget()
    code, out, err = tutelage("judge", run, "--by", "critic", "--config", played / "config.yaml", within=played)
    assert code == 0, err
    assert "another prompt" not in out
    assert len(generator.requests()) == TURNS
    assert {request["body"]["temperature"] for request in generator.requests()} == {0.0}
    reasons = {(each.id, each.turn): " ".join(each.reason.split()) for each in decisions(run)}
    for transcript in read_transcripts(run, on_skip=pytest.fail):
        for turn in transcript.turns:
            if turn.role == "tutor" and turn.accepted:
                [before] = [review for review in turn.accepted.reviews if review.role == "critic"]
                reason = reasons[transcript.id, turn.index]
                assert all(" ".join(issue.instruction.split()) in reason for issue in before.issues)
                assert bool(before.issues) == bool(reason)


def test_killed_again_and_again_it_loses_and_doubles_nothing(
    run: Path, tmp_path: Path, judge: SimulatedEndpoint
) -> None:
    judge.configure(latency=Latency(first_token=0.1))
    command = ("judge", run, "--by", "critic", "--config", judging(tmp_path, judge))
    chance = random.Random(7)
    survived: list[bytes] = []
    for kills in range(1, 4):
        process = start(*command, within=tmp_path)
        wait_for(run, 5 * kills)
        time.sleep(chance.random() * 0.2)
        process.kill()
        process.communicate()
        whole = [line for line in (run / FILE).read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        assert whole[: len(survived)] == survived, "what was on disk stays as it is"
        survived = whole
    assert len(survived) < TURNS, "otherwise nothing was interrupted"
    code, out, err = tutelage(*command, within=tmp_path)
    assert code == 0, err
    assert f"{len(survived):,} were judged before" in out
    assert len(lines(run)) == TURNS
    assert {(each.id, each.turn) for each in decisions(run)} == said_by_tutor(run)


def wait_for(run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(lines(run)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_keeps_what_was_decided_and_goes_on(
    run: Path, tmp_path: Path, judge: SimulatedEndpoint, kill: signal.Signals
) -> None:
    judge.configure(latency=Latency(first_token=0.1))
    command = ("judge", run, "--by", "critic", "--config", judging(tmp_path, judge))
    process = start(*command, within=tmp_path)
    wait_for(run, 5)
    process.send_signal(kill)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert 5 <= len(decisions(run)) < TURNS
    assert tutelage(*command, within=tmp_path)[0] == 0
    assert len(lines(run)) == len(decisions(run)) == TURNS


def test_no_more_turns_are_judged_at_once_than_the_config_says(
    run: Path, tmp_path: Path, judge: SimulatedEndpoint
) -> None:
    judge.configure(latency=Latency(first_token=0.05))
    tutelage("judge", run, "--by", "critic", "--config", judging(tmp_path, judge), within=tmp_path)
    spans = [(request["received"], request["received"] + request["seconds"]) for request in judge.requests()]
    at_once = [sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans]
    assert 2 <= max(at_once) <= 4


def test_an_adapter_and_a_panel_are_named_as_authors(run: Path, tmp_path: Path, judge: SimulatedEndpoint) -> None:
    models = {"judge": {"url": judge.url, "model": "judge"}, "other": {"url": judge.url, "model": "judge"}}
    roles = {"critic": {"model": "judge", "adapter": "strict", "panel": ["other"]}}
    config = write_config(tmp_path, "panel.yaml", roles=roles, **models)
    code, _, err = tutelage("judge", run, "--by", "critic", "--config", config, within=tmp_path)
    assert code == 0, err
    assert {each.by for each in decisions(run)} == {"judge:critic/judge+strict,judge"}
    assert len(judge.requests()) == 2 * TURNS


def test_an_endpoint_that_is_not_there_is_said_with_exit_code_3(run: Path, tmp_path: Path) -> None:
    with SimulatedEndpoint(model="judge") as gone:
        config = judging(tmp_path, gone)
    code, _, err = tutelage("judge", run, "--by", "critic", "--config", config, within=tmp_path)
    assert code == 3
    assert "judge" in err
    assert not decisions(run)


def test_an_endpoint_that_goes_away_leaves_what_was_decided(
    run: Path, tmp_path: Path, judge: SimulatedEndpoint
) -> None:
    judge.configure(latency=Latency(first_token=0.1))
    process = start("judge", run, "--by", "critic", "--config", judging(tmp_path, judge, patience=0), within=tmp_path)
    wait_for(run, 5)
    judge.kill()
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert 5 <= len(decisions(run)) < TURNS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the graph 'lesson' has critic, fact_checker"),
        (("--by", "nobody"), "those that do: critic, fact_checker"),
        (("--by", "agents/mine.py:my_critic"), "there is no file"),
        (("--check", "nowhere:check"), "does not import"),
        (("--decisions", "nothing.jsonl"), "cannot be read"),
        (("--by", "critic", "--config", "nothing.yaml"), "cannot be read"),
        (("--list", "--by", "critic", "--again"), "leave out --by, --again"),
        (("--decisions", "people.jsonl", "--config", "nothing.yaml"), "about who judges anew"),
    ],
)
def test_what_the_user_can_mend_is_said_with_exit_code_2(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = tutelage("judge", run, *arguments, within=tmp_path)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_what_people_decide_in_label_studio_comes_back(run: Path, tmp_path: Path) -> None:
    code, _, err = tutelage("export", run, "--format", "label-studio", "--out", tmp_path / "tasks", within=tmp_path)
    assert code == 0, err
    tasks = [task for file in (tmp_path / "tasks" / "data").glob("*.json") for task in json.loads(file.read_text())]
    assert len(tasks) == BRIEFS
    for task in tasks:
        task["annotations"] = [{"completed_by": {"id": 1, "email": "ada@example.org"}, "result": annotated(task)}]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    command = ("judge", run, "--decisions", tmp_path / "export.json")
    code, out, err = tutelage(*command, within=tmp_path)
    assert code == 0, err
    assert f"{BRIEFS} decisions taken over" in out
    assert "ada@example.org and the run" in out
    assert (
        f"0 decisions taken over from {tmp_path / 'export.json'}, {BRIEFS} known before"
        in tutelage(*command, within=tmp_path)[1]
    )
    assert {(each.by, each.turn, each.decision) for each in decisions(run)} == {("ada@example.org", 2, "drop")}
    assert {each.id for each in decisions(run)} == {each.id for each in read_transcripts(run)}


def annotated(task: dict[str, Any]) -> list[dict[str, Any]]:
    """What Label Studio gives where somebody has marked the third turn."""
    value = {"start": "2", "end": "2", "startOffset": 0, "endOffset": 3, "paragraphlabels": ["drop"]}
    assert task["data"]["turns"][2]["role"] == "tutor"
    return [{"id": "r", "from_name": "turn_decision", "to_name": "dialogue", "type": "paragraphlabels", "value": value}]


def test_the_turns_that_people_should_look_at_are_listed(run: Path, tmp_path: Path, judge: SimulatedEndpoint) -> None:
    tutelage("judge", run, "--by", "critic", "--config", judging(tmp_path, judge), within=tmp_path)
    code, out, _ = tutelage("judge", run, "--list", within=tmp_path)
    assert code == 0
    forced = {
        (each.id, turn.index)
        for each in read_transcripts(run)
        for turn in each.turns
        if turn.role == "tutor" and turn.accepted and turn.accepted.forced
    }
    dropped = {(each.id, each.turn) for each in decisions(run) if each.decision == "drop"}
    assert {(line.split()[0], int(line.split()[2])) for line in out.splitlines()} == forced | dropped
