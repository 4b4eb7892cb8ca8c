"""What the simulated endpoint has of vLLM 0.32 beside plain chat: tools, reasoning, grammars, adapters, its end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import orjson
import pytest

from tutelage.errors import TutelageError
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

MESSAGES = [{"role": "user", "content": "What is 1/2 + 1/3?"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "minimum": 0}, "b": {"type": "integer", "minimum": 0}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
LOOSE = {**ADD, "function": {**ADD["function"], "strict": False}}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="tiny", adapters=("v1",), allow_runtime_lora=True) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> Iterator[SimulatedEndpoint]:
    running.forget()
    yield running
    running.configure(engine_dead=False, reasoning=False, tool_rate=EndpointConfig().tool_rate)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def post(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, path: str, **body: Any) -> tuple[int, str]:
    async with http.post(f"{endpoint.url.removesuffix('/v1')}{path}", json=body) as response:
        return response.status, await response.text()


async def ask(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, **body: Any) -> dict[str, Any]:
    """The first choice of a chat completion that must succeed."""
    status, text = await post(http, endpoint, "/v1/chat/completions", **{"messages": MESSAGES, "seed": 1, **body})
    assert status == 200, text
    return dict(orjson.loads(text)["choices"][0])


async def refusal(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, **body: Any) -> tuple[int, str]:
    status, text = await post(http, endpoint, "/v1/chat/completions", **{"messages": MESSAGES, **body})
    return status, orjson.loads(text)["error"]["message"]


async def events(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, **body: Any) -> list[dict[str, Any]]:
    _, text = await post(
        http, endpoint, "/v1/chat/completions", **{"messages": MESSAGES, "seed": 1, "stream": True, **body}
    )
    lines = text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def deltas(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for event in stream for choice in event["choices"]]


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


# --- tools --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "finish_reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "add"}}, "stop")],
    ids=["required", "by name"],
)
async def test_a_strict_tool_that_must_be_called_gets_arguments_that_fit(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, choice: Any, finish_reason: str
) -> None:
    reply = await ask(http, endpoint, tools=[ADD], tool_choice=choice)
    assert reply["finish_reason"] == finish_reason
    assert reply["message"]["content"] is None
    (call,) = reply["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "add")
    arguments = orjson.loads(call["function"]["arguments"])
    assert set(arguments) == {"a", "b"}
    assert all(isinstance(value, int) and value >= 0 for value in arguments.values())


async def test_a_tool_that_is_not_strict_gets_arguments_that_do_not_fit(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    """So it was with vLLM 0.32: a client that forgets `strict` is to find out here."""
    reply = await ask(http, endpoint, tools=[LOOSE], tool_choice="required")
    arguments = orjson.loads(reply["message"]["tool_calls"][0]["function"]["arguments"])
    assert set(arguments) != {"a", "b"}


async def test_a_model_that_may_call_a_tool_does_as_often_as_it_is_told(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    called = []
    for rate in (0.0, 0.5, 1.0):
        endpoint.configure(tool_rate=rate)
        replies = [await ask(http, endpoint, tools=[ADD], seed=seed) for seed in range(16)]
        called.append(sum("tool_calls" in reply["message"] for reply in replies))
    assert called[0] == 0 < called[1] < 16 == called[2]


async def test_a_call_is_streamed_name_first_then_arguments_bit_by_bit(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    body = {"tools": [ADD], "tool_choice": "required"}
    whole = (await ask(http, endpoint, **body))["message"]["tool_calls"][0]
    stream = await events(http, endpoint, **body)
    pieces = [delta["tool_calls"][0] for delta in deltas(stream) if "tool_calls" in delta]
    assert len(pieces) > 3
    assert pieces[0]["function"]["name"] == "add"
    assert pieces[0]["id"] == whole["id"]
    assert not any("id" in piece or "name" in piece["function"] for piece in pieces[1:])
    assert "".join(piece["function"]["arguments"] for piece in pieces) == whole["function"]["arguments"]
    assert stream[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tool_choice": "required"}, "`tools` must be set"),
        ({"tools": [ADD], "tool_choice": "maybe"}, "Invalid value for `tool_choice`: maybe"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}}, "does not match any"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "Invalid value for `function`"),
        (
            {
                "tools": [ADD],
                "tool_choice": {"type": "function", "function": {"name": "add"}},
                "structured_outputs": {"choice": ["a"]},
            },
            "structured outputs or tools, not both",
        ),
    ],
)
async def test_what_vllm_refuses_of_tools_is_refused(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, body: dict[str, Any], message: str
) -> None:
    status, said = await refusal(http, endpoint, **body)
    assert status == 400
    assert message in said


async def test_without_a_tool_parser_tools_are_refused_as_vllm_does(http: aiohttp.ClientSession) -> None:
    with SimulatedEndpoint(tool_parser=False) as endpoint:
        status, said = await refusal(http, endpoint, tools=[ADD])
        assert (status, "--enable-auto-tool-choice" in said) == (400, True)
        status, said = await refusal(http, endpoint, tools=[ADD], tool_choice="required")
        assert (status, "requires --tool-call-parser" in said) == (400, True)
        assert (await ask(http, endpoint, tools=[ADD], tool_choice="none"))["message"]["content"]


async def test_tools_are_part_of_the_prompt(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    await ask(http, endpoint)
    await ask(http, endpoint, tools=[ADD], tool_choice="none")
    await ask(http, endpoint, tools=[ADD], tool_choice="required")
    bare, _, offered = [request["prompt_tokens"] for request in endpoint.requests()]
    assert offered > bare


# --- reasoning ----------------------------------------------------------------------------------------------------


async def test_a_model_that_reasons_has_its_thoughts_apart(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    plain = await ask(http, endpoint)
    assert plain["message"]["reasoning"] is None
    endpoint.configure(reasoning=True)
    status, text = await post(http, endpoint, "/v1/chat/completions", messages=MESSAGES, seed=1)
    reply = orjson.loads(text)
    message = reply["choices"][0]["message"]
    assert status == 200
    assert message["reasoning"]
    assert message["content"]
    thought = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < thought < reply["usage"]["completion_tokens"]


async def test_a_request_may_turn_thinking_on_and_off(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    on = await ask(http, endpoint, chat_template_kwargs={"enable_thinking": True})
    endpoint.configure(reasoning=True)
    off = await ask(http, endpoint, chat_template_kwargs={"enable_thinking": False})
    assert on["message"]["reasoning"]
    assert off["message"]["reasoning"] is None


async def test_thoughts_that_fill_the_budget_leave_no_content(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(reasoning=True)
    reply = await ask(http, endpoint, max_tokens=5)
    assert reply["message"]["content"] is None
    assert reply["message"]["reasoning"]
    assert reply["finish_reason"] == "length"


async def test_thoughts_are_streamed_first_and_can_be_left_out(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(reasoning=True)
    message = (await ask(http, endpoint))["message"]
    shown = deltas(await events(http, endpoint))
    assert "".join(delta.get("reasoning", "") for delta in shown) == message["reasoning"]
    assert "".join(delta.get("content", "") for delta in shown) == message["content"]
    hidden = deltas(await events(http, endpoint, include_reasoning=False))
    assert not any("reasoning" in delta for delta in hidden)
    assert (await ask(http, endpoint, include_reasoning=False))["message"]["reasoning"] is None


async def test_a_shape_holds_for_what_is_said_not_for_what_is_thought(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(reasoning=True)
    reply = await ask(http, endpoint, structured_outputs={"choice": ["yes", "no"]})
    assert reply["message"]["content"] in ("yes", "no")
    assert len(reply["message"]["reasoning"]) > 10


# --- structured outputs -------------------------------------------------------------------------------------------


async def test_a_grammar_is_followed(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    grammar = 'root ::= verdict " because " ("it (really) is" | [a-c]+) "\\n"?\nverdict ::= "accept" | "revise"'
    said = {
        (await ask(http, endpoint, structured_outputs={"grammar": grammar}, seed=seed))["message"]["content"]
        for seed in range(20)
    }
    assert len(said) > 4
    for text in said:
        verdict, because, reason = text.partition(" because ")
        assert verdict in ("accept", "revise")
        assert because
        assert reason.strip() == "it (really) is" or set(reason.strip()) <= set("abc")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"choice": ["a"], "regex": "b"}, "only use one kind"),
        ({"choice": []}, "cannot be an empty list"),
        ({"grammar": " "}, "cannot be an empty string"),
        ({"grammar": "start ::= 'a'"}, "no rule `root"),
        ({"grammar": "root ::= other"}, "refers to a rule 'other'"),
        ({"grammar": 'root ::= "a" root'}, "refers to itself"),
        ({"grammar": "root ::= 'single quotes'"}, "something unknown"),
        ({"structural_tag": "{}"}, "not structural_tag"),
    ],
)
async def test_what_cannot_be_followed_is_refused(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, outputs: dict[str, Any], message: str
) -> None:
    status, said = await refusal(http, endpoint, structured_outputs=outputs)
    assert status == 400
    assert message in said


# --- adapters -----------------------------------------------------------------------------------------------------


async def test_an_adapter_is_loaded_used_and_unloaded(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    named = {"lora_name": "v2", "lora_path": "/adapters/v2"}
    assert await post(http, endpoint, "/v1/load_lora_adapter", **named) == (
        200,
        "Success: LoRA adapter 'v2' added successfully.",
    )
    async with http.get(f"{endpoint.url}/models") as response:
        served = {entry["id"]: entry["parent"] for entry in (await response.json())["data"]}
    assert served == {"tiny": None, "v1": "tiny", "v2": "tiny"}
    assert await ask(http, endpoint, model="v2")
    status, said = await post(http, endpoint, "/v1/load_lora_adapter", **named)
    assert (status, "already been loaded" in said) == (400, True)
    assert (await post(http, endpoint, "/v1/load_lora_adapter", **named, load_inplace=True))[0] == 200
    assert (await post(http, endpoint, "/v1/unload_lora_adapter", lora_name="v2"))[0] == 200
    assert (await refusal(http, endpoint, model="v2"))[0] == 404
    assert (await post(http, endpoint, "/v1/unload_lora_adapter", lora_name="v2"))[0] == 404
    assert (await post(http, endpoint, "/v1/load_lora_adapter", lora_name="v3"))[0] == 400


async def test_adapters_are_not_loaded_where_that_is_not_allowed(http: aiohttp.ClientSession) -> None:
    with SimulatedEndpoint() as endpoint:
        status, _ = await post(http, endpoint, "/v1/load_lora_adapter", lora_name="v2", lora_path="/v2")
    assert status == 404


# --- order, ends, counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "first"), [("priority", "urgent"), ("fcfs", "early")])
async def test_priorities_count_where_the_server_schedules_by_them(
    http: aiohttp.ClientSession, policy: str, first: str
) -> None:
    ended: list[str] = []
    with SimulatedEndpoint(max_num_seqs=1, scheduling_policy=policy, latency={"output_token": 0.01}) as endpoint:

        async def request(name: str, priority: int) -> None:
            await ask(http, endpoint, priority=priority, max_tokens=10, ignore_eos=True)
            ended.append(name)

        running = asyncio.create_task(request("running", 0))
        await until(lambda: endpoint.stats()["running"] == 1)
        early = asyncio.create_task(request("early", 0))
        await until(lambda: endpoint.stats()["waiting"] == 1)
        await asyncio.gather(running, early, request("urgent", -1))
    assert ended[1] == first


async def test_a_dead_engine_is_sick_though_its_server_lists_models(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(engine_dead=True)
    root = endpoint.url.removesuffix("/v1")
    statuses = {}
    for path in ("/health", "/v1/models", "/metrics"):
        async with http.get(root + path) as response:
            statuses[path] = response.status
    assert statuses == {"/health": 503, "/v1/models": 200, "/metrics": 200}
    status, said = await refusal(http, endpoint)
    assert (status, "EngineCore" in said) == (500, True)
    endpoint.configure(engine_dead=False)
    assert await ask(http, endpoint)


async def test_an_engine_that_dies_fails_what_is_under_way(http: aiohttp.ClientSession) -> None:
    with SimulatedEndpoint(latency={"output_token": 0.01}) as endpoint:
        long = {"max_tokens": 5000, "ignore_eos": True}
        whole = asyncio.create_task(refusal(http, endpoint, **long))
        stream = asyncio.create_task(events(http, endpoint, **long))
        await until(lambda: endpoint.stats()["running"] == 2)
        endpoint.configure(engine_dead=True)
        assert (await whole)[0] == 500
        assert "EngineCore" in (await stream)[-1]["error"]["message"]
        await until(lambda: endpoint.stats()["under_way"] == 0)


async def test_an_aborted_request_is_answered_with_what_there_is_of_it(http: aiohttp.ClientSession) -> None:
    with SimulatedEndpoint(latency={"output_token": 0.01}) as endpoint:
        long = {"max_tokens": 5000, "ignore_eos": True, "request_id": "mine"}
        asked = asyncio.create_task(ask(http, endpoint, **long))
        await until(lambda: endpoint.metrics()["vllm:generation_tokens_total"] > 5)
        assert (await post(http, endpoint, "/inference/v1/abort_requests", request_ids=["chatcmpl-mine"]))[0] == 200
        reply = await asked
        assert reply["finish_reason"] == "abort"
        assert reply["message"]["content"]
        await until(lambda: endpoint.stats()["under_way"] == 0)
        assert (await post(http, endpoint, "/inference/v1/abort_requests"))[0] == 400


async def test_latencies_are_counted(http: aiohttp.ClientSession) -> None:
    with SimulatedEndpoint(latency={"output_token": 0.02}) as endpoint:
        await ask(http, endpoint, max_tokens=10, ignore_eos=True)
        values = endpoint.metrics()
    assert values["vllm:time_to_first_token_seconds_count"] == 1
    assert values["vllm:e2e_request_latency_seconds_count"] == 1
    first, whole = (values[f"vllm:{name}_seconds_sum"] for name in ("time_to_first_token", "e2e_request_latency"))
    assert 0 < first < whole
    assert whole > 0.15


async def test_tokens_are_counted_while_they_come(http: aiohttp.ClientSession) -> None:
    """As with vLLM: a watcher of the endpoint's speed must not see it in jumps of whole replies."""
    with SimulatedEndpoint(latency={"output_token": 0.01}) as endpoint:
        asked = asyncio.create_task(ask(http, endpoint, max_tokens=5000, ignore_eos=True))
        await until(lambda: endpoint.metrics()["vllm:generation_tokens_total"] > 5)
        assert endpoint.metrics()["vllm:prompt_tokens_total"] > 0
        asked.cancel()


async def test_prompt_token_ids_come_with_the_first_event(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    stream = await events(http, endpoint, return_token_ids=True, max_tokens=4)
    assert stream[0]["prompt_token_ids"]
    assert not any("prompt_token_ids" in event for event in stream[1:])


async def test_it_listens_on_any_loopback_address() -> None:
    with SimulatedEndpoint(host="127.0.0.9") as endpoint:
        assert endpoint.url.startswith("http://127.0.0.9:")
        assert endpoint.stats()["requests"] == 0


def test_what_is_fixed_cannot_be_changed_while_it_runs(endpoint: SimulatedEndpoint) -> None:
    with pytest.raises(TutelageError, match="scheduling_policy"):
        endpoint.configure(scheduling_policy="fcfs")
