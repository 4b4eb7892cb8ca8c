"""The compiled graphs for LangGraph's dev server, as it runs them: with plain JSON for a context, or with nothing."""

import json
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tutelage.errors import ConfigError
from tutelage.generation import studio as engine
from tutelage.graphs import studio
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import SimulatedEndpoint

ROOT = Path(__file__).parents[2]
BRIEF: dict[str, Any] = {
    "id": "fractions",
    "question": "What is 1/2 + 1/3?",
    "answer": "5/6",
    "misconception": {"belief": "Add the tops and add the bottoms."},
}
INPUT: Any = {"brief": BRIEF}


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(accept_rate=0.0) as server:
        yield server


@pytest.fixture
async def endpoint(server: SimulatedEndpoint, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedEndpoint]:
    """The endpoint that the environment names; it sends every draft back."""
    server.forget()
    monkeypatch.setenv("TUTELAGE_STUDIO_URL", server.url)
    monkeypatch.setenv("TUTELAGE_STUDIO_MODEL", server.config.model)
    yield server
    model = engine.model_for_all()
    assert isinstance(model, ChatVLLM)
    await model.aclose()


def test_langgraph_json_names_graphs_that_are_compiled_and_have_their_own_names() -> None:
    graphs = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    assert set(graphs) == {"lesson", "socratic", "debate", "peers", "open_book"}
    for name, place in graphs.items():
        module, _, attribute = place.partition(":")
        graph = getattr(import_module(module), attribute)
        assert isinstance(graph, engine.Twin)
        assert graph.name == name


@pytest.mark.parametrize("context", [None, {}], ids=["no context", "an empty one"])
async def test_a_lesson_runs_on_plain_json_and_no_cast(endpoint: SimulatedEndpoint, context: Any) -> None:
    ended = await studio.lesson.ainvoke(INPUT, context=context)
    assert [turn.role for turn in ended["turns"]] == ["tutor", "student"] * 3
    assert {turn.attempts[-1].call.endpoint for turn in ended["turns"]} == {endpoint.url}


async def test_a_debate_runs_too(endpoint: SimulatedEndpoint) -> None:
    ended = await studio.debate.ainvoke(INPUT)
    assert [turn.role for turn in ended["turns"]][:2] == ["proponent", "opponent"]


async def test_the_context_says_how_far_a_dialogue_may_go(endpoint: SimulatedEndpoint) -> None:
    ended = await studio.lesson.ainvoke(INPUT, context={"messages": 2, "revisions": 2})
    tutor, _ = ended["turns"]
    assert len(tutor.attempts) == 3
    ended = await studio.lesson.ainvoke(INPUT, context={"messages": 2, "revisions": 0})
    tutor, _ = ended["turns"]
    assert len(tutor.attempts) == 1


async def test_the_seed_of_the_context_reaches_every_call(endpoint: SimulatedEndpoint) -> None:
    seeds = []
    for seed in (1, 1, 2):
        endpoint.forget()
        await studio.lesson.ainvoke(INPUT, context={"messages": 2, "seed": seed})
        seeds.append(sorted(request["body"]["seed"] for request in endpoint.requests()))
    assert seeds[0] == seeds[1]
    assert not set(seeds[0]) & set(seeds[2])


async def test_a_long_dialogue_is_not_cut_by_langgraphs_own_limit(endpoint: SimulatedEndpoint) -> None:
    ended = await studio.lesson.ainvoke(INPUT, context={"messages": 24, "revisions": 2, "tokens": 100_000})
    assert len(ended["turns"]) == 24


async def test_a_wrong_context_is_refused_by_name(endpoint: SimulatedEndpoint) -> None:
    with pytest.raises(ValidationError, match="mesages"):
        await studio.lesson.ainvoke(INPUT, context={"mesages": 2})


def test_the_dev_server_is_told_what_a_context_may_hold() -> None:
    """It drops what this schema does not name, so that without it nothing would arrive, or anything."""
    schema = studio.lesson.get_context_jsonschema()
    assert schema is not None
    assert set(schema["properties"]) == {"messages", "revisions", "tokens", "seed"}
    assert not schema.get("required")


def test_a_url_without_a_model_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_STUDIO_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="TUTELAGE_STUDIO_MODEL"):
        engine.StudioCast()


def test_nothing_is_started_until_a_model_is_called() -> None:
    """Without an endpoint the embedded model plays; making a cast of it does not wait for it."""
    cast = engine.StudioCast()
    assert isinstance(cast.player("tutor").model, engine.EmbeddedModel)
    assert engine.embedded_server.cache_info().currsize == 0
