"""Chat completions and LangChain's messages, each made of the other."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    UsageMetadata,
    convert_to_openai_messages,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call
from langchain_core.outputs import ChatGeneration, ChatResult

_ROLES: Final[dict[type[BaseMessage], str]] = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant"}
KEPT_OF_REPLY: Final = ("system_fingerprint", "prompt_logprobs", "prompt_token_ids", "metrics")
KEPT_OF_CHOICE: Final = ("stop_reason", "logprobs", "token_ids")
"""What goes into `response_metadata` where the endpoint gives it."""


def as_openai(message: BaseMessage) -> dict[str, Any]:
    """A message as a request has it."""
    role = _ROLES.get(type(message))
    if role is None or not isinstance(message.content, str):
        sent: dict[str, Any] = convert_to_openai_messages(message)
    else:
        sent = {"role": role, "content": message.content}
    if isinstance(message, AIMessage) and (message.tool_calls or message.invalid_tool_calls):
        sent["tool_calls"] = [*map(_sent_call, message.tool_calls), *map(_sent_call, message.invalid_tool_calls)]
    return sent


def read_reply(reply: dict[str, Any], shared: Mapping[str, Any]) -> ChatResult:
    """The candidates of a chat completion.

    Args:
        reply: The endpoint's JSON.
        shared: What each candidate's `response_metadata` begins with: who was asked, and where.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: It is no chat completion.
    """
    details = {**shared, "id": reply.get("id"), **given(reply, KEPT_OF_REPLY)}
    usage = read_usage(reply.get("usage"))
    generations = []
    for choice in reply["choices"]:
        own = {**details, "finish_reason": choice.get("finish_reason"), **given(choice, KEPT_OF_CHOICE)}
        generations.append(ChatGeneration(message=_answer(choice["message"], usage, own)))
        usage = None
    if not generations:
        raise KeyError("choices")
    return ChatResult(generations=generations)


def read_usage(usage: dict[str, Any] | None) -> UsageMetadata | None:
    """The token counts of a reply: prompt, of which cached, and completion."""
    if not usage:
        return None
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    read: UsageMetadata = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        read["input_token_details"] = {"cache_read": cached}
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    if thought is not None:
        read["output_token_details"] = {"reasoning": thought}
    return read


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """What a message or a piece of one holds of the model's thinking."""
    # vLLM calls it `reasoning` since 0.12, llama.cpp and older servers `reasoning_content`.
    return message.get("reasoning") or message.get("reasoning_content")


def given(reply: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of the names that have a value."""
    return {name: reply[name] for name in names if reply.get(name) is not None}


def _answer(message: dict[str, Any], usage: UsageMetadata | None, details: dict[str, Any]) -> AIMessage:
    additional = {}
    if reasoning := reasoning_of(message):
        additional["reasoning_content"] = reasoning
    calls, invalid = _read_calls(message.get("tool_calls") or ())
    return AIMessage(
        content=message.get("content") or "",
        additional_kwargs=additional,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage,
        response_metadata=details,
    )


def _read_calls(sent: Sequence[dict[str, Any]]) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for each in sent:
        name, arguments = each["function"]["name"], each["function"].get("arguments")
        try:
            read = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError as error:
            invalid.append(invalid_tool_call(name=name, args=arguments, id=each.get("id"), error=f"no JSON: {error}"))
            continue
        if isinstance(read, dict):
            calls.append(tool_call(name=name, args=read, id=each.get("id")))
        else:
            invalid.append(
                invalid_tool_call(
                    name=name, args=arguments, id=each.get("id"), error="the arguments are no JSON object"
                )
            )
    return calls, invalid


def _sent_call(call: ToolCall | InvalidToolCall) -> dict[str, Any]:
    arguments = call["args"]
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments or {}).decode()
    return {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": arguments}}
