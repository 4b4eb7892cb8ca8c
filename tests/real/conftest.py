"""Fixtures of the real tests, and the rule that a plain `pytest` leaves them out.

A test with one of `MARKERS` runs only if `-m` names it. The others are deselected rather than skipped: a
skip would say that something is missing, and nothing is.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .vllm_server import VLLMServer, serve_vllm

ROOT = Path(__file__).parents[2]
MARKERS = ("vllm", "trainers", "loaders")
SECONDS = 600
"""The time limit of one real test, with the fixtures that it is the first to use."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the real tests that `-m` does not name."""
    named = set(re.findall(r"\w+", config.option.markexpr))
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        markers = {marker.name for marker in item.iter_markers()} & set(MARKERS)
        (kept if markers <= named else left_out).append(item)
        if markers:
            item.add_marker(pytest.mark.timeout(SECONDS))
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """What tiny_model.py makes."""

    model: Path
    """A folder that vLLM and transformers load."""
    adapters: dict[str, Path]
    """LoRA folders in peft's layout, by name."""


def make_tiny_model(python: Path, folder: Path) -> TinyModel:
    """Make the tiny model and its adapters `a` and `b` with an interpreter that has transformers."""
    subprocess.run([python, Path(__file__).with_name("tiny_model.py"), folder], check=True)
    return TinyModel(model=folder / "model", adapters={name: folder / "adapters" / name for name in ("a", "b")})


def environment_python(name: str) -> Path:
    """The interpreter of `.venv-NAME`; the test fails if environment.sh has not made it."""
    folder = ROOT / f".venv-{name}"
    if not (folder / "made-from.sha256").exists():
        pytest.fail(f"{folder.name} is missing or half-made: run `tests/real/environment.sh {name}`", pytrace=False)
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """An interpreter that has vLLM."""
    return environment_python("vllm")


@pytest.fixture(scope="session")
def trainers_python() -> Path:
    """An interpreter that has TRL and datasets."""
    return environment_python("trainers")


@pytest.fixture(scope="session")
def loaders_python() -> Path:
    """An interpreter that has the code with which Axolotl, LLaMA-Factory, verl and Label Studio read rows."""
    return environment_python("loaders")


@pytest.fixture(scope="session")
def vllm_server(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """One vLLM server with the tiny model, and its adapters served as `a` and `b`; all tests share it."""
    folder = tmp_path_factory.mktemp("vllm")
    tiny = make_tiny_model(vllm_python, folder)
    with serve_vllm(vllm_python, tiny.model, adapters=tiny.adapters, log=folder / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def trainable_model(trainers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model, for a trainer."""
    return make_tiny_model(trainers_python, tmp_path_factory.mktemp("trainers")).model
