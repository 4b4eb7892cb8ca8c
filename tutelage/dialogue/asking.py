"""Asking a model in a role: one call, and the repair of a reply that does not fit its schema."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import Any, Generic, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ValidationError
from structlog.contextvars import bound_contextvars

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.turn import Call, Step, Verdict
from tutelage.errors import CallError, ShapeError
from tutelage.telemetry.traces import agent_span, chat_span

REPAIRS = 2
"""How often a reply that is empty or does not fit its schema is asked for again."""

Value = TypeVar("Value")
Shape = TypeVar("Shape", bound=BaseModel)

_MESSAGE_TYPES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """Where in a dialogue a call is made."""

    dialogue: str
    turn: int
    attempt: int = 0
    retry: int = 0
    """How often the dialogue was begun anew: asked the same again, a model would fail the same way."""

    def key(self, role: str, candidate: int) -> str:
        """What tells a call from all others of its dialogue."""
        again = f"retry {self.retry}/" if self.retry else ""
        return f"{again}{role}/{self.turn}/{self.attempt}/{candidate}"

    def seed(self, run_seed: int, role: str, candidate: int) -> int:
        """The seed of a call: 31 bits of a hash, so that a run's calls differ and a run made again does not."""
        key = f"{run_seed}/{self.dialogue}/{self.key(role, candidate)}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[Value]):
    """What a model said in a role."""

    text: str
    value: Value
    """The text itself, or what its schema made of it."""
    call: Call
    misfits: list[Step]
    """The replies before this one that were empty or did not fit."""


async def ask(agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[str]:
    """Asks a role for plain text.

    Raises:
        ShapeError: The reply was empty, also when asked for again.
        CallError: The call failed for good.
    """
    return await _ask(agent, prompt, cast, occasion, _some_text, schema=None)


async def ask_for(schema: type[Shape], agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[Shape]:
    """Asks a role for a reply that fits a schema; the schema goes to the endpoint as a structured output.

    Raises:
        ShapeError: The reply did not fit, also when asked for again with the error.
        CallError: The call failed for good.
    """
    return await _ask(agent, prompt, cast, occasion, partial(_shaped, schema), schema=schema)


@lru_cache(maxsize=256)
def response_format(schema: type[BaseModel]) -> dict[str, Any]:
    """What a request says to have its reply fit a schema.

    It is `response_format` and not vLLM's own `structured_outputs`: llama.cpp ignores the latter without a word.
    """
    return {
        "type": "json_schema",
        "json_schema": {"name": schema.__name__, "schema": schema.model_json_schema(), "strict": True},
    }


async def _ask(
    agent: Agent,
    prompt: Prompt,
    cast: Cast,
    occasion: Occasion,
    read: Callable[[str], Value],
    *,
    schema: type[BaseModel] | None,
) -> Reply[Value]:
    with bound_contextvars(role=agent.role), agent_span(agent.role, dialogue=occasion.dialogue) as span:
        reply = await _ask_until_it_fits(agent, prompt, cast, occasion, read, schema=schema)
        if isinstance(reply.value, Verdict):
            span.judged(reply.value.verdict)
        return reply


async def _ask_until_it_fits(
    agent: Agent,
    prompt: Prompt,
    cast: Cast,
    occasion: Occasion,
    read: Callable[[str], Value],
    *,
    schema: type[BaseModel] | None,
) -> Reply[Value]:
    misfits: list[Step] = []
    last = REPAIRS
    for candidate in count():
        key = occasion.key(agent.role, candidate)
        if known := cast.journal.recall(occasion.dialogue, key):
            text, call = known
            last = max(last, candidate + 1)  # a dialogue that is tried again has one more reply to hope for
        else:
            try:
                text, call = await _call(agent, prompt, cast, occasion, candidate, schema)
            except CallError as error:
                error.replies = misfits
                cast.watch.call_failed(role=agent.role, reason=error.reason)
                raise
        try:
            return Reply(text=text, value=read(text), call=call, misfits=misfits)
        except ValueError as error:  # pydantic's ValidationError is one
            misfits.append(Step(kind="misfit", role=agent.role, text=text, call=call))
            complaint = _complaint(error, call)
            cast.watch.reply_misfit(role=agent.role)
        if known is None:
            await cast.journal.keep(occasion.dialogue, key, text, call)
        if candidate == last:
            break
        prompt = _with_note(prompt, cast.prompts.render("repair", error=complaint))
    raise ShapeError(
        f"the role {agent.role!r} gave {len(misfits)} replies that do not fit what was asked for: {complaint}", misfits
    )


async def _call(
    agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion, candidate: int, schema: type[BaseModel] | None
) -> tuple[str, Call]:
    player = cast.player(agent.role)
    sampling = {**agent.sampling, **player.sampling}
    options = {**sampling, "seed": occasion.seed(cast.seed, agent.role, candidate)}
    if schema is not None:
        options["response_format"] = response_format(schema)
    config: RunnableConfig = {
        "run_name": agent.role,
        "metadata": {"role": agent.role, "view": agent.view, "dialogue": occasion.dialogue},
    }
    cast.on_prompt(occasion.dialogue, prompt)
    with chat_span(
        role=agent.role,
        dialogue=occasion.dialogue,
        provider=player.model._llm_type,
        model=getattr(player.model, "served_name", None),
        options=options,
        prompt=prompt.messages,
        prompt_sha256=prompt.sha256,
    ) as span:
        started = time.monotonic()
        answer = await player.model.ainvoke([_as_langchain(message) for message in prompt.messages], config, **options)
        call = _record(answer, prompt, sampling, options["seed"], time.monotonic() - started)
        text = str(answer.text).strip()
        span.answered(
            model=call.model,
            endpoint=call.endpoint,
            prompt_tokens=call.prompt_tokens,
            cached_tokens=call.cached_tokens,
            completion_tokens=call.completion_tokens,
            finish_reason=call.finish_reason,
            text=text,
            response_id=answer.response_metadata.get("id"),
        )
    cast.watch.call_answered(
        role=agent.role,
        seconds=call.seconds,
        prompt_tokens=call.prompt_tokens,
        cached_tokens=call.cached_tokens,
        completion_tokens=call.completion_tokens,
    )
    return text, call


def _record(answer: AIMessage, prompt: Prompt, sampling: dict[str, Any], seed: int, seconds: float) -> Call:
    usage = answer.usage_metadata
    details = answer.response_metadata
    return Call(
        model=details.get("model_name", "unknown"),
        adapter=details.get("adapter"),
        endpoint=details.get("endpoint"),
        sampling=sampling,
        seed=seed,
        prompt_sha256=prompt.sha256,
        prompt_tokens=usage["input_tokens"] if usage else 0,
        cached_tokens=usage.get("input_token_details", {}).get("cache_read", 0) if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        finish_reason=details.get("finish_reason"),
        seconds=round(seconds, 4),
    )


@lru_cache(maxsize=4096)
def _as_langchain(message: Message) -> BaseMessage:
    # Cached, for each call of a view sends the same messages again, and making them is dear beside sending them.
    return _MESSAGE_TYPES[message.role](message.content)


def _some_text(text: str) -> str:
    if not text:
        raise ValueError("the reply was empty")
    return text


def _shaped(schema: type[Shape], text: str) -> Shape:
    try:
        return schema.model_validate_json(text)
    except ValidationError:
        # xgrammar lets raw control characters, a tab for one, into strings whose length the schema bounds.
        try:
            lenient = json.loads(text, strict=False)
        except json.JSONDecodeError:
            lenient = None
        if lenient is None:
            raise
        return schema.model_validate_json(json.dumps(lenient))


def _complaint(error: ValueError, call: Call) -> str:
    if call.finish_reason == "length":
        return f"it was cut off after {call.completion_tokens} tokens: be briefer"
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
    return str(error)


def _with_note(prompt: Prompt, note: str) -> Prompt:
    *before, last = prompt.messages
    return Prompt((*before, Message(last.role, (*last.parts, note))))
