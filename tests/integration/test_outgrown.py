"""A conversation that outgrows the context is ended or shortened by policy, never by an endpoint's refusal."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.graph import START, StateGraph
from pydantic import PrivateAttr

from tutelage import (
    Agent,
    Brief,
    Cast,
    Dialogue,
    Limits,
    Player,
    Transcript,
    add_critique_loop,
    agenerate,
    max_messages,
    read_transcripts,
    speak,
    stop_or,
)
from tutelage.agents import critic, fact_checker, student, tutor
from tutelage.dialogue.view import IN_SHORT, NOT_SHOWN
from tutelage.errors import ContextExceeded
from tutelage.generation.generate import RunSummary
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import ScriptedModel, SimulatedEndpoint
from tutelage.transcripts.messages import Prompts

LIMIT = 1000
"""Tokens that the endpoint takes; a reply of a speaker has about 60."""
Policy = Literal["end", "drop", "summarise"]


def long_lesson() -> StateGraph[Dialogue, Cast]:
    """With reviews, and with no rule that ends it for its tokens."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, reviewers=[critic, fact_checker], then=stop_or("student", max_messages()))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph


def long_talk() -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", max_messages()))
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph


@pytest.fixture(scope="module")
def running() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(max_model_len=LIMIT, completion_tokens=60, completion_spread=0.2) as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: SimulatedEndpoint) -> SimulatedEndpoint:
    running.forget()
    return running


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        yield model


def config(folder: Path, policy: Policy, *, messages: int, tokens: int, topic: str, max_tokens: int) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    (folder / "briefs.jsonl").write_text(json.dumps({"id": "b", "topic": topic}) + "\n")
    sampling = {"temperature": 1.0, "max_tokens": max_tokens}
    return {
        "run": "r",
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": messages, "tokens": tokens, "outgrown": policy, "revisions": 1},
        "roles": {"tutor": sampling, "student": sampling},
    }


async def play(
    folder: Path,
    model: Any,
    policy: Policy,
    make_graph: Callable[[], Any] = long_talk,
    *,
    messages: int = 40,
    tokens: int = LIMIT,
    topic: str = "Sums",
    max_tokens: int = 100,
) -> RunSummary:
    settings = config(folder, policy, messages=messages, tokens=tokens, topic=topic, max_tokens=max_tokens)
    if make_graph is long_lesson:
        settings["roles"] |= {"critic": {"max_tokens": 250}, "fact_checker": {"max_tokens": 250}}
    playing = agenerate(settings, graph=make_graph, out=folder / "run", models={"default": model})
    return await asyncio.wait_for(playing, 100)


def the_transcript(folder: Path) -> Transcript:
    (transcript,) = read_transcripts(folder / "run")
    return transcript


def refused(endpoint: SimulatedEndpoint) -> int:
    return sum(request["status"] == 400 for request in endpoint.requests())


def speakers_prompts(folder: Path, transcript: Transcript, role: str) -> list[list[dict[str, str]]]:
    with Prompts(folder / "run") as prompts:
        turns = (turn for turn in transcript.turns if turn.role == role)
        return [prompts.messages(turn.attempts[0].call.prompt_sha256) for turn in turns]


@pytest.mark.parametrize("make_graph", [long_talk, long_lesson])
@pytest.mark.parametrize("policy", ["drop", "summarise"])
async def test_a_shortened_dialogue_comes_to_its_own_end_and_no_call_is_refused(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM, policy: Policy, make_graph: Any
) -> None:
    await play(tmp_path, model, policy, make_graph)
    transcript = the_transcript(tmp_path)
    assert (transcript.outcome.status, transcript.outcome.reason) == ("completed", "out_of_turns")
    assert len(transcript.turns) == 40
    assert refused(endpoint) == 0
    assert all(call.prompt_tokens + call.completion_tokens <= LIMIT for call in transcript.calls())
    said_at_all = sum(turn.attempts[0].call.completion_tokens for turn in transcript.turns)
    assert said_at_all > 2 * LIMIT, "otherwise nothing would have had to go"
    assert transcript.outcome.detail is not None
    assert "were shown" in transcript.outcome.detail


async def test_prompts_stay_well_formed_and_their_beginning_changes_seldom(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    await play(tmp_path, model, "drop")
    transcript = the_transcript(tmp_path)
    for role in ("tutor", "student"):
        prompts = speakers_prompts(tmp_path, transcript, role)
        assert any(NOT_SHOWN in prompt[1]["content"] for prompt in prompts)
        for prompt in prompts:
            alternating = ["system", *("user", "assistant") * len(prompt)][: len(prompt)]
            assert [message["role"] for message in prompt] == alternating
            assert prompt[-1]["role"] == "user"
            assert prompt[0] == prompts[0][0]
        if role == "tutor":
            assert all("Can you help me?" in prompt[1]["content"] for prompt in prompts), "the opening stays"
        broken = [following[: len(prompt) - 1] != prompt[:-1] for prompt, following in pairwise(prompts)]
        assert 2 <= sum(broken) <= len(prompts) / 4


async def test_at_each_cut_the_prompt_falls_to_half_of_the_limit(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    await play(tmp_path, model, "drop")
    turns = the_transcript(tmp_path).turns
    tokens = [turn.attempts[0].call.prompt_tokens for turn in turns]
    after_a_cut = [following for before, following in pairwise(tokens) if following < before - 100]
    assert len(after_a_cut) >= 2
    assert all(LIMIT / 4 < each <= LIMIT * 0.55 for each in after_a_cut), after_a_cut


async def test_all_roles_are_shown_the_same_turns(tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM) -> None:
    await play(tmp_path, model, "drop", long_lesson)
    transcript = the_transcript(tmp_path)
    with Prompts(tmp_path / "run") as prompts:
        for turn in transcript.turns:
            calls = [attempt.call for attempt in turn.attempts]
            calls += [review.call for attempt in turn.attempts for review in attempt.reviews if review.call]
            texts = ["".join(message["content"] for message in prompts.messages(call.prompt_sha256)) for call in calls]
            shown = [[each.index for each in transcript.turns[: turn.index] if each.text in text] for text in texts]
            assert all(each == shown[0] for each in shown)
            assert shown[0] == list(range(turn.index))[-len(shown[0]) :]
    assert len(transcript.turns) == 40
    assert len(shown[0]) < 30


async def test_a_summary_stands_in_place_of_what_is_dropped_and_goes_on_from_the_one_before(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    await play(tmp_path, model, "summarise")
    transcript = the_transcript(tmp_path)
    summaries = [(turn, step) for turn in transcript.turns for step in turn.steps if step.kind == "summary"]
    assert len(summaries) >= 2
    with Prompts(tmp_path / "run") as prompts:
        for number, (turn, step) in enumerate(summaries):
            assert step.role == turn.role
            (asked,) = prompts.messages(step.call.prompt_sha256)
            assert transcript.turns[0].text in asked["content"] or number
            assert all(earlier.text in asked["content"] for _, earlier in summaries[number - 1 : number])
            shown = prompts.messages(turn.attempts[0].call.prompt_sha256)
            assert f"{IN_SHORT}\n\n{step.text}" in shown[1]["content"]
    assert transcript.usage.calls == len(transcript.turns) + len(summaries)


async def test_a_summary_is_made_of_nothing_private(tmp_path: Path) -> None:
    """It is shown to all: what one role's brief says must not reach the others through it."""
    model = Talker()
    secret = {"answer": "SECRET ANSWER", "misconception": {"belief": "SECRET BELIEF"}, "facts": ["SECRET FACT"]}
    cast = cast_of(model, messages=30, tokens=400, outgrown="summarise")
    brief: Any = {"topic": "Sums", "question": "?", **secret}
    await long_talk().compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    assert model.summaries
    assert "SECRET" in str(model.prompts("tutor")[0])
    assert "SECRET" not in str(model.summaries)


async def test_with_end_a_graph_without_a_rule_for_tokens_is_completed_as_out_of_tokens(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    await play(tmp_path, model, "end")
    transcript = the_transcript(tmp_path)
    assert (transcript.outcome.status, transcript.outcome.reason) == ("completed", "out_of_tokens")
    assert 4 <= len(transcript.turns) < 40
    last = transcript.turns[-1].attempts[0].call
    assert last.prompt_tokens + 100 > 0.75 * LIMIT, "it did not end long before"
    assert refused(endpoint) == 0


@pytest.mark.parametrize("policy", ["end", "drop", "summarise"])
async def test_a_first_prompt_that_is_too_long_fails_and_says_so(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM, policy: Policy
) -> None:
    await play(tmp_path, model, policy, topic="sums of halves and thirds " * 300)
    outcome = the_transcript(tmp_path).outcome
    assert (outcome.status, outcome.reason) == ("failed", "context_exceeded")
    assert outcome.detail is not None
    assert "'tutor'" in outcome.detail
    assert f"is {LIMIT}" in outcome.detail
    assert endpoint.requests() == []


@pytest.mark.parametrize("policy", ["drop", "summarise"])
async def test_where_the_endpoint_takes_less_than_it_was_said_to_more_is_dropped_and_it_is_asked_again(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM, policy: Policy
) -> None:
    await play(tmp_path, model, policy, tokens=3 * LIMIT)
    transcript = the_transcript(tmp_path)
    assert transcript.outcome.reason == "out_of_turns"
    assert refused(endpoint) > 0


async def test_where_the_endpoint_takes_less_than_it_was_said_to_an_end_is_an_end(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    await play(tmp_path, model, "end", tokens=3 * LIMIT)
    transcript = the_transcript(tmp_path)
    assert (transcript.outcome.status, transcript.outcome.reason) == ("completed", "out_of_tokens")
    assert transcript.turns
    assert "maximum context length" in (transcript.outcome.detail or "")


def cast_of(model: ScriptedModel, **limits: Any) -> Cast:
    return Cast(players={"default": Player(model=model, sampling={"max_tokens": 60})}, limits=Limits(**limits))


async def test_drafts_that_pile_up_in_a_turn_count_as_well() -> None:
    model = Talker(accepts=False)
    cast = cast_of(model, messages=9, tokens=1000, outgrown="drop", revisions=6, turn_tokens=1_000_000)
    dialogue: Any = await long_lesson().compile().ainvoke({"id": "d", "brief": Brief(topic="Sums")}, context=cast)
    assert len(dialogue["turns"]) == 9
    assert {len(turn.attempts) for turn in dialogue["turns"] if turn.role == "tutor"} == {7}
    assert dialogue["shortened"]


FALLING = (
    "block block block",
    "block block major",
    "block block",
    "block major major",
    "block major",
    "block",
    "major",
)
"""What is wrong with one draft after another: each is better than the one before it."""


class Talker(ScriptedModel):
    """Counts a token for every four characters, as an endpoint with a context of its own; talks at some length."""

    _summaries: list[str] = PrivateAttr(default_factory=list)
    _accepts: bool = PrivateAttr()
    _hangs: Callable[[str, int], bool] = PrivateAttr()
    _stuck: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)
    _sent_back: int = PrivateAttr(0)

    def __init__(self, *, accepts: bool = True, hangs: Callable[[str, int], bool] = lambda view, nth: False) -> None:
        super().__init__({})
        self._accepts, self._hangs = accepts, hangs

    @property
    def summaries(self) -> list[str]:
        """What each summary was asked for with."""
        return self._summaries

    @property
    def stuck(self) -> asyncio.Event:
        return self._stuck

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert run_manager is not None
        metadata = run_manager.metadata
        if metadata["view"] == "summary":
            self._summaries.append("\n".join(str(message.content) for message in messages))
        if self._hangs(metadata["view"], len(self.calls)):
            self._stuck.set()
            await asyncio.Event().wait()
        if metadata["role"] == "tutor":
            self._sent_back = str(messages[-1].content).count("Your draft:")
        self.script[metadata["role"]] = [self._says(kwargs)]
        result = self._answer(messages, metadata, kwargs)
        message: Any = result.generations[0].message
        prompt = sum(len(str(each.content)) for each in messages) // 4
        if prompt + len(str(message.content)) // 4 > 2000:
            raise ContextExceeded("maximum context length")
        message.usage_metadata |= {"input_tokens": prompt, "output_tokens": len(str(message.content)) // 4}
        return result

    def _says(self, options: dict[str, Any]) -> Any:
        if "response_format" not in options:
            return f"{options['seed']} and so on, and on, and on. " * 4
        if self._accepts:
            return {"verdict": "accept"}
        issue = {"dimension": "leak", "span": "and so on", "instruction": "Ask, do not tell, and be brief."}
        issues = [{**issue, "severity": severity} for severity in FALLING[self._sent_back].split()]
        return {"verdict": "revise", "issues": issues}


def without_times(transcript: Transcript) -> Any:
    kept = transcript.model_dump(mode="json")
    del kept["started"], kept["finished"]
    for turn in kept["turns"]:
        for holder in [*turn["attempts"], *turn["steps"]]:
            del holder["call"]["seconds"]
    return kept


@pytest.mark.parametrize("policy", ["drop", "summarise"])
@pytest.mark.parametrize("nth", [9, 15, 24])
async def test_a_dialogue_that_is_killed_goes_on_as_shortened_as_it_was(
    tmp_path: Path, policy: Policy, nth: int
) -> None:
    settings: dict[str, Any] = {"messages": 30, "tokens": 400, "max_tokens": 60}
    await play(tmp_path / "whole", Talker(), policy, **settings)
    project = tmp_path / "killed"
    before = Talker(hangs=lambda view, count: count == nth)
    task = asyncio.create_task(play(project, before, policy, **settings))
    await before.stuck.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = Talker()
    await play(project, after, policy, **settings)
    assert without_times(the_transcript(project)) == without_times(the_transcript(tmp_path / "whole"))


async def test_a_summary_is_not_asked_for_again_after_a_crash(tmp_path: Path) -> None:
    """The speaker's own call follows it in the same step: the summary is journalled before."""
    settings: dict[str, Any] = {"messages": 30, "tokens": 400, "max_tokens": 60}
    asked: list[str] = []

    def after_a_summary(view: str, count: int) -> bool:
        asked.append(view)
        return asked[-2:-1] == ["summary"]

    before, after = Talker(hangs=after_a_summary), Talker()
    task = asyncio.create_task(play(tmp_path, before, "summarise", **settings))
    await before.stuck.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await play(tmp_path, after, "summarise", **settings)
    (first,) = before.summaries
    assert first not in after.summaries
    steps = [step for turn in the_transcript(tmp_path).turns for step in turn.steps]
    assert len(steps) == 1 + len(after.summaries)


async def test_a_talk_with_oneself_can_be_shortened_too() -> None:
    def monologue() -> StateGraph[Dialogue, Cast]:
        graph = StateGraph(Dialogue, context_schema=Cast)
        graph.add_node("thinker", speak(Agent(role="thinker", prompt="student", sees=student.sees)))
        graph.add_edge(START, "thinker")
        graph.add_conditional_edges("thinker", stop_or("thinker", max_messages()))
        return graph

    cast = cast_of(Talker(), messages=30, tokens=400, outgrown="drop")
    dialogue: Any = (
        await monologue()
        .compile()
        .ainvoke({"id": "d", "brief": Brief(topic="Sums")}, {"recursion_limit": 100}, context=cast)
    )
    assert len(dialogue["turns"]) == 30
    assert len(dialogue["shortened"]) >= 2
