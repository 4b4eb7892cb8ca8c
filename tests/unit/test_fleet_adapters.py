"""The hash by which a transcript names an adapter's weights, and the flags that an adapter needs."""

import os
import subprocess
from pathlib import Path

import pytest

from tutelage.errors import ConfigError
from tutelage.serving.adapters import adapter_sha256, max_rank, read_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 24}')
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("an adapter")
    return folder


def test_the_hash_is_what_sha256sum_says(adapter: Path) -> None:
    """So that anybody can check a transcript against a folder without Tutelage."""
    command = "LC_ALL=C; sha256sum adapter_config.json *.safetensors | sha256sum"
    said = subprocess.run(["sh", "-c", command], cwd=adapter, capture_output=True, text=True, check=True).stdout
    assert adapter_sha256(adapter) == said.split()[0]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_other_weights_have_another_hash(adapter: Path, file: str) -> None:
    before = adapter_sha256(adapter)
    (adapter / file).write_bytes((adapter / file).read_bytes() + b" ")
    assert adapter_sha256(adapter) != before


def test_what_is_no_weight_does_not_count(adapter: Path) -> None:
    before = adapter_sha256(adapter)
    (adapter / "README.md").write_text("other words")
    os.utime(adapter / "adapter_config.json", (0, 0))
    assert adapter_sha256(adapter) == before


def test_an_adapter_is_found_beside_the_config(adapter: Path) -> None:
    found = read_adapter("v2", "./adapter", folder=adapter.parent)
    assert (found.name, found.folder, found.rank, found.sha256) == ("v2", adapter, 24, adapter_sha256(adapter))


def test_a_folder_that_holds_no_adapter_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"adapters\.v2: .*nowhere' holds no LoRA adapter"):
        read_adapter("v2", "nowhere", folder=tmp_path)


def test_the_servers_hold_the_largest_rank(adapter: Path) -> None:
    """vLLM's own default of 16 would refuse it."""
    found = read_adapter("v2", adapter, folder=adapter)
    assert max_rank({"v2": found}) == 32
    (adapter / "adapter_config.json").write_text('{"r": 1024}')
    with pytest.raises(ConfigError, match="its rank is 1024"):
        max_rank({"v2": read_adapter("v2", adapter, folder=adapter)})
