"""From a `serve:` entry to the command that starts vLLM."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tutelage.config import ModelConfig
from tutelage.errors import ConfigError
from tutelage.serving.adapters import Adapter
from tutelage.serving.vllm_command import is_free, launch_of
from tutelage.serving.vllm_server import Launch


def launch(folder: Path, *, name: str = "m", gpus: tuple[str, ...] = (), **keys: Any) -> Launch:
    beside = {key: keys.pop(key) for key in ("model", "api_key") if key in keys}
    model = ModelConfig.model_validate({**beside, "serve": {"model": "org/base", **keys}})
    assert model.serve
    adapters = {each: Adapter(name=each, folder=folder / each, sha256="", rank=24) for each in keys.get("adapters", {})}
    return launch_of(name, model, model.serve, 0, adapters=adapters, gpus=gpus, port=8100, folder=folder, logs=folder)


def value(launched: Launch, flag: str) -> str:
    """What follows a flag the last time: that is what counts."""
    command = launched.command
    return command[len(command) - command[::-1].index(flag)]


def test_a_folder_beside_the_config_goes_before_a_name_on_the_hub(tmp_path: Path) -> None:
    assert value(launch(tmp_path), "--model") == "org/base"
    (tmp_path / "org" / "base").mkdir(parents=True)
    assert value(launch(tmp_path), "--model") == str(tmp_path / "org" / "base")
    assert value(launch(tmp_path), "--served-model-name") == "org/base"
    assert value(launch(tmp_path, model="small"), "--served-model-name") == "small"


@pytest.mark.parametrize(
    ("keys", "size"),
    [
        ({"gpus_per_replica": 4}, "4"),
        ({"gpus_per_replica": 1}, None),
        ({"gpus_per_replica": 4, "args": ["--tensor-parallel-size=2", "--pipeline-parallel-size=2"]}, None),
        ({"gpus_per_replica": 4, "args": ["-dp", "4"]}, None),
        ({"gpus_per_replica": 4, "args": ["--data_parallel_size", "4"]}, None),
    ],
)
def test_several_gpus_hold_one_copy_unless_the_config_says_otherwise(
    tmp_path: Path, keys: dict[str, Any], size: str | None
) -> None:
    launched = launch(tmp_path, **keys)
    given = "--tensor-parallel-size" in launched.command
    assert (value(launched, "--tensor-parallel-size") if given else None) == size


def test_adapters_are_loaded_at_the_start_with_room_for_all(tmp_path: Path) -> None:
    launched = launch(tmp_path, adapters={"a": "a", "b": "b"})
    assert (value(launched, "--max-loras"), value(launched, "--max-lora-rank")) == ("2", "32")
    modules = launched.command[launched.command.index("--lora-modules") + 1 :][:2]
    assert modules[1] == f'{{"name": "b", "path": "{tmp_path}/b", "base_model_name": "org/base"}}'


def test_gpus_are_counted_as_nvidia_smi_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    launched = launch(tmp_path, gpus=("2", "3"))
    assert launched.environment["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert launched.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in launch(tmp_path).environment


def test_what_our_interpreter_is_told_is_not_for_that_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    assert launch(tmp_path).environment["PYTHONPATH"] == "/ours"
    assert "PYTHONPATH" not in launch(tmp_path, python=sys.executable).environment
    theirs = launch(tmp_path, python=sys.executable, env={"PYTHONPATH": "/theirs"})
    assert theirs.environment["PYTHONPATH"] == "/theirs"


def test_the_interpreter_of_a_virtual_environment_is_not_resolved(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "python").symlink_to(sys.executable)
    assert launch(tmp_path, python="vllm/python").command[0] == str(tmp_path / "vllm" / "python")
    assert launch(tmp_path).command[0] == sys.executable


def test_servers_that_others_reach_ask_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"models\.m\.serve\.host: whoever reaches '0\.0\.0\.0'"):
        launch(tmp_path, host="0.0.0.0")
    monkeypatch.setenv("KEY", "sesame")
    launched = launch(tmp_path, host="0.0.0.0", api_key="${KEY}")
    assert launched.environment["VLLM_API_KEY"] == "sesame"
    assert "sesame" not in repr(launched)
    assert launched.url == "http://127.0.0.1:8100/v1", "as it is reached from here"


def test_a_model_s_name_may_hold_what_a_file_s_may_not(tmp_path: Path) -> None:
    assert launch(tmp_path, name="org/small").log == tmp_path / "vllm-org_small-0.log"


def test_a_port_that_there_is_not_is_not_free() -> None:
    assert not is_free("127.0.0.1", 70_000)
