"""Tools as a request offers them to a model, and which of them it is to call."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from tutelage.errors import ConfigError

Tool: TypeAlias = dict[str, Any] | type | Callable[..., Any] | BaseTool
"""A tool of LangChain's, a typed function with a docstring, a pydantic class, or a tool as OpenAI's API has it."""


def tools_for(tools: Sequence[Tool], *, strict: bool | None) -> list[dict[str, Any]]:
    """The tools as a request lists them.

    Args:
        tools: What the model may call.
        strict: Whether the arguments are held to their schema. Without it vLLM 0.32 gave arguments that did not fit in 32
            of 32 calls of a tool by name, and with it none in 16.
    """
    return [convert_to_openai_tool(tool, strict=strict) for tool in tools]


def tool_choice_for(choice: str | bool | dict[str, Any] | None, tools: Sequence[dict[str, Any]]) -> Any:
    """What a request says of which tool is to be called.

    Args:
        choice: `auto`, `required` (also `any`, or True), `none`, the name of a tool, or what OpenAI's API has for it.
        tools: As the request lists them.

    Raises:
        ConfigError: It names a tool that is not there.
    """
    if choice is None or isinstance(choice, dict):
        return choice
    if isinstance(choice, bool):
        return "required" if choice else "none"
    if choice in ("auto", "none", "required"):
        return choice
    if choice == "any":
        return "required"
    names = [tool["function"]["name"] for tool in tools]
    if choice not in names:
        raise ConfigError(
            f"tool_choice is {choice!r}, which is none of the tools ({', '.join(names)}): "
            "name one of them, or say auto, required or none"
        )
    return {"type": "function", "function": {"name": choice}}
