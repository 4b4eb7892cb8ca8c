"""Asking a model in a role: one call, and the repair of a reply that does not fit what was asked for."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, overload

from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.calling import Occasion, Said, call, gives_many
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.shapes import Schema, Shape, TextShape, read_schema, response_format
from tutelage.dialogue.turn import Call, Step, Verdict
from tutelage.errors import CallError, ShapeError
from tutelage.telemetry.traces import agent_span

__all__ = ["REPAIRS", "Occasion", "Reply", "ask", "ask_for", "ask_for_several", "response_format"]

REPAIRS = 2
"""How often a reply that is empty or does not fit its shape is asked for again."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[Value]):
    """What a model said in a role."""

    text: str
    value: Value
    """The text itself, or what its schema made of it."""
    call: Call
    misfits: list[Step]
    """The replies before this one that were empty or did not fit; of several candidates, the first one has them."""


async def ask(agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[str]:
    """Asks a role for plain text.

    Raises:
        ShapeError: The reply was empty, also when asked for again.
        CallError: The call failed for good.
    """
    return (await ask_for_several(1, None, agent, prompt, cast, occasion))[0]


@overload
async def ask_for(
    shape: type[Schema], agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion
) -> Reply[Schema]: ...


@overload
async def ask_for(shape: TextShape, agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[str]: ...


async def ask_for(shape: Shape, agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion) -> Reply[Any]:
    """Asks a role for a reply of some shape, which goes to the endpoint as a structured output.

    Raises:
        ShapeError: The reply did not fit, also when asked for again with the error.
        CallError: The call failed for good.
    """
    return (await ask_for_several(1, shape, agent, prompt, cast, occasion))[0]


async def ask_for_several(
    n: int,
    shape: Shape | None,
    agent: Agent,
    prompt: Prompt,
    cast: Cast,
    occasion: Occasion,
    *,
    journal: bool = False,
) -> list[Reply[Any]]:
    """Asks a role for `n` replies to one prompt: in one request, where its model knows how.

    Those that fit are given, which may be fewer; where none does, one is asked for again with the error.

    Args:
        n: How many.
        shape: What they are to be like; None for plain text.
        agent: The role.
        prompt: What it is shown.
        cast: Who plays.
        occasion: Where in the dialogue.
        journal: Whether the caller makes more calls with what it is given, so that it must not be lost.

    Raises:
        ShapeError: No reply fitted, also when asked for again with the error.
        CallError: A call failed for good.
    """
    read = partial(_read, shape)
    with bound_contextvars(role=agent.role), agent_span(agent.role, dialogue=occasion.dialogue) as span:
        replies = await _ask_until_it_fits(n, shape, read, agent, prompt, cast, occasion, journal)
        if isinstance(verdict := replies[0].value, Verdict):
            span.judged(verdict.verdict)
        return replies


async def _ask_until_it_fits(
    n: int,
    shape: Shape | None,
    read: Callable[[str], Any],
    agent: Agent,
    prompt: Prompt,
    cast: Cast,
    occasion: Occasion,
    journal: bool,
) -> list[Reply[Any]]:
    misfits: list[Step] = []
    last, first = n - 1 + REPAIRS, 0
    while True:
        wanted = n if first == 0 else 1
        known = _recalled(range(first, first + wanted), agent, cast, occasion)
        if known:
            said = known
            last = max(last, first + wanted)  # a dialogue that is tried again has one more reply to hope for
        else:
            try:
                said = await _call(agent, prompt, cast, occasion, first, shape, wanted)
            except CallError as error:
                error.replies = misfits
                cast.watch.call_failed(role=agent.role, reason=error.reason)
                raise
        fitting, complaint = _sorted_out(said, read, agent, cast, misfits)
        if not known and (journal or not fitting):
            keys = (occasion.key(agent.role, candidate) for candidate in range(first, first + wanted))
            kept = zip(keys, said, strict=True)
            await asyncio.gather(*(cast.journal.keep(occasion.dialogue, key, *each) for key, each in kept))
        if fitting:
            return [
                Reply(text=text, value=value, call=record, misfits=[] if number else misfits)
                for number, (text, value, record) in enumerate(fitting)
            ]
        if first + wanted > last:
            break
        first += wanted
        prompt = _with_note(prompt, cast.prompts.render("repair", error=complaint))
    raise ShapeError(
        f"the role {agent.role!r} gave {len(misfits)} replies that do not fit what was asked for: {complaint}", misfits
    )


def _recalled(candidates: range, agent: Agent, cast: Cast, occasion: Occasion) -> list[Said]:
    """Some replies, if an earlier start has journalled all of them."""
    keys = (occasion.key(agent.role, candidate) for candidate in candidates)
    known = [said for key in keys if (said := cast.journal.recall(occasion.dialogue, key))]
    return known if len(known) == len(candidates) else []


async def _call(
    agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion, first: int, shape: Shape | None, n: int
) -> list[Said]:
    """`n` replies: from one request, if the model knows `n` and its endpoint heeds it; else from as many as it takes."""
    asked = partial(call, agent, prompt, cast, occasion, shape=shape)
    said: list[Said] = []
    if n == 1 or gives_many(cast.player(agent.role).model):
        said = await asked(first=first, n=n)
    if len(said) < n:
        said += await _each_alone(asked, range(first + len(said), first + n))
    return said


async def _each_alone(asked: Callable[..., Coroutine[Any, Any, list[Said]]], candidates: range) -> list[Said]:
    calls = [asyncio.create_task(asked(first=candidate)) for candidate in candidates]
    try:
        answers = await asyncio.gather(*calls)
    except BaseException:
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        raise
    return [
        (text, record.model_copy(update={"candidate": candidate}))
        for candidate, ((text, record),) in zip(candidates, answers, strict=True)
    ]


def _sorted_out(
    said: Sequence[Said], read: Callable[[str], Any], agent: Agent, cast: Cast, misfits: list[Step]
) -> tuple[list[tuple[str, Any, Call]], str]:
    """The replies that fit, and what is to be said of the last one that does not. Misfits are added to the list."""
    fitting, complaint = [], ""
    for text, record in said:
        try:
            fitting.append((text, read(text), record))
        except ValueError as error:  # pydantic's ValidationError is one
            misfits.append(Step(kind="misfit", role=agent.role, text=text, call=record))
            complaint = _complaint(error, record)
            cast.watch.reply_misfit(role=agent.role)
    return fitting, complaint


def _read(shape: Shape | None, text: str) -> Any:
    if shape is None:
        if not text:
            raise ValueError("the reply was empty")
        return text
    return read_schema(shape, text) if isinstance(shape, type) else shape.read(text)


def _complaint(error: ValueError, record: Call) -> str:
    if record.finish_reason == "length":
        return f"it was cut off after {record.completion_tokens} tokens: be briefer"
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
    return str(error)


def _with_note(prompt: Prompt, note: str) -> Prompt:
    *before, last = prompt.messages
    return Prompt((*before, Message(last.role, (*last.parts, note))))
