"""Generation after generation: a run, its export, a model that was trained on it, that model's run …"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from structlog.testing import capture_logs

from tutelage import generate, read_transcripts
from tutelage.errors import ConfigError, ExportError
from tutelage.exports.export import export
from tutelage.exports.manifest import read_manifest
from tutelage.exports.request import Request
from tutelage.generation.daemon import Daemon
from tutelage.generation.doctor import examine
from tutelage.testing import ScriptedModel, SimulatedEndpoint
from tutelage.transcripts.transcript import Lineage

SFT = Request(format="sft", files="jsonl")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", adapters=("a",)) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def other() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="old") as endpoint:
        yield endpoint


def play(folder: Path, endpoint: SimulatedEndpoint, name: str, **config: Any) -> list[Lineage]:
    """Makes a run of two dialogues, and returns their lineage."""
    briefs = folder / "briefs.jsonl"
    if not briefs.exists():
        briefs.write_bytes(
            b"".join(
                orjson.dumps({"topic": f"Sums {n}", "question": f"{n} + {n}?", "answer": "x"}) + b"\n" for n in (1, 2)
            )
        )
    path = folder / f"{name}.yaml"
    served = {"m": {"url": endpoint.url, "model": "m"}}
    everything = {"run": name, "models": served, "briefs": [{"from": "briefs.jsonl"}], "limits": {"messages": 2}}
    path.write_text(yaml.safe_dump({**everything, **config}))
    generate(path, out=folder / name)
    return [transcript.lineage for transcript in read_transcripts(folder / name)]


def test_each_generation_knows_which_it_is_until_exports_warn_and_then_refuse(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    trained_on: dict[str, Any] = {}
    for generation in range(1, 6):
        run, out = f"run{generation}", tmp_path / f"set{generation}"
        models = {"m": {"url": endpoint.url, "model": "m", **trained_on}}
        for lineage in play(tmp_path, endpoint, run, models=models):
            assert lineage.generation == generation
            assert lineage.real_share == float(generation == 1)
        if generation == 5:
            break
        with capture_logs() as logs:
            export(tmp_path / run, SFT, out=out)
        warned = [each for each in logs if each["event"] == "late_generation_exported"]
        assert bool(warned) == (generation >= 3)
        assert (read_manifest(out).generation, read_manifest(out).real_share) == (generation, 0.0)
        trained_on = {"trained_on": out.name}
    with pytest.raises(ExportError, match=r"is of generation 5: .*any_generation"):
        export([tmp_path / "run1", tmp_path / "run5"], SFT, out=tmp_path / "refused")
    assert not list(tmp_path.glob("*refused*")), "nothing was made"
    all_the_same = Request(format="sft", files="jsonl", any_generation=True)
    export([tmp_path / "run1", tmp_path / "run5"], all_the_same, out=tmp_path / "set5")
    assert read_manifest(tmp_path / "set5").generation == 5


def test_mixed_parents_count_by_the_latest_and_the_run_says_where_they_come_from(
    tmp_path: Path, endpoint: SimulatedEndpoint, other: SimulatedEndpoint
) -> None:
    play(tmp_path, endpoint, "first")
    export(tmp_path / "first", SFT, out=tmp_path / "set")
    assert read_manifest(tmp_path / "set").generation == 1
    models = {
        "m": {"url": endpoint.url, "model": "m", "adapters_trained_on": {"a": ["set"]}},
        "old": {"url": other.url, "model": "old", "trained_on": {"generation": 3, "real_share": 0.5}},
    }
    two = {"tutor": {"model": "m", "adapter": "a"}, "student": {"model": "m"}}
    two |= {role: {"model": "m"} for role in ("critic", "fact_checker")}
    for lineage in play(tmp_path, endpoint, "adapted", models=models, roles=two):
        assert (lineage.generation, lineage.parents, lineage.real_share) == (2, ["m", "m+a"], 0.0)
    three = {**two, "student": {"model": "old"}}
    for lineage in play(tmp_path, endpoint, "mixed", models=models, roles=three):
        assert (lineage.generation, lineage.parents, lineage.real_share) == (4, ["m", "m+a", "old"], 0.0)
    written = yaml.safe_load((tmp_path / "mixed" / "run.yaml").read_text())["models"]
    assert written["m"]["adapters_trained_on"]["a"]["generation"] == 1
    assert written["old"]["trained_on"] == {"exports": [], "generation": 3, "real_share": 0.5}
    briefs = [{"from": "briefs.jsonl", "generation": 2}]
    for lineage in play(tmp_path, endpoint, "briefed", briefs=briefs):
        assert (lineage.generation, lineage.real_share) == (3, 1.0)


def test_a_run_whose_model_was_trained_on_no_export_does_not_begin(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    models = {"m": {"url": endpoint.url, "model": "m", "trained_on": "nothing"}}
    with pytest.raises(ConfigError, match="is no export"):
        play(tmp_path, endpoint, "run", models=models)
    assert not (tmp_path / "run").exists()
    (found,) = examine(tmp_path / "run.yaml")
    assert (found.exit_code, "models.m.trained_on" in found.text) == (2, True)


async def test_a_reload_says_what_models_were_trained_on_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "briefs.jsonl").write_bytes(
        orjson.dumps({"topic": "Sums", "question": "1 + 1?", "answer": "2"}) + b"\n"
    )
    path = tmp_path / "config.yaml"

    def write(*, dialogues: int | None = None, **trained_on: Any) -> None:
        model = {"url": "http://127.0.0.1:9/v1", "model": "scripted", **trained_on}
        config = {"run": "r", "models": {"m": model}, "briefs": [{"from": "briefs.jsonl"}], "limits": {"messages": 2}}
        path.write_text(yaml.safe_dump({**config, "target": {"dialogues": dialogues}, "watermarks": {"disk": 0}}))

    write()
    accept = [orjson.dumps({"verdict": "accept", "issues": []}).decode()]
    script = {"tutor": ["Add them."], "student": ["Four."], "critic": accept, "fact_checker": accept}
    daemon = Daemon(path, out=tmp_path / "run", models={"default": ScriptedModel(script)})
    serving = asyncio.create_task(daemon.serve())
    while b"tutelage_completed_dialogues 1.0" not in daemon.metrics():
        assert not serving.done()
        await asyncio.sleep(0.01)
    write(dialogues=2, trained_on={"generation": 2})
    await daemon.reload()
    await serving
    assert [each.lineage.generation for each in read_transcripts(tmp_path / "run")] == [1, 3]
