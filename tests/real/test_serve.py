"""`tutelage serve`, and `serve:` in a run, with real vLLM on the CPU: launched, killed under load, back, gone at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage import Transcript, read_transcripts
from tutelage.config import ModelConfig, load_config
from tutelage.errors import ConfigError
from tutelage.generation.casting import cast_of, prompt_library
from tutelage.generation.registry import load_graph
from tutelage.serving.adapters import adapter_sha256
from tutelage.serving.fleet import Fleets

from .conftest import TinyModel, make_tiny_model

pytestmark = pytest.mark.vllm

COMMAND = Path(sys.executable).with_name("tutelage")
BRIEFS = Path(__file__).parents[2] / "examples" / "briefs" / "mathematics.jsonl"
LESSONS = 40
ON_A_CPU: dict[str, Any] = {
    "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    # Compiling takes two minutes. A prompt split over two steps kills the engine if it has a seed.
    "args": ["--dtype", "bfloat16", "--enforce-eager", "--block-size", "32", "--no-enable-chunked-prefill"],
}
ROLES: dict[str, dict[str, Any]] = {
    "tutor": {"adapter": "a", "max_tokens": 24},
    "student": {"adapter": "b", "max_tokens": 16},
    "critic": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 400},
    "fact_checker": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 400},
}


@pytest.fixture(scope="module")
def tiny(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(vllm_python, tmp_path_factory.mktemp("tiny"))


def write_config(folder: Path, python: Path, tiny: TinyModel, **serve: Any) -> Path:
    """A config beside its briefs, whose model is launched with the adapters `a` and `b`."""
    with BRIEFS.open(encoding="utf-8") as briefs:
        (folder / "briefs.jsonl").write_text("".join(islice(briefs, 8)), encoding="utf-8")
    adapters = {name: str(path) for name, path in tiny.adapters.items()}
    launched = {"model": str(tiny.model), "python": str(python), "gpus_per_replica": 0, "adapters": adapters}
    config = {
        "run": "lessons",
        "models": {"tiny": {"model": "tiny", "serve": {**launched, **ON_A_CPU, "grace": 10, **serve}}},
        "roles": ROLES,
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4, "revisions": 1},
        "target": {"dialogues": LESSONS},
        "concurrency": 12,
        "seed": 3,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start(*arguments: Path | str, log: Path) -> "subprocess.Popen[str]":
    with log.open("w") as errors:
        return subprocess.Popen([COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True)


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    waiting = [pid]
    while waiting:
        waiting += parents.get(waiting[0], [])
        yield waiting.pop(0)


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if (Path("/proc") / str(pid)).exists() and state(pid) not in "ZX"]


def state(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def servers(pid: int) -> list[int]:
    """vLLM's main processes below one of ours."""
    return [each for each in tree(pid) if b"vllm.entrypoints.openai.api_server" in command_line(each).split(b"\0")[1:3]]


def command_line(pid: int) -> bytes:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def until(holds: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.2)


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def finished(folder: Path) -> list[Transcript]:
    return list(read_transcripts(folder / "run")) if (folder / "run" / "transcripts").exists() else []


def test_a_replica_killed_under_load_comes_back_and_the_run_completes(
    tmp_path: Path, vllm_python: Path, tiny: TinyModel
) -> None:
    """Two replicas of `tutelage serve`; the roles are played by two adapters of the one base. Then it is killed itself."""
    config = write_config(tmp_path, vllm_python, tiny, replicas=2)
    serving = start("serve", config, log=tmp_path / "serve.log")
    try:
        assert serving.stdout
        urls = [serving.stdout.readline().split("\t")[1] for _ in range(2)]
        everything = list(tree(serving.pid))
        assert len(servers(serving.pid)) == 2

        run = start("generate", config, "--out", tmp_path / "run", log=tmp_path / "generate.log")
        until(lambda: answered(finished(tmp_path)) == set(urls), 200)
        os.kill(servers(serving.pid)[0], signal.SIGKILL)
        printed, _ = run.communicate(timeout=300)
        assert run.returncode == 0, (tmp_path / "generate.log").read_text()
        assert printed.startswith(f"{LESSONS} of {LESSONS} dialogues completed, in")

        transcripts = finished(tmp_path)
        check_adapters(transcripts, tiny)
        assert len({transcript.id for transcript in transcripts}) == LESSONS
        assert "servers_found" in [event["event"] for event in events(tmp_path / "generate.log")]

        until(lambda: [event["event"] for event in events(tmp_path / "serve.log")].count("server_ready") == 3, 300)
        everything += list(tree(serving.pid))
        assert len(servers(serving.pid)) == 2
        serving.kill()
        until(lambda: not alive(everything), 20)
    finally:
        serving.kill()
        serving.communicate()


def answered(transcripts: list[Transcript]) -> set[str | None]:
    """The endpoints that answered a call of these dialogues."""
    return {call.endpoint for transcript in transcripts for call in transcript.calls()}


def check_adapters(transcripts: list[Transcript], tiny: TinyModel) -> None:
    hashes = {name: adapter_sha256(path) for name, path in tiny.adapters.items()}
    assert hashes["a"] != hashes["b"]
    for transcript in transcripts:
        for turn in transcript.turns:
            name = str(ROLES[turn.role]["adapter"])
            for attempt in turn.attempts:
                assert (attempt.call.adapter, attempt.call.adapter_sha256) == (name, hashes[name])
                assert all(review.call and review.call.adapter is None for review in attempt.reviews)


def test_a_run_that_is_killed_leaves_no_server(tmp_path: Path, vllm_python: Path, tiny: TinyModel) -> None:
    config = write_config(tmp_path, vllm_python, tiny)
    run = start("generate", config, "--out", tmp_path / "run", log=tmp_path / "generate.log")
    try:
        until(lambda: run.poll() is not None or finished(tmp_path), 300)
        assert run.poll() is None, (tmp_path / "generate.log").read_text()
        everything = list(tree(run.pid))
        assert len(everything) >= 4, "ours, its keeper, vLLM's server, its engine"
        run.kill()
        until(lambda: not alive(everything), 20)
    finally:
        run.kill()
        run.communicate()


async def test_adapters_are_loaded_into_a_server_that_runs(tmp_path: Path, vllm_python: Path, tiny: TinyModel) -> None:
    """And a folder that is none is an error that has vLLM's own words."""
    allowed = {**ON_A_CPU["env"], "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    serve = {"model": str(tiny.model), "python": str(vllm_python), "gpus_per_replica": 0, "grace": 10, "env": allowed}
    model = ModelConfig.model_validate(
        {"model": "tiny", "serve": {**serve, "args": [*ON_A_CPU["args"], "--enable-lora", "--max-loras", "2"]}}
    )
    async with Fleets(tmp_path, tmp_path / "logs") as fleets:
        url = (await fleets.launch({"tiny": model}))["tiny"].urls[0]
        played = await sha256_by_role(url, {name: str(path) for name, path in tiny.adapters.items()})
        assert played == {
            role: adapter_sha256(tiny.adapters[name]) for role, name in (("tutor", "a"), ("student", "b"))
        }
        with pytest.raises(ConfigError, match=r"adapters\.c: .* does not load '/nowhere': HTTP 404: .*/nowhere"):
            await sha256_by_role(url, {"c": "/nowhere"})


async def sha256_by_role(url: str, adapters: dict[str, str]) -> dict[str, str | None]:
    """What a cast at that endpoint knows of its adapters, after each has said a word."""
    roles = {role: {"adapter": settings["adapter"]} for role, settings in ROLES.items() if "adapter" in settings}
    models = {"tiny": {"url": url, "model": "tiny", "adapters": adapters}}
    config = load_config({"run": "r", "models": models, "roles": roles, "briefs": [{"from": "briefs.jsonl"}]})
    graph = load_graph("lesson", config.folder)
    async with cast_of(config, graph, prompt_library(config, graph)) as casting:
        for role in roles:
            await casting.cast.player(role).model.ainvoke("Hello", max_tokens=1)
        return {role: casting.cast.player(role).adapter_sha256 for role in roles}
