"""What a call is told of its dialogue, and what of its answer is kept on demand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, StateGraph
from pydantic import PrivateAttr, ValidationError

from tutelage import Brief, Cast, Dialogue, Transcript, agenerate, read_transcripts, speak
from tutelage.agents import student, tutor
from tutelage.dialogue.calling import PRIORITY_EPOCH
from tutelage.dialogue.cast import Player
from tutelage.dialogue.turn import Call
from tutelage.generation.checkpoints import CheckpointSaver
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import ScriptedModel, SimulatedEndpoint

ON_DEMAND = {"candidate", "adapter_sha256", "reasoning", "logprobs", "token_ids", "prompt_token_ids"}


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(completion_tokens=20) as endpoint:
        yield endpoint


def two_turns() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "student")
    graph.add_edge("student", END)
    return graph


async def play(player: Player, **state: Any) -> Dialogue:
    cast = Cast(players={"default": player})
    graph = two_turns().compile()
    given: Any = {"id": "d", "brief": Brief(topic="Sums"), **state}
    dialogue: Dialogue = await graph.ainvoke(given, context=cast)  # type: ignore[assignment]
    return dialogue


def settings(folder: Path, **roles: Any) -> dict[str, Any]:
    (folder / "briefs.jsonl").write_text('{"id": "b", "topic": "Sums"}\n')
    return {"run": "r", "briefs": [{"from": str(folder / "briefs.jsonl")}], "roles": roles}


def the_line(folder: Path) -> tuple[Any, Transcript]:
    """The transcript as it is in the file, and as it is read."""
    (line,) = (folder / "run" / "transcripts" / "00000.jsonl").read_bytes().splitlines()
    (transcript,) = read_transcripts(folder / "run")
    return orjson.loads(line), transcript


class Listening(ScriptedModel):
    """Keeps what each call's config says."""

    _heard: list[dict[str, Any]] = PrivateAttr(default_factory=list)

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__(script)

    @property
    def heard(self) -> list[dict[str, Any]]:
        return self._heard

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        self._heard.append(run_manager.metadata)
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


async def test_a_call_is_told_when_its_dialogue_was_begun(tmp_path: Path) -> None:
    model = Listening({"tutor": ["a"], "student": ["b"]})
    await agenerate(settings(tmp_path), graph=two_turns, out=tmp_path / "run", models={"default": model})
    _, transcript = the_line(tmp_path)
    assert [each["begun"] for each in model.heard] == [transcript.started.timestamp()] * 2
    assert [(each["role"], each["view"], each["dialogue"]) for each in model.heard] == [
        ("tutor", "tutor", transcript.id),
        ("student", "student", transcript.id),
    ]


async def test_a_player_with_priority_asks_for_what_began_first_to_go_first(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        for begun in (1_800_000_000.9, 1_800_000_009.0):
            dialogue = await play(Player(model=model, priority=True), begun=begun)
            assert all("priority" not in turn.attempts[0].call.sampling for turn in dialogue["turns"])
    earlier, _, later, _ = (request["body"]["priority"] for request in endpoint.requests())
    assert later - earlier == 9
    assert earlier == 1_800_000_000 - PRIORITY_EPOCH
    assert abs(4_000_000_000 - PRIORITY_EPOCH) > 2**31 > 3_800_000_000 - PRIORITY_EPOCH


async def test_without_priority_or_a_beginning_none_is_asked_for(endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        await play(Player(model=model), begun=1_800_000_000.0)
        await play(Player(model=model, priority=True))
    assert all("priority" not in request["body"] for request in endpoint.requests())


async def test_what_was_not_asked_for_is_absent_and_not_null(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        await agenerate(settings(tmp_path), graph=two_turns, out=tmp_path / "run", models={"default": model})
    line, _ = the_line(tmp_path)
    for turn in line["turns"]:
        assert not ON_DEMAND & turn["attempts"][0]["call"].keys()


async def test_logprobs_and_token_ids_are_kept_where_a_role_asks_for_them(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    wanted = {"logprobs": 2, "token_ids": True}
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        config = settings(tmp_path, tutor=wanted)
        await agenerate(config, graph=two_turns, out=tmp_path / "run", models={"default": model})
    line, transcript = the_line(tmp_path)
    call = transcript.turns[0].attempts[0].call
    assert call.token_ids is not None
    assert call.prompt_token_ids is not None
    assert call.logprobs is not None
    assert call.logprobs.top is not None
    assert len(call.token_ids) == len(call.logprobs.tokens) == len(call.logprobs.logprobs) == call.completion_tokens
    assert len(call.prompt_token_ids) == call.prompt_tokens
    assert "".join(call.logprobs.tokens).strip() == transcript.turns[0].text
    assert all(
        logprob < 0 and len(top) == 2 for logprob, top in zip(call.logprobs.logprobs, call.logprobs.top, strict=True)
    )
    as_written = line["turns"][0]["attempts"][0]["call"]
    assert as_written["token_ids"] == list(call.token_ids)
    assert as_written["logprobs"].keys() == {"tokens", "logprobs", "top"}
    assert not ON_DEMAND & line["turns"][1]["attempts"][0]["call"].keys()


async def test_what_is_kept_on_demand_comes_through_a_checkpoint(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    sampling = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    with CheckpointSaver(tmp_path / "checkpoints.db") as saver:
        graph = two_turns().compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": "d"}}
        async with ChatVLLM(model="simulated", url=endpoint.url) as model:
            cast = Cast(players={"default": Player(model=model, sampling=sampling)})
            given: Any = {"id": "d", "brief": Brief(topic="Sums")}
            played: Any = await graph.ainvoke(given, config, context=cast, durability="sync")
        found = (await graph.aget_state(config)).values
    assert found["turns"] == played["turns"]
    assert found["turns"][0].attempts[0].call.token_ids


async def test_reasoning_is_kept_apart_and_shown_to_nobody() -> None:
    class Thinker(ScriptedModel):
        def __init__(self) -> None:
            super().__init__({})

        def _answer(self, messages: Any, metadata: Any, options: Any) -> ChatResult:
            self._calls.append((metadata["role"], list(messages), options))
            message = AIMessage("Said.", additional_kwargs={"reasoning_content": "Thought in secret."})
            return ChatResult(generations=[ChatGeneration(message=message)])

    model = Thinker()
    dialogue = await play(Player(model=model))
    assert [turn.text for turn in dialogue["turns"]] == ["Said.", "Said."]
    assert [turn.attempts[0].call.reasoning for turn in dialogue["turns"]] == ["Thought in secret."] * 2
    assert "secret" not in str([messages for _, messages, _ in model.calls])


async def test_the_adapter_s_hash_is_kept_where_it_is_known() -> None:
    dialogue = await play(Player(model=ScriptedModel({"tutor": ["a"], "student": ["b"]}), adapter_sha256="ab12"))
    assert {turn.attempts[0].call.adapter_sha256 for turn in dialogue["turns"]} == {"ab12"}


def test_a_call_with_everything_is_read_as_it_was_written() -> None:
    call = Call(
        model="m",
        prompt_sha256="0",
        candidate=1,
        reasoning="r",
        token_ids=[1, 2**31],
        prompt_token_ids=[],
        logprobs={"tokens": ["a"], "logprobs": [-0.1], "top": [[("a", -0.1)]]},  # type: ignore[arg-type]
    )
    assert Call.model_validate_json(call.model_dump_json()) == call
    assert json.loads(call.model_dump_json())["logprobs"]["logprobs"] == [-0.1]


@pytest.mark.parametrize("ids", [[-1], ["a"], 5, [2**33]])
def test_what_are_no_token_ids_is_refused(ids: Any) -> None:
    with pytest.raises(ValidationError):
        Call(model="m", prompt_sha256="0", token_ids=ids)
