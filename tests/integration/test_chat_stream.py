"""Replies that come piece by piece: through the chat model itself, LangChain's callbacks and LangGraph's streams."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import ChatGeneration
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from tutelage.errors import ConfigError, EndpointFailed, EndpointRefused
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

MODEL_OF_A_STREAM = {"model", "messages", "stream", "stream_options"}


class Opinion(BaseModel):
    verdict: str
    issues: list[str]


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base", latency={"output_token": 0.002}) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    running.forget()
    running.clear_prefix_cache()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="base", url=endpoint.url, max_tokens=20, seed=1) as model:
        yield model


async def added_up(stream: AsyncIterator[AIMessageChunk]) -> AIMessageChunk:
    pieces = [piece async for piece in stream]
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    return whole


def what_counts(message: AIMessage) -> dict[str, Any]:
    """A message without its ids, which no two calls share."""
    metadata = {name: value for name, value in message.response_metadata.items() if name not in ("id", "request_id")}
    return {
        "content": message.content,
        "reasoning": message.additional_kwargs.get("reasoning_content"),
        "tool_calls": message.tool_calls,
        "invalid_tool_calls": [call["args"] for call in message.invalid_tool_calls],
        "usage": message.usage_metadata,
        "metadata": metadata,
    }


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


def conversation(model: ChatVLLM, dialogue: str = "d1", **options: Any) -> Any:
    """A graph of one node that asks the model."""

    async def answer(state: MessagesState) -> dict[str, Any]:
        config: RunnableConfig = {"metadata": {"dialogue": dialogue, "view": "tutor", "role": "tutor"}}
        return {"messages": [await model.ainvoke(state["messages"], config, **options)]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph.compile()


@asynccontextmanager
async def streaming(*events: dict[str, Any]) -> AsyncIterator[ChatVLLM]:
    """A model at a server that streams the same events to everyone."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with ChatVLLM(model="base", url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1") as model:
            yield model
    finally:
        await runner.cleanup()


# --- what comes ---------------------------------------------------------------------------------------------------


async def test_words_come_while_the_model_still_speaks() -> None:
    with SimulatedEndpoint(model="base", latency={"output_token": 0.03}) as endpoint:
        async with ChatVLLM(model="base", url=endpoint.url, max_tokens=20, extra={"min_tokens": 20}) as model:
            times = [time.monotonic() async for piece in model.astream("Hello") if piece.text]
    assert len(times) == 20
    assert times[-1] - times[0] > 0.3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"logprobs": True, "top_logprobs": 2, "return_token_ids": True},
        {"chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 400},
        {"stop": ["a"]},
        {"structured_outputs": {"choice": ["yes", "no"]}},
    ],
    ids=["plain", "logprobs and token ids", "reasoning", "stop", "choice"],
)
async def test_the_pieces_add_up_to_the_whole_reply(
    model: ChatVLLM, endpoint: SimulatedEndpoint, options: dict[str, Any]
) -> None:
    whole = await model.ainvoke("Why is 1/2 + 1/3 not 2/5?", **options)
    endpoint.clear_prefix_cache()
    pieces = await added_up(model.astream("Why is 1/2 + 1/3 not 2/5?", **options))
    assert what_counts(pieces) == what_counts(whole)
    assert pieces.usage_metadata is not None
    assert pieces.usage_metadata["output_tokens"] > 0
    assert "finish_reason" in pieces.response_metadata


async def test_reasoning_comes_apart_from_the_words_and_before_them(model: ChatVLLM) -> None:
    options: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}, "max_tokens": 400}
    pieces = [piece async for piece in model.astream("Hello", **options)]
    kinds = ["thought" if piece.additional_kwargs.get("reasoning_content") else "word" for piece in pieces]
    assert kinds == sorted(kinds)
    assert {"thought", "word"} == set(kinds)
    assert not any(piece.text for piece in pieces if piece.additional_kwargs.get("reasoning_content"))


async def test_cached_prompt_tokens_and_the_request_id_come_with_the_last_piece(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    await model.ainvoke("Hello, " * 60)
    *before, last = [piece async for piece in model.astream("Hello, " * 60)]
    assert last.usage_metadata is not None
    assert last.usage_metadata["input_token_details"]["cache_read"] > 0
    assert all(piece.usage_metadata is None for piece in before)
    sent = {name.lower(): value for name, value in endpoint.requests()[-1]["headers"].items()}
    assert last.response_metadata["request_id"] == sent["x-request-id"]
    assert last.response_metadata["endpoint"] == endpoint.url


async def test_nothing_that_only_vllm_knows_is_sent(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="base", url=endpoint.url) as model:
        await added_up(model.astream("Hello"))
    (request,) = endpoint.requests()
    assert set(request["body"]) == MODEL_OF_A_STREAM


async def test_a_server_that_sends_no_usage_is_no_error(model: ChatVLLM) -> None:
    pieces = await added_up(model.astream("Hello", stream_options=None))
    assert pieces.text
    assert pieces.usage_metadata is None


def test_a_stream_can_be_read_where_no_event_loop_runs(endpoint: SimulatedEndpoint) -> None:
    model = ChatVLLM(model="base", url=endpoint.url, max_tokens=10, seed=1)
    pieces = list(model.stream("Hello"))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == model.invoke("Hello").text


async def test_where_one_runs_it_says_what_to_do(model: ChatVLLM) -> None:
    with pytest.raises(RuntimeError, match="astream"):
        next(iter(model.stream("Hello")))


async def test_a_stream_has_one_candidate(model: ChatVLLM) -> None:
    with pytest.raises(ConfigError, match="n=3"):
        await added_up(model.astream("Hello", n=3))


async def test_a_stream_that_ends_too_soon_is_an_error() -> None:
    event = {"id": "1", "choices": [{"index": 0, "delta": {"content": "Half a"}, "finish_reason": None}]}
    async with streaming(event) as model:
        with pytest.raises(EndpointFailed):
            await added_up(model.astream("Hello"))


async def test_events_of_something_else_are_refused() -> None:
    async with streaming({"weather": "fine"}) as model:
        with pytest.raises(EndpointRefused, match="no chat completion"):
            await added_up(model.astream("Hello"))


# --- where it goes ------------------------------------------------------------------------------------------------


async def test_a_stream_goes_where_the_calls_of_its_view_go(endpoint: SimulatedEndpoint) -> None:
    with SimulatedEndpoint(model="base") as other:
        async with ChatVLLM(model="base", url=[endpoint.url, other.url], max_tokens=2) as model:
            for number in range(8):
                config: RunnableConfig = {"metadata": {"dialogue": f"d{number}", "view": "tutor"}}
                asked = await model.ainvoke("Hello", config)
                streamed = await added_up(model.astream("Hello", config))
                assert streamed.response_metadata["endpoint"] == asked.response_metadata["endpoint"]
        assert endpoint.stats()["requests"]
        assert other.stats()["requests"]


async def test_a_stream_that_is_left_frees_its_request() -> None:
    with SimulatedEndpoint(latency={"output_token": 0.02}) as endpoint:
        async with ChatVLLM(model="simulated", url=endpoint.url, extra={"ignore_eos": True}) as model:
            async with aclosing(model.astream("Hello", max_tokens=5000)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if piece.text:
                        break
                assert endpoint.stats()["under_way"] == 1
            await until(lambda: endpoint.stats()["under_way"] == 0)
            assert endpoint.stats()["running"] == 0
            assert endpoint.requests()[0]["outcome"] == "disconnected"


async def test_cancelling_a_streamed_call_frees_its_request() -> None:
    with SimulatedEndpoint(latency={"output_token": 0.02}) as endpoint:
        async with ChatVLLM(model="simulated", url=endpoint.url, extra={"ignore_eos": True}) as model:
            graph = conversation(model, max_tokens=5000)

            async def follow() -> None:
                async for _ in graph.astream({"messages": [HumanMessage("Hello")]}, stream_mode="messages"):
                    pass

            following = asyncio.create_task(follow())
            await until(lambda: endpoint.stats()["running"] == 1)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following
            await until(lambda: endpoint.stats()["under_way"] == 0)


# --- whoever follows ----------------------------------------------------------------------------------------------


async def test_langgraph_streams_the_words_and_has_the_whole_message(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    whole = await model.ainvoke("Hello", logprobs=True)
    endpoint.clear_prefix_cache()
    words: list[str] = []
    kept: list[AIMessage] = []
    graph = conversation(model, logprobs=True)
    modes = ["messages", "updates"]
    async for part in graph.astream({"messages": [HumanMessage("Hello")]}, stream_mode=modes, version="v2"):
        if part["type"] == "updates":
            kept += part["data"]["answer"]["messages"]
        else:
            message, metadata = part["data"]
            assert metadata["role"] == "tutor"
            words.append(message.text)
    assert len([word for word in words if word]) == len(whole.response_metadata["logprobs"]["content"])
    assert "".join(words) == whole.text, "each word comes once"
    assert type(kept[0]) is AIMessage
    assert what_counts(kept[0]) == what_counts(whole)


async def test_a_call_that_is_followed_still_goes_to_its_replica(endpoint: SimulatedEndpoint) -> None:
    with SimulatedEndpoint(model="base") as other:
        async with ChatVLLM(model="base", url=[endpoint.url, other.url], max_tokens=2) as model:
            for dialogue in map(str, range(8)):
                asked = await model.ainvoke("Hello", {"metadata": {"dialogue": dialogue, "view": "tutor"}})
                stream = conversation(model, dialogue).astream({"messages": [("user", "Hi")]}, stream_mode="messages")
                last = [message async for message, _ in stream][-1]
                assert last.response_metadata["endpoint"] == asked.response_metadata["endpoint"]
        assert endpoint.stats()["requests"]
        assert other.stats()["requests"]


async def test_events_tell_of_each_piece(model: ChatVLLM) -> None:
    events = [event async for event in model.astream_events("Hello", version="v2")]
    said = [event["data"]["chunk"].text for event in events if event["event"] == "on_chat_model_stream"]
    assert len([word for word in said if word]) > 3
    assert "".join(said) == events[-1]["data"]["output"].text


async def test_handlers_are_told_of_new_tokens(model: ChatVLLM) -> None:
    class Listener(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.tokens: list[str] = []

        async def on_llm_new_token(self, token: Any, **_: Any) -> None:
            self.tokens.append(token)

    listener = Listener()
    pieces = await added_up(model.astream("Hello", {"callbacks": [listener]}))
    assert "".join(listener.tokens) == pieces.text


async def test_several_candidates_come_whole_also_where_somebody_follows(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    class Node:
        async def __call__(self, state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
            result = await model.agenerate(
                [[HumanMessage("Hello")]], n=3, temperature=1.0, callbacks=config["callbacks"]
            )
            self.said = [each.message for each in result.generations[0] if isinstance(each, ChatGeneration)]
            return {}

    node = Node()
    graph = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    async for _ in graph.compile().astream({"messages": [HumanMessage("Hi")]}, stream_mode="messages"):
        pass
    assert len(node.said) == 3
    assert [message.text for message in node.said] == endpoint.answers()[0]["texts"]


async def test_prompt_logprobs_which_no_stream_has_come_also_where_somebody_follows(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    graph = conversation(model, prompt_logprobs=1)
    values = [
        value
        async for value in graph.astream({"messages": [HumanMessage("Hello")]}, stream_mode=["messages", "values"])
    ]
    answer = values[-1][1]["messages"][-1]
    assert len(answer.response_metadata["prompt_logprobs"]) == answer.usage_metadata["input_tokens"]
    assert "stream" not in endpoint.requests()[0]["body"]


async def test_a_shaped_reply_is_read_also_where_somebody_follows(model: ChatVLLM) -> None:
    async def judge(state: MessagesState) -> dict[str, Any]:
        opinion = await model.with_structured_output(Opinion).ainvoke("Judge.", max_tokens=500)
        assert isinstance(opinion, Opinion)
        return {"messages": [AIMessage(opinion.model_dump_json())]}

    graph = StateGraph(MessagesState)
    graph.add_node("judge", judge)
    graph.add_edge(START, "judge")
    parts = [part async for part in graph.compile().astream({"messages": []}, stream_mode="messages")]
    assert len(parts) > 3
