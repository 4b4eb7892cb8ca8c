"""What `tutelage doctor` says of servers that would be launched (`serve:`): nothing is launched for it."""

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from tutelage.config import load_config
from tutelage.generation.doctor import examine
from tutelage.generation.findings import Finding, Level
from tutelage.serving.announcement import Announcement, ServedModel, announcing, settings_of
from tutelage.testing import SimulatedEndpoint

from .odd_endpoints import BRIEF, exit_code, said

GROUP = "models.small, serve"


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def project(folder: Path, *, vllm: str | None = "0.32.0", roles: dict[str, Any] | None = None, **serve: Any) -> Path:
    """A config that would launch a model in a folder, with an interpreter that has this version of vLLM."""
    packages, model = folder / "packages", folder / "model"
    (packages / "vllm").mkdir(parents=True, exist_ok=True)
    model.mkdir(exist_ok=True)
    (packages / "vllm" / "__init__.py").write_text(f"__version__ = {vllm!r}" if vllm else "import nowhere")
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n")
    launched = {"model": "./model", "gpus_per_replica": 0, "env": {"PYTHONPATH": str(packages)}, **serve}
    config = {
        "run": "r",
        "models": {"small": {"model": "small", "serve": launched}},
        "briefs": [{"from": "briefs.jsonl"}],
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({**config, "roles": roles or {}}))
    return path


def problems(findings: list[Finding]) -> str:
    return said(findings, Level.PROBLEM, GROUP)


def test_a_model_that_can_be_launched(tmp_path: Path) -> None:
    adapter = tmp_path / "v2"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    findings = examine(project(tmp_path, adapters={"v2": "./v2"}, roles={"student": {"adapter": "v2"}}))
    assert said(findings, Level.PROBLEM) == said(findings, Level.WARNING) == ""
    fine = said(findings, Level.FINE, GROUP)
    assert f"{sys.executable} has vLLM 0.32.0" in fine
    assert "the adapter 'v2' is there: rank 8" in fine
    assert f"the model is there, in {str(tmp_path / 'model')!r}" in fine
    assert "gets no GPU" in fine
    assert exit_code(findings) == 0


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = project(
            tmp_path,
            roles={"student": {"adapter": "v3"}},
            model="./nothing",
            gpus_per_replica=2,
            replicas=2,
            port=port,
            adapters={"v2": "./v2"},
            python="./no/python",
        )
        told = problems(examine(config))
    assert "`serve:` needs 4 GPUs (2 * 2 for models.small), and 0 are free" in told
    # The next one may be, too: the second replica's.
    assert re.search(rf"port {port}(, {port + 1})? of 127\.0\.0\.1 is in use already", told)
    assert f"the model's folder {str(tmp_path / 'nothing')!r} is not there" in told
    assert "adapters.v2: " in told
    assert "there is no adapter 'v3' under `serve.adapters`; there is 'v2'" in told
    assert "there is no interpreter './no/python'" in told


@pytest.mark.parametrize(
    ("missing", "message"), [("config.json", "no config.json"), ("model.safetensors", "no weights")]
)
def test_a_folder_that_is_no_model(tmp_path: Path, missing: str, message: str) -> None:
    config = project(tmp_path)
    (tmp_path / "model" / missing).unlink()
    assert message in problems(examine(config))


def test_a_name_on_a_hub_is_taken_as_one(tmp_path: Path) -> None:
    findings = examine(project(tmp_path, model="Qwen/Qwen3-4B"))
    assert "the model 'Qwen/Qwen3-4B' is no folder here: vLLM fetches it" in said(findings, Level.FINE, GROUP)


def test_an_interpreter_without_vllm_or_with_a_broken_or_an_old_one(tmp_path: Path) -> None:
    assert "cannot import vLLM (ModuleNotFoundError: No module named 'nowhere')" in problems(
        examine(project(tmp_path, vllm=None))
    )
    assert "has no vLLM: install it there" in problems(examine(project(tmp_path, env={})))
    old = examine(project(tmp_path, vllm="0.9.1"))
    assert "has vLLM 0.9.1, and is given the flags of 0.32" in said(old, Level.WARNING, GROUP)


def test_a_reference_that_the_environment_lacks(tmp_path: Path) -> None:
    assert "${HUB_TOKEN} is not in the environment" in problems(
        examine(project(tmp_path, env={"HF_TOKEN": "${HUB_TOKEN}"}))
    )


def test_servers_that_run_already_are_examined_instead(tmp_path: Path) -> None:
    path = project(tmp_path)
    config = load_config(path)
    with SimulatedEndpoint(model="small") as endpoint, announcing(config) as announcer:
        starting = examine(path)
        running = ServedModel(settings=settings_of(config.models["small"]), urls=(endpoint.url,), adapters={})
        announcer.announce(Announcement(pid=1234, models={"small": running}))
        findings = examine(path)
        other = running.model_copy(update={"settings": {}})
        announcer.announce(Announcement(pid=1234, models={"small": other}))
        differing = examine(path)
    assert "has not started its servers" in said(starting, Level.WARNING)
    assert "`tutelage serve` (process 1234) runs a server for it" in said(findings, Level.FINE, GROUP)
    assert "follows a schema" in said(findings, Level.FINE, f"models.small, {endpoint.url}")
    assert said(findings, Level.PROBLEM) == ""
    assert "runs with other settings" in problems(differing)
