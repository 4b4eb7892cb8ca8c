"""Learning probes: asked beside the dialogue, before and after, and the dialogue is none the wiser."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.graph import END, START, StateGraph
from pydantic import PrivateAttr

from tutelage import (
    Agent,
    Brief,
    Cast,
    Dialogue,
    Limits,
    Misconception,
    Outcome,
    Player,
    Step,
    Turn,
    agenerate,
    max_messages,
    read_transcripts,
    speak,
    stop_or,
)
from tutelage.agents import student, tutor
from tutelage.agents.pupil import pupil
from tutelage.dialogue.brief import Probe
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.stopping import StopRule, discarded
from tutelage.dialogue.view import speaker_prompt
from tutelage.errors import ContextExceeded, EndpointFailed, GraphError
from tutelage.learners.gains import solve_rate_gain, solve_rates
from tutelage.learners.probes import lettered, probe, probe_prompt
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import ScriptedModel, SimulatedEndpoint

PROBES = (
    Probe(question="What is 1/3 + 1/4?", choices=("7/12", "2/7", "1/12"), answer="7/12", misconception="2/7"),
    Probe(question="Is 1/2 + 1/5 more than 1/2?", choices=("yes", "no"), answer="yes", misconception="no"),
)
BRIEF = Brief(
    id="b",
    topic="Sums",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="You add the tops and the bottoms.", predicts="2/5"),
    probes=PROBES,
)
UNPROBED = BRIEF.model_copy(update={"probes": ()})
PROMPTS = PromptLibrary()


def lesson(
    *rules: StopRule, who: Agent = student, samples: int = 4, first: Agent = tutor, second: Agent | None = None
) -> StateGraph[Dialogue, Cast]:
    """Two who speak in turn, with probes before and after."""
    then = second or who
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("probe_before", probe(who, when="before", samples=samples))
    graph.add_node("probe_after", probe(who, when="after", samples=samples))
    graph.add_node(first.role, speak(first))
    graph.add_node(then.role, speak(then))
    graph.add_edge(START, "probe_before")
    graph.add_edge("probe_before", first.role)
    graph.add_edge(first.role, then.role)
    graph.add_conditional_edges(then.role, stop_or(first.role, *(rules or (max_messages(),)), end="probe_after"))
    graph.add_edge("probe_after", END)
    return graph


def chooses(pick: Callable[[dict[str, str]], str]) -> Callable[[list[BaseMessage]], Any]:
    """A student who answers a probe by what its letters stand for, and says the same whatever else it is asked."""

    def reply(messages: list[BaseMessage]) -> Any:
        last = str(messages[-1].content)
        if "Now something by itself" not in last:
            return "Is it 2/5?"
        choices = dict(line.split(": ", 1) for line in last.splitlines() if line[1:3] == ": ")
        return {"choice": pick(choices)}

    return reply


def right(choices: dict[str, str]) -> str:
    return next(letter for letter, text in choices.items() if text in ("7/12", "yes"))


def scripted(pick: Callable[[dict[str, str]], str] = right) -> ScriptedModel:
    return ScriptedModel({"tutor": ["How many twelfths?", "And now?"], "student": chooses(pick)})


async def played(
    model: Any, brief: Brief = BRIEF, graph: StateGraph[Dialogue, Cast] | None = None, messages: int = 4, **state: Any
) -> Any:
    cast = Cast(players={"default": Player(model=model)}, limits=Limits(messages=messages))
    start: Any = {"id": "d", "seed": 3, "brief": brief, "turns": [], **state}
    return await (graph or lesson()).compile().ainvoke(start, context=cast)


def probes_in(turn: Turn) -> list[Step]:
    return [step for step in turn.steps if step.kind.startswith("probe_")]


async def test_what_is_asked_before_is_kept_with_the_first_turn_and_what_is_asked_after_with_the_last() -> None:
    end = await played(scripted())
    first, *between, last = end["turns"]
    assert Counter(step.kind for step in first.steps) == {"probe_before": 8}
    assert Counter(step.kind for step in last.steps) == {"probe_after": 8}
    assert [turn.steps for turn in between] == [[], []]
    assert end.get("steps", []) == []
    assert {step.role for step in probes_in(first)} == {"student"}


async def test_a_reply_is_kept_with_what_it_stands_for() -> None:
    end = await played(scripted(lambda choices: "A"))
    for step in probes_in(end["turns"][0]):
        asked = PROBES[step.data["probe"]]
        assert sorted(step.data["choices"].values()) == sorted(asked.choices)
        assert step.data["choice"] == step.data["choices"]["A"]
        assert step.data["correct"] == (step.data["choice"] == asked.answer)
        assert step.data["misconception"] == (step.data["choice"] == asked.misconception)
        assert json.loads(step.text) == {"choice": "A"}


async def test_gain_is_read_from_what_was_kept() -> None:
    heard: list[int] = []

    def learns(choices: dict[str, str]) -> str:
        """Wrong eight times, before; then right."""
        heard.append(1)
        return right(choices) if len(heard) > 8 else next(each for each in choices if each != right(choices))

    end = await played(scripted(learns))
    assert solve_rates(end["turns"], "before") == {0: 0, 1: 0}
    assert solve_rate_gain(end["turns"]) == 1.0


async def test_the_dialogue_is_the_same_with_and_without_probes() -> None:
    probed, plain = await played(scripted()), await played(scripted(), UNPROBED)

    def calls(end: Any) -> list[tuple[str, int | None, str]]:
        return [(a.call.prompt_sha256, a.call.seed, a.text) for turn in end["turns"] for a in turn.attempts]

    assert len(calls(probed)) == 4
    assert calls(probed) == calls(plain)


async def test_the_forks_leave_the_students_own_prompt_as_it_was() -> None:
    end = await played(scripted())
    dialogue: Dialogue = {"id": "d", "seed": 3, "brief": BRIEF, "turns": end["turns"]}
    before = speaker_prompt(student, dialogue, PROMPTS).sha256
    fork = probe_prompt(student, dialogue, PROBES[0], {"A": "7/12", "B": "2/7"}, PROMPTS)
    assert speaker_prompt(student, dialogue, PROMPTS).sha256 == before
    assert fork.sha256 != before
    assert fork.messages[:-1] == speaker_prompt(student, dialogue, PROMPTS).messages[:-1]


async def test_a_probe_stands_where_the_students_next_turn_would() -> None:
    model = scripted()
    await played(model, graph=lesson(first=student, second=tutor), messages=2)
    forks = [prompt for prompt in model.prompts("student") if "Now something by itself" in prompt[-1][1]]
    before, after = forks[0], forks[-1]
    assert [kind for kind, _ in before] == ["system", "human"]
    assert "What is 1/3 + 1/4?" in before[1][1]
    assert [kind for kind, _ in after] == ["system", "human", "ai", "human"]
    assert before[0] == after[0]
    # The tutor spoke last, and the student has not answered.
    assert after[-1][1].startswith("How many twelfths?\n\n(Now something by itself")


async def test_after_its_own_turn_the_student_is_asked_the_probe_alone() -> None:
    model = scripted()
    await played(model, messages=2)
    after = model.prompts("student")[-1]
    assert [kind for kind, _ in after] == ["system", "human", "ai", "human"]
    assert after[-1][1].startswith("(Now something by itself")


async def test_who_speaks_first_does_not_hear_its_opening_in_a_probe() -> None:
    model = scripted()
    await played(model, graph=lesson(first=student, second=tutor), messages=2)
    assert model.prompts("student")[0][-1][1].startswith("(Now something by itself")


async def test_a_brief_without_probes_makes_no_call() -> None:
    model = scripted()
    end = await played(model, UNPROBED)
    assert [role for role, _, _ in model.calls] == ["tutor", "student"] * 2
    assert all(turn.steps == [] for turn in end["turns"])


async def test_a_dialogue_that_is_discarded_is_not_probed_after() -> None:
    def refused(dialogue: Dialogue, limits: Limits) -> Outcome | None:
        return discarded("repetition")

    end = await played(scripted(), graph=lesson(refused))
    assert {step.kind for turn in end["turns"] for step in turn.steps} == {"probe_before"}


def test_choices_stand_in_an_order_of_the_dialogues_own_so_that_no_letter_is_favoured() -> None:
    letters = Counter(
        next(letter for letter, text in lettered(PROBES[0], 0, {"seed": seed}).items() if text == "7/12")
        for seed in range(3000)
    )
    assert set(letters) == {"A", "B", "C"}
    assert all(900 < count < 1100 for count in letters.values())


async def test_before_and_after_the_order_is_the_same() -> None:
    end = await played(scripted())
    orders = [{step.data["probe"]: step.data["choices"] for step in probes_in(end["turns"][at])} for at in (0, -1)]
    assert orders[0] == orders[1]


async def test_samples_of_one_probe_share_a_prompt_and_each_has_its_seed() -> None:
    end = await played(scripted())
    asked = [step for step in probes_in(end["turns"][0]) if step.data["probe"] == 0]
    assert len({step.call.prompt_sha256 for step in asked}) == 1
    assert len({step.call.seed for step in asked}) == 4


async def test_a_model_that_knows_n_is_asked_once_for_each_probe() -> None:
    with SimulatedEndpoint(completion_tokens=8) as endpoint:
        async with ChatVLLM(model="simulated", url=endpoint.url) as model:
            end = await played(model, messages=2)
        bodies = [request["body"] for request in endpoint.requests()]
    asked = [body for body in bodies if "response_format" in body]
    assert [body["n"] for body in asked] == [4] * 4
    assert all(body["messages"][0] == asked[0]["messages"][0] for body in asked)
    steps = [step for turn in end["turns"] for step in probes_in(turn)]
    assert Counter(step.data["probe"] for step in steps) == {0: 8, 1: 8}
    assert {step.data["choice"] for step in steps} <= {choice for each in PROBES for choice in each.choices}


async def test_a_reply_with_another_letter_is_kept_and_does_not_count() -> None:
    replies = iter(["Z", "A"] * 100)
    end = await played(scripted(lambda choices: next(replies)), graph=lesson(samples=2))
    kinds = Counter(step.kind for step in end["turns"][0].steps)
    assert kinds == {"probe_before": 2, "misfit": 2}


class Failing(ScriptedModel):
    """Answers so many calls, and fails from then on."""

    _left: int = PrivateAttr()

    def __init__(self, script: dict[str, Any], left: int) -> None:
        super().__init__(script)
        self._left = left

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if not self._left:
            raise EndpointFailed("it is broken")
        self._left -= 1
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


async def test_what_was_answered_before_a_call_fails_is_not_lost() -> None:
    model = Failing({"student": [{"choice": "A"}]}, left=4)
    with pytest.raises(EndpointFailed) as failed:
        await played(model)
    assert [getattr(reply, "kind", None) for reply in failed.value.replies] == ["probe_before"] * 4


async def test_a_dialogue_too_long_to_be_probed_after_has_ended_as_it_has() -> None:
    asked: list[int] = []

    def outgrown(messages: list[BaseMessage]) -> Any:
        """Right before the lesson; after it, the first question still fits, and the second does not."""
        reply = chooses(right)(messages)
        asked.extend([1] if isinstance(reply, dict) else [])
        return ContextExceeded("too long") if len(asked) > 3 else reply

    model = ScriptedModel({"tutor": ["How many twelfths?"], "student": outgrown})
    end = await played(model, graph=lesson(samples=1), messages=2)
    assert [step.data["probe"] for step in probes_in(end["turns"][0])] == [0, 1]
    assert [step.data["probe"] for step in probes_in(end["turns"][-1])] == [0]
    assert end.get("shortened", []) == []
    assert solve_rate_gain(end["turns"]) == 0.0


async def test_a_brief_too_long_to_be_probed_before_ends_its_dialogue() -> None:
    with pytest.raises(ContextExceeded):
        await played(ScriptedModel({"student": [ContextExceeded("too long")]}))


async def test_a_pupils_state_comes_with_the_fork_and_its_note_does_not() -> None:
    held: Dialogue = {"id": "d", "seed": 3, "brief": BRIEF, "turns": []}
    heard = Turn(
        index=0,
        role="tutor",
        text="But 2/5 is less than 1/2!",
        private={"feedback_judge": {"reason": "", "feedback": "targeted"}},
        attempts=[],
    )
    over: Dialogue = {**held, "turns": [heard]}
    asked = [
        probe_prompt(pupil, dialogue, PROBES[0], {"A": "7/12", "B": "2/7"}, PROMPTS).messages[-1].content
        for dialogue in (held, over)
    ]
    assert "You believe: You add the tops and the bottoms." in asked[0]
    assert "You used to believe: You add the tops and the bottoms." in asked[1]
    assert not any("Say now that your answer is" in text or "Reply to the tutor" in text for text in asked)


def test_a_probe_needs_a_sample_and_somebody_who_takes_part() -> None:
    with pytest.raises(GraphError, match="at least one sample"):
        probe(student, when="before", samples=0)
    with pytest.raises(GraphError, match="judges"):
        probe(Agent(role="critic", prompt="review", task="critic"), when="after")


class Seeded(ScriptedModel):
    """Answers by seed, keeps every seed that it was asked with, and hangs at one call of the student's."""

    _asked: list[tuple[str, int]] = PrivateAttr(default_factory=list)
    _answered: list[tuple[str, int]] = PrivateAttr(default_factory=list)
    _hangs_at: int | None = PrivateAttr()
    _stuck: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    def __init__(self, hangs_at: int | None = None) -> None:
        super().__init__({})
        self._hangs_at = hangs_at

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert run_manager is not None
        role, seed = run_manager.metadata["role"], kwargs["seed"]
        self._asked.append((role, seed))
        if len([who for who, _ in self._asked if who == "student"]) - 1 == self._hangs_at:
            self._stuck.set()
            await asyncio.Event().wait()
        self._answered.append((role, seed))
        is_probe = "response_format" in kwargs
        self.script[role] = [{"choice": "AB"[seed % 2]} if is_probe else f"{role} {seed}"]
        return self._answer(messages, {"role": role}, kwargs)


async def test_after_a_restart_no_probe_is_asked_again_that_was_answered(tmp_path: Path) -> None:
    """Killed at the second of two probes before the dialogue, and again at the second of those after it."""
    line = BRIEF.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "briefs.jsonl").write_text(json.dumps(line))
    config = {"run": "r", "briefs": [{"from": str(tmp_path / "briefs.jsonl")}], "limits": {"messages": 2}}

    async def play(model: Seeded, out: Path) -> None:
        graph = lambda: lesson(samples=1)  # noqa: E731
        await asyncio.wait_for(agenerate(config, graph=graph, out=out, models={"default": model}), 60)

    async def play_until_stuck(hangs_at: int) -> Seeded:
        model = Seeded(hangs_at)
        task = asyncio.create_task(play(model, tmp_path / "run"))
        await asyncio.wait_for(model._stuck.wait(), 30)
        await asyncio.sleep(0.3)  # the commit that the call waits for has been made, but let it rest
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return model

    whole = Seeded()
    await play(whole, tmp_path / "whole")
    assert [role for role, _ in whole._asked] == ["student"] * 2 + ["tutor", "student"] + ["student"] * 2
    first = await play_until_stuck(1)
    second = await play_until_stuck(3)  # asks the second probe again, then speaks, and is stuck at the last probe
    last = Seeded()
    await play(last, tmp_path / "run")
    answered = [*first._answered, *second._answered, *last._answered]
    assert len(answered) == len(set(answered))
    assert sorted(answered) == sorted(whole._answered)
    (one,), (other,) = list(read_transcripts(tmp_path / "run")), list(read_transcripts(tmp_path / "whole"))
    assert [step.data for turn in one.turns for step in turn.steps] == [
        step.data for turn in other.turns for step in turn.steps
    ]
    assert one.usage.calls == 6
