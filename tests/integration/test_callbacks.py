"""Callbacks of LangChain's, by which LangSmith, Langfuse and Phoenix see a dialogue: all our calls reach them."""

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers.context import register_configure_hook

from tutelage import Brief, Cast, agenerate
from tutelage.errors import ContextExceeded
from tutelage.graphs.lesson import lesson
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing.faults import Fault
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

BRIEF = Brief(id="b", topic="Adding fractions", question="What is 1/2 + 1/3?", answer=("5/6",))

_by_hook: ContextVar[BaseCallbackHandler | None] = ContextVar("_by_hook", default=None)
register_configure_hook(_by_hook, inheritable=True)


class Listener(AsyncCallbackHandler):
    """Notes the calls that it is told of."""

    def __init__(self) -> None:
        self.begun: dict[UUID, dict[str, Any]] = {}
        self.ended: dict[UUID, LLMResult] = {}
        self.failed: dict[UUID, BaseException] = {}

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self.begun[run_id] = kwargs

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        self.ended[run_id] = response

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.failed[run_id] = error

    def roles(self) -> list[str]:
        return sorted(call["name"] for call in self.begun.values())


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base") as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    running.forget()
    running.clear_faults()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="base", url=endpoint.url, max_tokens=20) as model:
        yield model


async def play(model: ChatVLLM, config: RunnableConfig | None = None) -> Any:
    return await lesson().compile().ainvoke({"id": "d1", "brief": BRIEF}, config, context=Cast.of(model))


def calls_of(dialogue: Any) -> int:
    drafts = [attempt for turn in dialogue["turns"] for attempt in turn.attempts]
    steps = [step for turn in dialogue["turns"] for step in turn.steps]
    return len(drafts) + sum(len(attempt.reviews) for attempt in drafts) + len(steps)


async def test_callbacks_of_a_graph_see_each_call_by_its_role_with_its_dialogue(
    model: ChatVLLM, endpoint: SimulatedEndpoint
) -> None:
    listener = Listener()
    dialogue = await play(model, {"callbacks": [listener], "metadata": {"run": "fractions"}, "tags": ["nightly"]})
    assert len(listener.begun) == len(listener.ended) == calls_of(dialogue) == len(endpoint.requests()) > 4
    assert set(listener.roles()) == {"tutor", "critic", "fact_checker", "student"}
    for call in listener.begun.values():
        metadata = call["metadata"]
        assert (metadata["dialogue"], metadata["role"]) == ("d1", call["name"])
        assert metadata["run"] == "fractions" and "nightly" in call["tags"]
    for result in listener.ended.values():
        generation = result.generations[0][0]
        assert isinstance(generation, ChatGeneration) and isinstance(generation.message, AIMessage)
        message = generation.message
        assert message.usage_metadata and message.usage_metadata["input_tokens"] > 0
        assert message.response_metadata["endpoint"] == endpoint.url


async def test_callbacks_see_a_call_within_its_node_within_its_dialogue(model: ChatVLLM) -> None:
    """So that a trace shows the graph, and not a heap of calls."""
    parents: dict[UUID, UUID | None] = {}
    names: dict[UUID, str] = {}

    class Tree(Listener):
        async def on_chain_start(self, *_: Any, run_id: UUID, parent_run_id: UUID | None = None, **kw: Any) -> None:
            parents[run_id], names[run_id] = parent_run_id, kw.get("name", "")

    tree = Tree()
    await play(model, {"callbacks": [tree], "run_name": "d1"})
    for call in tree.begun.values():
        node = call["parent_run_id"]
        dialogue = parents[node]
        assert dialogue is not None
        assert (names[node], names[dialogue], parents[dialogue]) == (call["name"], "d1", None)


@pytest.mark.parametrize("config", [{}, {"callbacks": []}], ids=["no callbacks", "an empty list of them"])
async def test_handlers_that_hook_into_langchain_itself_see_the_calls(model: ChatVLLM, config: RunnableConfig) -> None:
    """As LangSmith and others do: nobody hands anything to us, and the way without listeners is not taken."""
    listener = Listener()
    token = _by_hook.set(listener)
    try:
        dialogue = await play(model, config)
    finally:
        _by_hook.reset(token)
    assert len(listener.begun) == calls_of(dialogue)
    await play(model)
    assert len(listener.begun) == calls_of(dialogue)


async def test_handlers_of_the_model_itself_see_the_calls(endpoint: SimulatedEndpoint) -> None:
    listener = Listener()
    async with ChatVLLM(model="base", url=endpoint.url, callbacks=[listener], max_tokens=20) as model:
        dialogue = await play(model)
    assert len(listener.ended) == calls_of(dialogue)


async def test_callbacks_see_a_failure(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    endpoint.inject(Fault(kind="context"))
    listener = Listener()
    with pytest.raises(ContextExceeded):
        await play(model, {"callbacks": [listener]})
    assert [type(error) for error in listener.failed.values()] == [ContextExceeded]


async def test_a_handler_that_fails_does_not_fail_the_dialogue(model: ChatVLLM) -> None:
    class Broken(AsyncCallbackHandler):
        async def on_llm_end(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("the tracing product is down")

    assert (await play(model, {"callbacks": [Broken()]}))["turns"]


async def test_what_is_sent_is_the_same_whether_somebody_listens(model: ChatVLLM, endpoint: SimulatedEndpoint) -> None:
    """A run under a tracer makes the data that it would make without."""
    await play(model)
    unwatched = sorted(str(request["body"]) for request in endpoint.requests())
    endpoint.forget()
    await play(model, {"callbacks": [Listener()]})
    assert sorted(str(request["body"]) for request in endpoint.requests()) == unwatched


async def test_callbacks_given_to_a_run_see_all_its_dialogues(endpoint: SimulatedEndpoint, tmp_path: Path) -> None:
    (tmp_path / "briefs.jsonl").write_text('{"id": "a", "topic": "Fractions"}\n{"id": "b", "topic": "Decimals"}\n')
    config = {
        "run": "fractions",
        "models": {"base": {"url": endpoint.url, "model": "base"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
    }
    listener = Listener()
    await agenerate(config, out=tmp_path / "run", callbacks=[listener])
    calls = [request for request in endpoint.requests() if request["api"] == "chat"]
    assert len(listener.ended) == len(calls) > 4
    assert len({call["metadata"]["dialogue"] for call in listener.begun.values()}) == 2
