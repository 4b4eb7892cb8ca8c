"""vLLM does, over plain HTTP, what Tutelage relies on: shown on a real server, with no code of ours in between."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from .vllm_server import VLLMDidNotStart, VLLMServer, serve_vllm

pytestmark = pytest.mark.vllm

VERDICT = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["accept", "revise"]},
        "issues": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "severity": {"type": "string", "enum": ["minor", "major"]},
                    "instruction": {"type": "string"},
                },
                "required": ["severity", "instruction"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["verdict", "issues"],
    "additionalProperties": False,
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def chat(session: aiohttp.ClientSession, server: VLLMServer, content: str, **body: Any) -> dict[str, Any]:
    """The reply to one user message, of at most 40 tokens unless told otherwise."""
    request = {"model": server.model, "messages": [{"role": "user", "content": content}], "max_tokens": 40} | body
    async with session.post(f"{server.url}/chat/completions", json=request) as response:
        reply: dict[str, Any] = await response.json()
        assert response.status == 200, reply
    return reply


def texts(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


async def test_a_chat_is_answered_and_counted(session: aiohttp.ClientSession, vllm_server: VLLMServer) -> None:
    reply = await chat(session, vllm_server, "What is a prime number?", temperature=0)
    assert texts(reply)[0].strip()
    assert reply["model"] == vllm_server.model
    usage = reply["usage"]
    assert 0 < usage["completion_tokens"] <= 40
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_the_tiny_model_ends_its_turns(session: aiohttp.ClientSession, vllm_server: VLLMServer) -> None:
    """Also after a long prompt and one unlike any that it knows: a run of many turns would fill `max_tokens` in each."""
    questions = [
        "Is zero an even number?",
        "Ich verstehe nicht, warum 17 / 4 kein Rest ist.",
        "You are a tutor. " * 200,
    ]
    replies = [await chat(session, vllm_server, asked, temperature=0, max_tokens=200) for asked in questions]
    assert [reply["choices"][0]["finish_reason"] for reply in replies] == ["stop"] * 3


@pytest.mark.parametrize("seed", range(6))
async def test_a_reply_follows_the_schema_of_response_format(
    session: aiohttp.ClientSession, vllm_server: VLLMServer, seed: int
) -> None:
    """Compact JSON, without a space that the schema does not ask for."""
    schema = {"name": "verdict", "schema": VERDICT, "strict": True}
    reply = await chat(
        session,
        vllm_server,
        "Review the draft: ice is heavier than water.",
        response_format={"type": "json_schema", "json_schema": schema},
        temperature=1.0,
        seed=seed,
        max_tokens=400,
    )
    assert reply["choices"][0]["finish_reason"] == "stop"
    text = texts(reply)[0]
    verdict = json.loads(text)
    assert text == json.dumps(verdict, separators=(",", ":"), ensure_ascii=False)
    assert verdict.keys() == {"verdict", "issues"}
    assert verdict["verdict"] in {"accept", "revise"}
    for issue in verdict["issues"]:
        assert issue.keys() == {"severity", "instruction"}
        assert issue["severity"] in {"minor", "major"}
        assert isinstance(issue["instruction"], str)


async def test_a_prompt_sent_again_is_found_in_the_prefix_cache(
    session: aiohttp.ClientSession, vllm_server: VLLMServer
) -> None:
    """All whole blocks of 32 tokens but the last are counted as cached the second time, and none the first time."""
    prompt = "Where does the mass of a tree come from? " * 12
    salt = uuid4().hex
    first = await chat(session, vllm_server, prompt, cache_salt=salt)
    second = await chat(session, vllm_server, prompt, cache_salt=salt)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    prompt_tokens = second["usage"]["prompt_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == (prompt_tokens - 1) // 32 * 32 > 0


async def test_each_adapter_answers_by_its_name_and_in_its_own_way(
    session: aiohttp.ClientSession, vllm_server: VLLMServer
) -> None:
    said = {}
    for name in (vllm_server.model, "a", "b"):
        replies = [await chat(session, vllm_server, asked, model=name, temperature=0) for asked in ("Hello!", "Why?")]
        assert {reply["model"] for reply in replies} == {name}
        said[name] = [texts(reply) for reply in replies]
    assert said["a"] != said[vllm_server.model] != said["b"] != said["a"]


async def test_n_replies_differ_and_come_again_with_their_seed(
    session: aiohttp.ClientSession, vllm_server: VLLMServer
) -> None:
    drawn = [texts(await chat(session, vllm_server, "Why?", n=3, seed=seed, temperature=2.0)) for seed in (11, 11, 12)]
    assert len(set(drawn[0])) == 3
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_server_that_cannot_start_says_why(vllm_python: Path, tmp_path: Path) -> None:
    """The error carries the end of the server's log, which a failing CI job would not show otherwise."""
    with (
        pytest.raises(VLLMDidNotStart, match="--no-such-flag"),
        serve_vllm(vllm_python, tmp_path, adapters={}, log=tmp_path / "server.log", more=["--no-such-flag"]),
    ):
        pass
