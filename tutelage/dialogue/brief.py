"""What one dialogue is about."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PUBLIC: Final = frozenset({"topic", "domain", "question", "level", "language"})
"""What every role may see of a brief. The rest is private: a role sees it only if its agent declares it."""


class Misconception(BaseModel):
    """What the student wrongly believes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    belief: str
    """The belief, in one sentence that a student could hold."""
    predicts: str | None = None
    """The wrong answer that the belief gives to the question."""


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
    answer: tuple[str, ...] = ()
    """The accepted forms of the answer, the canonical one first. In a file: a string or a list."""
    misconception: Misconception | None = None
    facts: tuple[str, ...] = ()
    """Sentences to check claims against."""
    level: str | None = None
    language: str | None = None
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
            content = orjson.dumps(known, option=orjson.OPT_SORT_KEYS, default=_plain)
            known["id"] = hashlib.sha256(content).hexdigest()[:16]
        return known

    @field_validator("id", "topic", "question", mode="before")
    @classmethod
    def _number_as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("answer", "facts", mode="before")
    @classmethod
    def _one_as_many(cls, value: Any) -> Any:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return (str(value),)
        if isinstance(value, list | tuple):
            return tuple(str(each) if isinstance(each, int | float) else each for each in value)
        return value

    def __hash__(self) -> int:
        """By its id: `extra` holds values that have no hash."""
        return hash(self.id)

    def seen_by(self, sees: frozenset[str]) -> dict[str, Any]:
        """The part of the brief that a role may see: what is public, and what its agent declares in `sees`."""
        visible = PUBLIC | sees
        return {name: getattr(self, name) for name in FIELDS if name in visible}


FIELDS: Final = tuple(Brief.model_fields)
"""A brief's own keys; the others are kept under `extra`."""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    raise TypeError(f"a brief holds JSON values only, not {type(value).__name__}")
