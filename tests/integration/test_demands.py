"""What roles ask of their endpoints is looked at before a run begins."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tutelage.errors import ConfigError
from tutelage.generation.generate import agenerate
from tutelage.testing import SimulatedEndpoint


@dataclass
class Stranger:
    """An endpoint of an engine that nobody knows."""

    owner: str = "somebody"
    follows: bool = False
    """Whether it follows schemas, or so it seems."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The first message of each call."""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 8192, "owned_by": self.owner}]})

    async def chat(self, request: web.Request) -> web.Response:
        self.asked.append((await request.json())["messages"][0]["content"])
        says = '{"bird": "heron"}' if self.follows else "Hello there!"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": says}}
        return web.json_response(
            {"id": "1", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}
        )


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    stranger = Stranger()
    app = web.Application()
    app.router.add_get("/v1/models", stranger.models)
    app.router.add_post("/v1/chat/completions", stranger.chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stranger.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield stranger
    await runner.cleanup()


def config(folder: Path, url: str, **more: Any) -> dict[str, Any]:
    briefs = folder / "briefs.jsonl"
    briefs.write_text(json.dumps({"id": "one", "topic": "Sums"}) + "\n")
    return {"run": "r", "briefs": [{"from": str(briefs)}], "models": {"large": {"url": url, "model": "m"}}, **more}


async def test_an_endpoint_of_an_unknown_engine_that_ignores_schemas_is_refused_before_the_run(
    stranger: Stranger, tmp_path: Path
) -> None:
    said = rf"models\.large: {stranger.url} ignores schemas \(it said 'Hello there!'\).*critic"
    with pytest.raises(ConfigError, match=said):
        await agenerate(config(tmp_path, stranger.url), out=tmp_path / "run")
    assert set(stranger.asked) == {"Say hello."}


async def test_one_that_follows_them_is_asked_once_and_then_the_run_begins(stranger: Stranger, tmp_path: Path) -> None:
    stranger.follows = True
    summary = await agenerate(config(tmp_path, stranger.url), out=tmp_path / "run")
    assert stranger.asked.count("Say hello.") == 1
    assert summary.count("failed") == 1  # what it says is no verdict


@pytest.mark.parametrize("owner", ["vllm", "llamacpp"])
async def test_an_engine_that_is_known_to_follow_them_is_not_asked(
    stranger: Stranger, tmp_path: Path, owner: str
) -> None:
    stranger.follows, stranger.owner = True, owner
    await agenerate(config(tmp_path, stranger.url), out=tmp_path / "run")
    assert "Say hello." not in stranger.asked


async def test_a_context_that_a_reply_alone_would_fill_is_refused_before_the_run(tmp_path: Path) -> None:
    with (
        SimulatedEndpoint(model="m", max_model_len=500) as endpoint,
        pytest.raises(ConfigError, match=r"roles\.tutor\.max_tokens: it asks for 512 tokens.* models\.large has 500"),
    ):
        await agenerate(config(tmp_path, endpoint.url), out=tmp_path / "run")


async def test_a_reply_that_the_token_limit_leaves_no_prompt_beside_is_refused_before_the_run(tmp_path: Path) -> None:
    asks = {"limits": {"tokens": 600}, "roles": {"tutor": {"max_tokens": 600}}}
    with SimulatedEndpoint(model="m") as endpoint, pytest.raises(ConfigError, match=r"`limits\.tokens` leaves 600"):
        await agenerate(config(tmp_path, endpoint.url, **asks), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("graph", "role", "have"), [("lesson", "tutor", "critic, fact_checker"), ("socratic", "claim_checker", "critic")]
)
async def test_a_panel_of_a_role_that_never_asks_one_is_refused_before_the_run(
    tmp_path: Path, graph: str, role: str, have: str
) -> None:
    asks = {"graph": graph, "roles": {role: {"panel": ["large"]}}}
    with pytest.raises(ConfigError, match=rf"roles\.{role}\.panel: .*never be asked.*\(those that do: {have}"):
        await agenerate(config(tmp_path, "http://127.0.0.1:9/v1", **asks), out=tmp_path / "run")
