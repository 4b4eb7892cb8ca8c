"""The chat model over real HTTP, against the simulated endpoint and small servers with odd replies."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypedDict

import pytest
from aiohttp import web
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Occasion, ask, ask_for
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.errors import ConfigError, EndpointRefused, ModelNotServed, ShapeError
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

KEY = "sk-very-secret"


class Opinion(BaseModel):
    model_config = ConfigDict(extra="forbid")

    verdict: Literal["accept", "revise"]
    issues: list[str]


class OpinionDict(TypedDict):
    """An opinion."""

    verdict: str


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base", adapters=("v2",)) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    """An endpoint that remembers nothing of the tests before."""
    running.forget()
    running.clear_faults()
    running.clear_prefix_cache()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="base", url=endpoint.url, max_tokens=20) as model:
        yield model


def sent(endpoint: SimulatedEndpoint) -> dict[str, Any]:
    """The body of the one request that the endpoint was sent."""
    (request,) = endpoint.requests()
    return dict(request["body"])


@asynccontextmanager
async def replying(reply: dict[str, Any]) -> AsyncIterator[ChatVLLM]:
    """A model at a server that gives the same reply to everything."""

    async def handle(request: web.Request) -> web.Response:
        return web.json_response(reply)

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


async def candidates(model: ChatVLLM, text: str = "Hello", **options: Any) -> list[AIMessage]:
    result = await model.agenerate([[HumanMessage(text)]], **options)
    messages = [each.message for each in result.generations[0] if isinstance(each, ChatGeneration)]
    return [message for message in messages if isinstance(message, AIMessage)]


async def until(holds: Callable[[], bool]) -> None:
    """Waits for a state of a server that runs in another process."""
    deadline = time.monotonic() + 5
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.to_thread(time.sleep, 0.02)


# --- what is sent -------------------------------------------------------------------------------------------------


async def test_messages_are_sent_as_chat_completions_spell_them(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    await model.ainvoke([SystemMessage("Teach."), HumanMessage("Hello"), AIMessage("Hi"), HumanMessage("½ + ⅓?")])
    assert sent(endpoint)["messages"] == [
        {"role": "system", "content": "Teach."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "½ + ⅓?"},
    ]


async def test_messages_with_tools_and_content_blocks_are_sent_too(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    call = {"name": "add", "args": {"a": 1}, "id": "call-1"}
    blocks: list[str | dict[Any, Any]] = [{"type": "text", "text": "Look"}]
    await model.ainvoke(
        [HumanMessage(content=blocks), AIMessage("", tool_calls=[call]), ToolMessage("2", tool_call_id="call-1")]
    )
    user, assistant, tool = sent(endpoint)["messages"]
    assert user == {"role": "user", "content": "Look"}
    assert assistant["tool_calls"][0]["function"]["name"] == "add"
    assert tool == {"role": "tool", "tool_call_id": "call-1", "content": "2"}


async def test_what_is_not_set_is_left_to_the_server(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="base", url=endpoint.url) as model:
        await model.ainvoke("Hello")
    assert set(sent(endpoint)) == {"model", "messages"}


async def test_fields_are_sent_and_a_call_may_change_them(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(
        model="base", url=endpoint.url, temperature=0.7, top_k=5, seed=1, stop=["A"], extra={"priority": 3}
    ) as model:
        await model.ainvoke("Hello", temperature=0, seed=2, top_k=None, stop=["B"], cache_salt="mine")
    request = sent(endpoint)
    assert {name: request[name] for name in request if name not in ("model", "messages")} == {
        "temperature": 0,
        "seed": 2,
        "stop": ["B"],
        "priority": 3,
        "cache_salt": "mine",
    }


async def test_an_adapter_is_what_is_asked_for_and_the_base_is_what_the_model_is_called(
    endpoint: SimulatedEndpoint,
) -> None:
    async with ChatVLLM(model="base", adapter="v2", url=endpoint.url) as model:
        answer = await model.ainvoke("Hello")
    assert sent(endpoint)["model"] == "v2"
    assert answer.response_metadata["model_name"] == "base"
    assert answer.response_metadata["adapter"] == "v2"


async def test_an_adapter_that_is_not_served_is_an_error(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="base", adapter="v3", url=endpoint.url) as model:
        with pytest.raises(ModelNotServed, match="v3"):
            await model.ainvoke("Hello")


async def test_streaming_is_refused_rather_than_misread(model: ChatVLLM) -> None:
    with pytest.raises(ConfigError, match="stream"):
        await model.ainvoke("Hello", stream=True)


async def test_one_view_of_one_dialogue_stays_with_one_replica(endpoint: SimulatedEndpoint) -> None:
    def config(dialogue: str, view: str) -> RunnableConfig:
        return {"metadata": {"dialogue": dialogue, "view": view}}

    with SimulatedEndpoint(model="base") as other:
        async with ChatVLLM(model="base", url=[endpoint.url, other.url], max_tokens=4) as model:
            places = {
                (dialogue, view): {
                    (await model.ainvoke("Hello", config(dialogue, view))).response_metadata["endpoint"]
                    for _ in range(3)
                }
                for dialogue in map(str, range(12))
                for view in ("tutor", "student")
            }
    assert all(len(urls) == 1 for urls in places.values())
    assert set.union(*places.values()) == {endpoint.url, other.url}
    assert any(places[dialogue, "tutor"] != places[dialogue, "student"] for dialogue, _ in places)


async def test_of_the_calls_that_wait_that_of_the_oldest_dialogue_goes_first() -> None:
    answered: list[float] = []
    with SimulatedEndpoint(model="base", latency={"output_token": 0.02}) as endpoint:
        async with ChatVLLM(model="base", pool=EndpointPool(endpoint.url, in_flight=1), max_tokens=8) as model:

            async def ask(begun: float) -> None:
                await model.ainvoke("Hello", {"metadata": {"dialogue": f"d{begun}", "view": "v", "begun": begun}})
                answered.append(begun)

            calls = [asyncio.create_task(ask(5.0))]
            await until(lambda: endpoint.stats()["under_way"] == 1)
            calls += [asyncio.create_task(ask(begun)) for begun in (4.0, 2.0, 3.0, 1.0)]
            await asyncio.gather(*calls)
    assert answered == [5.0, 1.0, 2.0, 3.0, 4.0]


# --- what comes back ----------------------------------------------------------------------------------------------


async def test_an_answer_has_text_usage_and_where_it_came_from(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    answer = await model.ainvoke("Hello")
    (request,) = endpoint.requests()
    assert answer.text
    assert answer.text in endpoint.answers()[0]["texts"]
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == request["prompt_tokens"]
    assert answer.usage_metadata["output_tokens"] == request["completion_tokens"]
    assert answer.usage_metadata["total_tokens"] == request["prompt_tokens"] + request["completion_tokens"]
    details = answer.response_metadata
    assert (details["model_name"], details["adapter"], details["endpoint"]) == ("base", None, endpoint.url)
    assert details["finish_reason"] in ("stop", "length")


async def test_the_request_id_is_ours_and_reaches_the_server(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    one, two = [(await model.ainvoke("Hello")).response_metadata for _ in range(2)]
    headers = [{name.lower(): value for name, value in each["headers"].items()} for each in endpoint.requests()]
    assert [one["request_id"], two["request_id"]] == [each["x-request-id"] for each in headers]
    assert one["request_id"] != two["request_id"]
    assert one["id"] == f"chatcmpl-{one['request_id']}"


async def test_cached_prompt_tokens_are_told(model: ChatVLLM) -> None:
    first, second = [(await model.ainvoke("Hello, " * 60)).usage_metadata for _ in range(2)]
    assert first and second
    assert first["input_token_details"]["cache_read"] == 0
    assert 0 < second["input_token_details"]["cache_read"] < second["input_tokens"]


async def test_a_cut_reply_says_so(model: ChatVLLM) -> None:
    answer = await model.ainvoke("Hello", max_tokens=2, min_tokens=2)
    assert answer.response_metadata["finish_reason"] == "length"


async def test_n_candidates_all_come_and_their_usage_once(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    answers = await candidates(model, n=3, temperature=0.9, seed=1)
    assert [answer.text for answer in answers] == endpoint.answers()[0]["texts"]
    assert len({answer.text for answer in answers}) > 1
    (request,) = endpoint.requests()
    used = [answer.usage_metadata for answer in answers]
    assert used[0] is not None
    assert used[0]["output_tokens"] == request["completion_tokens"]
    assert used[1:] == [None, None]


async def test_logprobs_and_token_ids_come_when_asked_for(model: ChatVLLM) -> None:
    plain = await model.ainvoke("Hello")
    assert "logprobs" not in plain.response_metadata
    answer = await model.ainvoke("Hello", logprobs=True, top_logprobs=2, return_token_ids=True)
    content = answer.response_metadata["logprobs"]["content"]
    assert "".join(token["token"] for token in content).strip() == answer.text.strip()
    assert len(answer.response_metadata["token_ids"]) == len(content)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_is_kept_apart_from_the_text(name: str) -> None:
    message = {"role": "assistant", "content": "5/6", name: "Let me see."}
    async with replying({"choices": [{"message": message, "finish_reason": "stop"}]}) as model:
        answer = await model.ainvoke("1/2 + 1/3?")
    assert answer.text == "5/6"
    assert answer.additional_kwargs["reasoning_content"] == "Let me see."


async def test_a_reply_that_is_all_reasoning_is_empty_not_an_error() -> None:
    message = {"role": "assistant", "content": None, "reasoning": "Hm."}
    async with replying({"choices": [{"message": message, "finish_reason": "length"}]}) as model:
        assert (await model.ainvoke("Hello")).text == ""


async def test_tool_calls_are_read() -> None:
    call = {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    async with replying({"choices": [{"message": message, "finish_reason": "tool_calls"}]}) as model:
        answer = await model.ainvoke("Hello")
    assert [(each["name"], each["args"]) for each in answer.tool_calls] == [("add", {"a": 1})]


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{}]}, {"choices": [None]}, {"error": "no"}])
async def test_json_that_is_no_chat_completion_is_refused(reply: dict[str, Any]) -> None:
    async with replying(reply) as model:
        with pytest.raises(EndpointRefused, match="no chat completion"):
            await model.ainvoke("Hello")


# --- shaped replies -----------------------------------------------------------------------------------------------


async def test_a_pydantic_class_shapes_the_reply(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    opinion = await model.with_structured_output(Opinion).ainvoke("Judge.", max_tokens=500)
    assert isinstance(opinion, Opinion)
    request = sent(endpoint)
    assert request["response_format"]["json_schema"]["schema"] == Opinion.model_json_schema()
    assert "tools" not in request


@pytest.mark.parametrize("schema", [OpinionDict, {"title": "o", **Opinion.model_json_schema()}], ids=["typed", "json"])
async def test_a_dict_shapes_the_reply(model: ChatVLLM, schema: Any) -> None:
    opinion = await model.with_structured_output(schema).ainvoke("Judge.", max_tokens=500)
    assert isinstance(opinion, dict)
    assert "verdict" in opinion


@pytest.mark.parametrize("kind", ["wrong_shape", "empty"])
async def test_a_reply_of_the_wrong_shape_is_an_error(
    model: ChatVLLM, endpoint: SimulatedEndpoint, kind: Literal["wrong_shape", "empty"]
) -> None:
    endpoint.inject(Fault(kind=kind))
    with pytest.raises(ShapeError, match="schema") as caught:
        await model.with_structured_output(Opinion).ainvoke("Judge.", max_tokens=500)
    assert len(caught.value.replies) == 1


async def test_include_raw_gives_the_message_and_what_became_of_it(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    shaped = model.with_structured_output(Opinion, include_raw=True)
    good: Any = await shaped.ainvoke("Judge.", max_tokens=500)
    assert isinstance(good["raw"], AIMessage)
    assert isinstance(good["parsed"], Opinion)
    assert good["parsing_error"] is None
    endpoint.inject(Fault(kind="wrong_shape"))
    bad: Any = await shaped.ainvoke("Judge.", max_tokens=500)
    assert bad["parsed"] is None
    assert isinstance(bad["parsing_error"], ShapeError)
    assert bad["raw"].text


async def test_a_method_that_the_endpoint_does_not_follow_is_refused(model: ChatVLLM) -> None:
    with pytest.raises(ConfigError, match="json_schema"):
        model.with_structured_output(Opinion, method="function_calling")  # type: ignore[arg-type]


# --- as a model of LangChain's ------------------------------------------------------------------------------------


async def test_a_role_of_a_dialogue_asks_it(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    """The way that a dialogue's nodes take, sampling, seed, schema and record of the call included."""
    cast, occasion = Cast.of(model), Occasion(dialogue="d1", turn=0)
    prompt = Prompt((Message("system", ("Judge.",)), Message("user", ("1/2 + 1/3 = 2/5",))))
    critic = Agent(role="critic", sampling={"max_tokens": 500, "temperature": 0.0})
    plain = await ask(critic, prompt, cast, occasion)
    assert plain.text
    shaped = await ask_for(Opinion, critic, prompt, cast, occasion)
    assert isinstance(shaped.value, Opinion)
    assert (shaped.call.model, shaped.call.endpoint) == ("base", endpoint.url)
    assert shaped.call.prompt_tokens > 0
    assert shaped.call.completion_tokens > 0
    assert endpoint.requests()[-1]["body"]["seed"] == shaped.call.seed


async def test_callbacks_see_the_call_and_no_key() -> None:
    seen: list[Any] = []

    class Watcher(AsyncCallbackHandler):
        async def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            seen.append((serialized, kwargs))

        async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
            seen.append(response)

    with SimulatedEndpoint(api_key=KEY) as endpoint:
        async with ChatVLLM(model="simulated", url=endpoint.url, api_key=SecretStr(KEY), temperature=0.5) as model:
            answer = await model.ainvoke("Hello", {"callbacks": [Watcher()]})
            started, ended = seen
            assert started[1]["invocation_params"]["temperature"] == 0.5
            assert started[1]["metadata"]["ls_provider"] == "vllm"
            assert ended.generations[0][0].message.text == answer.text
            assert KEY not in f"{seen!r}{model!r}{model}"


async def test_cancelling_a_call_frees_its_request() -> None:
    with SimulatedEndpoint(latency={"output_token": 5.0}) as endpoint:
        async with ChatVLLM(model="simulated", url=endpoint.url) as model:
            call = asyncio.create_task(model.ainvoke("Hello"))
            await until(lambda: endpoint.stats()["running"] == 1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: endpoint.stats()["running"] == 0)


def test_invoke_works_where_no_event_loop_runs(endpoint: SimulatedEndpoint) -> None:
    model = ChatVLLM(model="base", url=endpoint.url, max_tokens=4)
    assert model.invoke("Hello").text
    assert all(answer.text for answer in model.batch(["One", "Two", "Three"]))


async def test_invoke_says_what_to_do_where_an_event_loop_runs(model: ChatVLLM) -> None:
    with pytest.raises(RuntimeError, match="ainvoke"):
        model.invoke("Hello")


async def test_models_share_a_pool(endpoint: SimulatedEndpoint) -> None:
    async with EndpointPool(endpoint.url) as pool:
        for model in (ChatVLLM(model="base", pool=pool), ChatVLLM(model="base", adapter="v2", pool=pool)):
            await model.ainvoke("Hello", max_tokens=4)
    assert [request["model"] for request in endpoint.requests()] == ["base", "v2"]


def test_a_model_needs_endpoints_and_only_one_set_of_them() -> None:
    pool = EndpointPool("http://gpu-1:8000/v1")
    with pytest.raises(ConfigError, match="url"):
        ChatVLLM(model="base")
    with pytest.raises(ConfigError, match="give one of them"):
        ChatVLLM(model="base", pool=pool, url="http://gpu-2:8000/v1")
    with pytest.raises(ConfigError, match="give the key to the pool"):
        ChatVLLM(model="base", pool=pool, api_key=SecretStr(KEY))


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(ValidationError, match="temprature"):
        ChatVLLM(model="base", url="http://gpu-1:8000/v1", temprature=0.5)  # type: ignore[call-arg]


class Listener(AsyncCallbackHandler):
    """Notes what it is told of calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    async def on_chat_model_start(self, serialized: Any, messages: Any, *, metadata: Any = None, **_: Any) -> None:
        self.heard.append(("start", metadata))

    async def on_llm_end(self, response: Any, **_: Any) -> None:
        self.heard.append(("end", response.generations[0][0].text))


async def test_whoever_listens_hears_of_every_call_and_the_answer_is_the_same() -> None:
    """Where nobody listens, the base class's ceremony is left out: callbacks must not be lost with it."""
    with SimulatedEndpoint(model="m") as endpoint:
        async with ChatVLLM(model="m", url=endpoint.url, seed=1, temperature=0.5) as model:
            unheard = await model.ainvoke("Hello", {"metadata": {"dialogue": "d", "view": "v"}})
            listener = Listener()
            heard = await model.ainvoke(
                "Hello", {"callbacks": [listener], "metadata": {"dialogue": "d", "view": "v"}, "tags": ["t"]}
            )
            by_model = Listener()
            await model.model_copy(update={"callbacks": [by_model]}).ainvoke("Hello")
    assert unheard.content == heard.content
    assert unheard.usage_metadata is not None
    assert [event for event, _ in listener.heard] == ["start", "end"]
    assert listener.heard[0][1]["dialogue"] == "d"
    assert listener.heard[1][1] == heard.content
    assert [event for event, _ in by_model.heard] == ["start", "end"]
