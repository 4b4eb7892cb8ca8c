"""Lineage: which generation a model, a brief and a dialogue are, and what a config must say for that."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage.briefs.sources import read_briefs
from tutelage.config import BriefSource, Config, load_config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Call
from tutelage.errors import ConfigError
from tutelage.exports.manifest import Manifest, write_manifest
from tutelage.generation.lineage import ancestry_of, lineage_of, with_training_read
from tutelage.transcripts.transcript import Lineage

BRIEF = Brief(id="b", topic="Sums")


def exported(folder: Path, *, generation: int, real_share: float = 0.0, learnt: int = 1000) -> str:
    folder.mkdir()
    manifest = Manifest(
        format="sft", tool="trl", role="tutor", runs={}, splits={}, generation=generation, real_share=real_share,
        learnt_characters=learnt, files=[],
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder.name


def config(folder: Path, **models: Any) -> Config:
    (folder / "briefs.jsonl").write_text('{"topic": "Sums"}\n')
    models = {"default": {"model": "base"}, **models}
    served = {name: {"url": "http://gpu:8000/v1", "model": name, **model} for name, model in models.items()}
    path = folder / "config.yaml"
    path.write_bytes(orjson.dumps({"run": "r", "models": served, "briefs": [{"from": "briefs.jsonl"}]}))
    return with_training_read(load_config(path))


def lineage(config: Config, *players: tuple[str, str | None], brief: Brief = BRIEF) -> Lineage:
    calls = [Call(model=model, adapter=adapter, prompt_sha256="0" * 64) for model, adapter in players]
    return lineage_of(calls, brief, ancestry_of(config))


def test_what_base_models_write_of_a_persons_brief_is_generation_one(tmp_path: Path) -> None:
    assert lineage(config(tmp_path), ("base", None), ("unheard-of", "adapter")) == Lineage(
        origin="synthetic", generation=1, parents=["base", "unheard-of+adapter"], real_share=1.0
    )


def test_a_dialogue_is_one_generation_later_than_the_latest_of_its_models_and_its_brief(tmp_path: Path) -> None:
    first = exported(tmp_path / "first", generation=1, real_share=0.4)
    third = exported(tmp_path / "third", generation=3, real_share=0.1)
    read = config(
        tmp_path,
        one={"trained_on": first},
        both={"trained_on": [first, third]},
        adapted={"trained_on": first, "adapters_trained_on": {"tutor": third}},
        said={"trained_on": {"generation": 2, "real_share": 0.9}},
    )
    for player, generation, real_share in (
        (("one", None), 2, 0.4),
        (("both", None), 4, 0.25),
        (("adapted", None), 2, 0.4),
        (("adapted", "tutor"), 4, 0.1),
        (("adapted", "other"), 2, 0.4),
        (("said", None), 3, 0.9),
    ):
        found = lineage(read, ("base", None), player)
        assert (found.generation, found.real_share) == (generation, real_share), player
    assert lineage(read, ("one", None), ("said", None), ("base", None)).generation == 3
    assert lineage(read, ("one", None), brief=BRIEF.model_copy(update={"generation": 6})).generation == 7


def test_exports_weigh_by_how_much_there_is_to_learn(tmp_path: Path) -> None:
    large = exported(tmp_path / "large", generation=1, real_share=0.0, learnt=3000)
    small = exported(tmp_path / "small", generation=1, real_share=1.0, learnt=1000)
    unknown = exported(tmp_path / "unknown", generation=1, real_share=0.5, learnt=0)
    read = config(tmp_path, known={"trained_on": [large, small]}, unknown={"trained_on": [large, unknown]})
    assert read.models["known"].trained_on is not None
    assert read.models["known"].trained_on.real_share == 0.25
    assert read.models["unknown"].trained_on is not None
    assert read.models["unknown"].trained_on.real_share == 0.0


def test_a_folder_that_is_no_export_is_refused_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match=r"models\.m\.trained_on: .*other' is no export.*\{generation: 1"):
        config(tmp_path, m={"trained_on": "other"})
    with pytest.raises(ConfigError, match=r"models\.m\.adapters_trained_on\.a: .*is no export"):
        config(tmp_path, m={"adapters_trained_on": {"a": ["not-there"]}})
    with pytest.raises(ConfigError, match=r"models\.m\.trained_on: names neither"):
        config(tmp_path, m={"trained_on": {"real_share": 0.5}})
    with pytest.raises(ConfigError, match=r"did you mean 'generation'"):
        config(tmp_path, m={"trained_on": {"generations": 1}})


def test_what_the_config_says_of_a_training_counts_before_what_the_exports_say(tmp_path: Path) -> None:
    """Somebody who mixed in what people wrote after the export knows better."""
    first = exported(tmp_path / "first", generation=1, real_share=0.0)
    trained_on = config(tmp_path, m={"trained_on": {"exports": [first], "real_share": 0.7}}).models["m"].trained_on
    assert trained_on is not None
    assert (trained_on.generation, trained_on.real_share) == (1, 0.7)
    assert trained_on.exports == (str(tmp_path / "first"),)


def test_a_source_says_the_generation_of_briefs_that_do_not_say_their_own(tmp_path: Path) -> None:
    path = tmp_path / "briefs.jsonl"
    path.write_text('{"topic": "a"}\n{"topic": "b", "generation": 3}\n{"topic": "c", "generation": 0}\n')
    by_people, by_models = (
        [(brief.id, brief.generation) for brief in map(index.brief, range(3))]
        for index in (
            read_briefs([BriefSource.model_validate({"from": path.name, "generation": generation})], tmp_path)
            for generation in (0, 1)
        )
    )
    assert [generation for _, generation in by_people] == [0, 3, 0]
    assert [generation for _, generation in by_models] == [1, 3, 0]
    assert [id_ for id_, _ in by_people] == [id_ for id_, _ in by_models], "who wrote it does not change what it says"


def test_transcripts_of_before_have_a_lineage_still() -> None:
    old = Lineage.model_validate({"origin": "synthetic", "generation": 1, "parents": ["m"]})
    assert old.real_share == 1.0
    assert "generation" not in Brief(topic="a").model_dump()
