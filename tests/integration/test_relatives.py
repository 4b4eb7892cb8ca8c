"""A run says where its judges are of the family of those whom they judge."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tutelage import generate
from tutelage.testing import SimulatedEndpoint


def warnings_of(folder: Path, models: dict[str, str], roles: dict[str, Any]) -> list[Any]:
    (folder / "briefs.jsonl").write_text('{"topic": "tides"}\n')
    with (
        SimulatedEndpoint(model=next(iter(models.values()))) as one,
        SimulatedEndpoint(model=[*models.values()][-1]) as two,
    ):
        urls = dict(zip(models, (one.url, two.url), strict=True))
        config = {
            "run": "r",
            "briefs": [{"from": str(folder / "briefs.jsonl")}],
            "models": {name: {"url": urls[name], "model": model} for name, model in models.items()},
            "roles": roles,
            "limits": {"messages": 1},
        }
        with capture_logs() as logged:
            generate(config, out=folder / "run")
    return [each for each in logged if each["event"] == "judges_of_own_family"]


MODELS = {"default": "Qwen/Qwen3-4B", "other": "meta-llama/Llama-3.1-8B-Instruct"}


@pytest.mark.parametrize(
    ("roles", "related"),
    [
        ({"fact_checker": {"model": "other"}}, ["critic"]),
        ({"fact_checker": {"model": "other"}, "critic": {"model": "other"}}, []),
        ({"fact_checker": {"model": "other"}, "critic": {"panel": ["other"]}}, []),
    ],
    ids=["one", "none", "one with a panel of others"],
)
def test_a_judge_that_is_related_is_named(tmp_path: Path, roles: dict[str, Any], related: list[str]) -> None:
    found = warnings_of(tmp_path, MODELS, roles)
    assert [each["judges"] for each in found] == ([related] if related else [])
    assert all((each["speaker"], each["family"]) == ("tutor", ["qwen"]) for each in found)


def test_a_family_that_its_name_does_not_tell_is_not_guessed(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, {"default": "ours-v7", "other": "theirs"}, {}) == []
