"""Tools that a model may call: offered, called, answered, whole and piece by piece."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call
from langchain_core.tools import tool
from pydantic import BaseModel, Field, ValidationError

from tutelage.errors import ConfigError
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing.simulated_endpoint import SimulatedEndpoint


class Add(BaseModel):
    """Adds two whole numbers."""

    a: int = Field(ge=0, le=99)
    b: int = Field(ge=0, le=99)


@tool
def look_up(word: str) -> str:
    """Looks a word up in a dictionary."""
    return f"{word}: no idea"


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base") as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    running.forget()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="base", url=endpoint.url, max_tokens=200) as model:
        yield model


async def added_up(stream: Any) -> AIMessageChunk:
    pieces = [piece async for piece in stream]
    whole: AIMessageChunk = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    return whole


@pytest.mark.parametrize("seed", range(8))
async def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(
    model: ChatVLLM, endpoint: SimulatedEndpoint, seed: int
) -> None:
    answer = await model.bind_tools([Add, look_up], tool_choice="required").ainvoke("1/2 + 1/3?", seed=seed)
    (call,) = answer.tool_calls
    if call["name"] == "Add":
        assert Add.model_validate(call["args"])
    else:
        assert look_up.invoke(call["args"]).endswith("no idea")
    assert call["id"]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert "tool_calls" not in answer.additional_kwargs


async def test_arguments_are_held_to_their_schema_unless_that_is_not_wanted(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    """vLLM 0.32 lets a tool be called with anything, unless its function is `strict`."""
    strict = await model.bind_tools([Add], tool_choice="Add").ainvoke("Hello")
    loose = await model.bind_tools([Add], tool_choice="Add", strict=None).ainvoke("Hello")
    assert Add.model_validate(strict.tool_calls[0]["args"])
    with pytest.raises(ValidationError):
        Add.model_validate(loose.tool_calls[0]["args"])
    functions = [request["body"]["tools"][0]["function"] for request in endpoint.requests()]
    assert functions[0]["strict"] is True
    assert "strict" not in functions[1]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ("any", "required"),
        (True, "required"),
        ("Add", {"type": "function", "function": {"name": "Add"}}),
        ({"type": "function", "function": {"name": "look_up"}}, {"type": "function", "function": {"name": "look_up"}}),
    ],
)
async def test_which_tool_is_to_be_called_is_said_as_the_api_has_it(
    model: ChatVLLM, endpoint: SimulatedEndpoint, choice: Any, sent: Any
) -> None:
    await model.bind_tools([Add, look_up], tool_choice=choice).ainvoke("Hello")
    (request,) = endpoint.requests()
    assert request["body"]["tool_choice"] == sent


async def test_without_a_choice_none_is_sent_and_the_model_may_call_or_speak(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    answers = [await model.bind_tools([Add]).ainvoke("Hello", seed=seed) for seed in range(12)]
    assert "tool_choice" not in endpoint.requests()[0]["body"]
    assert {bool(answer.tool_calls) for answer in answers} == {True, False}
    assert all(bool(answer.tool_calls) != bool(answer.text) for answer in answers)


async def test_none_means_that_no_tool_is_called(model: ChatVLLM) -> None:
    answers = [await model.bind_tools([Add], tool_choice="none").ainvoke("Hello", seed=seed) for seed in range(6)]
    assert not any(answer.tool_calls for answer in answers)


def test_a_tool_that_is_not_there_cannot_be_chosen() -> None:
    model = ChatVLLM(model="base", url="http://gpu-1:8000/v1")
    with pytest.raises(ConfigError, match=r"'Subtract'.*Add, look_up"):
        model.bind_tools([Add, look_up], tool_choice="Subtract")


@pytest.mark.parametrize("max_tokens", [200, 5])
async def test_a_call_that_comes_piece_by_piece_is_the_same(model: ChatVLLM, max_tokens: int) -> None:
    bound = model.bind_tools([Add], tool_choice="required", seed=1, max_tokens=max_tokens)
    whole, pieces = await bound.ainvoke("Hello"), await added_up(bound.astream("Hello"))
    assert pieces.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    if max_tokens == 200:
        assert pieces.tool_calls == whole.tool_calls
    assert pieces.tool_call_chunks[0]["name"] == "Add"
    assert pieces.usage_metadata is not None


async def test_a_call_that_is_cut_off_is_invalid_and_not_lost(model: ChatVLLM) -> None:
    answer = await model.bind_tools([Add], tool_choice="Add").ainvoke("Hello", max_tokens=5)
    assert answer.tool_calls == []
    (call,) = answer.invalid_tool_calls
    assert call["name"] == "Add"
    assert call["args"]
    assert call["args"].startswith("{")
    assert answer.response_metadata["finish_reason"] == "length"


async def test_calls_and_what_came_of_them_are_sent_back(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    messages: list[Any] = [HumanMessage("What is 1 + 2?")]
    answer = await model.bind_tools([Add], tool_choice="Add").ainvoke(messages)
    call = answer.tool_calls[0]
    messages += [answer, ToolMessage("3", tool_call_id=call["id"])]
    last = await model.bind_tools([Add], tool_choice="none").ainvoke(messages)
    assert last.text
    _, asked, told = endpoint.requests()[-1]["body"]["messages"]
    assert asked["role"] == "assistant"
    (sent,) = asked["tool_calls"]
    assert (sent["id"], sent["type"], sent["function"]["name"]) == (call["id"], "function", "Add")
    assert Add.model_validate_json(sent["function"]["arguments"])
    assert told == {"role": "tool", "tool_call_id": call["id"], "content": "3"}


async def test_a_call_that_was_no_json_is_sent_back_as_it_was(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    call = invalid_tool_call(name="Add", args='{"a": 1', id="1", error="it was cut off")
    broken = AIMessage("", invalid_tool_calls=[call])
    await model.ainvoke([HumanMessage("Hello"), broken, ToolMessage("that was no JSON", tool_call_id="1")])
    sent = endpoint.requests()[-1]["body"]["messages"][1]["tool_calls"][0]
    assert sent == {"id": "1", "type": "function", "function": {"name": "Add", "arguments": '{"a": 1'}}
