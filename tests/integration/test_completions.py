"""Base models over real HTTP: completions of texts and of token ids."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.outputs import Generation, LLMResult
from pydantic import SecretStr, ValidationError

from tutelage.errors import ConfigError, ContextExceeded, ModelNotServed
from tutelage.serving.completions import CompletionsVLLM
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base", adapters=("v2",), max_model_len=512) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    running.forget()
    running.clear_faults()
    running.clear_prefix_cache()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[CompletionsVLLM]:
    async with CompletionsVLLM(model="base", url=endpoint.url, max_tokens=20, seed=1) as model:
        yield model


def told(generation: Generation) -> dict[str, Any]:
    assert generation.generation_info is not None
    return generation.generation_info


async def test_a_text_is_gone_on_with(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    text = await model.ainvoke("The three primary colours are")
    (request,) = endpoint.requests()
    assert request["api"] == "completions"
    assert request["body"] == {"model": "base", "prompt": "The three primary colours are", "max_tokens": 20, "seed": 1}
    assert text == endpoint.answers()[0]["texts"][0]


async def test_token_ids_are_sent_as_they_are(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    (completion,) = await model.acomplete([1, 2, 3], return_token_ids=True)
    assert endpoint.requests()[0]["body"]["prompt"] == [1, 2, 3]
    assert told(completion)["usage"]["input_tokens"] == 3
    assert len(told(completion)["token_ids"]) == told(completion)["usage"]["output_tokens"]


async def test_a_completion_says_where_it_came_from_and_what_it_took(
    model: CompletionsVLLM, endpoint: SimulatedEndpoint
) -> None:
    await model.acomplete("Once upon a time " * 20)
    (completion,) = await model.acomplete("Once upon a time " * 20, max_tokens=2)
    info = told(completion)
    assert (info["model_name"], info["adapter"], info["endpoint"]) == ("base", None, endpoint.url)
    assert info["finish_reason"] == "length"
    assert info["id"] == f"cmpl-{info['request_id']}"
    assert info["usage"]["output_tokens"] == 2
    assert 0 < info["usage"]["input_token_details"]["cache_read"] < info["usage"]["input_tokens"]


async def test_candidates_all_come_and_their_usage_once(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    candidates = await model.acomplete("Once", n=3, temperature=1.0, logprobs=1)
    assert [each.text for each in candidates] == endpoint.answers()[0]["texts"]
    assert ["usage" in told(each) for each in candidates] == [True, False, False]
    assert all(told(each)["logprobs"]["token_logprobs"] for each in candidates)


async def test_an_adapter_and_sampling_are_asked_for(endpoint: SimulatedEndpoint) -> None:
    async with CompletionsVLLM(model="base", adapter="v2", url=endpoint.url, temperature=0.5, stop=["."]) as model:
        await model.ainvoke("Once", temperature=0.9, top_k=5)
    body = endpoint.requests()[0]["body"]
    assert (body["model"], body["temperature"], body["top_k"], body["stop"]) == ("v2", 0.9, 5, ["."])


async def test_several_texts_are_completed_at_once(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    result = await model.agenerate(["One", "Two", "Three"])
    assert len(result.generations) == 3
    ids = {told(candidates[0])["request_id"] for candidates in result.generations}
    assert len(ids) == 3
    assert len(await model.abatch(["One", "Two"])) == 2


async def test_the_error_of_one_text_is_the_error_of_the_call(model: CompletionsVLLM) -> None:
    with pytest.raises(ContextExceeded):
        await model.agenerate(["One", "Two " * 600])


async def test_what_is_not_served_is_an_error(endpoint: SimulatedEndpoint) -> None:
    async with CompletionsVLLM(model="other", url=endpoint.url) as model:
        with pytest.raises(ModelNotServed, match="other"):
            await model.ainvoke("Once")


async def test_a_fault_that_heals_is_not_noticed(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="status", status=503, times=1))
    assert await model.ainvoke("Once")
    assert len(endpoint.requests()) == 2


async def test_pieces_add_up_to_the_completion(model: CompletionsVLLM, endpoint: SimulatedEndpoint) -> None:
    class Listener(AsyncCallbackHandler):
        def __init__(self) -> None:
            self.tokens: list[str] = []
            self.end: LLMResult | None = None

        async def on_llm_new_token(self, token: Any, **_: Any) -> None:
            self.tokens.append(token)

        async def on_llm_end(self, response: LLMResult, **_: Any) -> None:
            self.end = response

    (whole,) = await model.acomplete("Once upon a time")
    endpoint.clear_prefix_cache()
    listener = Listener()
    pieces = [piece async for piece in model.astream("Once upon a time", {"callbacks": [listener]})]
    assert len(pieces) > 3
    assert "".join(pieces) == "".join(listener.tokens) == whole.text
    assert listener.end is not None
    streamed, kept = told(listener.end.generations[0][0]), told(whole)
    for name in ("usage", "finish_reason", "endpoint", "model_name", "adapter"):
        assert streamed[name] == kept[name]


async def test_a_stream_that_is_left_frees_its_request() -> None:
    with SimulatedEndpoint(latency={"output_token": 0.02}) as endpoint:
        async with CompletionsVLLM(model="simulated", url=endpoint.url, extra={"ignore_eos": True}) as model:
            async with aclosing(model.astream("Once", max_tokens=5000)) as pieces:  # type: ignore[type-var]
                async for _ in pieces:
                    break
            deadline = time.monotonic() + 5
            while endpoint.stats()["under_way"]:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)


async def test_a_stream_has_one_candidate(model: CompletionsVLLM) -> None:
    with pytest.raises(ConfigError, match="n=2"):
        _ = [piece async for piece in model.astream("Once", n=2)]


def test_it_works_where_no_event_loop_runs(endpoint: SimulatedEndpoint) -> None:
    model = CompletionsVLLM(model="base", url=endpoint.url, max_tokens=8, seed=1)
    assert model.invoke("Once") == "".join(model.stream("Once"))


async def test_where_one_runs_it_says_what_to_do(model: CompletionsVLLM) -> None:
    with pytest.raises(RuntimeError, match=r"CompletionsVLLM.invoke.*ainvoke"):
        model.invoke("Once")


async def test_the_key_is_sent_and_shown_nowhere() -> None:
    with SimulatedEndpoint(api_key=KEY) as endpoint:
        async with CompletionsVLLM(model="simulated", url=endpoint.url, api_key=SecretStr(KEY)) as model:
            assert await model.ainvoke("Once")
            assert KEY not in f"{model!r}{model}"


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(ValidationError, match="temprature"):
        CompletionsVLLM(model="base", url="http://gpu-1:8000/v1", temprature=0.5)  # type: ignore[call-arg]
