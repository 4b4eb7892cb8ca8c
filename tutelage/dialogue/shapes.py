"""Shapes that a reply may be asked for: a schema, one of some texts, a regular expression, a grammar.

A schema is asked for as `response_format`, which vLLM and llama.cpp follow alike, the others as vLLM's own
`structured_outputs` (as 0.32 calls it), which llama.cpp ignores without a word. A reply is therefore checked here,
too, as far as that can be done.
"""

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from tutelage.errors import GraphError

Schema = TypeVar("Schema", bound=BaseModel)


@dataclass(frozen=True, slots=True, init=False)
class OneOf:
    """One of some texts, word for word: `OneOf("yes", "no")`."""

    texts: tuple[str, ...]

    def __init__(self, *texts: str) -> None:
        if len(set(texts)) < len(texts) or not texts or any(not text or text != text.strip() for text in texts):
            raise GraphError(f"OneOf needs texts that differ and have no space around them, not {texts!r}")
        object.__setattr__(self, "texts", texts)

    def read(self, text: str) -> str:
        """The text, if it is one of them."""
        if text not in self.texts:
            raise ValueError(f"it must be one of {', '.join(self.texts)}, and nothing else")
        return text


@dataclass(frozen=True, slots=True)
class Matching:
    r"""A text that a regular expression matches as a whole: `Matching(r"-?\d+/\d+")`.

    It is followed by vLLM's grammar backend and checked with Python's `re`: keep to what both read alike, which leaves
    out looking ahead or behind and references back. Space around a reply does not count.
    """

    regex: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.regex)
        except re.error as error:
            raise GraphError(f"Matching({self.regex!r}) is no regular expression: {error}") from error

    def read(self, text: str) -> str:
        """The text, if it matches."""
        if not re.fullmatch(self.regex, text):
            raise ValueError(f"it must match the regular expression {self.regex}")
        return text


@dataclass(frozen=True, slots=True)
class Grammar:
    """A text of a context-free grammar, in the notation of vLLM's grammar backend (GBNF, or Lark for guidance).

    Only the endpoint can follow it: here a reply is not checked beyond being there.
    """

    rules: str

    def read(self, text: str) -> str:
        """The text, if there is any."""
        if not text:
            raise ValueError("the reply was empty")
        return text


TextShape: TypeAlias = OneOf | Matching | Grammar
Shape: TypeAlias = type[BaseModel] | TextShape
"""What an agent's `reply` may be."""


def request_options(shape: Shape | None) -> dict[str, Any]:
    """What a request says to have its reply take a shape."""
    if shape is None:
        return {}
    if isinstance(shape, type):
        return {"response_format": response_format(shape)}
    return {"structured_outputs": as_data(shape)}


def as_data(shape: Shape) -> dict[str, Any]:
    """A shape as plain JSON data: a JSON schema, or what vLLM's `structured_outputs` takes."""
    if isinstance(shape, OneOf):
        return {"choice": list(shape.texts)}
    if isinstance(shape, Matching):
        return {"regex": shape.regex}
    if isinstance(shape, Grammar):
        return {"grammar": shape.rules}
    return shape.model_json_schema()


@lru_cache(maxsize=256)
def response_format(schema: type[BaseModel]) -> dict[str, Any]:
    """What a request says to have its reply fit a schema.

    It is `response_format` and not vLLM's own `structured_outputs`: llama.cpp ignores the latter without a word.
    """
    return {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "schema": schema.model_json_schema(), "strict": True},
    }


def read_schema(schema: type[Schema], text: str) -> Schema:
    """A reply as its schema makes it.

    Raises:
        ValueError: It does not fit; pydantic's ValidationError is one.
    """
    try:
        return schema.model_validate_json(text)
    except ValidationError:
        # xgrammar lets raw control characters, a tab for one, into strings whose length the schema bounds.
        try:
            lenient = json.loads(text, strict=False)
        except json.JSONDecodeError:
            lenient = None
        if lenient is None:
            raise
        return schema.model_validate_json(json.dumps(lenient))
