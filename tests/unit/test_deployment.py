"""The files in docs/deploy fit the daemon that they start."""

import configparser
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.config import DaemonConfig, load_config
from tutelage.generation.control import PATHS

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.fixture
def manifests() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


@pytest.fixture
def pod(manifests: dict[str, Any]) -> Any:
    return manifests["StatefulSet"]["spec"]["template"]["spec"]


@pytest.fixture
def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / "tutelage.service").read_text())
    return parser["Service"]


def test_the_config_in_the_manifest_is_one(
    manifests: dict[str, Any], pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its secrets, its port and its grace are those of the pod."""
    for name, value in manifests["Secret"]["stringData"].items():
        monkeypatch.setenv(name, value)
    config = load_config(yaml.safe_load(manifests["ConfigMap"]["data"]["config.yaml"]))
    assert all(model.secret() for model in config.models.values()) and config.daemon.secret()
    container = pod["containers"][0]
    assert str(config.daemon.listen).endswith(f":{container['ports'][0]['containerPort']}")
    assert pod["terminationGracePeriodSeconds"] > config.daemon.grace + 30
    assert container["command"][-1] == f"/data/{config.run}"


def test_probes_ask_what_the_daemon_answers_without_a_token(pod: Any) -> None:
    probes = [pod["containers"][0][f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")]
    assert probes == ["/livez", "/livez", "/readyz"]
    assert set(probes) <= set(PATHS)


def test_one_pod_holds_the_run_folder(manifests: dict[str, Any]) -> None:
    spec = manifests["StatefulSet"]["spec"]
    assert spec["replicas"] == 1
    assert spec["volumeClaimTemplates"][0]["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_the_pod_waits_for_its_first_briefs(pod: Any, tmp_path: Path) -> None:
    command = [part.replace("/data", str(tmp_path)) for part in pod["initContainers"][0]["command"]]
    waiting = subprocess.Popen(command)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        (tmp_path / "briefs" / ".ready").touch()
        assert waiting.wait(30) == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_the_unit_gives_a_drain_its_time(unit: configparser.SectionProxy) -> None:
    assert (unit["Type"], unit["KillSignal"]) == ("notify", "SIGTERM")
    assert int(unit["TimeoutStopSec"]) > DaemonConfig().grace + 30


def test_reload_and_start_in_the_unit_mean_one_run(unit: configparser.SectionProxy) -> None:
    assert unit["ExecStart"].split()[-1] == unit["ExecReload"].split()[-1]
    assert unit["RestartPreventExitStatus"] == "2"
