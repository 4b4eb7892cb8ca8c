"""The chat and the completions model at a real vLLM server: what its API gives is what they say it gives."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field

from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.completions import CompletionsVLLM
from tutelage.serving.engine_load import EngineLoad, parse_load

from .vllm_server import VLLMServer

pytestmark = pytest.mark.vllm


class Add(BaseModel):
    """Adds two whole numbers."""

    a: int = Field(ge=0, le=9)
    b: int = Field(ge=0, le=9)


@pytest.fixture
async def model(vllm_server: VLLMServer) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model=vllm_server.model, url=vllm_server.url, max_tokens=24, temperature=0.0) as model:
        yield model


@pytest.fixture
async def base(vllm_server: VLLMServer) -> AsyncIterator[CompletionsVLLM]:
    # The tiny model knows chats: left to itself it ends a plain text at once.
    async with CompletionsVLLM(
        model=vllm_server.model, url=vllm_server.url, max_tokens=12, temperature=0.0, extra={"min_tokens": 12}
    ) as model:
        yield model


async def added_up(stream: Any) -> AIMessageChunk:
    pieces = [piece async for piece in stream]
    whole: AIMessageChunk = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    return whole


def what_counts(message: AIMessage) -> dict[str, Any]:
    """A message without what no two calls share: ids, and how long it took."""
    left_out = ("id", "request_id", "metrics", "system_fingerprint")
    return {
        "content": message.content,
        "tool_calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "usage": message.usage_metadata,
        "metadata": {name: value for name, value in message.response_metadata.items() if name not in left_out},
    }


async def load_of(server: VLLMServer) -> EngineLoad:
    async with aiohttp.ClientSession() as session, session.get(server.url.removesuffix("/v1") + "/metrics") as response:
        load = parse_load(await response.read())
    assert load is not None
    return load


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await holds():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.1)


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logprobs": True, "top_logprobs": 2},
        {"return_token_ids": True},
        {"structured_outputs": {"regex": "[a-z]{3} [0-9]{2}"}},
        {"max_tokens": 3},
    ],
    ids=["plain", "logprobs", "token ids", "regex", "cut"],
)
async def test_the_pieces_of_a_stream_add_up_to_the_whole_reply(model: ChatVLLM, options: dict[str, Any]) -> None:
    prompt = "What is a prime number?"
    whole = await model.ainvoke(prompt, cache_salt=uuid4().hex, **options)
    pieces = await added_up(model.astream(prompt, cache_salt=uuid4().hex, **options))
    assert what_counts(pieces) == what_counts(whole)
    assert pieces.usage_metadata is not None
    assert pieces.usage_metadata["output_tokens"] > 1


async def test_langgraph_shows_the_words_as_they_come_and_each_once(model: ChatVLLM) -> None:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    words: list[str] = []
    said = ""
    given: Any = {"messages": [HumanMessage("What is a prime number?")]}
    async for part in graph.compile().astream(given, stream_mode=["messages", "values"], version="v2"):
        if part["type"] == "messages":
            words.append(part["data"][0].text)
        elif part["type"] == "values":
            said = part["data"]["messages"][-1].text
    assert len(words) > 4
    assert "".join(words) == said


async def test_a_stream_that_is_left_frees_its_request(model: ChatVLLM, vllm_server: VLLMServer) -> None:
    async with aclosing(model.astream("Go on.", max_tokens=1500, ignore_eos=True)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if piece.text:
                break
        assert (await load_of(vllm_server)).running == 1
        left = time.monotonic()
    await until(lambda: _is_idle(vllm_server))
    assert time.monotonic() - left < 5


async def test_a_call_that_is_cancelled_frees_its_request(model: ChatVLLM, vllm_server: VLLMServer) -> None:
    call = asyncio.create_task(model.ainvoke("Go on.", max_tokens=1500, ignore_eos=True))
    await until(lambda: _runs(vllm_server))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: _is_idle(vllm_server))


async def _runs(server: VLLMServer) -> bool:
    return (await load_of(server)).running > 0


async def _is_idle(server: VLLMServer) -> bool:
    return (await load_of(server)).running == 0


# --- tools --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", "Add"])
async def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(model: ChatVLLM, choice: str) -> None:
    bound = model.bind_tools([Add], tool_choice=choice, temperature=1.0, max_tokens=400)
    answers = [await bound.ainvoke("1/2 + 1/3?", seed=seed) for seed in range(4)]
    # A tiny model may call until its tokens are used up, and vLLM gives what it then cannot read as the text.
    whole = [answer for answer in answers if answer.response_metadata["finish_reason"] != "length"]
    assert whole
    for answer in whole:
        assert answer.tool_calls
        for call in answer.tool_calls:
            assert call["name"] == "Add"
            assert Add.model_validate(call["args"])


async def test_a_call_that_is_streamed_is_the_same(model: ChatVLLM) -> None:
    bound = model.bind_tools([Add], tool_choice="Add", seed=3, max_tokens=100)
    whole = await bound.ainvoke("1/2 + 1/3?", cache_salt=uuid4().hex)
    pieces = await added_up(bound.astream("1/2 + 1/3?", cache_salt=uuid4().hex))
    assert what_counts(pieces) == what_counts(whole)
    assert len(pieces.tool_calls) == 1


async def test_what_came_of_a_call_can_be_told(model: ChatVLLM) -> None:
    messages: list[Any] = [HumanMessage("1 + 2?")]
    answer = await model.bind_tools([Add], tool_choice="Add", max_tokens=100).ainvoke(messages)
    messages += [answer, ToolMessage("3", tool_call_id=answer.tool_calls[0]["id"])]
    assert (await model.ainvoke(messages)).usage_metadata


# --- shapes, candidates, what is kept on demand --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "fits"),
    [
        ({"choice": ["accept", "revise"]}, "accept|revise"),
        ({"regex": "[0-9]{2}/[0-9]{2}"}, "[0-9]{2}/[0-9]{2}"),
        ({"grammar": 'root ::= "1/" digit\ndigit ::= [2-9]'}, "1/[2-9]"),
    ],
    ids=["choice", "regex", "grammar"],
)
async def test_replies_have_the_shape_that_is_asked_for(model: ChatVLLM, outputs: dict[str, Any], fits: str) -> None:
    for seed in range(3):
        answer = await model.ainvoke("1/2?", structured_outputs=outputs, temperature=1.0, seed=seed)
        assert re.fullmatch(fits, answer.text)


async def test_candidates_come_from_one_prompt(model: ChatVLLM) -> None:
    result = await model.agenerate([[HumanMessage("Why?")]], n=3, temperature=2.0, seed=5)
    messages = [each.message for each in result.generations[0] if isinstance(each, ChatGeneration)]
    assert len({message.text for message in messages}) == 3
    assert [bool(message.usage_metadata) for message in messages if isinstance(message, AIMessage)] == [
        True,
        False,
        False,
    ]


async def test_prompt_logprobs_and_token_ids_are_kept_where_they_are_asked_for(model: ChatVLLM) -> None:
    answer = await model.ainvoke("Why?", prompt_logprobs=1, return_token_ids=True)
    metadata, usage = answer.response_metadata, answer.usage_metadata
    assert usage is not None
    assert len(metadata["prompt_logprobs"]) == len(metadata["prompt_token_ids"]) == usage["input_tokens"]
    assert len(metadata["token_ids"]) == usage["output_tokens"]


# --- completions --------------------------------------------------------------------------------------------------


async def test_a_text_and_its_tokens_are_gone_on_with_alike(base: CompletionsVLLM) -> None:
    (by_text,) = await base.acomplete("You are a tutor.", return_token_ids=True)
    assert by_text.generation_info is not None
    ids = by_text.generation_info["prompt_token_ids"]
    (by_ids,) = await base.acomplete(ids)
    assert by_text.text
    assert by_ids.text == by_text.text
    assert by_ids.generation_info is not None
    assert by_ids.generation_info["usage"]["input_tokens"] == len(ids)


async def test_a_completion_that_is_streamed_is_the_same(base: CompletionsVLLM) -> None:
    pieces = [piece async for piece in base.astream("You are a tutor.")]
    assert len(pieces) > 3
    assert "".join(pieces) == await base.ainvoke("You are a tutor.")
