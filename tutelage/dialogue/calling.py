"""One request to a model in a role: what it is sent, and the record of what came back."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from sys import intern
from typing import Any, Final, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast, Player
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.shapes import Shape, request_options
from tutelage.dialogue.turn import Call, Logprobs
from tutelage.telemetry.traces import chat_span

Said: TypeAlias = tuple[str, Call]
"""A reply's text, and the record of its call."""

PRIORITY_EPOCH: Final = 1_735_689_600
"""The seconds from 1970 to 2025: counted from there, a dialogue's start fits the 32 bits of a priority until 2093."""

_MESSAGE_TYPES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


@dataclass(frozen=True, slots=True, kw_only=True)
class Occasion:
    """Where in a dialogue a call is made."""

    dialogue: str
    turn: int
    attempt: int = 0
    retry: int = 0
    """How often the dialogue was begun anew: asked the same again, a model would fail the same way."""
    begun: float | None = None
    """When the dialogue was begun, in seconds since 1970."""
    purpose: str = ""
    """What the call is for, where it is not the role's own part in the dialogue."""

    def key(self, role: str, candidate: int) -> str:
        """What tells a call from all others of its dialogue."""
        again = f"retry {self.retry}/" if self.retry else ""
        purpose = f"{self.purpose}/" if self.purpose else ""
        return f"{again}{purpose}{role}/{self.turn}/{self.attempt}/{candidate}"

    def seed(self, run_seed: int, role: str, candidate: int) -> int:
        """The seed of a call: 31 bits of a hash, so that a run's calls differ and a run made again does not."""
        key = f"{run_seed}/{self.dialogue}/{self.key(role, candidate)}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1


async def call(
    agent: Agent, prompt: Prompt, cast: Cast, occasion: Occasion, *, first: int = 0, shape: Shape | None, n: int = 1
) -> list[Said]:
    """Makes one request.

    Args:
        agent: Who is asked.
        prompt: What it is shown.
        cast: Who plays.
        occasion: Where in the dialogue.
        first: The number of the first candidate that is asked for: the seed depends on it.
        shape: What the reply is to be like.
        n: How many candidates; a model may give fewer.

    Raises:
        CallError: It failed for good.
    """
    player = cast.player(agent.role)
    sampling = {**agent.sampling, **player.sampling}
    options = {**sampling, **_priority(player, occasion), "seed": occasion.seed(cast.seed, agent.role, first)}
    options |= request_options(shape)
    if n > 1:
        options["n"] = n
    config: RunnableConfig = {"run_name": agent.role, "metadata": _metadata(agent, occasion)}
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
        messages = [_as_langchain(message) for message in prompt.messages]
        answers = await _answers(player.model, messages, config, options, n)
        seconds = round(time.monotonic() - started, 4)
        shared = {
            "adapter_sha256": player.adapter_sha256,
            "sampling": sampling,
            "seed": options["seed"],
            "prompt_sha256": prompt.sha256,
            "seconds": seconds,
        }
        said = [
            (str(answer.text).strip(), _record(answer, **shared, candidate=first + number if n > 1 else None))
            for number, answer in enumerate(answers)
        ]
        text, record = said[0]
        span.answered(
            model=record.model,
            endpoint=record.endpoint,
            prompt_tokens=record.prompt_tokens,
            cached_tokens=record.cached_tokens,
            completion_tokens=record.completion_tokens,
            finish_reason=record.finish_reason,
            text=text,
            response_id=answers[0].response_metadata.get("id"),
        )
    cast.watch.call_answered(
        role=agent.role,
        seconds=seconds,
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
    )
    return said


def gives_many(model: BaseChatModel) -> bool:
    """Whether one request to a model may ask for several candidates: whether it knows `n`."""
    return "n" in type(model).model_fields


def _metadata(agent: Agent, occasion: Occasion) -> dict[str, Any]:
    """What the pool chooses a replica by, who is to wait, and what a listener knows the call by."""
    metadata: dict[str, Any] = {"role": agent.role, "view": agent.view, "dialogue": occasion.dialogue}
    if occasion.begun is not None:
        metadata["begun"] = occasion.begun
    if occasion.purpose:
        metadata["purpose"] = occasion.purpose
    return metadata


def _priority(player: Player, occasion: Occasion) -> dict[str, int]:
    """What vLLM goes by, the lowest first: so what began earlier is finished earlier."""
    if not player.priority or occasion.begun is None:
        return {}
    return {"priority": int(occasion.begun) - PRIORITY_EPOCH}


async def _answers(
    model: BaseChatModel, messages: list[BaseMessage], config: RunnableConfig, options: dict[str, Any], n: int
) -> Sequence[AIMessage]:
    if n == 1:
        return [await model.ainvoke(messages, config, **options)]
    # `ainvoke` gives the first candidate only; this is what it does besides.
    config = ensure_config(config)
    result = await model.agenerate(
        [messages],
        callbacks=config.get("callbacks"),
        tags=config.get("tags"),
        metadata=config.get("metadata"),
        run_name=config.get("run_name"),
        **options,
    )
    return [_message(generation) for generation in result.generations[0]][:n]


def _message(generation: object) -> AIMessage:
    assert isinstance(generation, ChatGeneration)
    assert isinstance(generation.message, AIMessage)
    return generation.message


def _record(answer: AIMessage, **shared: Any) -> Call:
    usage = answer.usage_metadata
    details = answer.response_metadata
    return Call(
        model=details.get("model_name", "unknown"),
        adapter=details.get("adapter"),
        endpoint=details.get("endpoint"),
        prompt_tokens=usage["input_tokens"] if usage else 0,
        cached_tokens=usage.get("input_token_details", {}).get("cache_read", 0) if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        finish_reason=details.get("finish_reason"),
        reasoning=answer.additional_kwargs.get("reasoning_content") or None,
        logprobs=_logprobs(details.get("logprobs")),
        token_ids=details.get("token_ids"),
        prompt_token_ids=None if shared["candidate"] else details.get("prompt_token_ids"),  # of all candidates the same
        **shared,
    )


def _logprobs(given: Mapping[str, Any] | None) -> Logprobs | None:
    """What chat completion APIs say of each token, without what says it again."""
    if not given or not given.get("content"):
        return None
    content = given["content"]
    top = [[(intern(each["token"]), each["logprob"]) for each in one.get("top_logprobs") or ()] for one in content]
    return Logprobs(
        tokens=[intern(one["token"]) for one in content],  # one text for all dialogues, as a vocabulary is small
        logprobs=[one["logprob"] for one in content],
        top=top if any(top) else None,
    )


@lru_cache(maxsize=4096)
def _as_langchain(message: Message) -> BaseMessage:
    # Cached, for each call of a view sends the same messages again, and making them is dear beside sending them.
    return _MESSAGE_TYPES[message.role](message.content)
