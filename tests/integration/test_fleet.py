"""Servers launched by us: real processes, signals and ports, with a stand-in for vLLM (tests/stand_in)."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tutelage.config import ModelConfig, load_config
from tutelage.errors import ConfigError, LaunchError
from tutelage.generation.casting import cast_of, prompt_library
from tutelage.generation.registry import load_graph
from tutelage.serving.fleet import Fleets
from tutelage.serving.vital_signs import Supervision

STAND_IN = Path(__file__).parents[1] / "stand_in"
SOURCE = Path(__file__).parents[2]
QUICK = Supervision(look=0.1, sick=0.5, silent=1.0, first_wait=0.1, longest_wait=0.4, report=0.2, answer=0.5)


@pytest.fixture(autouse=True)
def no_gpus_and_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model(folder: Path, *, api_key: str | None = None, env: dict[str, str] | None = None, **serve: Any) -> ModelConfig:
    """A model whose `serve:` launches the stand-in."""
    (folder / "records").mkdir(exist_ok=True)
    environment = {"PYTHONPATH": f"{STAND_IN}:{SOURCE}", "STAND_IN": str(folder / "records"), **(env or {})}
    return ModelConfig.model_validate(
        {"api_key": api_key, "serve": {"model": "m", "gpus_per_replica": 0, "env": environment, "grace": 1, **serve}}
    )


def fleets(folder: Path) -> Fleets:
    return Fleets(folder, folder / "logs", QUICK)


def records(folder: Path) -> list[dict[str, Any]]:
    """What the stand-ins were started with, in order."""
    found = [json.loads(path.read_text()) for path in (folder / "records").iterdir()]
    return sorted(found, key=lambda record: record["started"])


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and whom nobody has asked about (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def processes(folder: Path) -> list[int]:
    return [record[which] for record in records(folder) for which in ("pid", "engine") if alive(record[which])]


async def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.02)


async def chat(url: str, **more: Any) -> int:
    """The status of the answer; 0 for none."""
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], **more}
    try:
        async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json=body) as reply:
            await reply.read()
            return reply.status
    except (aiohttp.ClientError, OSError):
        return 0


async def test_replicas_answer_at_ports_of_their_own_and_end_with_the_context(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"small": model(tmp_path, replicas=2)}))["small"]
        assert len(set(fleet.urls)) == 2
        assert [await chat(url) for url in fleet.urls] == [200, 200]
        assert [(state.name, state.state, state.restarts) for state in fleet.states()] == [
            ("small-0", "ready", 0),
            ("small-1", "ready", 0),
        ]
        first, second = records(tmp_path)
        assert abs(first["started"] - second["started"]) < 5, "both at once"
        assert len(processes(tmp_path)) == 4
        scratch = {Path(record["environment"]["TMPDIR"]) for record in (first, second)}
    assert processes(tmp_path) == []
    assert not any(folder.exists() for folder in scratch)
    assert [await chat(url) for url in fleet.urls] == [0, 0]


async def test_servers_whose_context_a_role_would_fill_are_ended_with_the_error(tmp_path: Path) -> None:
    served = {"m": model(tmp_path, args=["--max-model-len", "512"]).model_dump(mode="json", exclude_defaults=True)}
    roles = {"tutor": {"max_tokens": 600}}
    config = load_config({"run": "r", "models": served, "roles": roles, "briefs": [{"from": "briefs.jsonl"}]})
    graph = load_graph("lesson", config.folder)
    async with fleets(tmp_path) as launched:
        with pytest.raises(ConfigError, match=r"roles\.tutor\.max_tokens"):
            async with cast_of(config, graph, prompt_library(config, graph), fleets=launched):
                pass
        assert launched.running() == ()
        assert processes(tmp_path) == []


async def test_a_server_that_crashed_comes_back_on_its_port_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"small": model(tmp_path, replicas=2)}))["small"]
        victim = records(tmp_path)[0]
        os.kill(victim["pid"], signal.SIGKILL)
        await until(lambda: sum(state.restarts for state in fleet.states()) == 1)
        assert not alive(victim["engine"]), "what was left of it holds a GPU no more when the next one starts"
        await until(lambda: all(state.state == "ready" for state in fleet.states()))
        assert [await chat(url) for url in fleet.urls] == [200, 200]
        again = records(tmp_path)[-1]["arguments"]
        assert again == victim["arguments"]
        (ended,) = [state for state in fleet.states() if state.restarts]
        assert ended.last_error == "vLLM ended with exit code 137"


async def test_what_is_left_of_a_server_whose_keeper_was_killed_is_ended(tmp_path: Path) -> None:
    """The keeper ends all processes of a server; if somebody kills the keeper, we do."""
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"small": model(tmp_path)}))["small"]
        kept, keeper = records(tmp_path)[0], fleet.states()[0].pid
        assert keeper
        os.kill(keeper, signal.SIGKILL)
        await until(lambda: fleet.states()[0].restarts == 1 and fleet.states()[0].state == "ready")
        assert not alive(kept["pid"]) and not alive(kept["engine"])


async def test_a_server_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"small": model(tmp_path)}))["small"]
        hung = records(tmp_path)[0]
        os.kill(hung["pid"], signal.SIGSTOP)
        await until(lambda: fleet.states()[0].restarts == 1 and fleet.states()[0].state == "ready")
        assert "hung" in str(fleet.states()[0].last_error)
        assert not alive(hung["pid"])
        assert await chat(fleet.urls[0]) == 200


async def test_a_server_that_cannot_start_any_more_is_tried_for_ever(tmp_path: Path) -> None:
    """With growing pauses; and when what kept it from starting is gone, it is back."""
    async with fleets(tmp_path) as launched:
        (tmp_path / "wrapper").write_text(
            f'#!/bin/sh\n[ -e {tmp_path}/broken ] && exit 9\nexec {sys.executable} "$@"\n'
        )
        (tmp_path / "wrapper").chmod(0o755)
        fleet = (await launched.launch({"small": model(tmp_path, python="./wrapper")}))["small"]
        (tmp_path / "broken").touch()
        os.kill(records(tmp_path)[0]["pid"], signal.SIGKILL)
        await until(lambda: fleet.states()[0].restarts >= 3)
        assert "exit code 9" in str(fleet.states()[0].last_error)
        (tmp_path / "broken").unlink()
        await until(lambda: fleet.states()[0].state == "ready")
        assert await chat(fleet.urls[0]) == 200


async def test_a_failed_start_shows_the_end_of_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    well, ill = model(tmp_path), model(tmp_path, env={"STAND_IN_END": "the weights are not there"})
    async with fleets(tmp_path) as launched:
        with pytest.raises(LaunchError) as caught:
            await launched.launch({"well": well, "ill": ill})
        assert "ill-0: vLLM ended with exit code 1" in str(caught.value)
        assert "loading the model\n    the weights are not there" in str(caught.value)
        assert str(tmp_path / "logs" / "vllm-ill-0.log") in str(caught.value)
        assert launched.running() == ()
        assert processes(tmp_path) == []


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"args": ["--no-such-flag"]}, r"does not know a flag: correct `serve\.args`(.|\n)*--no-such-flag"),
        ({"env": {"PYTHONPATH": "/nowhere"}}, r"has no vLLM: install it there"),
        (
            {"env": {"STAND_IN_ENDPOINT": '{"faults": [{"kind": "status"}]}'}},
            r"healthy, but refused its first request: HTTP 500",
        ),
        ({"start_timeout": 1, "env": {"STAND_IN_ENDPOINT": '{"faults": [{"kind": "stall"}]}'}}, r"nothing within 1 s"),
    ],
)
async def test_a_failed_start_says_what_to_do(tmp_path: Path, config: dict[str, Any], remedy: str) -> None:
    async with fleets(tmp_path) as launched:
        with pytest.raises(LaunchError, match=remedy):
            await launched.launch({"m": model(tmp_path, **config)})
        assert processes(tmp_path) == []


async def test_a_cancelled_start_leaves_no_process(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        stalled = model(tmp_path, replicas=2, env={"STAND_IN_ENDPOINT": '{"faults": [{"kind": "stall"}]}'})
        start = asyncio.create_task(launched.launch({"m": stalled}))
        await until(lambda: len(records(tmp_path)) == 2)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert processes(tmp_path) == []


async def test_what_a_server_is_answering_is_finished_before_it_ends(tmp_path: Path) -> None:
    slow = {"STAND_IN_ENDPOINT": '{"latency": {"output_token": 0.02}, "completion_spread": 0}'}
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"m": model(tmp_path, env=slow, grace=20)}))["m"]
        call = asyncio.create_task(chat(fleet.urls[0], max_tokens=50, min_tokens=50))
        await asyncio.sleep(0.3)
        assert not call.done()
    assert await call == 200


async def test_a_server_that_does_not_drain_in_time_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tutelage.serving.vllm_server.DRAIN_MARGIN", 0.5)
    async with fleets(tmp_path) as launched:
        await launched.launch({"m": model(tmp_path, grace=0)})
        os.kill(records(tmp_path)[0]["pid"], signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert processes(tmp_path) == []


async def test_a_port_in_use_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its owner would share it: vLLM would then get a part of the other's requests."""
    monkeypatch.setattr("tutelage.serving.vllm_command.PORT_PATIENCE", 0.3)
    with listening(share=True) as port:
        async with fleets(tmp_path) as launched:
            with pytest.raises(ConfigError, match=rf"models\.m\.serve\.port: {port} in use already"):
                await launched.launch({"m": model(tmp_path, port=port)})
    assert records(tmp_path) == []


async def test_replicas_follow_the_port_that_the_config_says(tmp_path: Path) -> None:
    port = two_free_ports()
    async with fleets(tmp_path) as launched:
        fleet = (await launched.launch({"m": model(tmp_path, port=port, replicas=2)}))["m"]
        assert fleet.urls == (f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{port + 1}/v1")


async def test_each_replica_sees_its_gpus_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6,7")
    async with fleets(tmp_path) as launched:
        running = await launched.launch(
            {
                "large": model(tmp_path, replicas=2, gpus_per_replica=2),
                "small": model(tmp_path, gpus=[0], gpus_per_replica=1),
                "cpu": model(tmp_path),
            }
        )
        assert [state.gpus for state in running["large"].states()] == [("3", "4"), ("5", "6")]
        seen = sorted(record["environment"]["CUDA_VISIBLE_DEVICES"] for record in records(tmp_path))
        assert seen == ["0", "3,4", "3,4,5,6,7", "5,6"]
        parallel = {
            record["environment"]["CUDA_VISIBLE_DEVICES"]: "--tensor-parallel-size" in record["arguments"]
            for record in records(tmp_path)
        }
        assert parallel == {"0": False, "3,4": True, "5,6": True, "3,4,5,6,7": False}
        with pytest.raises(ConfigError, match=r"needs 2 GPUs \(1 \* 2 for models\.more\), and 1 are free"):
            await launched.launch({"more": model(tmp_path, gpus_per_replica=2)})


async def test_more_gpus_than_there_are_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        with pytest.raises(
            ConfigError, match=r"needs 5 GPUs \(2 \* 2 for models\.a \+ 1 \* 1 for models\.b\), and 0 are"
        ):
            await launched.launch(
                {
                    "a": model(tmp_path, replicas=2, gpus_per_replica=2),
                    "b": model(tmp_path, gpus_per_replica=1),
                    "c": model(tmp_path),
                }
            )
    assert records(tmp_path) == []


async def test_keys_come_from_the_environment_and_stand_on_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", "sesame")
    monkeypatch.setenv("HUB_TOKEN", "hf_abc")
    async with fleets(tmp_path) as launched:
        guarded = model(tmp_path, api_key="${OUR_KEY}", env={"HF_TOKEN": "${HUB_TOKEN}"})
        fleet = (await launched.launch({"m": guarded}))["m"]
        (record,) = records(tmp_path)
        assert record["environment"]["HF_TOKEN"] == "hf_abc"
        assert "sesame" not in " ".join(record["arguments"]) + repr(fleet._servers[0].launch)
        assert await chat(fleet.urls[0]) == 401, "the server asks for the key"
    with pytest.raises(ConfigError, match=r"serve\.env\.HF_TOKEN: \$\{NO_SUCH\}"):
        await launched.launch({"m": model(tmp_path, env={"HF_TOKEN": "${NO_SUCH}"})})


async def test_servers_whose_config_did_not_change_run_on(tmp_path: Path) -> None:
    """What a reload does: the new ones first, then the old ones are let go."""
    async with fleets(tmp_path) as launched:
        kept, other = model(tmp_path), model(tmp_path, args=["--max-model-len", "1024"])
        before = await launched.launch({"kept": kept, "changed": kept})
        after = await launched.launch({"kept": model(tmp_path), "changed": other})
        assert after["kept"] is before["kept"]
        assert after["changed"] is not before["changed"]
        assert len(records(tmp_path)) == 3
        await launched.end([before["changed"]])
        assert set(launched.running()) == set(after.values())
        assert [await chat(before[name].urls[0]) for name in ("kept", "changed")] == [200, 0]
        assert [await chat(after[name].urls[0]) for name in ("kept", "changed")] == [200, 200]


async def test_the_config_s_own_arguments_come_last(tmp_path: Path) -> None:
    async with fleets(tmp_path) as launched:
        await launched.launch({"m": model(tmp_path, args=["--scheduling-policy", "fcfs"])})
        (record,) = records(tmp_path)
        assert record["arguments"][-2:] == ["--scheduling-policy", "fcfs"]
        assert "--enable-prompt-tokens-details" in record["arguments"]
        assert record["environment"]["VLLM_NO_USAGE_STATS"] == "1"


@contextmanager
def listening(*, share: bool = False) -> Iterator[int]:
    with socket.socket() as server:
        if share:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def two_free_ports() -> int:
    from tutelage.serving.vllm_command import PORTS, is_free

    return next(port for port in PORTS if is_free("127.0.0.1", port) and is_free("127.0.0.1", port + 1))
