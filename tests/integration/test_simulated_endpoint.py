"""The simulated vLLM endpoint over real HTTP: the API it speaks, the books it keeps, the time it takes, how it fails."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import aiohttp
import orjson
import pytest
from pydantic import BaseModel, Field, ValidationError

from tutelage.errors import TutelageError
from tutelage.testing.endpoint_config import EndpointConfig, Latency
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint
from tutelage.testing.tokenizer import tokenize

MESSAGES = [
    {
        "role": "system",
        "content": "You are a patient tutor. Ask one question at a time, and never give the answer away.",
    },
    {"role": "user", "content": "Why is one half plus one third not two fifths?"},
]


class Severity(StrEnum):
    minor = "minor"
    major = "major"


class Issue(BaseModel):
    dimension: Literal["correctness", "clarity"]
    severity: Severity
    span: str = Field(max_length=30)
    instruction: str = Field(min_length=40)


class Verdict(BaseModel):
    verdict: Literal["accept", "revise"]
    issues: list[Issue] = Field(max_length=4)


class Outline(BaseModel):
    title: str
    parts: list["Outline"]
    parent: "Outline | None" = None


class Everything(BaseModel):
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{3,4}$")]
    level: int = Field(ge=1, le=5)
    share: float = Field(gt=0, lt=0.5)
    step: Annotated[int, Field(multiple_of=7, ge=1, le=50)]
    either: int | list[bool] | None
    pair: tuple[int, str]
    tags: set[Severity]
    scores: dict[str, Annotated[int, Field(ge=0, le=10)]]
    fixed: Literal[3]
    outline: Outline


@pytest.fixture(scope="module")
def shared_endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="tiny", adapters=("v2",)) as running:
        yield running


@pytest.fixture
def endpoint(shared_endpoint: SimulatedEndpoint) -> Iterator[SimulatedEndpoint]:
    """An endpoint without latency that no test has touched, as far as a test can see."""
    shared_endpoint.forget()
    shared_endpoint.clear_prefix_cache()
    yield shared_endpoint
    shared_endpoint.clear_faults()
    defaults = EndpointConfig()
    shared_endpoint.configure(
        latency=defaults.latency,
        completion_tokens=defaults.completion_tokens,
        completion_spread=defaults.completion_spread,
        accept_rate=defaults.accept_rate,
    )


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # A kept connection to an endpoint that was killed would fail the first request to its successor.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
        yield session


async def post(
    http: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[int, Any]:
    async with http.post(url, json=body, headers=headers) as response:
        return response.status, orjson.loads(await response.read())


async def chat(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, **body: Any) -> dict[str, Any]:
    """A chat completion that must succeed."""
    asked = {"model": endpoint.config.model, "messages": MESSAGES, **body}
    status, reply = await post(http, f"{endpoint.url}/chat/completions", asked)
    assert status == 200, reply
    return dict(reply)


async def refused(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, **body: Any) -> dict[str, Any]:
    """The error of a chat completion that must be refused."""
    asked = {"model": endpoint.config.model, "messages": MESSAGES, **body}
    status, reply = await post(http, f"{endpoint.url}/chat/completions", asked)
    assert status >= 400
    assert reply["error"]["code"] == status
    return dict(reply["error"])


def text_of(reply: dict[str, Any], index: int = 0) -> str:
    return str(reply["choices"][index]["message"]["content"])


def json_schema(model: type[BaseModel] | dict[str, Any]) -> dict[str, Any]:
    schema = model if isinstance(model, dict) else model.model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


async def events_of(response: aiohttp.ClientResponse) -> list[Any]:
    lines = [line async for line in response.content if line.strip()]
    assert lines[-1] == b"data: [DONE]\n"
    return [orjson.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]


async def until(condition: Any, *, seconds: float = 5.0) -> None:
    """Waits for a condition that is checked in another thread, so that requests under way go on."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


# The API


async def test_a_reply_has_the_shape_of_vllms(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    reply = await chat(http, endpoint, seed=1)
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["model"] == "tiny"
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    usage = reply["usage"]
    assert usage["completion_tokens"] == len(tokenize(text_of(reply)))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    # Two messages of four tokens over their content, and the head of the reply.
    assert usage["prompt_tokens"] == sum(len(tokenize(message["content"])) + 4 for message in MESSAGES) + 3


async def test_the_seed_decides_the_text(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    first, again, other = [text_of(await chat(http, endpoint, seed=seed)) for seed in (1, 1, 2)]
    assert first == again != other
    warmer = text_of(await chat(http, endpoint, seed=1, temperature=0.3))
    assert warmer != first
    unseeded = {text_of(await chat(http, endpoint)) for _ in range(3)}
    assert len(unseeded) == 3


async def test_the_seed_means_the_same_to_every_endpoint(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    async with SimulatedEndpoint(model="tiny", seed=99) as replica:
        assert text_of(await chat(http, replica, seed=1)) == text_of(await chat(http, endpoint, seed=1))


async def test_at_temperature_zero_the_seed_plays_no_part(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    texts = {text_of(await chat(http, endpoint, seed=seed, temperature=0)) for seed in (1, 2, None)}
    assert len(texts) == 1
    error = await refused(http, endpoint, temperature=0, n=2)
    assert "greedy" in error["message"]


async def test_n_choices_differ_and_are_counted(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    reply = await chat(http, endpoint, n=3, seed=4)
    texts = [text_of(reply, index) for index in range(3)]
    assert len(set(texts)) == 3
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == sum(len(tokenize(text)) for text in texts)


async def test_max_tokens_cuts_the_same_text(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    whole, cut = [await chat(http, endpoint, seed=1, max_tokens=limit) for limit in (1000, 7)]
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 7
    assert text_of(whole).startswith(text_of(cut))


async def test_ignore_eos_fills_max_tokens(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    reply = await chat(http, endpoint, seed=1, max_tokens=333, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 333
    assert reply["choices"][0]["finish_reason"] == "length"


async def test_a_stop_text_ends_the_reply_before_it(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    whole = text_of(await chat(http, endpoint, seed=1))
    word = whole.split()[5]
    reply = await chat(http, endpoint, seed=1, stop=[word])
    assert text_of(reply) == whole[: whole.index(word)]
    assert reply["choices"][0]["stop_reason"] == word


async def test_logprobs_cover_each_token(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    reply = await chat(http, endpoint, seed=1, logprobs=True, top_logprobs=3, return_token_ids=True)
    content = reply["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in content) == text_of(reply)
    assert all(len(one["top_logprobs"]) == 3 and one["logprob"] < 0 for one in content)
    assert len(reply["choices"][0]["token_ids"]) == reply["usage"]["completion_tokens"]
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]


@pytest.mark.parametrize("latency", [Latency(), Latency(output_token=0.001)], ids=["at once", "in steps"])
async def test_a_stream_gives_the_same_text_piece_by_piece(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, latency: Latency
) -> None:
    whole = await chat(http, endpoint, seed=1, n=2)
    endpoint.configure(latency=latency)
    asked = {"messages": MESSAGES, "seed": 1, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    async with http.post(f"{endpoint.url}/chat/completions", json=asked) as response:
        assert response.content_type == "text/event-stream"
        events = await events_of(response)
    *parts, last = events
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for index in range(2):
        mine = [event["choices"][0] for event in parts if event["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(one["delta"]["content"] for one in mine) == text_of(whole, index)
        assert [one["finish_reason"] for one in mine[-2:]] == [None, "stop"]


async def test_completions_take_text_or_token_ids(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    for prompt in ("Once upon a time", [1, 2, 3, 4]):
        status, reply = await post(http, f"{endpoint.url}/completions", {"prompt": prompt, "seed": 1, "logprobs": 2})
        assert status == 200
        assert reply["object"] == "text_completion"
        assert reply["id"].startswith("cmpl-")
        assert reply["usage"]["prompt_tokens"] == 4
        assert reply["usage"]["completion_tokens"] <= 16
        assert "".join(reply["choices"][0]["logprobs"]["tokens"]) == reply["choices"][0]["text"]


async def test_models_lists_the_adapters_with_their_parent(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    async with http.get(f"{endpoint.url}/models") as response:
        served = {one["id"]: one for one in (await response.json())["data"]}
    assert served["tiny"]["max_model_len"] == endpoint.config.max_model_len
    assert served["tiny"]["parent"] is None
    assert served["v2"]["parent"] == "tiny"
    base, adapter = [text_of(await chat(http, endpoint, model=model, seed=1)) for model in ("tiny", "v2")]
    assert base != adapter


@pytest.mark.parametrize(
    ("path", "key"), [("health", None), ("ping", None), ("version", "version"), ("load", "server_load")]
)
async def test_the_small_routes_answer(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, path: str, key: str | None
) -> None:
    async with http.get(f"{endpoint.url.removesuffix('/v1')}/{path}") as response:
        assert response.status == 200
        assert key is None or key in await response.json()


async def test_tokenize_counts_as_usage_does(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    url = f"{endpoint.url.removesuffix('/v1')}/tokenize"
    _, of_messages = await post(http, url, {"messages": MESSAGES})
    assert of_messages["count"] == len(of_messages["tokens"]) == (await chat(http, endpoint))["usage"]["prompt_tokens"]
    _, of_text = await post(http, url, {"prompt": "one, two", "return_token_strs": True})
    assert of_text["token_strs"] == ["one", ",", " two"]


async def test_request_ids_come_back(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    assert (await chat(http, endpoint, request_id="mine"))["id"] == "chatcmpl-mine"
    headers = {"X-Request-Id": "from-header"}
    body = {"messages": MESSAGES, "request_id": "mine"}
    async with http.post(f"{endpoint.url}/chat/completions", json=body, headers=headers) as response:
        assert response.headers["X-Request-Id"] == "from-header"
        assert (await response.json())["id"] == "chatcmpl-from-header"


async def test_the_api_key_guards_v1_only(http: aiohttp.ClientSession) -> None:
    async with SimulatedEndpoint(api_key="secret") as guarded:
        url = f"{guarded.url}/chat/completions"
        for headers in (None, {"Authorization": "Bearer wrong"}):
            assert await post(http, url, {"messages": MESSAGES}, headers) == (401, {"error": "Unauthorized"})
        status, _ = await post(http, url, {"messages": MESSAGES}, {"Authorization": "Bearer secret"})
        assert status == 200
        assert (await http.get(f"{guarded.url.removesuffix('/v1')}/health")).status == 200
        assert "secret" not in str(guarded.requests())
    assert "secret" not in repr(guarded.config)


# Refusals


async def test_a_model_that_is_not_served_is_404(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    error = await refused(http, endpoint, model="large")
    assert error == {
        "message": "The model `large` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


@pytest.mark.parametrize(
    "body", [{"max_tokens": 16_384}, {"messages": [{"role": "user", "content": "word " * 16_384}]}]
)
async def test_too_long_a_context_is_400(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, body: dict[str, Any]
) -> None:
    error = await refused(http, endpoint, **body)
    assert error["code"] == 400
    assert error["message"].startswith("This model's maximum context length is 16384 tokens.")


@pytest.mark.parametrize(
    "body",
    [
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"content": "no role"}]},
        {"max_tokens": 0},
        {"temperature": -1},
        {"n": 0},
        {"seed": "seven"},
        {"priority": "high"},
        {"response_format": "json"},
    ],
    ids=str,
)
async def test_a_malformed_request_is_400(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, body: dict[str, Any]
) -> None:
    endpoint.inject(Fault(kind="slow", delay=0))  # kinds are looked at before the request is checked
    assert (await refused(http, endpoint, **body))["code"] == 400


async def test_a_body_that_is_not_json_is_400(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    async with http.post(f"{endpoint.url}/chat/completions", data=b'{"messages": [') as response:
        assert response.status == 400
    assert endpoint.requests()[0]["body"] == '{"messages": ['


# Shapes


@pytest.mark.parametrize("model", [Verdict, Outline, Everything])
async def test_a_shaped_reply_is_valid(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, model: type[BaseModel]
) -> None:
    for seed in range(25):
        model.model_validate_json(text_of(await chat(http, endpoint, seed=seed, response_format=json_schema(model))))
        structured = {"json": model.model_json_schema()}
        model.model_validate_json(text_of(await chat(http, endpoint, seed=seed, structured_outputs=structured)))


async def test_regex_choice_and_json_object_are_followed(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    chosen = set()
    for seed in range(20):
        pattern = r"(yes|no), (-?\d{1,3}(\.\d+)?|[^a-z ]+)!"
        reply = text_of(await chat(http, endpoint, seed=seed, structured_outputs={"regex": pattern}))
        assert re.fullmatch(pattern, reply)
        chosen.add(text_of(await chat(http, endpoint, seed=seed, structured_outputs={"choice": ["tutor", "student"]})))
        thing = orjson.loads(text_of(await chat(http, endpoint, seed=seed, response_format={"type": "json_object"})))
        assert isinstance(thing, dict)
    assert chosen == {"tutor", "student"}


async def test_the_removed_guided_fields_are_ignored_as_vllm_does(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    assert text_of(await chat(http, endpoint, guided_choice=["tutor", "student"])) not in ("tutor", "student")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"$ref": "#/$defs/Missing"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "pattern": "("},
        {"type": "object", "properties": {"a": 3}},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"enum": []},
    ],
    ids=str,
)
async def test_a_bad_schema_is_a_grammar_error(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, schema: dict[str, Any]
) -> None:
    error = await refused(http, endpoint, response_format=json_schema(schema))
    assert error["code"] == 400
    assert error["message"].startswith("Grammar error: ")


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
async def test_verdicts_are_drawn_with_the_accept_rate(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, rate: float
) -> None:
    endpoint.configure(accept_rate=rate)
    verdicts = []
    for seed in range(200):
        text = text_of(await chat(http, endpoint, seed=seed, response_format=json_schema(Verdict)))
        verdicts.append(Verdict.model_validate_json(text))
    accepted = sum(one.verdict == "accept" for one in verdicts) / len(verdicts)
    assert accepted == pytest.approx(rate, abs=0.1 if 0 < rate < 1 else 0)
    assert all(bool(one.issues) == (one.verdict == "revise") for one in verdicts)


async def test_the_length_of_plain_replies_follows_the_config(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(completion_tokens=37, completion_spread=0)
    lengths = [(await chat(http, endpoint, seed=seed))["usage"]["completion_tokens"] for seed in range(5)]
    assert set(lengths) == {37}
    endpoint.configure(completion_tokens=100, completion_spread=0.5)
    lengths = [(await chat(http, endpoint, seed=seed))["usage"]["completion_tokens"] for seed in range(200)]
    assert sum(lengths) / len(lengths) == pytest.approx(100, rel=0.15)
    assert min(lengths) < 70 < 140 < max(lengths)


async def test_a_hook_scripts_replies(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "def reply(body, rng):\n"
        "    last = body['messages'][-1]['content']\n"
        "    return f'You asked: {last}' if 'half' in last else None\n"
    )
    async with SimulatedEndpoint(replies=f"{script}:reply") as scripted:
        assert text_of(await chat(http, scripted)) == f"You asked: {MESSAGES[-1]['content']}"
        other = text_of(await chat(http, scripted, messages=MESSAGES[:1]))
        assert other
        assert not other.startswith("You asked")


# The prefix cache


def cached(reply: dict[str, Any]) -> int:
    return int(reply["usage"]["prompt_tokens_details"]["cached_tokens"])


async def test_the_next_turn_finds_prompt_and_reply_in_the_cache(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    first = await chat(http, endpoint, seed=1)
    turns = [*MESSAGES, {"role": "assistant", "content": text_of(first)}, {"role": "user", "content": "And then?"}]
    second = await chat(http, endpoint, messages=turns)
    assert cached(first) == 0
    # Whole blocks of 16 only; what was generated counts like a prompt.
    assert cached(second) == first["usage"]["total_tokens"] // 16 * 16
    assert endpoint.metrics()["vllm:prefix_cache_hits_total"] >= cached(second)


async def test_the_last_token_of_a_prompt_is_always_computed(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    body = {"prompt": " ".join(["w"] * 32), "max_tokens": 1}
    replies = [(await post(http, f"{endpoint.url}/completions", body))[1] for _ in range(2)]
    assert [cached(reply) for reply in replies] == [0, 16]


async def test_a_cache_salt_and_an_adapter_isolate_the_cache(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    await chat(http, endpoint, cache_salt="a")
    assert cached(await chat(http, endpoint, cache_salt="b")) == 0
    assert cached(await chat(http, endpoint, model="v2", cache_salt="a")) == 0
    assert cached(await chat(http, endpoint, cache_salt="a")) > 0


@pytest.mark.parametrize("latency", [Latency(), Latency(output_token=0.0005)], ids=["at once", "in steps"])
async def test_the_least_recently_used_blocks_are_evicted_first(http: aiohttp.ClientSession, latency: Latency) -> None:
    config = EndpointConfig(max_model_len=320, block_size=16, num_gpu_blocks=20, latency=latency)
    async with SimulatedEndpoint(config) as small:

        async def ask(word: str) -> int:
            body = {"prompt": " ".join([word] * 97), "max_tokens": 1}  # six full blocks and one begun
            return cached((await post(http, f"{small.url}/completions", body))[1])

        assert [await ask(word) for word in "abab"] == [0, 0, 96, 96]
        # Beside c and d there is room for b and the head of a.
        assert [await ask(word) for word in "cd"] == [0, 0]
        assert await ask("a") == 16
        assert await ask("d") == 96
        assert await ask("b") < 96


# Time


async def test_latency_is_per_prompt_token_and_per_output_token(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    async def seconds(**body: Any) -> float:
        started = time.monotonic()
        await chat(http, endpoint, ignore_eos=True, **body)
        return time.monotonic() - started

    tokens = (await chat(http, endpoint, cache_salt="another"))["usage"]["prompt_tokens"]
    endpoint.configure(latency=Latency(first_token=0.05, prompt_token=0.02, output_token=0.005))
    fresh = 0.05 + 0.02 * tokens + 0.005 * 40
    again = fresh - 0.02 * (tokens // 16 * 16)
    assert fresh - 0.02 < await seconds(max_tokens=40) < fresh + 0.5
    assert again - 0.02 < await seconds(max_tokens=40) < again + 0.5 < fresh


async def test_a_larger_batch_slows_each_of_its_sequences(http: aiohttp.ClientSession) -> None:
    latency = Latency(output_token=0.004, doubling_batch=4)
    async with SimulatedEndpoint(latency=latency, completion_tokens=50, completion_spread=0) as batched:

        async def seconds(batch: int) -> float:
            started = time.monotonic()
            await asyncio.gather(*(chat(http, batched, max_tokens=50) for _ in range(batch)))
            return time.monotonic() - started

        alone, together = await seconds(1), await seconds(12)
    assert alone == pytest.approx(50 * 0.004 * (1 + 1 / 4), rel=0.5)
    assert together == pytest.approx(50 * 0.004 * (1 + 12 / 4), rel=0.5)


async def test_beyond_max_num_seqs_requests_wait_in_order_of_priority(http: aiohttp.ClientSession) -> None:
    async with SimulatedEndpoint(
        max_num_seqs=1, latency=Latency(output_token=0.01), completion_tokens=15, completion_spread=0
    ) as narrow:
        finished: list[str] = []

        async def ask(name: str, priority: int, headers: dict[str, str] | None = None) -> None:
            body = {"messages": MESSAGES, "priority": priority}
            await post(http, f"{narrow.url}/chat/completions", body, headers)
            finished.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("running", 0))
            await until(lambda: narrow.stats()["running"] == 1)
            for waiting, (name, priority) in enumerate({"late": 9, "middle": 5, "soon": 1}.items(), start=1):
                group.create_task(ask(name, priority))
                await until(lambda waiting=waiting: narrow.stats()["waiting"] == waiting)
            group.create_task(ask("by header", 9, {"X-Vllm-Priority": "-1"}))
            await until(lambda: narrow.metrics()["vllm:num_requests_waiting"] == 4)
    assert finished == ["running", "by header", "soon", "middle", "late"]


async def test_a_full_queue_refuses_with_503(http: aiohttp.ClientSession) -> None:
    async with SimulatedEndpoint(
        max_num_seqs=1, max_num_queued_reqs=2, latency=Latency(output_token=0.02), completion_tokens=20
    ) as busy:
        url = f"{busy.url}/chat/completions"
        replies = await asyncio.gather(*(post(http, url, {"messages": MESSAGES}) for _ in range(8)))
        statuses = [status for status, _ in replies]
        assert statuses.count(503) >= 5
        assert statuses.count(200) == 8 - statuses.count(503)
        assert busy.metrics()["vllm:admission_rejections_total"] == statuses.count(503)


async def test_where_the_kv_cache_is_full_sequences_wait_or_are_preempted_and_still_finish(
    http: aiohttp.ClientSession,
) -> None:
    async with SimulatedEndpoint(
        max_model_len=256, num_gpu_blocks=16, latency=Latency(output_token=0.001), completion_tokens=120
    ) as small:

        async def ask(number: int) -> dict[str, Any]:
            prompt = " ".join([f"w{number}"] * 40)
            body = {"prompt": prompt, "seed": number, "max_tokens": 100, "ignore_eos": True}
            return dict((await post(http, f"{small.url}/completions", body))[1])

        together = await asyncio.gather(*(ask(number) for number in range(8)))
        after = small.stats()
        alone = [await ask(number) for number in range(8)]
    assert after["preemptions"] > 0
    assert after["running"] == after["waiting"] == 0
    assert [reply["choices"][0]["text"] for reply in together] == [reply["choices"][0]["text"] for reply in alone]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_goes_frees_its_request(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, stream: bool
) -> None:
    endpoint.configure(latency=Latency(output_token=0.05), completion_tokens=2000, completion_spread=0)
    request = asyncio.create_task(chat(http, endpoint, stream=stream))
    await until(lambda: endpoint.metrics()["vllm:num_requests_running"] == 1)
    assert endpoint.metrics()["vllm:kv_cache_usage_perc"] > 0
    request.cancel()
    await until(lambda: endpoint.metrics()["vllm:num_requests_running"] == 0, seconds=1)
    assert endpoint.metrics()["vllm:kv_cache_usage_perc"] == 0
    await until(lambda: endpoint.requests()[0]["outcome"] == "disconnected")
    assert endpoint.answers() == []


async def test_requests_that_have_not_ended_are_counted_however_they_end(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.configure(latency=Latency(first_token=0.2))
    endpoint.inject(Fault(kind="status", times=1), Fault(kind="stall", times=1))
    body = {"model": endpoint.config.model, "messages": MESSAGES}
    assert (await post(http, f"{endpoint.url}/chat/completions", body))[0] == 500
    assert endpoint.stats()["under_way"] == 0
    stalled, answered = (asyncio.create_task(chat(http, endpoint)) for _ in range(2))
    await until(lambda: endpoint.stats()["under_way"] == 2)
    await answered
    await until(lambda: endpoint.stats()["under_way"] == 1)
    stalled.cancel()
    await until(lambda: endpoint.stats()["under_way"] == 0)
    assert endpoint.stats()["requests"] == 3


# Faults


async def test_a_status_comes_with_its_retry_after_for_the_next_requests_only(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.inject(Fault(kind="status", status=429, retry_after=1.5, times=2))
    seen = []
    for _ in range(3):
        async with http.post(f"{endpoint.url}/chat/completions", json={"messages": MESSAGES}) as response:
            seen.append((response.status, response.headers.get("Retry-After")))
    assert seen == [(429, "1.5"), (429, "1.5"), (200, None)]
    assert [fault["struck"] for fault in endpoint.faults()] == [2]
    assert [row["outcome"] for row in endpoint.requests()] == ["refused", "refused", "answered"]


@pytest.mark.parametrize("status", [500, 503])
async def test_faults_are_switched_on_and_off_while_it_runs(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, status: int
) -> None:
    await chat(http, endpoint)
    endpoint.inject(Fault(kind="status", status=status))
    assert (await refused(http, endpoint))["code"] == status
    endpoint.clear_faults()
    await chat(http, endpoint)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_reset_ends_the_connection(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, stream: bool
) -> None:
    endpoint.inject(Fault(kind="reset", times=1))
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await chat(http, endpoint, stream=stream)
    await chat(http, endpoint)
    assert [row["outcome"] for row in endpoint.requests()] == ["broken", "answered"]
    assert len(endpoint.answers()) == 1


async def test_a_stall_never_answers(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="stall", times=1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await chat(http, endpoint)
    await chat(http, endpoint)
    assert [row["outcome"] for row in endpoint.requests()] == ["broken", "answered"]


async def test_slow_is_late_but_right(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    right = text_of(await chat(http, endpoint, seed=1))
    endpoint.inject(Fault(kind="slow", delay=0.4, times=1))
    started = time.monotonic()
    assert text_of(await chat(http, endpoint, seed=1)) == right
    assert time.monotonic() - started >= 0.4


async def test_context_says_what_a_too_long_prompt_gets(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.inject(Fault(kind="context", times=1))
    assert "maximum context length is" in (await refused(http, endpoint))["message"]


async def test_a_truncated_body_breaks_off(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="truncated", times=2))
    with pytest.raises(aiohttp.ClientPayloadError):
        await chat(http, endpoint)
    async with http.post(f"{endpoint.url}/chat/completions", json={"messages": MESSAGES, "stream": True}) as response:
        received = await response.content.readany()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert received.startswith(b"data: ")
    assert b"[DONE]" not in received
    assert endpoint.answers() == []


async def test_invalid_json_comes_with_status_200(http: aiohttp.ClientSession, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="invalid_json", times=1))
    async with http.post(f"{endpoint.url}/chat/completions", json={"messages": MESSAGES}) as response:
        assert response.status == 200
        body = await response.read()
    assert body.startswith(b'{"id":')
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)
    assert endpoint.answers() == []


async def test_a_wrong_shape_is_json_that_the_schema_refuses(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.inject(Fault(kind="wrong_shape"))
    text = text_of(await chat(http, endpoint, response_format=json_schema(Verdict)))
    orjson.loads(text)
    with pytest.raises(ValidationError):
        Verdict.model_validate_json(text)
    plain = text_of(await chat(http, endpoint))
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(plain)
    assert [answer["fault"] for answer in endpoint.answers()] == ["wrong_shape", None]


@pytest.mark.parametrize("latency", [Latency(), Latency(output_token=0.001)], ids=["at once", "in steps"])
async def test_empty_is_a_reply_without_text(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint, latency: Latency
) -> None:
    endpoint.configure(latency=latency)
    endpoint.inject(Fault(kind="empty", times=1))
    assert text_of(await chat(http, endpoint)) == ""
    assert text_of(await chat(http, endpoint)) != ""


async def test_a_fault_strikes_only_the_requests_it_names(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    endpoint.inject(
        Fault(kind="status", status=503, model="v2"),
        Fault(kind="status", status=500, requests="shaped"),
        Fault(kind="status", status=502, requests="completions"),
    )
    await chat(http, endpoint)
    assert (await refused(http, endpoint, model="v2"))["code"] == 503
    assert (await refused(http, endpoint, response_format=json_schema(Verdict)))["code"] == 500
    status, _ = await post(http, f"{endpoint.url}/completions", {"prompt": "Hello"})
    assert status == 502


async def test_the_seed_decides_which_requests_are_struck(http: aiohttp.ClientSession) -> None:
    async def struck(seed: int) -> list[bool]:
        fault = Fault(kind="status", probability=0.3)
        async with SimulatedEndpoint(seed=seed, faults=[fault]) as faulty:
            url = f"{faulty.url}/chat/completions"
            return [(await post(http, url, {"messages": MESSAGES}))[0] == 500 for _ in range(200)]

    first, again, other = [await struck(seed) for seed in (1, 1, 2)]
    assert first == again != other
    assert 30 < sum(first) < 90


# The record


async def test_the_record_shows_what_was_asked_and_what_was_answered(
    http: aiohttp.ClientSession, endpoint: SimulatedEndpoint
) -> None:
    reply = await chat(http, endpoint, seed=5, n=2, request_id="r", priority=3)
    await refused(http, endpoint, model="large")
    answered, turned_away = endpoint.requests()
    assert answered["body"]["messages"] == MESSAGES
    assert answered["body"]["priority"] == 3
    assert answered["completion_tokens"] == reply["usage"]["completion_tokens"]
    assert answered["status"] == 200
    assert (turned_away["outcome"], turned_away["status"], turned_away["model"]) == ("refused", 404, "large")
    (answer,) = endpoint.answers()
    canonical = orjson.dumps(MESSAGES, option=orjson.OPT_SORT_KEYS)
    assert answer == {
        "id": "chatcmpl-r",
        "model": "tiny",
        "seed": 5,
        "messages_sha256": hashlib.sha256(canonical).hexdigest(),
        "texts": [text_of(reply, 0), text_of(reply, 1)],
        "fault": None,
    }


async def test_the_journal_has_every_answer_even_after_a_crash(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    endpoint = SimulatedEndpoint(journal=journal, keep_requests=2)
    with endpoint:
        texts = [text_of(await chat(http, endpoint)) for _ in range(5)]
        assert len(endpoint.answers()) == 2
        endpoint.kill()
    with endpoint:
        texts.append(text_of(await chat(http, endpoint)))
    assert [orjson.loads(line)["texts"] for line in journal.read_bytes().splitlines()] == [[text] for text in texts]


# The process


async def test_after_a_crash_it_comes_back_on_the_same_port(http: aiohttp.ClientSession) -> None:
    endpoint = SimulatedEndpoint().start()
    url = endpoint.url
    try:
        await chat(http, endpoint)
        endpoint.kill()
        with pytest.raises(aiohttp.ClientConnectionError):
            await chat(http, endpoint)
        endpoint.start()
        await chat(http, endpoint)
        assert endpoint.url == url
    finally:
        endpoint.stop()
    assert endpoint.pid is None


def test_it_dies_with_a_parent_that_is_killed() -> None:
    """SIGKILL gives the parent no chance to clean up, and yet no endpoint is left behind."""
    program = (
        "import sys, time; from tutelage.testing.simulated_endpoint import SimulatedEndpoint\n"
        "endpoint = SimulatedEndpoint().start(); print(endpoint.pid, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _runs(child):
        assert time.monotonic() < deadline, f"the endpoint {child} outlived its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    # Where nothing reaps orphans, as in some containers, a dead one stays in the table.
    return state != "Z"


def test_a_port_that_is_taken_is_said(capfd: pytest.CaptureFixture[str], endpoint: SimulatedEndpoint) -> None:
    port = int(endpoint.url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(TutelageError, match=f"did not start.*port {port}"):
        SimulatedEndpoint(port=port).start()
    assert "cannot start" in capfd.readouterr().err


def test_what_cannot_be_changed_in_a_running_endpoint_is_said(endpoint: SimulatedEndpoint) -> None:
    with pytest.raises(TutelageError, match="block_size cannot be changed"):
        endpoint.configure(block_size=32)
    with pytest.raises(TutelageError, match="accept_rate"):
        endpoint.configure(accept_rate=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"host": "0.0.0.0"}, "set api_key"),
        ({"max_model_len": 1000, "num_gpu_blocks": 10}, "raise num_gpu_blocks"),
        ({"acceptrate": 1}, "acceptrate"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_before_anything_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SimulatedEndpoint(**options)


async def test_the_command_line_takes_a_config_and_flags_over_it(http: aiohttp.ClientSession, tmp_path: Path) -> None:
    config = tmp_path / "endpoint.json"
    config.write_bytes(orjson.dumps({"model": "from-file", "accept_rate": 0.1, "faults": [{"kind": "reset"}]}))
    flags = ["--config", str(config), "--accept-rate", "0.9", "--latency", '{"output_token": 0.02}', "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tutelage.testing.endpoint", *flags, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    ready = orjson.loads(await process.stdout.readline())
    async with http.get(f"http://127.0.0.1:{ready['port']}/simulated/config") as response:
        settings = await response.json()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    assert (settings["model"], settings["accept_rate"], settings["latency"]["output_token"]) == ("from-file", 0.9, 0.02)
