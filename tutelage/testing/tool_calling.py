"""The tools that a request offers to the simulated model, and what it calls of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tutelage.testing import schema_filler
from tutelage.testing.schema_filler import Draw

Calling = Literal["none", "auto", "required", "named"]
_USAGE = 'Correct usage: `{"type": "function", "function": {"name": "my_function"}}`'


class ToolError(ValueError):
    """A request for tools that vLLM would refuse."""

    def __init__(self, message: str, *, param: str | None = "tool_choice") -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A tool that may be called."""

    name: str
    schema: Any
    sampler: schema_filler.Sampler | None
    """Draws arguments that fit; None where nothing holds them to the schema."""

    def arguments(self, draw: Draw) -> str:
        """Arguments for a call, as JSON."""
        value = schema_filler.violation(self.schema) if self.sampler is None else self.sampler(draw)
        return orjson.dumps(value).decode()


def read_tools(body: Mapping[str, Any], *, with_parser: bool) -> tuple[tuple[Offer, ...], Calling]:
    """The tools that a request lets the model call, and whether it must.

    As with vLLM 0.32, only `function.strict` holds the arguments to their schema.

    Args:
        body: The request's body.
        with_parser: Whether the server was started with `--enable-auto-tool-choice` and `--tool-call-parser`.

    Raises:
        ToolError: vLLM would refuse it.
        SchemaError: A strict tool's schema cannot be followed.
    """
    tools = body.get("tools") or []
    choice = body.get("tool_choice", "auto" if tools else None)
    if choice is None or choice == "none":
        return (), "none"
    if not tools:
        raise ToolError("When using `tool_choice`, `tools` must be set.")
    if not with_parser and choice == "auto":
        raise ToolError(
            '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', param=None
        )
    if not with_parser:
        wanted = f'function "{_named(choice)}"' if isinstance(choice, dict) else f'"{choice}"'
        raise ToolError(f"tool_choice={wanted} requires --tool-call-parser to be set", param=None)
    if isinstance(choice, dict):
        named = [tool for tool in tools if _name(tool) == _named(choice)]
        if not named:
            raise ToolError("The tool specified in `tool_choice` does not match any of the specified `tools`")
        return tuple(map(_offer, named)), "named"
    if choice not in ("auto", "required"):
        raise ToolError(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.'
        )
    return tuple(map(_offer, tools)), choice


def _named(choice: Mapping[str, Any]) -> str:
    function = choice.get("function")
    if not isinstance(function, dict):
        raise ToolError(f"Invalid value for `function`: `{function}` in `tool_choice`! {_USAGE}")
    if not function.get("name"):
        raise ToolError(f"Expected field `name` in `function` in `tool_choice`! {_USAGE}")
    return str(function["name"])


def _name(tool: Any) -> str:
    try:
        return str(tool["function"]["name"])
    except (KeyError, TypeError) as error:
        raise ToolError("each of `tools` needs a `function` with a `name`", param="tools") from error


def _offer(tool: Mapping[str, Any]) -> Offer:
    function = tool["function"]
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    sampler = schema_filler.compile_schema(schema) if function.get("strict") else None
    return Offer(name=_name(tool), schema=schema, sampler=sampler)
