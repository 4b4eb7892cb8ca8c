"""Several candidates for a turn from one prompt: one is said, the others are kept."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import END, START, StateGraph
from pydantic import PrivateAttr

from tutelage import (
    Agent,
    Attempt,
    Brief,
    Cast,
    Check,
    Choice,
    Dialogue,
    Issue,
    Limits,
    OneOf,
    Transcript,
    add_critique_loop,
    agenerate,
    max_messages,
    read_transcripts,
    speak,
    stop_or,
)
from tutelage.agents import critic, tutor
from tutelage.dialogue.candidates import ByScore
from tutelage.dialogue.cast import Player
from tutelage.dialogue.nodes import Utterance, agents_of
from tutelage.errors import GraphError, ShapeError
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.testing import ScriptedModel, SimulatedEndpoint
from tutelage.transcripts.messages import Prompts

BRIEF = Brief(id="b", topic="Sums")
judge = Agent(role="judge", prompt="review", task="critic", sees=critic.sees, sampling={"temperature": 0.0})


def longest(candidates: Sequence[Attempt]) -> int:
    return max(range(len(candidates)), key=lambda index: len(candidates[index].text))


def one_turn(**options: Any) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(options.pop("agent", tutor), **options))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", END)
    return graph


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(completion_tokens=30, accept_rate=1.0) as endpoint:
        yield endpoint


@pytest.fixture
async def model(endpoint: SimulatedEndpoint) -> AsyncIterator[ChatVLLM]:
    async with ChatVLLM(model="simulated", url=endpoint.url) as model:
        yield model


async def the_turn(graph: StateGraph[Dialogue, Cast], model: Any, **limits: Any) -> Any:
    cast = Cast(players={"default": Player(model=model)}, limits=Limits(**limits))
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": BRIEF}, context=cast)
    (turn,) = dialogue["turns"]
    return turn


async def test_candidates_come_from_one_request_and_the_chosen_one_is_said(
    endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    turn = await the_turn(one_turn(candidates=4, choose=longest), model)
    (request,) = endpoint.requests()
    assert request["body"]["n"] == 4
    assert [attempt.status for attempt in turn.attempts] == ["superseded"] * 3 + ["accepted"]
    assert turn.text == turn.attempts[-1].text == max((attempt.text for attempt in turn.attempts), key=len)
    assert {attempt.call.candidate for attempt in turn.attempts} == {0, 1, 2, 3}
    assert len({attempt.text for attempt in turn.attempts}) == 4
    assert len({attempt.call.seed for attempt in turn.attempts}) == 1


async def test_the_tokens_of_all_candidates_are_counted_once(endpoint: SimulatedEndpoint, model: ChatVLLM) -> None:
    turn = await the_turn(one_turn(candidates=4, choose=longest), model)
    (request,) = endpoint.requests()
    calls = [attempt.call for attempt in turn.attempts]
    assert sum(call.prompt_tokens for call in calls) == request["prompt_tokens"]
    assert sum(call.completion_tokens for call in calls) == request["completion_tokens"]
    assert [call.candidate for call in calls if call.prompt_tokens] == [0]


async def test_a_model_that_gives_one_at_a_time_is_asked_for_each() -> None:
    model = ScriptedModel({"tutor": ["one", "the second", "three"]})
    turn = await the_turn(one_turn(candidates=3, choose=longest), model)
    assert turn.text == "the second"
    seeds = [options["seed"] for _, _, options in model.calls]
    assert len(set(seeds)) == 3
    assert sorted(attempt.call.seed for attempt in turn.attempts) == sorted(seeds)
    assert all(attempt.call.prompt_tokens for attempt in turn.attempts)


async def test_what_fits_is_chosen_from_and_what_does_not_is_kept() -> None:
    model = ScriptedModel({"tutor": ["", "b", "cc"]})
    turn = await the_turn(one_turn(candidates=3, choose=longest), model)
    assert [(attempt.text, attempt.status) for attempt in turn.attempts] == [("b", "superseded"), ("cc", "accepted")]
    assert [(step.kind, step.text) for step in turn.steps] == [("misfit", "")]


async def test_where_none_fits_one_is_asked_for_again() -> None:
    model = ScriptedModel({"tutor": ["", "", "better"]})
    turn = await the_turn(one_turn(candidates=2, choose=longest), model)
    assert turn.text == "better"
    assert len(turn.steps) == 2
    assert "could not be used" in model.prompts("tutor")[2][-1][1]


async def test_a_judging_role_chooses_by_number_and_its_call_is_kept(
    endpoint: SimulatedEndpoint, model: ChatVLLM
) -> None:
    turn = await the_turn(one_turn(candidates=3, choose=judge), model)
    asked = endpoint.requests()[1]["body"]
    assert asked["structured_outputs"] == {"choice": ["1", "2", "3"]}
    (step,) = turn.steps
    assert (step.kind, step.role) == ("choice", "judge")
    assert turn.attempts[-1].call.candidate == int(step.text) - 1
    shown = asked["messages"][-1]["content"]
    places = [shown.index(f"Tutor, candidate {number} for the next turn:") for number in (1, 2, 3)]
    by_number = sorted(turn.attempts, key=lambda attempt: attempt.call.candidate)
    assert all(shown.index(attempt.text) > place for attempt, place in zip(by_number, places, strict=True))


async def test_a_judging_role_may_say_more_than_a_number() -> None:
    class Reasoned(Choice):
        why: str

    model = ScriptedModel({"tutor": ["a", "b"], "judge": [{"choice": 3, "why": "?"}, {"choice": 2, "why": "Better."}]})
    chooser = Agent(role="judge", prompt="review", task="critic", sees=critic.sees, reply=Reasoned)
    turn = await the_turn(one_turn(candidates=2, choose=chooser), model)
    assert turn.text == "b"
    assert [(step.kind, json.loads(step.text)["choice"]) for step in turn.steps] == [("misfit", 3), ("choice", 2)]


async def test_of_one_candidate_that_fits_nobody_need_choose() -> None:
    model = ScriptedModel({"tutor": ["", "b"]})
    assert (await the_turn(one_turn(candidates=2, choose=judge), model)).text == "b"
    assert [role for role, _, _ in model.calls] == ["tutor", "tutor"]


async def test_candidates_of_a_shape_are_told_apart() -> None:
    class Thought(Utterance):
        plan: str

    model = ScriptedModel({"tutor": [{"utterance": "a", "plan": "A"}, {"utterance": "bb", "plan": "B"}]})
    speaker = Agent(role="tutor", sees=tutor.sees, reply=Thought)
    turn = await the_turn(one_turn(agent=speaker, candidates=2, choose=longest), model)
    assert (turn.text, turn.private) == ("bb", {"plan": "B"})
    assert [attempt.private for attempt in turn.attempts] == [{"plan": "A"}, {"plan": "B"}]


async def test_drafts_are_chosen_before_they_are_reviewed_and_siblings_are_no_revisions() -> None:
    def loop() -> StateGraph[Dialogue, Cast]:
        graph = StateGraph(Dialogue, context_schema=Cast)
        add_critique_loop(graph, tutor, reviewers=[critic], then=END, candidates=2, choose=longest)
        graph.add_edge(START, "tutor")
        return graph

    def says(messages: list[BaseMessage]) -> str:
        drafted.append(f"draft {len(drafted)} " + "." * (len(drafted) % 2))
        return drafted[-1]

    drafted: list[str] = []
    issue = {"dimension": "leak", "severity": "block", "span": "draft", "instruction": "Mend it."}
    bad, better = ({"verdict": "revise", "issues": [issue] * count} for count in (2, 1))
    model = ScriptedModel({"tutor": says, "critic": [bad, better, {"verdict": "accept"}]})
    turn = await the_turn(loop(), model, revisions=2)
    assert [(attempt.status, len(attempt.reviews)) for attempt in turn.attempts] == [
        *(("superseded", 0), ("rejected", 1)),
        *(("superseded", 0), ("rejected", 1)),
        *(("superseded", 0), ("accepted", 1)),
    ]
    second = model.prompts("tutor")[2][-1][1]
    assert drafted[1] in second
    assert drafted[0] not in second
    assert len({options["seed"] for role, _, options in model.calls if role == "tutor"}) == 6


async def test_the_best_draft_of_those_that_were_reviewed_is_kept() -> None:
    def loop() -> StateGraph[Dialogue, Cast]:
        graph = StateGraph(Dialogue, context_schema=Cast)
        add_critique_loop(graph, tutor, reviewers=[critic], then=END, candidates=2, choose=longest)
        graph.add_edge(START, "tutor")
        return graph

    issue = {"dimension": "leak", "severity": "block", "span": "b … b", "instruction": "Mend it."}
    script: dict[str, Any] = {"tutor": ["a", "b b", "c", "b c b"], "critic": [{"verdict": "revise", "issues": [issue]}]}
    model = ScriptedModel(script)
    turn = await the_turn(loop(), model, revisions=1)
    (said,) = (attempt for attempt in turn.attempts if attempt.status == "accepted")
    assert said.forced
    assert said.text == "b b", "the second is no better"


def test_whoever_chooses_takes_part_in_the_graph() -> None:
    assert [agent.role for agent in agents_of(one_turn(candidates=2, choose=judge))] == ["tutor", "judge"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 0, "choose": longest}, "at least one candidate"),
        ({"candidates": 3}, "nobody"),
        ({"choose": longest}, "1 candidates and somebody"),
        ({"candidates": 2, "choose": Agent(role="judge")}, "needs a `task`"),
        ({"candidates": 2, "choose": Agent(role="j", task="critic", reply=OneOf("a"))}, "must be Choice"),
    ],
)
def test_a_choice_that_cannot_be_made_is_an_error_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        speak(tutor, **options)


async def test_a_function_that_chooses_none_of_them_is_an_error() -> None:
    with pytest.raises(GraphError, match="`choose` gave 7 for 2 candidates"):
        await the_turn(one_turn(candidates=2, choose=lambda candidates: 7), ScriptedModel({"tutor": ["a", "b"]}))


async def test_a_judge_that_never_chooses_fails_with_all_that_was_said() -> None:
    with pytest.raises(ShapeError) as failure:
        await the_turn(
            one_turn(candidates=2, choose=judge), ScriptedModel({"tutor": ["a", "b"], "judge": ["the first"]})
        )
    assert [step.text for step in failure.value.replies] == ["the first"] * 3  # type: ignore[attr-defined]


def settings(folder: Path) -> dict[str, Any]:
    (folder / "briefs.jsonl").write_text('{"id": "b", "topic": "Sums"}\n')
    return {"run": "r", "briefs": [{"from": str(folder / "briefs.jsonl")}]}


def the_transcript(folder: Path) -> Transcript:
    (transcript,) = read_transcripts(folder / "run")
    return transcript


async def test_a_transcript_has_every_candidate_with_its_prompt(tmp_path: Path, model: ChatVLLM) -> None:
    def graph() -> StateGraph[Dialogue, Cast]:
        return one_turn(candidates=3, choose=longest)

    await agenerate(settings(tmp_path), graph=graph, out=tmp_path / "run", models={"default": model})
    transcript = the_transcript(tmp_path)
    (turn,) = transcript.turns
    with Prompts(tmp_path / "run") as prompts:
        assert {len(prompts.messages(attempt.call.prompt_sha256)) for attempt in turn.attempts} == {2}
    assert transcript.usage.prompt_tokens == max(attempt.call.prompt_tokens for attempt in turn.attempts)


class Hanging(ScriptedModel):
    """Does not answer the judge."""

    _stuck: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__(script)

    @property
    def stuck(self) -> asyncio.Event:
        return self._stuck

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        if run_manager.metadata["role"] == "judge":
            self._stuck.set()
            await asyncio.Event().wait()
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


async def test_candidates_are_not_asked_for_again_after_a_crash_before_the_choice(tmp_path: Path) -> None:
    def graph() -> StateGraph[Dialogue, Cast]:
        return one_turn(candidates=2, choose=judge)

    before = Hanging({"tutor": ["a", "b"]})
    out = {"out": tmp_path / "run", "graph": graph}
    task = asyncio.create_task(agenerate(settings(tmp_path), models={"default": before}, **out))  # type: ignore[arg-type]
    await asyncio.wait_for(before.stuck.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = ScriptedModel({"tutor": ["never asked"], "judge": ["2"]})
    await agenerate(settings(tmp_path), models={"default": after}, **out)  # type: ignore[arg-type]
    assert [role for role, _, _ in after.calls] == ["judge"]
    assert the_transcript(tmp_path).turns[0].text == "b"


# --- chosen by their scores -----------------------------------------------------------------------------------------

RUBRIC = ByScore(
    name="rubric", scores=lambda _, draft: {"length": len(draft.text) / 10, "asks": float("?" in draft.text)}
)


async def test_the_candidate_with_the_highest_mean_score_is_said_and_all_keep_their_scores() -> None:
    turn = await the_turn(one_turn(candidates=3, choose=RUBRIC), ScriptedModel({"tutor": ["no", "why?", "because"]}))
    assert turn.text == "why?"
    assert [(each.text, each.status) for each in turn.attempts] == [
        ("no", "superseded"),
        ("because", "superseded"),
        ("why?", "accepted"),
    ]
    assert [each.reviews[0].scores for each in turn.attempts] == [
        {"length": 0.2, "asks": 0.0},
        {"length": 0.7, "asks": 0.0},
        {"length": 0.4, "asks": 1.0},
    ]
    assert {(review.role, review.verdict) for each in turn.attempts for review in each.reviews} == {
        ("rubric", "accept")
    }


async def test_of_candidates_with_equal_scores_the_first_is_said() -> None:
    turn = await the_turn(one_turn(candidates=3, choose=RUBRIC), ScriptedModel({"tutor": ["a?", "b?", "c?"]}))
    assert turn.text == "a?"


def forbid(word: str) -> Check:
    def look(_: Dialogue, draft: Attempt) -> list[Issue]:
        return [Issue(dimension="word", severity="block", instruction="Leave it out.")] if word in draft.text else []

    return Check(name="forbidden", look=look)


def checked_turn(choose: Any) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, checks=[forbid("five")], reviewers=[critic], candidates=2, choose=choose, then=END)
    graph.add_edge(START, "tutor")
    return graph


async def test_a_candidate_that_a_check_forbids_is_not_chosen_however_good_its_scores() -> None:
    said = ScriptedModel(
        {"tutor": ["Is it five, do you think?", "Why?"], "critic": [{"verdict": "accept", "issues": []}]}
    )
    turn = await the_turn(checked_turn(RUBRIC), said)
    assert turn.text == "Why?"
    forbidden, accepted = turn.attempts
    assert [review.role for review in forbidden.reviews] == ["forbidden", "rubric"]
    assert [review.role for review in accepted.reviews] == ["critic", "rubric"]


async def test_what_checks_found_is_kept_with_a_candidate_that_was_not_chosen() -> None:
    said = ScriptedModel({"tutor": ["Is it five?", "Is it not so?"], "critic": [{"verdict": "accept", "issues": []}]})
    turn = await the_turn(checked_turn(longest), said)
    assert [[review.role for review in each.reviews] for each in turn.attempts] == [["forbidden"], ["critic"]]


async def test_scores_of_a_draft_that_was_sent_back_stay_with_it() -> None:
    issue = {"dimension": "tone", "severity": "major", "span": "Why?", "evidence": "", "instruction": "Be kind."}
    verdicts = [{"verdict": "revise", "issues": [issue]}, {"verdict": "accept", "issues": []}]
    drafts = ["Why?", "no", "And why, then?", "nope"]
    said = ScriptedModel({"tutor": drafts, "critic": list[Any](verdicts)})
    turn = await the_turn(checked_turn(RUBRIC), said)
    assert [(each.text, each.status) for each in turn.attempts] == [
        ("no", "superseded"),
        ("Why?", "rejected"),
        ("nope", "superseded"),
        ("And why, then?", "accepted"),
    ]
    assert all(any(review.role == "rubric" for review in each.reviews) for each in turn.attempts)


@pytest.mark.parametrize("scores", [{}, {"x": float("nan")}, {"x": float("inf")}])
async def test_scores_that_cannot_be_compared_are_refused(scores: dict[str, float]) -> None:
    graph = one_turn(candidates=2, choose=ByScore(name="broken", scores=lambda *_: scores))
    with pytest.raises(GraphError, match=r"the scores 'broken' of a candidate are .*: give one number"):
        await the_turn(graph, ScriptedModel({"tutor": ["a", "b"]}))


async def test_a_run_whose_candidates_were_scored_gives_pairs_of_one_prompt(
    endpoint: SimulatedEndpoint, model: ChatVLLM, tmp_path: Path
) -> None:
    """From vLLM's `n` to rows for DPO: each pair's gap is wider than was asked for, and nothing forbidden is chosen."""
    rubric = ByScore(name="rubric", scores=lambda _, draft: {"short": 100 / len(draft.text)})

    def graph() -> StateGraph[Dialogue, Cast]:
        built = StateGraph(Dialogue, context_schema=Cast)
        add_critique_loop(
            built, tutor, checks=[forbid("z")], candidates=6, choose=rubric, then=stop_or("tutor", max_messages())
        )
        built.add_edge(START, "tutor")
        return built

    await agenerate(settings(tmp_path), graph=graph, out=tmp_path / "run", models={"default": model})
    transcript = the_transcript(tmp_path)
    summary = export(tmp_path / "run", Request(format="dpo", gap=0.05, files="jsonl"), out=tmp_path / "out")
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "data" / "train-00000-of-00001.jsonl").read_text().splitlines()
    ]
    assert summary.left_out[LeftOut.VETOED] > 0
    assert summary.rows == len(rows) > 0
    for row in rows:
        attempts = {attempt.text: attempt for attempt in transcript.turns[row["turn"]].attempts}
        chosen, rejected = (attempts[row[side][0]["content"]] for side in ("chosen", "rejected"))
        assert (row["source"], row["margin"] > 0.05) == ("sibling", True)
        assert chosen.call.prompt_sha256 == rejected.call.prompt_sha256
        assert "z" not in chosen.text
