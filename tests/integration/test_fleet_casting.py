"""A cast at endpoints that run already: adapters loaded into them, isolation, priorities, limits."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from tutelage.config import Config, load_config
from tutelage.dialogue.cast import Player
from tutelage.errors import ConfigError, EndpointUnreachable, ModelNotServed
from tutelage.generation.casting import cast_of, prompt_library
from tutelage.generation.registry import load_graph
from tutelage.serving.adapters import adapter_sha256
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing import SimulatedEndpoint


@pytest.fixture
def endpoints() -> Iterator[list[SimulatedEndpoint]]:
    """Two replicas that let adapters be loaded; the first has one."""
    options: dict[str, Any] = {"model": "m", "allow_runtime_lora": True}
    with SimulatedEndpoint(adapters=("old",), **options) as first, SimulatedEndpoint(**options) as second:
        yield [first, second]


def adapter(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "adapter_config.json").write_text('{"r": 8}')
    (folder / name / "adapter_model.safetensors").write_bytes(name.encode())
    return folder / name


def _config(url: list[str], roles: dict[str, Any], **model: Any) -> Config:
    return load_config(
        {
            "run": "r",
            "models": {"m": {"url": url, "model": "m", **model}},
            "roles": roles,
            "briefs": [{"from": "briefs.jsonl"}],
        }
    )


async def lost(pool: EndpointPool) -> None:
    async with asyncio.timeout(20):
        while pool.replicas()[0].state != "open":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def players(url: list[str], roles: dict[str, Any], **model: Any) -> dict[str, Player]:
    config = _config(url, roles, **model)
    graph = load_graph("lesson", config.folder)
    async with cast_of(config, graph, prompt_library(config, graph)) as casting:
        for role in ("tutor", "student"):
            await casting.cast.player(role).model.ainvoke("Hello", max_tokens=1)
        return dict(casting.cast.players)


async def test_adapters_are_loaded_into_the_servers_that_lack_them(
    endpoints: list[SimulatedEndpoint], tmp_path: Path
) -> None:
    adapters = {name: str(adapter(tmp_path, name)) for name in ("old", "new")}
    roles = {"tutor": {"adapter": "new"}, "student": {"adapter": "old"}}
    played = await players([endpoint.url for endpoint in endpoints], roles, adapters=adapters)
    for role, name in (("tutor", "new"), ("student", "old"), ("critic", None)):
        assert played[role].adapter_sha256 == (adapter_sha256(tmp_path / name) if name else None)
    again = await players([endpoint.url for endpoint in endpoints], roles, adapters=adapters)
    assert again["tutor"].adapter_sha256 == played["tutor"].adapter_sha256, "what is loaded is not loaded again"


async def test_a_server_that_was_started_again_has_its_adapters_loaded_before_it_is_asked(tmp_path: Path) -> None:
    adapters = {"new": str(adapter(tmp_path, "new"))}
    with SimulatedEndpoint(model="m", allow_runtime_lora=True) as endpoint:
        config = _config([endpoint.url], {"tutor": {"adapter": "new"}}, adapters=adapters)
        graph = load_graph("lesson", config.folder)
        async with cast_of(config, graph, prompt_library(config, graph)) as casting:
            tutor = casting.cast.player("tutor").model
            endpoint.kill()
            call = asyncio.create_task(tutor.ainvoke("Hello", max_tokens=1))
            await lost(casting.pools["m"])
            endpoint.start()
            async with asyncio.timeout(20):
                assert (await call).response_metadata["adapter"] == "new"


async def test_a_server_that_loads_its_adapters_no_more_is_not_asked(tmp_path: Path) -> None:
    adapters = {"new": str(adapter(tmp_path, "new"))}
    with SimulatedEndpoint(model="m", allow_runtime_lora=True) as endpoint:
        config = _config([endpoint.url], {"tutor": {"adapter": "new"}}, adapters=adapters, patience=3)
        graph = load_graph("lesson", config.folder)
        async with cast_of(config, graph, prompt_library(config, graph)) as casting:
            tutor = casting.cast.player("tutor").model
            port = URL(endpoint.url).port
            endpoint.kill()
            call = asyncio.create_task(tutor.ainvoke("Hello", max_tokens=1))
            await lost(casting.pools["m"])
            with (
                SimulatedEndpoint(model="m", port=port),
                pytest.raises(EndpointUnreachable, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
            ):
                async with asyncio.timeout(20):
                    await call


async def test_an_adapter_that_only_the_servers_can_read_is_not_hashed(
    endpoints: list[SimulatedEndpoint], tmp_path: Path
) -> None:
    played = await players([endpoints[0].url], {"tutor": {"adapter": "old"}}, adapters={"old": "/on/the/gpu/machine"})
    assert played["tutor"].adapter_sha256 is None


async def test_a_server_that_loads_no_adapters_is_an_error_that_says_what_it_needs(tmp_path: Path) -> None:
    says = r"models\.m: adapters\.new: (.|\n)*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    with SimulatedEndpoint(model="m") as endpoint, pytest.raises(ConfigError, match=says):
        await players([endpoint.url], {"tutor": {"adapter": "new"}}, adapters={"new": str(tmp_path)})


async def test_an_adapter_that_nobody_serves_is_an_error_before_the_run(endpoints: list[SimulatedEndpoint]) -> None:
    with pytest.raises(ModelNotServed, match=r"does not serve 'none'"):
        await players([endpoints[0].url], {"tutor": {"adapter": "none"}})


async def test_a_run_asks_for_a_cache_of_its_own_where_it_is_to_be_isolated(endpoints: list[SimulatedEndpoint]) -> None:
    """One salt for all roles, which share prompts, and another one for each run."""
    salts = []
    for _ in range(2):
        endpoints[0].forget()
        await players([endpoints[0].url], {}, isolate=True)
        sent = [json.loads(request["body"])["cache_salt"] for request in with_bodies(endpoints[0])]
        assert len(sent) == 2 and len(set(sent)) == 1
        salts += sent
    assert len(set(salts)) == 2
    endpoints[0].forget()
    await players([endpoints[0].url], {})
    assert not any("cache_salt" in request["body"] for request in with_bodies(endpoints[0]))


def with_bodies(endpoint: SimulatedEndpoint) -> list[dict[str, Any]]:
    return [
        {**request, "body": request["body"] if isinstance(request["body"], str) else json.dumps(request["body"])}
        for request in endpoint.requests()
    ]


@pytest.mark.parametrize(("said", "by_age"), [({}, False), ({"priority": True}, True), ({"priority": False}, False)])
async def test_calls_go_by_age_only_where_the_config_says_that_the_server_does(
    endpoints: list[SimulatedEndpoint], said: dict[str, bool], by_age: bool
) -> None:
    played = await players([endpoints[0].url], {}, **said)
    assert {player.priority for player in played.values()} == {by_age}


async def test_as_many_requests_are_open_as_the_config_says(endpoints: list[SimulatedEndpoint]) -> None:
    played = await players([endpoints[0].url], {}, in_flight=3)
    model = played["tutor"].model
    assert isinstance(model, ChatVLLM)
    assert [replica.limit for replica in model.pool.replicas()] == [3]
