"""Prompts that the endpoint's prefix cache finds again: for every registered graph, over whole dialogues."""

from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import PrivateAttr

from tutelage import Agent, Brief, Cast, Limits, Misconception
from tutelage.dialogue.prompt import JOINT, Prompt
from tutelage.errors import ShapeError
from tutelage.generation.registry import LoadedGraph, load_graph, registered_graphs
from tutelage.testing import ScriptedModel
from tutelage.testing.replies import draft_in
from tutelage.testing.schema_filler import Draw, compile_regex, compile_schema

BRIEF = Brief(
    id="b",
    topic="Adding fractions",
    domain="maths",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="Add the tops and the bottoms.", predicts="2/5"),
    facts=("1/2 is 3/6.", "1/3 is 2/6."),
    level="beginner",
    language="English",
    extra={"source": "a book"},
)


class Improviser(ScriptedModel):
    """Says something that fits the shape it is asked for, or now and then nothing that does; reviewers are hard to please."""

    _rng: Random = PrivateAttr()

    def __init__(self, seed: int) -> None:
        super().__init__({})
        self._rng = Random(seed)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert run_manager is not None
        role = run_manager.metadata["role"]
        self.script[role] = [self._says(kwargs, str(messages[-1].content))]
        return self._answer(messages, run_manager.metadata, kwargs)

    def _says(self, options: dict[str, Any], shown: str) -> Any:
        if self._rng.random() < 0.15:
            return ""
        if shape := options.get("response_format"):
            schema = compile_schema(shape["json_schema"]["schema"])
            return schema(Draw(rng=self._rng, accept_rate=0.4, quotable=draft_in(shown)))
        outputs = options.get("structured_outputs", {})
        if "choice" in outputs:
            return self._rng.choice(outputs["choice"])
        return compile_regex(outputs["regex"])(self._rng) if "regex" in outputs else f"Said {self._rng.random()}."


@cache
def compiled(name: str) -> Any:
    return load_graph(name, Path()).graph.compile()


@pytest.fixture(params=registered_graphs())
def graph(request: pytest.FixtureRequest) -> LoadedGraph:
    return load_graph(request.param, Path())


Calls = list[tuple[Agent, Prompt]]
"""Every prompt of a dialogue in the order of the calls, with the agent that it was for."""


PLAYED: dict[str, Calls] = {}
"""By graph, so that it is played once for all tests."""


async def played(graph: LoadedGraph) -> Calls:
    """The longest of some dialogues, if it can be one with a repair."""

    def worth(calls: Calls) -> tuple[bool, int]:
        repaired = any("could not be used" in text(prompt) for _, prompt in calls)
        return repaired, min(len(each) for each in by_view(calls))

    if graph.name not in PLAYED:
        PLAYED[graph.name] = max([await played_once(graph, seed) for seed in range(16)], key=worth)
    return PLAYED[graph.name]


async def played_once(graph: LoadedGraph, improvised: int, **state: Any) -> Calls:
    prompts: list[Prompt] = []
    model = Improviser(improvised)
    cast = Cast(
        players=Cast.of(model).players,
        limits=Limits(messages=10, tokens=1_000_000),
        on_prompt=lambda _, prompt: prompts.append(prompt),
    )
    with suppress(ShapeError):  # thrice nothing that fits: what came before counts as well
        await compiled(graph.name).ainvoke({"id": "d", "brief": BRIEF, **state}, context=cast)
    agents = {agent.role: agent for agent in graph.agents}
    return [(agents[role], prompt) for (role, _, _), prompt in zip(model.calls, prompts, strict=True)]


def by_view(calls: Calls) -> list[Calls]:
    views: dict[str, Calls] = {}
    for agent, prompt in calls:
        views.setdefault(agent.view, []).append((agent, prompt))
    return list(views.values())


def text(prompt: Prompt) -> str:
    """A prompt as one text, as a chat template writes it."""
    return "".join(f"<{message.role}>{message.content}" for message in prompt.messages)


def shared(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


async def test_of_one_view_each_prompt_without_its_last_message_begins_the_next(graph: LoadedGraph) -> None:
    views = by_view(await played(graph))
    for calls in views:
        assert len(calls) > 2
        for (_, prompt), (_, following) in pairwise(calls):
            assert following.messages[: len(prompt.messages) - 1] == prompt.messages[:-1]


async def test_it_is_played_with_revisions_and_repairs(graph: LoadedGraph) -> None:
    """Otherwise the test before this one would show less than it says."""
    prompts = [text(prompt) for _, prompt in await played(graph)]
    assert any("could not be used" in each for each in prompts)
    reviewed = any(node.endswith("_gate") for node in graph.graph.nodes)
    assert any("was sent back" in each for each in prompts) == reviewed


async def test_a_judge_s_next_prompt_begins_with_all_turns_that_it_was_shown(graph: LoadedGraph) -> None:
    """A judge is shown the dialogue in one message: so that must grow at its end, with the task behind it."""
    for calls in by_view(await played(graph)):
        for (agent, prompt), (_, following) in pairwise(calls):
            if agent.task is not None:
                parts, others = prompt.messages[-1].parts, following.messages[-1].parts
                judged = sum(part.endswith(("draft of the next turn:", "for the next turn:")) for part in parts)
                turns = 1 + 2 * ((len(_without_notes(parts)) - 2) // 2 - judged)
                assert others[:turns] == parts[:turns]


async def test_judges_of_one_view_are_shown_the_same_but_for_their_task(graph: LoadedGraph) -> None:
    for calls in by_view(await played(graph)):
        for (agent, prompt), (other, following) in pairwise(calls):
            draft, next_draft = _draft(prompt), _draft(following)
            if agent.task and other.task and agent.role != other.role and draft and draft == next_draft:
                task = _without_notes(prompt.messages[-1].parts)[-1]
                before = text(prompt).index(JOINT + task) + len(JOINT)
                assert shared(text(prompt), text(following)) >= before


async def test_nothing_volatile_stands_in_front(graph: LoadedGraph) -> None:
    """Dialogues of one brief and one persona share their system messages, whatever their ids and their times."""
    one = await played_once(graph, 1, id="one", begun=1.0, seed=7)
    other = await played_once(graph, 2, id="another", begun=2_000_000_000.0, retry=3, seed=7)
    fronts = [{agent.view: prompt.messages[0] for agent, prompt in calls} for calls in (one, other)]
    assert fronts[0] == fronts[1]


def _without_notes(parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in parts if "could not be used" not in part)


def _draft(prompt: Prompt) -> str | None:
    parts = prompt.messages[-1].parts
    return next((text for label, text in pairwise(parts) if label.endswith("draft of the next turn:")), None)
