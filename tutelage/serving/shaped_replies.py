"""What LangChain's `with_structured_output` asks an endpoint for, and how such a reply is read."""

from functools import partial
from typing import Any

import orjson
from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, ValidationError

from tutelage.dialogue.asking import response_format
from tutelage.errors import ShapeError


def format_for(schema: dict[str, Any] | type) -> dict[str, Any]:
    """The `response_format` that asks for a schema: a pydantic class, a TypedDict or a JSON schema."""
    if (pydantic := _as_pydantic(schema)) is not None:
        return response_format(pydantic)
    as_json = convert_to_json_schema(schema)
    return {"type": "json_schema", "json_schema": {"name": as_json["title"], "schema": as_json, "strict": True}}


def read_shaped(schema: dict[str, Any] | type, message: AIMessage) -> Any:
    """The object that a reply is.

    Raises:
        ShapeError: It does not fit the schema, or is no JSON.
    """
    text, pydantic = str(message.text), _as_pydantic(schema)
    try:
        return pydantic.model_validate_json(text) if pydantic else orjson.loads(text)
    except (ValidationError, orjson.JSONDecodeError) as error:
        reason = message.response_metadata.get("finish_reason")
        raise ShapeError(
            f"the reply does not fit its schema (it finished by {reason!r}): {error}", replies=[message]
        ) from error


def raw_and_read(read: "partial[Any]", message: AIMessage) -> dict[str, Any]:
    """The reply, what became of it, and the error if it did not fit."""
    try:
        return {"raw": message, "parsed": read(message), "parsing_error": None}
    except ShapeError as error:
        return {"raw": message, "parsed": None, "parsing_error": error}


def _as_pydantic(schema: object) -> type[BaseModel] | None:
    return schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None
