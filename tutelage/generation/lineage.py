"""Where the dialogues of a run come from: which generation the models are that write them, and so the dialogues.

A base model and a person are generation 0. What a model writes is one later than the latest of the models that wrote it
and of its brief; a model that was trained on an export is of the export's generation. All of this is said by the config
(`trained_on:`, `briefs: generation:`) and by the exports; nothing is guessed from a model's name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tutelage.config import Config, ModelConfig, Training
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Call, player_name
from tutelage.errors import ConfigError, ExportError
from tutelage.exports.manifest import Manifest, read_manifest
from tutelage.transcripts.transcript import Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model was made of, as far as models wrote it."""

    generation: int = 0
    real_share: float = 1.0
    """How much of what it was trained on people wrote."""


BASE: Final = Origin()
"""A model of which nothing else is said."""

Ancestry: TypeAlias = Mapping[tuple[str, str | None], Origin]
"""By a model's name, as it is served, and the adapter's, None without one. What is not there is a base model."""


def with_training_read(config: Config) -> Config:
    """The config with the generation and real share of each model's `trained_on`, as its exports say.

    Raises:
        ConfigError: A folder is no export.
    """
    models = {name: _with_training_read(f"models.{name}", each, config.folder) for name, each in config.models.items()}
    return config.model_copy(update={"models": models}) if models != config.models else config


def ancestry_of(config: Config) -> Ancestry:
    """Where a config's models come from. Its training is read already."""
    ancestry: dict[tuple[str, str | None], Origin] = {}
    for model in config.models.values():
        base = _origin(model.trained_on)
        _add(ancestry, (model.name, None), base)
        for adapter, training in model.adapters_trained_on.items():
            _add(ancestry, (model.name, adapter), _youngest([base, _origin(training)]))
    return ancestry


def lineage_of(calls: Iterable[Call], brief: Brief, ancestry: Ancestry) -> Lineage:
    """The lineage of a dialogue that models made from a brief in some calls."""
    players = {(call.model, call.adapter) for call in calls}
    models = _youngest(ancestry.get(player) or ancestry.get((player[0], None), BASE) for player in players)
    return Lineage(
        origin="synthetic",
        generation=1 + max(models.generation, brief.generation),
        parents=sorted(player_name(*player) for player in players),
        real_share=models.real_share,
    )


def _with_training_read(key: str, model: ModelConfig, folder: Path) -> ModelConfig:
    trained_on = model.trained_on and _read(f"{key}.trained_on", model.trained_on, folder)
    adapters = {
        name: _read(f"{key}.adapters_trained_on.{name}", training, folder)
        for name, training in model.adapters_trained_on.items()
    }
    return model.model_copy(update={"trained_on": trained_on, "adapters_trained_on": adapters})


def _read(key: str, training: Training, folder: Path) -> Training:
    paths = [(folder / Path(export).expanduser()).resolve() for export in training.exports]
    try:
        exports = [read_manifest(path) for path in paths]
    except ExportError as error:
        raise ConfigError(
            f"{key}: {error}; name the folder that `tutelage export` made, or write what it was: "
            "{generation: 1, real_share: 0.5}"
        ) from error
    generation, real_share = training.generation, training.real_share
    if generation is None:
        generation = max(export.generation for export in exports)
    if real_share is None:
        real_share = _pooled(exports) if exports else float(generation == 0)
    return training.model_copy(
        update={"exports": tuple(map(str, paths)), "generation": generation, "real_share": real_share}
    )


def _pooled(exports: list[Manifest]) -> float:
    """The real share of all that several exports have to learn; the least of theirs where one does not say how much."""
    learnt = [export.learnt_characters for export in exports]
    if not all(learnt):
        return min(export.real_share for export in exports)
    real = sum(export.real_share * characters for export, characters in zip(exports, learnt, strict=True))
    return round(real / sum(learnt), 6)


def _origin(training: Training | None) -> Origin:
    if training is None:
        return BASE
    generation = training.generation or 0
    return Origin(
        generation=generation,
        real_share=float(generation == 0) if training.real_share is None else training.real_share,
    )


def _add(ancestry: dict[tuple[str, str | None], Origin], player: tuple[str, str | None], origin: Origin) -> None:
    """Two endpoints may serve two models under one name: a call does not say which, so the later generation counts."""
    ancestry[player] = _youngest([ancestry.get(player, origin), origin])


def _youngest(origins: Iterable[Origin]) -> Origin:
    all_of_them = list(origins) or [BASE]
    return Origin(
        generation=max(each.generation for each in all_of_them),
        real_share=min(each.real_share for each in all_of_them),
    )
