"""The files in docs/deploy for servers that run elsewhere start them as Tutelage would."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.config import ModelConfig, load_config
from tutelage.serving.vllm_command import launch_of

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
OWN = ("--model", "--served-model-name", "--host", "--port", "--shutdown-timeout", "--max-model-len")


@pytest.fixture
def wanted(tmp_path: Path) -> dict[str, str]:
    """The flags that Tutelage gives any server, with their values."""
    model = ModelConfig.model_validate({"serve": {"model": "m", "gpus_per_replica": 0}})
    assert model.serve
    launch = launch_of("m", model, model.serve, 0, adapters={}, gpus=(), port=1, folder=tmp_path, logs=tmp_path)
    return flags(list(launch.command[3:]))


def flags(arguments: list[str]) -> dict[str, str]:
    """Flags and their values, which follow or stand behind `=`; JSON without its spaces."""
    found: dict[str, str] = {}
    for argument in arguments:
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
            found[name] = value.replace(" ", "")
        elif found:
            found[list(found)[-1]] += argument.replace(" ", "")
    return {name: value for name, value in found.items() if name not in OWN}


def unit() -> tuple[str, list[str]]:
    text = (DEPLOY / "vllm@.service").read_text()
    command = text.partition("ExecStart=")[2].replace("\\\n", " ").partition("\n")[0]
    return text, [word for word in shlex.split(command) if word != "$ARGS"]


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


def test_the_unit_gives_a_server_the_flags_that_we_rely_on(wanted: dict[str, str]) -> None:
    text, command = unit()
    assert flags(command[3:]) == wanted
    assert f"TimeoutStopSec={90}" in text
    assert int(command[command.index("--shutdown-timeout") + 1]) < 90


def test_compose_gives_its_servers_the_flags_that_we_rely_on(wanted: dict[str, str]) -> None:
    for service in compose()["services"].values():
        assert flags(service["command"]) == wanted
        assert "--shutdown-timeout=60" in service["command"]
        assert service["stop_grace_period"] == "90s"


def test_the_replicas_of_compose_have_a_gpu_and_a_port_each() -> None:
    services = compose()["services"].values()
    gpus = [service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for service in services]
    ports = [service["ports"] for service in services]
    assert gpus == [["0"], ["1"]]
    assert ports == [["127.0.0.1:8000:8000"], ["127.0.0.1:8001:8000"]]


def test_the_config_in_compose_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line[2:] for line in (DEPLOY / "compose.yaml").read_text().splitlines() if line.startswith("#   ")]
    text = "\n".join(lines[next(n for n, line in enumerate(lines) if "models:" in line) :])
    models = yaml.safe_load(text)["models"]
    config = load_config({"run": "r", "briefs": [{"from": "b.jsonl"}], "models": models})
    assert config.models["small"].priority
    assert f"--served-model-name={config.models['small'].name}" in compose()["services"]["small-0"]["command"]
