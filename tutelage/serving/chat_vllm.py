"""A chat model of LangChain's for vLLM, and for whatever else speaks its HTTP API: llama.cpp's server, a gateway.

It is built on aiohttp and orjson, because the usual client costs some 4 ms of CPU a call, and a client that is out of CPU
leaves its GPUs idle. Callbacks, tracing, `bind`, `with_retry` and the rest come with the base class.
"""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from random import getrandbits
from types import TracebackType
from typing import Any, Final, Literal, Self, cast
from uuid import UUID

import orjson
from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    UsageMetadata,
    convert_to_openai_messages,
)
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from tutelage.dialogue.asking import response_format
from tutelage.errors import ConfigError, EndpointRefused, ShapeError
from tutelage.serving.endpoint_pool import EndpointPool

CHAT_PATH: Final = "/chat/completions"
_ROLES: Final[dict[type[BaseMessage], str]] = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant"}
_SAMPLING: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "seed",
    "n",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)
_FOR_LISTENERS: Final = ("tags", "run_name", "ls_structured_output_format", "structured_output_format")
_KEPT_OF_REPLY: Final = ("system_fingerprint", "prompt_logprobs", "prompt_token_ids", "metrics")
_KEPT_OF_CHOICE: Final = ("stop_reason", "logprobs", "token_ids")
"""What goes into `response_metadata` where the endpoint gives it."""


class ChatVLLM(BaseChatModel):
    """A model at one or more vLLM endpoints.

        async with ChatVLLM(model="Qwen/Qwen3-4B", url="http://gpu-1:8000/v1", temperature=0.7) as model:
            answer = await model.ainvoke("What is 1/2 + 1/3?", max_tokens=200)

    Sampling that is None is left to the server. Each field may be given anew in a call, and whatever else a call is given
    goes into the request's body as it is: `response_format`, `structured_outputs`, `priority`, `cache_salt`, `logprobs`.

    Calls whose config has the same `dialogue` and `view` in its metadata go to one replica, for the sake of its prefix
    cache. Cancelling the task that awaits a call closes its connection, upon which vLLM frees the request.

    An answer has the text (without reasoning, which is `additional_kwargs["reasoning_content"]`), `usage_metadata` with
    the cached prompt tokens, and in `response_metadata` `model_name`, `adapter`, `endpoint`, `finish_reason`, `id` (the
    server's), `request_id` (ours, sent as X-Request-Id: the run's id in a trace), and what was asked for besides, as
    `logprobs` or `token_ids`. With `n` above 1, `agenerate` gives all candidates; the first one carries the usage of all.

    Calls raise the `CallError`s that `EndpointPool.post` names. Replies are not streamed.
    """

    # A misspelt `temprature` should be an error, not the server's default.
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    model: str
    """The name under which the base model is served."""
    adapter: str | None = None
    """The name of a LoRA adapter on it, to be used instead of the bare model."""
    url: str | Sequence[str] | None = None
    """The endpoint's base URL, or those of several replicas; not with `pool`."""
    api_key: SecretStr | None = None
    """For `url`; a pool has its own."""
    pool: EndpointPool = Field(default=cast("EndpointPool", None), repr=False, exclude=True)
    """The endpoints: made from `url`, or given where several models share them or more is to be said of them."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    """Of the reply."""
    seed: int | None = None
    n: int | None = None
    """Candidates for each call."""
    stop: list[str] | None = None
    """Texts before which the reply ends."""
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    extra: dict[str, Any] = Field(default_factory=dict)
    """More for the body of each request, as `{"chat_template_kwargs": {"enable_thinking": False}}`."""

    @model_validator(mode="after")
    def _find_endpoints(self) -> Self:
        if self.pool is None:
            self.pool = EndpointPool(self.url or (), api_key=self.api_key)
        elif self.url is None and self.api_key is not None:
            raise ConfigError(f"the model {self.model!r} has an `api_key` beside its pool: give the key to the pool")
        elif self.url is not None and EndpointPool(self.url).urls != self.pool.urls:
            raise ConfigError(f"the model {self.model!r} has a pool and the `url` of another: give one of them")
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections of this event loop, those of a shared pool too."""
        await self.pool.aclose()

    @property
    def served_name(self) -> str:
        """What a request asks for: the adapter, or the bare model."""
        return self.adapter or self.model

    @property
    def _llm_type(self) -> str:
        return "vllm"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, **self._sampling(), **self.extra}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What traces show. The base class makes it with a detour over a deprecated method, which costs 10 µs a call.
        return {**self._identifying_params, "_type": self._llm_type, "stop": stop, **kwargs}

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
        as_json = convert_to_json_schema(schema)
        model = self.bind(
            response_format=_response_format(schema, as_json),
            ls_structured_output_format={"kwargs": {"method": method}, "schema": schema},
            **kwargs,
        )
        read = partial(_shaped, schema)
        reader: Runnable[AIMessage, Any] = RunnableLambda(partial(_raw_and_shaped, read) if include_raw else read)
        return model | reader

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._generate_alone(messages, stop, run_manager, kwargs))
        raise RuntimeError(
            "ChatVLLM.invoke would stop the event loop that runs in this thread until the model has answered: "
            "use `await model.ainvoke(...)`"
        )

    async def _generate_alone(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        run_manager: CallbackManagerForLLMRun | None,
        options: dict[str, Any],
    ) -> ChatResult:
        try:
            return await self._complete(messages, stop, *_origin(run_manager), options)
        finally:
            await self.pool.aclose()

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
        result = await self._complete(messages[0], stop, request_id, _affinity(metadata or {}), options)
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
        return await self._complete(messages, stop, *_origin(run_manager), kwargs)

    async def _complete(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        request_id: str | None,
        key: str | None,
        options: dict[str, Any],
    ) -> ChatResult:
        # Thousands of calls may wait for their turn: they hold their messages, and no body yet.
        reply, endpoint = await self.pool.post(
            CHAT_PATH, lambda: orjson.dumps(self._body(messages, stop, options)), key=key, request_id=request_id
        )
        try:
            return self._result(reply, endpoint, request_id)
        except (KeyError, TypeError, AttributeError):
            raise EndpointRefused(
                f"{endpoint}{CHAT_PATH} answered with JSON that is no chat completion: is that an OpenAI-compatible API?"
            ) from None

    def _body(self, messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
        if options.get("stream"):
            raise ConfigError("ChatVLLM gives whole replies: leave `stream` out")
        if stop is not None:
            options["stop"] = stop
        body = {
            "model": self.served_name,
            "messages": [_as_openai(message) for message in messages],
            **self.extra,
            **self._sampling(),
            **options,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _sampling(self) -> dict[str, Any]:
        fields = self.__dict__
        return {name: fields[name] for name in _SAMPLING if fields[name] is not None}

    def _result(self, reply: dict[str, Any], endpoint: str, request_id: str | None) -> ChatResult:
        shared = {
            "model_name": self.model,
            "adapter": self.adapter,
            "endpoint": endpoint,
            "id": reply.get("id"),
            "request_id": request_id,
            **_given(reply, _KEPT_OF_REPLY),
        }
        usage = _usage(reply.get("usage"))
        generations = []
        for choice in reply["choices"]:
            details = {**shared, "finish_reason": choice.get("finish_reason"), **_given(choice, _KEPT_OF_CHOICE)}
            generations.append(ChatGeneration(message=_answer(choice["message"], usage, details)))
            usage = None
        if not generations:
            raise KeyError("choices")
        return ChatResult(generations=generations)


# The base class looks at this method's parameters at each call, and finding them anew takes a twentieth of its time.
ChatVLLM._agenerate.__signature__ = inspect.signature(ChatVLLM._agenerate)  # type: ignore[attr-defined]


def _as_openai(message: BaseMessage) -> dict[str, Any]:
    role = _ROLES.get(type(message))
    if role is not None and isinstance(message.content, str) and not getattr(message, "tool_calls", None):
        return {"role": role, "content": message.content}
    return convert_to_openai_messages(message)


def _origin(
    run_manager: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None,
) -> tuple[str | None, str | None]:
    """The id of a request, and the key of what it belongs to."""
    return (run_manager.run_id.hex, _affinity(run_manager.metadata)) if run_manager else (None, None)


def _affinity(metadata: Mapping[str, Any]) -> str | None:
    """What the calls have in common whose prompts begin alike: a dialogue, and the view of it that a role has."""
    dialogue = metadata.get("dialogue")
    return None if dialogue is None else f"{dialogue}/{metadata.get('view')}"


def _given(reply: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: reply[name] for name in names if reply.get(name) is not None}


def _answer(message: dict[str, Any], usage: UsageMetadata | None, details: dict[str, Any]) -> AIMessage:
    additional = {}
    # vLLM calls it `reasoning` since 0.12, llama.cpp and older servers `reasoning_content`.
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        additional["reasoning_content"] = reasoning
    if tool_calls := message.get("tool_calls"):
        additional["tool_calls"] = tool_calls
    return AIMessage(
        content=message.get("content") or "",
        additional_kwargs=additional,
        usage_metadata=usage,
        response_metadata=details,
    )


def _usage(usage: dict[str, Any] | None) -> UsageMetadata | None:
    if not usage:
        return None
    prompt, completion = usage["prompt_tokens"], usage.get("completion_tokens") or 0
    read: UsageMetadata = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    if cached is not None:
        read["input_token_details"] = {"cache_read": cached}
    return read


def _response_format(schema: dict[str, Any] | type, as_json: dict[str, Any]) -> dict[str, Any]:
    if (pydantic := _as_pydantic(schema)) is not None:
        return response_format(pydantic)
    return {"type": "json_schema", "json_schema": {"name": as_json["title"], "schema": as_json, "strict": True}}


def _as_pydantic(schema: object) -> type[BaseModel] | None:
    return schema if isinstance(schema, type) and issubclass(schema, BaseModel) else None


def _shaped(schema: dict[str, Any] | type, message: AIMessage) -> Any:
    text, pydantic = str(message.text), _as_pydantic(schema)
    try:
        return pydantic.model_validate_json(text) if pydantic else orjson.loads(text)
    except (ValidationError, orjson.JSONDecodeError) as error:
        reason = message.response_metadata.get("finish_reason")
        raise ShapeError(
            f"the reply does not fit its schema (it finished by {reason!r}): {error}", replies=[message]
        ) from error


def _raw_and_shaped(read: "partial[Any]", message: AIMessage) -> dict[str, Any]:
    try:
        return {"raw": message, "parsed": read(message), "parsing_error": None}
    except ShapeError as error:
        return {"raw": message, "parsed": None, "parsing_error": error}
