"""Which GPUs there are, and which server gets which."""

import re
from pathlib import Path
from typing import Any

import pytest

from tutelage.config import ServeConfig
from tutelage.errors import ConfigError
from tutelage.serving.gpus import divide_gpus, gpus_here, parse_gpus


def serve(**keys: Any) -> ServeConfig:
    return ServeConfig.model_validate({"model": "m", **keys})


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        ("0,1", ("0", "1")),
        ("2, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ("2", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")),
        ("", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
    ],
)
def test_the_environment_says_which_gpus_may_be_used(visible: str, gpus: tuple[str, ...]) -> None:
    assert gpus_here({"CUDA_VISIBLE_DEVICES": visible}) == gpus


def test_nvidia_smi_is_asked_where_the_environment_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here({}) == ()
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: NVIDIA H200 (UUID: GPU-1)"\n')
    command.chmod(0o755)
    assert gpus_here({}) == ("0",)


def test_the_parts_of_a_divided_gpu_stand_for_it() -> None:
    listing = (
        "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-a1)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-a2)\n"
        "GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9d1f4a2b)\n"
    )
    assert parse_gpus(listing) == ("MIG-a1", "MIG-a2", "1")


def test_each_replica_gets_as_many_as_it_asks_for_and_nobody_the_same() -> None:
    shares = divide_gpus(
        {"a": serve(replicas=2, gpus_per_replica=2), "b": serve(), "c": serve(gpus_per_replica=0, replicas=2)},
        ["0", "1", "2", "3", "4", "5"],
    )
    assert shares == {"a": (("0", "1"), ("2", "3")), "b": (("4",),), "c": ((), ())}


def test_gpus_that_are_named_go_to_whom_they_are_named_for() -> None:
    """Two small models may share one GPU, if that is said; the others do not get it."""
    shared = {"a": serve(gpus=[0]), "b": serve(gpus=[0]), "c": serve()}
    assert divide_gpus(shared, ["0", "1"]) == {"a": (("0",),), "b": (("0",),), "c": (("1",),)}


def test_gpus_of_servers_that_run_are_not_given_away_again() -> None:
    assert divide_gpus({"a": serve()}, ["0", "1"], held=["0"]) == {"a": (("1",),)}


@pytest.mark.parametrize(
    ("wanted", "held", "message"),
    [
        (
            {"a": serve(replicas=2, gpus_per_replica=2), "b": serve()},
            [],
            "needs 5 GPUs (2 * 2 for models.a + 1 * 1 for models.b), and 2 are free (2 GPUs here)",
        ),
        ({"a": serve(replicas=2)}, ["0"], "needs 2 GPUs (2 * 1 for models.a), and 1 are free (2 GPUs here, 1 held"),
        (
            {"a": serve(gpus=[0, 1]), "b": serve()},
            [],
            "needs 1 GPUs (1 * 1 for models.b), and 0 are free (2 GPUs here, 2 named by `serve.gpus`)",
        ),
        ({"a": serve(gpus=[0], replicas=2)}, [], "models.a.serve.gpus: 1 are named, and 2 * 1 = 2 are needed"),
    ],
)
def test_too_few_gpus_is_an_error_that_says_the_arithmetic(
    wanted: dict[str, ServeConfig], held: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        divide_gpus(wanted, ["0", "1"], held)
