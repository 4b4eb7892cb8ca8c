"""What one dialogue is about."""

import hashlib
from collections.abc import Mapping
from operator import not_
from typing import Annotated, Any, Final, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

PUBLIC: Final = frozenset({"topic", "domain", "question", "level", "language", "difficulty"})
"""What every role may see of a brief. The rest is private: a role sees it only if its agent declares it."""
Said = Annotated[str, StringConstraints(pattern=r"\S")]
"""A text that is not empty."""


class Misconception(BaseModel):
    """What the student wrongly believes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    belief: Said
    """The belief, in one sentence that a student could hold."""
    predicts: Said | None = None
    """The wrong answer that the belief gives to the question."""
    changes_when: tuple[Said, ...] = ()
    """What would change it: evidence or reasons that speak against it. In a file: a string or a list."""
    robustness: int = Field(default=1, ge=1, le=3)
    """How often it must be hit by such a reason before it falls."""

    @field_validator("changes_when", mode="before")
    @classmethod
    def _one_as_many(cls, value: Any) -> Any:
        return _as_texts(value)


class Probe(BaseModel):
    """A multiple-choice question that shows what the student believes, asked beside the dialogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: Said
    choices: tuple[str, ...] = Field(min_length=2, max_length=10)
    answer: str
    """The right one of the choices."""
    misconception: str | None = None
    """The one that the misconception gives."""

    @field_validator("answer", "misconception", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return _as_text(value)

    @field_validator("choices", mode="before")
    @classmethod
    def _one_as_many(cls, value: Any) -> Any:
        return _as_texts(value)

    @model_validator(mode="after")
    def _are_choices(self) -> Self:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("two of its choices are the same")
        for name, text in (("answer", self.answer), ("misconception", self.misconception)):
            if text is not None and text not in self.choices:
                raise ValueError(f"its {name} {text!r} is none of its choices")
        if self.answer == self.misconception:
            raise ValueError("its answer is also its misconception's")
        return self


class Brief(BaseModel):
    """What one dialogue is about: one JSON object a line in a briefs file.

    Only what a graph declares as needed is required. Keys that are not named here are kept under `extra`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = ""
    """Unique among the briefs of a run; a hash of the content if absent."""
    topic: str | None = None
    domain: str | None = None
    question: str | None = None
    answer: tuple[Said, ...] = ()
    """The accepted forms of the answer, the canonical one first. In a file: a string or a list."""
    giveaway: tuple[Said, ...] = ()
    """Terms that give the answer away: the student does not use them until they were taught."""
    misconception: Misconception | None = None
    probes: tuple[Probe, ...] = ()
    """What the student is asked before and after, beside the dialogue."""
    facts: tuple[Said, ...] = ()
    """Sentences to check claims against."""
    documents: tuple[Said, ...] = ()
    """What the dialogue is about or claims are checked against: files, folders and wildcards, relative to the config, or
    the text itself, in sentences."""
    level: str | None = None
    difficulty: str | None = None
    language: str | None = None
    generation: int = Field(default=0, ge=0, exclude_if=not_)
    """0 if a person wrote it; 1 + the generation of the model that wrote it, if one did (1 for a base model's)."""
    extra: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_extra(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        known = {key: value for key, value in data.items() if key in FIELDS and value is not None}
        unknown = {key: value for key, value in data.items() if key not in FIELDS}
        if unknown and isinstance(extra := known.get("extra", {}), Mapping):
            known["extra"] = {**extra, **unknown}
        if known.get("id") in (None, ""):
            content = {key: value for key, value in known.items() if key != "generation"}
            as_json = orjson.dumps(content, option=orjson.OPT_SORT_KEYS, default=_plain)
            known["id"] = hashlib.sha256(as_json).hexdigest()[:16]
        return known

    @field_validator("id", "topic", "question", "level", "difficulty", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return _as_text(value)

    @field_validator("answer", "giveaway", "facts", "documents", mode="before")
    @classmethod
    def _one_as_many(cls, value: Any) -> Any:
        return _as_texts(value)

    @model_validator(mode="after")
    def _misconception_is_wrong(self) -> Self:
        predicted = self.misconception.predicts if self.misconception else None
        for each in self.answer if predicted is not None else ():
            if _plainly(each) == _plainly(predicted or ""):
                raise ValueError(
                    f"misconception.predicts: {predicted!r} is an accepted answer: say what wrong answer the belief gives"
                )
        return self

    def __hash__(self) -> int:
        """By its id: `extra` holds values that have no hash."""
        return hash(self.id)

    def seen_by(self, sees: frozenset[str]) -> dict[str, Any]:
        """The part of the brief that a role may see: what is public, and what its agent declares in `sees`."""
        visible = PUBLIC | sees
        return {name: getattr(self, name) for name in FIELDS if name in visible}


FIELDS: Final = tuple(Brief.model_fields)
"""A brief's own keys; the others are kept under `extra`."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_texts(value: Any) -> Any:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return (str(value),)
    if isinstance(value, list | tuple):
        return tuple(str(each) if isinstance(each, int | float) else each for each in value)
    return value


def _plainly(text: str) -> str:
    return " ".join(text.casefold().split())


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"a brief holds JSON values only, not {type(value).__name__}")
