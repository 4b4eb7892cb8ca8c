"""Examines one endpoint for `tutelage doctor`: whether it answers, and does what a run will ask of it.

The calls go through the client that a run uses, so that what is found here is what a run would meet.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from tutelage.dialogue.asking import response_format
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.errors import CallError, ContextExceeded, EndpointUnreachable, SchemaRefused
from tutelage.generation.findings import Finding, Notes
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.endpoint_pool import EndpointPool, ServedModel
from tutelage.serving.refusals import can_heal, refusal, words

ANSWER_SECONDS: Final = 8.0
"""How long an endpoint may take to say what it serves: a dead host must not keep anyone waiting."""
CALL_SECONDS: Final = 120.0
"""How long one call may take; the embedded model on a busy CPU takes some seconds."""
SHAPE_TRIES: Final = 3
"""Replies that may miss the schema: where it is followed, a tiny model can still run out of tokens within the JSON."""

_SAY_HELLO: Final = Prompt((Message("user", ("Say hello.",)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a role will ask of the endpoint."""

    role: str
    adapter: str | None
    sampling: Mapping[str, Any]
    """What is sent with each call, `max_tokens` among it."""
    shape: type[BaseModel] | None
    """The schema of its replies; none for plain text."""
    prompt: Prompt | None
    """The longest of its first prompts; None if there are none to render."""


class Bird(BaseModel):
    """A reply that a model gives only if its endpoint makes it: what it is asked is something else."""

    model_config = ConfigDict(extra="forbid")

    bird: Literal["kestrel", "heron", "plover"]


async def examine_endpoint(
    *, group: str, url: str, model: str, secret: SecretStr | None, parts: Sequence[Part], token_limit: int
) -> list[Finding]:
    """Everything that can be found out about one endpoint.

    Args:
        group: What the findings are headed by.
        url: The endpoint's base URL.
        model: The model that it should serve.
        secret: The API key.
        parts: The roles that the model plays.
        token_limit: The run's `limits.tokens`.
    """
    notes = Notes(group)
    try:
        seconds = await asyncio.wait_for(_first_answer(url, secret), ANSWER_SECONDS)
    except TimeoutError:
        return [*notes.problem(_no_answer(f"does not answer within {ANSWER_SECONDS:g} s"), unreachable=True)]
    except CallError as error:
        return [*notes.problem(str(error), unreachable=isinstance(error, EndpointUnreachable))]
    notes.fine(f"answers in {1000 * seconds:.0f} ms")
    async with EndpointPool(
        url, api_key=secret, timeout=CALL_SECONDS, connect_timeout=ANSWER_SECONDS, retries=0, patience=0
    ) as pool:
        try:
            served = await pool.models()
            await _Examination(notes, pool, model, parts, token_limit, {entry.name: entry for entry in served}).run()
        except CallError as error:
            notes.problem(str(error))
    return [*notes]


async def _first_answer(url: str, secret: SecretStr | None) -> float:
    """Seconds that the endpoint takes to say what it serves.

    Not asked through the pool, which tries again and words its errors for the middle of a run.

    Raises:
        EndpointUnreachable: There is no answer, or none of an API's.
        EndpointRefused: It refuses to say: another key, a redirect, no such path.
    """
    key = secret.get_secret_value() if secret else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    started = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{url}/models", allow_redirects=False) as response,
        ):
            body = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise EndpointUnreachable(_no_answer(_plainly(error, url, key))) from None
    seconds = time.monotonic() - started
    if can_heal(response.status):
        raise EndpointUnreachable(
            f"answers {response.status} ({words(body, key) or response.reason}): it is starting, overloaded or broken; "
            "its log says more"
        )
    if response.status != HTTPStatus.OK:
        raise refusal(response.status, body, f"{url}/models", location=response.headers.get("Location"), secret=key)
    if not _is_list_of_models(body):
        kind = "a web page" if "html" in response.headers.get("Content-Type", "") else "something"
        raise EndpointUnreachable(
            f"answers with {kind} ({words(body, key)!r}) that is no list of models: give the URL of an OpenAI-compatible "
            "API; it often ends in /v1"
        )
    return seconds


def _is_list_of_models(body: bytes) -> bool:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(reply, dict) and isinstance(reply.get("data"), list)


def _plainly(error: Exception, url: str, key: str | None) -> str:
    host = urlsplit(url).netloc
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host {urlsplit(url).hostname!r} is not known here"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"TLS with {host} fails ({words(str(error).encode(), key)}): perhaps the server speaks plain http"
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return f"nothing listens at {host}"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "closes the connection without an answer"
    return words(str(error).encode(), key) or type(error).__name__


def _no_answer(what: str) -> str:
    return f"cannot be reached: {what}. Check the URL, and that the server runs and can be reached from here"


@dataclass(frozen=True, slots=True)
class _Examination:
    """Of an endpoint that answers."""

    notes: Notes
    pool: EndpointPool
    model: str
    parts: Sequence[Part]
    token_limit: int
    served: Mapping[str, ServedModel]

    async def run(self) -> None:
        parts = list(self._playable())
        context = self._context()
        if not parts:
            return
        answers = [answer for part in parts if (answer := await self._first_call(part, context))]
        await self._honours_schemas(parts)
        answers += await self._repeats(parts[0])
        self._counts(answers)

    def _playable(self) -> Iterator[Part]:
        """The roles that can be played, for their model and adapter are served."""
        names = ", ".join(map(repr, self.served)) or "nothing"
        if self.model not in self.served:
            self.notes.problem(f"does not serve {self.model!r}, but {names}: correct `model`, or the URL")
            return
        self.notes.fine(f"serves {self.model!r}")
        for adapter in dict.fromkeys(part.adapter for part in self.parts if part.adapter):
            roles = ", ".join(part.role for part in self.parts if part.adapter == adapter)
            if adapter in self.served:
                self.notes.fine(f"serves the adapter {adapter!r} ({roles})")
            else:
                self.notes.problem(
                    f"does not serve the adapter {adapter!r} ({roles}), but {names}: correct `adapter`, or load it "
                    "(vLLM: --lora-modules)"
                )
        yield from (part for part in self.parts if part.adapter is None or part.adapter in self.served)

    def _context(self) -> int | None:
        """The tokens that one call may have here, prompt and completion together."""
        entry = self.served.get(self.model)
        if entry is None:
            return None
        if entry.max_model_len is None:
            self.notes.warning("does not say how long its context is: keep limits.tokens within it")
        elif entry.max_model_len < self.token_limit:
            self.notes.warning(
                f"limits.tokens is {self.token_limit}, its context {entry.max_model_len}: the run will keep to "
                f"{entry.max_model_len}; serve it with a longer one (vLLM: --max-model-len) for longer dialogues"
            )
        return entry.max_model_len

    async def _first_call(self, part: Part, context: int | None) -> AIMessage | None:
        """Makes the role's first call with its own options, and sees whether a whole reply would fit after it."""
        options: dict[str, Any] = {**part.sampling, "max_tokens": 1}
        if part.shape:
            options["response_format"] = response_format(part.shape)
        try:
            answer = await self._ask(part, part.prompt or _SAY_HELLO, **options)
        except ContextExceeded as error:
            self.notes.problem(f"{part.role}: its longest first prompt does not fit: {error}")
        except SchemaRefused as error:
            self.notes.problem(f"{part.role}: {error}")
        except CallError as error:
            self.notes.problem(f"{part.role}: its first call fails: {error}")
        else:
            if part.prompt and answer.usage_metadata:
                self._fits(part, answer.usage_metadata["input_tokens"], context)
            return answer
        return None

    def _fits(self, part: Part, prompt: int, context: int | None) -> None:
        reply = part.sampling.get("max_tokens")
        most = min(self.token_limit, context or self.token_limit)
        of = f"of {most} tokens (limits.tokens)" if most != context else f"of {most} tokens"
        if reply is None:
            self.notes.warning(
                f"{part.role}: its longest first prompt takes {prompt} {of}; no max_tokens is set, so one reply may take "
                f"all the rest: set roles.{part.role}.max_tokens"
            )
            return
        sum_of = f"its longest first prompt and max_tokens take {prompt} + {reply} = {prompt + reply} {of}"
        if prompt + reply <= most:
            self.notes.fine(f"{part.role}: {sum_of}")
        elif context and prompt + reply > context:
            self.notes.problem(
                f"{part.role}: {sum_of}, so its calls are refused: lower roles.{part.role}.max_tokens, or serve the "
                "model with a longer context (vLLM: --max-model-len)"
            )
        else:
            self.notes.warning(
                f"{part.role}: {sum_of}, so dialogues end after their first turns: raise limits.tokens, or lower "
                f"roles.{part.role}.max_tokens"
            )

    async def _honours_schemas(self, parts: Sequence[Part]) -> None:
        shaped = [part for part in parts if part.shape]
        # With the options of a role that will ask so: they may switch thinking off, upon which schemas depend.
        part = (shaped or parts)[0]
        options = {**part.sampling, "max_tokens": 64, "response_format": response_format(Bird)}
        reply = None
        for seed in range(SHAPE_TRIES):
            try:
                reply = await self._ask(part, _SAY_HELLO, **{**options, "seed": seed})
                Bird.model_validate_json(str(reply.text))
            except ValidationError:
                continue
            except CallError as error:
                self.notes.problem(f"refuses a schema: {error}")
                return
            self.notes.fine("follows a schema")
            return
        assert reply is not None
        if shaped:
            roles = ", ".join(part.role for part in shaped)
            self.notes.problem(f"{_schema_missed(reply)}. These roles need it: {roles}")
        else:
            self.notes.warning(f"{_schema_missed(reply)}. No role needs it")

    async def _repeats(self, part: Part) -> list[AIMessage]:
        """Asks the same twice with one seed. The second answer's prompt is in the prefix cache."""
        options = {**part.sampling, "temperature": 1.0, "max_tokens": 24, "seed": 7}
        try:
            answers = [await self._ask(part, part.prompt or _SAY_HELLO, **options) for _ in range(2)]
        except CallError as error:
            self.notes.problem(f"{part.role}: a call with a seed fails: {error}")
            return []
        if answers[0].text == answers[1].text:
            self.notes.fine("gives one reply for one seed")
        else:
            self.notes.warning(
                "gives two replies for one seed: a run made again will differ (in bfloat16 also where others are served "
                "at once)"
            )
        return answers

    def _counts(self, answers: Sequence[AIMessage]) -> None:
        usages = [answer.usage_metadata for answer in answers if answer.usage_metadata]
        if answers and not usages:
            self.notes.warning("does not count tokens (no `usage`): transcripts and limits.tokens will know of none")
        elif any("cache_read" in usage.get("input_token_details", {}) for usage in usages):
            self.notes.fine("counts tokens, cached ones too")
        elif usages:
            self.notes.warning(
                "counts tokens, but not the cached ones: start vLLM with --enable-prompt-tokens-details to see them"
            )

    async def _ask(self, part: Part, prompt: Prompt, **options: Any) -> AIMessage:
        model = ChatVLLM(model=self.model, adapter=part.adapter, pool=self.pool)
        messages = [(message.role, message.content) for message in prompt.messages]
        return await model.ainvoke(messages, **options)


def _schema_missed(reply: AIMessage) -> str:
    text, thoughts = str(reply.text).strip(), reply.additional_kwargs.get("reasoning_content")
    if not text and thoughts:
        return (
            "does not follow a schema: it only thinks. Switch thinking off for those roles: extra: {chat_template_kwargs: "
            "{enable_thinking: false}}"
        )
    if reply.response_metadata.get("finish_reason") == "length" and (not text or text.startswith("{")):
        return (
            f"did not finish a reply by a schema within 64 tokens, in {SHAPE_TRIES} tries: if blanks fill it, start vLLM "
            """with --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'"""
        )
    shown = text if len(text) <= 60 else text[:60] + "…"
    return f"ignores schemas (it said {shown!r}): use a server that follows response_format, as vLLM and llama.cpp do"
