"""A chat completion that comes piece by piece: each piece as a chunk of LangChain's, and in the end the whole reply."""

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from tutelage.serving.chat_messages import KEPT_OF_REPLY, given, read_usage, reasoning_of

_WITH_EACH_PIECE: Final = ("logprobs", "token_ids")


class StreamedReply:
    """What has come of one choice so far."""

    def __init__(self) -> None:
        self._reply: dict[str, Any] = {}
        self._choice: dict[str, Any] = {"finish_reason": None}
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}

    @property
    def has_ended(self) -> bool:
        """Whether the choice has said why it finished."""
        return self._choice["finish_reason"] is not None

    def add(self, event: dict[str, Any]) -> ChatGenerationChunk | None:
        """Takes an event of the stream in; gives what it adds to the message, None where that is nothing.

        Raises:
            KeyError, TypeError, AttributeError: It is no event of a chat completion.
        """
        self._reply.update(given(event, ("id", "usage", *KEPT_OF_REPLY)))
        # One candidate was asked for; the event that brings the usage has none.
        return self._add(event["choices"][0]) if event["choices"] else None

    def last(self, details: Mapping[str, Any]) -> ChatGenerationChunk:
        """The chunk that ends the message, with its usage and the rest of its `response_metadata`."""
        metadata = {
            **details,
            "id": self._reply.get("id"),
            **given(self._reply, KEPT_OF_REPLY),
            "finish_reason": self._choice["finish_reason"],
            **given(self._choice, ("stop_reason",)),
        }
        message = AIMessageChunk(
            content="",
            usage_metadata=read_usage(self._reply.get("usage")),
            response_metadata=metadata,
            chunk_position="last",
        )
        return ChatGenerationChunk(message=message)

    def whole(self) -> dict[str, Any]:
        """The reply as it would have come in one piece."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self._reasoning:
            message["reasoning"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [self._calls[index] for index in sorted(self._calls)]
        return {**self._reply, "choices": [{**self._choice, "index": 0, "message": message}]}

    def _add(self, choice: dict[str, Any]) -> ChatGenerationChunk | None:
        delta, metadata = choice.get("delta") or {}, given(choice, _WITH_EACH_PIECE)
        self._choice.update(given(choice, ("finish_reason", "stop_reason")))
        if "token_ids" in metadata:
            self._choice.setdefault("token_ids", []).extend(metadata["token_ids"])
        if "logprobs" in metadata:
            kept = self._choice.setdefault("logprobs", {"content": []})
            kept["content"] += metadata["logprobs"]["content"] or []
        content, reasoning = delta.get("content") or "", reasoning_of(delta)
        calls = [self._add_call(call) for call in delta.get("tool_calls") or ()]
        if content:
            self._content.append(content)
        if reasoning:
            self._reasoning.append(reasoning)
        if not (content or reasoning or calls or metadata):
            return None
        message = AIMessageChunk(
            content=content,
            additional_kwargs={"reasoning_content": reasoning} if reasoning else {},
            tool_call_chunks=calls,
            response_metadata=metadata,
        )
        return ChatGenerationChunk(message=message)

    def _add_call(self, call: dict[str, Any]) -> ToolCallChunk:
        """Of a tool call its id and its name come once, its arguments bit by bit."""
        index, function = call.get("index") or 0, call.get("function") or {}
        name, arguments = function.get("name") or None, function.get("arguments") or ""
        kept = self._calls.setdefault(
            index, {"id": None, "type": "function", "function": {"name": None, "arguments": ""}}
        )
        identity = None if kept["id"] else call.get("id")
        kept["id"] = kept["id"] or identity
        new_name = None if kept["function"]["name"] else name
        kept["function"]["name"] = kept["function"]["name"] or name
        kept["function"]["arguments"] += arguments
        return tool_call_chunk(name=new_name, args=arguments, id=identity, index=index)
