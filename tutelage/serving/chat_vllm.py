"""A chat model of LangChain's for vLLM, and for whatever else speaks its HTTP API: llama.cpp's server, a gateway.

It is built on aiohttp and orjson, because the usual client costs some 4 ms of CPU a call, and a client that is out of CPU
leaves its GPUs idle. Callbacks, tracing, `bind`, `with_retry` and the rest come with the base class.
"""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from random import getrandbits
from typing import Any, Final, Literal, TypeGuard
from uuid import UUID

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from pydantic import BaseModel

from tutelage.errors import ConfigError, EndpointFailed, EndpointRefused
from tutelage.serving.chat_messages import as_openai, read_reply
from tutelage.serving.chat_stream import StreamedReply
from tutelage.serving.chat_tools import Tool, tool_choice_for, tools_for
from tutelage.serving.endpoint_model import Body, EndpointModel, Origin
from tutelage.serving.shaped_replies import format_for, raw_and_read, read_shaped

CHAT_PATH: Final = "/chat/completions"
_FOR_LISTENERS: Final = ("tags", "run_name", "ls_structured_output_format", "structured_output_format")
_NO_COMPLETION: Final = (KeyError, TypeError, AttributeError)
"""What reading something else as a chat completion raises."""


class ChatVLLM(EndpointModel, BaseChatModel):
    """A model at one or more vLLM endpoints.

        async with ChatVLLM(model="Qwen/Qwen3-4B", url="http://gpu-1:8000/v1", temperature=0.7) as model:
            answer = await model.ainvoke("What is 1/2 + 1/3?", max_tokens=200)
            async for piece in model.astream("And 1/3 + 1/4?"):
                print(piece.text, end="")

    Sampling that is None is left to the server. Each field may be given anew in a call, and whatever else a call is given
    goes into the request's body as it is: `response_format`, `structured_outputs`, `priority`, `cache_salt`, `logprobs`.
    Nothing that only vLLM knows is sent unless it is asked for.

    Calls whose config has the same `dialogue` and `view` in its metadata go to one replica, for the sake of its prefix
    cache; of those that wait for their turn, the one goes first whose dialogue has `begun` first (seconds since the epoch).
    Cancelling the task that awaits a call closes its connection, upon which vLLM frees the request; so does leaving a
    stream early, once it is closed (`contextlib.aclosing`).

    An answer has the text (without reasoning, which is `additional_kwargs["reasoning_content"]`), `tool_calls`,
    `usage_metadata` with the cached prompt tokens, and in `response_metadata` `model_name`, `adapter`, `endpoint`,
    `finish_reason`, `id` (the server's), `request_id` (ours, sent as X-Request-Id: the run's id in a trace), and what was
    asked for besides, as `logprobs` or `token_ids`. The pieces of a stream add up to the same. With `n` above 1,
    `agenerate` gives all candidates; the first one carries the usage of all.

    Calls raise the `CallError`s that `EndpointPool.post` names.
    """

    model_config = EndpointModel.model_config

    @property
    def _llm_type(self) -> str:
        return "vllm"

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What traces show. The base class makes it with a detour over a deprecated method, which costs 10 µs a call.
        kwargs.pop("origin", None)
        return {**self._identifying_params, "_type": self._llm_type, "stop": stop, **kwargs}

    def bind_tools(
        self,
        tools: Sequence[Tool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        strict: bool | None = True,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Its answers have them in `tool_calls`, or, where the arguments are no JSON object, in `invalid_tool_calls`.

        Args:
            tools: Tools of LangChain's, typed functions, pydantic classes, or tools as OpenAI's API has them.
            tool_choice: `auto` (the server's default, for which vLLM wants `--enable-auto-tool-choice` and a
                `--tool-call-parser`), `required` or `any`, `none`, or the name of the tool to call.
            strict: Has the arguments held to their schema, which vLLM does not do by itself; None leaves it to the server.
            **kwargs: More for the body of each request.

        Raises:
            ConfigError: `tool_choice` names another tool.
        """
        offered = tools_for(tools, strict=strict)
        choice = tool_choice_for(tool_choice, offered)
        return self.bind(tools=offered, **({} if choice is None else {"tool_choice": choice}), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["json_schema"] = "json_schema",
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """This model with a schema that its replies follow, and are read by.

        Args:
            schema: A pydantic class, whose objects are given, or a TypedDict or a JSON schema, for dicts.
            include_raw: Gives `{"raw": message, "parsed": object or None, "parsing_error": error or None}` instead.
            method: The endpoint is given the schema as `response_format`, which vLLM and llama.cpp follow alike.
            **kwargs: More for the body of each request.

        Raises:
            ShapeError: Upon a call: the reply does not fit the schema, for one because `max_tokens` cut it off.
        """
        if method != "json_schema":
            raise ConfigError(f"ChatVLLM asks for shaped replies by method 'json_schema', not {method!r}")
        model = self.bind(
            response_format=format_for(schema),
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
            **kwargs,
        )
        read = partial(read_shaped, schema)
        reader: Runnable[AIMessage, Any] = RunnableLambda(partial(raw_and_read, read) if include_raw else read)
        return model | reader

    # --- whole replies ------------------------------------------------------------------------------------------------

    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        *,
        metadata: dict[str, Any] | None = None,
        run_id: UUID | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        """As the base class does, but cheaper where no callback, tracer, cache or rate limiter waits for a call."""
        if len(messages) != 1 or self._is_watched(callbacks):
            return await super().agenerate(
                messages, stop=stop, callbacks=callbacks, metadata=metadata, run_id=run_id, **kwargs
            )
        options = {name: value for name, value in kwargs.items() if name not in _FOR_LISTENERS}
        request_id = run_id.hex if run_id else f"{getrandbits(128):032x}"  # uuid4 asks the kernel each time
        result = await self._complete(messages[0], stop, Origin.of(metadata or {}, request_id), options)
        return LLMResult(generations=[[*result.generations]])

    def _is_watched(self, callbacks: Callbacks) -> bool:
        if self.cache or self.rate_limiter or get_llm_cache():
            return True
        return bool(AsyncCallbackManager.configure(callbacks, self.callbacks, self.verbose).handlers)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        origin = Origin.of_run(run_manager)
        if _is_followed(run_manager) and self._can_be_streamed(kwargs):
            return await self._follow(messages, stop, run_manager, origin, kwargs)
        return await self._complete(messages, stop, origin, kwargs)

    def _can_be_streamed(self, options: dict[str, Any]) -> bool:
        asked = {**self.extra, **self._sampling(), **options}
        return asked.get("n") in (None, 1) and not asked.get("prompt_logprobs")  # vLLM has them in whole replies alone

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._run_alone(self._complete(messages, stop, Origin.of_run(run_manager), kwargs))

    async def _complete(
        self, messages: list[BaseMessage], stop: list[str] | None, origin: Origin, options: dict[str, Any]
    ) -> ChatResult:
        reply, endpoint = await self._post(CHAT_PATH, self._asking(messages, stop), origin, options)
        try:
            return read_reply(reply, self._asked(endpoint, origin))
        except _NO_COMPLETION:
            raise _is_no_completion(endpoint) from None

    def _asking(self, messages: list[BaseMessage], stop: list[str] | None) -> Body:
        return lambda options: self._filled({"messages": [as_openai(message) for message in messages]}, stop, options)

    # --- replies piece by piece ---------------------------------------------------------------------------------------

    def _should_stream(
        self,
        *,
        async_api: bool,
        run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> bool:
        # An `ainvoke` whose tokens somebody follows is streamed by `_agenerate`, which is told what the call belongs to.
        return run_manager is None and super()._should_stream(async_api=async_api, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """The answer piece by piece; the last piece has the usage and the `response_metadata`."""
        config, origin = Origin.of_config(config, self.metadata)
        # The base class does not tell `_astream` of which run it is part.
        pieces = super().astream(input, config, stop=stop, **kwargs, origin=origin)
        async with aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """As `astream`, where no event loop runs."""
        config, origin = Origin.of_config(config, self.metadata)
        yield from super().stream(input, config, stop=stop, **kwargs, origin=origin)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        *,
        origin: Origin | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        origin, streamed = origin or Origin.of_run(run_manager), StreamedReply()
        async with aclosing(self._pieces(messages, stop, origin, kwargs, streamed)) as pieces:
            async for piece in pieces:
                if run_manager:
                    await run_manager.on_llm_new_token(str(piece.message.content), chunk=piece)
                yield piece

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        origin: Origin | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        origin, streamed = origin or Origin.of_run(run_manager), StreamedReply()
        for piece in self._iterate_alone(self._pieces(messages, stop, origin, kwargs, streamed)):
            if run_manager:
                run_manager.on_llm_new_token(str(piece.message.content), chunk=piece)
            yield piece

    async def _follow(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: AsyncCallbackManagerForLLMRun,
        origin: Origin,
        options: dict[str, Any],
    ) -> ChatResult:
        """A whole reply, whose pieces the handlers are told of as they come."""
        streamed, endpoint = StreamedReply(), ""
        message_id = f"lc_run--{run_manager.run_id}"  # that of the whole too, or LangGraph would show it again
        async with aclosing(self._pieces(messages, stop, origin, options, streamed)) as pieces:
            async for piece in pieces:
                piece.message.id = message_id
                endpoint = piece.message.response_metadata.get("endpoint", endpoint)
                await run_manager.on_llm_new_token(str(piece.message.content), chunk=piece)
        result = read_reply(streamed.whole(), self._asked(endpoint, origin))
        result.generations[0].message.id = message_id
        return result

    async def _pieces(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        origin: Origin,
        options: dict[str, Any],
        streamed: StreamedReply,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        """The pieces of a reply as they come, added up in `streamed`; the last one says where they came from."""
        events = self._stream_of(CHAT_PATH, self._asking(messages, stop), origin, options)
        endpoint = ""
        async with aclosing(events):
            async for event, endpoint in events:
                try:
                    piece = streamed.add(event)
                except _NO_COMPLETION:
                    raise _is_no_completion(endpoint) from None
                if piece is not None:
                    yield piece
        if not streamed.has_ended:
            raise EndpointFailed(f"{endpoint}{CHAT_PATH} ended its stream before the reply was over")
        yield streamed.last(self._asked(endpoint, origin))


# The base class looks at this method's parameters at each call, and finding them anew takes a twentieth of its time.
ChatVLLM._agenerate.__signature__ = inspect.signature(ChatVLLM._agenerate)  # type: ignore[attr-defined]


def _is_followed(run_manager: AsyncCallbackManagerForLLMRun | None) -> TypeGuard[AsyncCallbackManagerForLLMRun]:
    """Whether somebody wants the tokens as they come: LangGraph's stream of messages, LangChain's of events."""
    return run_manager is not None and any(
        isinstance(handler, _StreamingCallbackHandler) for handler in run_manager.handlers
    )


def _is_no_completion(endpoint: str) -> EndpointRefused:
    return EndpointRefused(
        f"{endpoint}{CHAT_PATH} answered with JSON that is no chat completion: is that an OpenAI-compatible API?"
    )
