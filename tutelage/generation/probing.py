"""How an endpoint is asked for `tutelage doctor`: what a run will want of it, and the questions that show whether it can."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import orjson
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import SecretStr

from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.shapes import Shape
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.serving.refusals import words

ANSWER_SECONDS: Final = 8.0
"""How long an endpoint may take to say what it serves: a dead host must not keep anyone waiting."""
CALL_SECONDS: Final = 120.0
"""How long one call may take; the embedded model on a busy CPU takes some seconds."""
SAY_HELLO: Final = Prompt((Message("user", ("Say hello.",)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a role will ask of the endpoint."""

    role: str
    adapter: str | None
    sampling: Mapping[str, Any]
    """What is sent with each call, `max_tokens` among it."""
    shape: Shape | None
    """The shape of its replies; none for plain text."""
    prompt: Prompt | None
    """The longest of its first prompts; None if there are none to render."""
    candidates: int = 1
    """How many it is asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a run will want of all endpoints of a model."""

    model: str
    """The name under which they should serve it."""
    secret: SecretStr | None
    parts: Sequence[Part]
    """The roles that it plays."""
    token_limit: int
    """The run's `limits.tokens`."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Those that will be loaded where they are not served: by name, the folder."""
    priority: bool = False
    """Whether calls say how old their dialogue is."""
    isolate: bool = False
    """Whether they carry a `cache_salt`."""
    in_flight: int | None = None
    """The calls open at each endpoint, where the config says so."""
    is_run_by_us: bool = False
    """Whether the server is our own embedded one, whose settings nobody can change."""


class Probe:
    """Asks one endpoint, through the client that a run uses, so that what is found is what a run would meet.

    Args:
        url: The endpoint's base URL.
        wanted: What a run will want of it.
    """

    def __init__(self, url: str, wanted: Wanted) -> None:
        self.url = url
        self.wanted = wanted
        key = wanted.secret.get_secret_value() if wanted.secret else None
        self._key = key
        self.pool = EndpointPool(
            url, api_key=wanted.secret, timeout=CALL_SECONDS, connect_timeout=ANSWER_SECONDS, retries=0, patience=0
        )
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()
        await self.pool.aclose()

    async def ask(self, part: Part, prompt: Prompt = SAY_HELLO, **options: Any) -> AIMessage:
        """Makes one call as a role would.

        Raises:
            CallError: It failed.
        """
        return await self._model(part).ainvoke(_messages(prompt), **options)

    async def ask_for_many(self, part: Part, n: int, **options: Any) -> int:
        """Asks for several candidates at once, and gives their number.

        Raises:
            CallError: It failed.
        """
        asked = [HumanMessage(message.content) for message in SAY_HELLO.messages]
        result = await self._model(part).agenerate([[*asked]], **options, n=n)
        return len(result.generations[0])

    async def look(self, path: str) -> tuple[int, bytes] | None:
        """Status and body of a page under the server's root, as `/metrics`; None if nothing came."""
        try:
            async with self._session.get(self.url.removesuffix("/v1") + path, allow_redirects=False) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError):
            return None

    async def post_nothing(self, path: str) -> tuple[int, str] | None:
        """Status and words of the reply to an empty request under the base URL; None if nothing came."""
        try:
            async with self._session.post(self.url + path, data=orjson.dumps({}), allow_redirects=False) as response:
                return response.status, words(await response.read(), self._key)
        except (aiohttp.ClientError, OSError):
            return None

    def _model(self, part: Part) -> ChatVLLM:
        return ChatVLLM(model=self.wanted.model, adapter=part.adapter, pool=self.pool)


def _messages(prompt: Prompt) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in prompt.messages]
