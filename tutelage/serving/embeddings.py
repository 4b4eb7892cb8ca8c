"""Embeddings from vLLM endpoints, as LangChain's `Embeddings`."""

import asyncio
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import orjson
from langchain_core.embeddings import Embeddings
from pydantic import SecretStr

from tutelage.errors import EndpointRefused
from tutelage.serving.endpoint_pool import EndpointPool

EMBEDDINGS_PATH: Final = "/embeddings"
BATCH: Final = 64
"""Texts of one request: the requests of many texts are then spread over the replicas."""

Value = TypeVar("Value")


class EmbeddingsVLLM(Embeddings):
    """An embedding model at one or more vLLM endpoints (`vllm serve MODEL --runner pooling`).

    async with EmbeddingsVLLM(model="intfloat/e5-small", url="http://gpu-1:8000/v1") as embeddings:
        vectors = await embeddings.aembed_documents(["Water boils at 100 °C.", "Ice floats."])
    """

    def __init__(
        self,
        *,
        model: str,
        url: str | Sequence[str] = (),
        api_key: SecretStr | None = None,
        pool: EndpointPool | None = None,
    ) -> None:
        """Nothing is asked of the endpoints yet.

        Args:
            model: The name under which it is served.
            url: The endpoint's base URL, or those of several replicas; not needed with `pool`.
            api_key: For `url`; a pool has its own.
            pool: The endpoints, where others share them.

        Raises:
            ConfigError: The URL is none, or there is neither URL nor pool.
        """
        self.model = model
        self.pool = pool or EndpointPool(url, api_key=api_key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections of this event loop, those of a shared pool too."""
        await self.pool.aclose()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vector of each text, in their order.

        Raises:
            CallError: They could not be had.
        """
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        answers = await asyncio.gather(*(self._embedded(batch) for batch in batches))
        return [vector for answer in answers for vector in answer]

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of one text.

        Raises:
            CallError: It could not be had.
        """
        return (await self._embedded([text]))[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `aembed_documents`, where no event loop runs."""
        return self._alone(self.aembed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """As `aembed_query`, where no event loop runs."""
        return self._alone(self.aembed_query(text))

    async def _embedded(self, texts: Sequence[str]) -> list[list[float]]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "float"}
        reply, endpoint = await self.pool.post(EMBEDDINGS_PATH, orjson.dumps(body))
        try:
            data: list[dict[str, Any]] = sorted(reply["data"], key=lambda each: each["index"])
            vectors: list[list[float]] = [each["embedding"] for each in data]
        except (KeyError, TypeError):
            vectors = []
        if len(vectors) != len(texts):
            raise EndpointRefused(
                f"{endpoint}{EMBEDDINGS_PATH} answered with JSON that is not {len(texts)} embeddings: is {self.model!r} a "
                "model for embeddings, and that an OpenAI-compatible API?"
            )
        return vectors

    def _alone(self, call: Coroutine[Any, Any, Value]) -> Value:
        async def alone() -> Value:
            try:
                return await call
            finally:
                await self.pool.aclose()

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(alone())
        call.close()
        raise RuntimeError("an event loop runs in this thread: use `await embeddings.aembed_documents(...)`")
