"""What a model at endpoints has, whichever API it is asked by: its name, its sampling, its pool, the origin of a call."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.utils.uuid import uuid7
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from tutelage.errors import ConfigError
from tutelage.serving.endpoint_pool import EndpointPool

SAMPLING: Final = (
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

Piece = TypeVar("Piece")
Body = Callable[[dict[str, Any]], dict[str, Any]]
"""Makes the body of a request with these options."""
Events = AsyncGenerator[tuple[dict[str, Any], str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a call belongs to."""

    request_id: str | None = None
    key: str | None = None
    """What the calls have in common whose prompts begin alike: a dialogue, and the view of it that a role has."""
    order: float = field(default_factory=time.time)
    """When its dialogue began: of the calls that wait here, the oldest goes first."""

    @classmethod
    def of(cls, metadata: Mapping[str, Any], request_id: str | None) -> Self:
        """That of a call whose config has this metadata."""
        dialogue, begun = metadata.get("dialogue"), metadata.get("begun")
        key = None if dialogue is None else f"{dialogue}/{metadata.get('view')}"
        return cls(request_id=request_id, key=key, order=time.time() if begun is None else begun)

    @classmethod
    def of_run(cls, run_manager: AsyncCallbackManagerForLLMRun | CallbackManagerForLLMRun | None) -> Self:
        """That of a call that LangChain has given a run."""
        return cls.of(run_manager.metadata, run_manager.run_id.hex) if run_manager else cls()

    def part(self, number: int) -> Self:
        """That of one of several requests that a call makes, counted from 0."""
        if not number or self.request_id is None:
            return self
        return replace(self, request_id=f"{self.request_id}.{number}")

    @classmethod
    def of_config(cls, config: RunnableConfig | None, own: Mapping[str, Any] | None) -> tuple[RunnableConfig, Self]:
        """That of a call with this config, of a model with this metadata; and the config, which now names the run."""
        config = ensure_config(config)
        run_id = config.get("run_id") or uuid7()
        metadata = {**(own or {}), **(config.get("metadata") or {})}
        return {**config, "run_id": run_id}, cls.of(metadata, run_id.hex)


class EndpointModel(BaseModel):
    """The fields that `ChatVLLM` and `CompletionsVLLM` share."""

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
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "adapter": self.adapter, **self._sampling(), **self.extra}

    def _sampling(self) -> dict[str, Any]:
        fields = self.__dict__
        return {name: fields[name] for name in SAMPLING if fields[name] is not None}

    def _asked(self, endpoint: str, origin: Origin) -> dict[str, Any]:
        """What the metadata of each reply begins with: who was asked, and where."""
        return {
            "model_name": self.model,
            "adapter": self.adapter,
            "endpoint": endpoint,
            "request_id": origin.request_id,
        }

    def _filled(self, asked: dict[str, Any], stop: list[str] | None, options: dict[str, Any]) -> dict[str, Any]:
        """The body of a request that asks this; what is None is left to the server."""
        stops = {} if stop is None else {"stop": stop}
        body = {"model": self.served_name, **asked, **self.extra, **self._sampling(), **options, **stops}
        return {name: value for name, value in body.items() if value is not None}

    async def _post(self, path: str, body: Body, origin: Origin, options: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Asks for a whole reply, and gives it with the endpoint that gave it.

        Raises:
            ConfigError: The options ask for a stream.
        """
        if options.get("stream"):
            raise ConfigError("invoke and generate give whole replies: leave `stream` out, or use `astream`")
        # Thousands of calls may wait for their turn: they hold what they ask, and no body yet.
        return await self.pool.post(
            path,
            lambda: orjson.dumps(body(options)),
            key=origin.key,
            order=origin.order,
            request_id=origin.request_id,
        )

    def _stream_of(self, path: str, body: Body, origin: Origin, options: dict[str, Any]) -> Events:
        """Asks for a reply piece by piece, and gives each event with the endpoint that it came from.

        Raises:
            ConfigError: The options ask for more than one candidate.
        """
        if (candidates := options.get("n", self.n)) not in (None, 1):
            raise ConfigError(f"a stream gives one candidate, not n={candidates}: use `agenerate`")
        streamed = {"stream_options": {"include_usage": True}, **options, "stream": True}
        return self.pool.stream(
            path,
            lambda: orjson.dumps(body(streamed)),
            key=origin.key,
            order=origin.order,
            request_id=origin.request_id,
        )

    def _run_alone(self, call: Coroutine[Any, Any, Piece]) -> Piece:
        """Makes a call where no event loop runs, for `invoke`."""
        if _loop_runs():
            call.close()
            raise self._would_stop_the_loop("invoke", "await model.ainvoke(...)")

        async def alone() -> Piece:
            try:
                return await call
            finally:
                await self.pool.aclose()

        return asyncio.run(alone())

    def _iterate_alone(self, pieces: AsyncGenerator[Piece, None]) -> Iterator[Piece]:
        """Goes through a stream where no event loop runs, for `stream`."""
        if _loop_runs():
            raise self._would_stop_the_loop("stream", "async for piece in model.astream(...)")

        async def further() -> tuple[Piece, ...]:
            async for piece in pieces:
                return (piece,)
            return ()

        with asyncio.Runner() as runner:
            try:
                while piece := runner.run(further()):
                    yield piece[0]
            finally:
                runner.run(pieces.aclose())
                runner.run(self.pool.aclose())

    def _would_stop_the_loop(self, method: str, instead: str) -> RuntimeError:
        return RuntimeError(
            f"{type(self).__name__}.{method} would stop the event loop that runs in this thread until the model has "
            f"answered: use `{instead}`"
        )


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
