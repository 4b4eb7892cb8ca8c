"""Dialogues on plain LangGraph: who speaks when, what they are shown, what is sent back, and how it ends."""

from itertools import pairwise
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage import (
    Agent,
    Brief,
    Cast,
    Dialogue,
    Limits,
    Misconception,
    add_critique_loop,
    max_messages,
    speak,
    stop_or,
)
from tutelage.agents import critic, fact_checker, student, tutor
from tutelage.dialogue.nodes import review
from tutelage.dialogue.stopping import Reason, max_tokens, outcome_of, tokens_ahead
from tutelage.dialogue.turn import Attempt, Call, Outcome, Turn
from tutelage.errors import ContextExceeded, GraphError, PromptError, ShapeError
from tutelage.graphs.debate import debate
from tutelage.graphs.lesson import lesson
from tutelage.testing import ScriptedModel

ACCEPT = {"verdict": "accept", "issues": []}
BRIEF = Brief(
    id="b",
    topic="Adding fractions",
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    misconception=Misconception(belief="Add the tops and the bottoms.", predicts="2/5"),
    facts=("1/2 is 3/6.",),
)


def sent_back(severity: str = "block", span: str = "It is 5/6") -> dict[str, Any]:
    """A verdict with one issue, which counts if the draft has the words of its span."""
    issue = {
        "dimension": "leak",
        "severity": severity,
        "span": span,
        "evidence": "the answer",
        "instruction": "Ask, do not tell.",
    }
    return {"verdict": "revise", "issues": [issue]}


async def play(
    script: dict[str, Any], make_graph: Any = lesson, brief: Brief = BRIEF, **limits: Any
) -> tuple[Dialogue, Outcome, ScriptedModel]:
    model = ScriptedModel(script)
    cast = Cast(players=Cast.of(model).players, limits=Limits(**limits))
    graph = make_graph()
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    return dialogue, outcome_of(graph, dialogue, cast.limits), model


async def test_a_lesson_ends_when_the_student_gives_the_answer() -> None:
    dialogue, outcome, _ = await play(
        {"tutor": ["How many sixths is 1/2?"], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["2/5", "5/6!"]}
    )
    assert [turn.role for turn in dialogue["turns"]] == ["tutor", "student", "tutor", "student"]
    assert [turn.index for turn in dialogue["turns"]] == [0, 1, 2, 3]
    assert outcome == Outcome(status="completed", reason=Reason.MASTERED)


async def test_a_lesson_makes_one_call_for_each_draft_review_and_student_turn() -> None:
    _, _, model = await play(
        {
            "tutor": ["It is 5/6.", "How many sixths is 1/2?"],
            "critic": [sent_back(), ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["5/6"],
        }
    )
    assert [role for role, _, _ in model.calls] == [
        *("tutor", "critic", "fact_checker"),
        *("tutor", "critic", "fact_checker", "student"),
    ]


async def test_a_draft_that_is_sent_back_is_kept_with_its_verdicts_and_not_said() -> None:
    dialogue, _, model = await play(
        {
            "tutor": ["It is 5/6.", "How many sixths is 1/2?"],
            "critic": [sent_back(), ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["5/6"],
        }
    )
    turn = dialogue["turns"][0]
    assert turn.text == "How many sixths is 1/2?"
    assert [(attempt.text, attempt.status) for attempt in turn.attempts] == [
        ("It is 5/6.", "rejected"),
        ("How many sixths is 1/2?", "accepted"),
    ]
    assert [(each.role, each.verdict) for each in turn.attempts[0].reviews] == [
        ("critic", "revise"),
        ("fact_checker", "accept"),
    ]
    assert "It is 5/6." not in str(model.prompts("student"))


async def test_a_revision_is_asked_for_with_the_draft_and_its_issues() -> None:
    _, _, model = await play(
        {
            "tutor": ["It is 5/6.", "How many sixths is 1/2?"],
            "critic": [sent_back(), ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["5/6"],
        }
    )
    note = model.prompts("tutor")[1][-1][1]
    assert "Your draft: It is 5/6." in note
    assert 'leak, at "It is 5/6": Ask, do not tell. (the answer)' in note


async def test_after_the_last_revision_the_best_draft_is_kept_and_marked() -> None:
    dialogue, _, _ = await play(
        {
            "tutor": ["bad", "better", "worse"],
            "critic": [sent_back("block", "bad"), sent_back("major", "better"), sent_back("block", "worse")],
            "fact_checker": [ACCEPT],
            "student": ["5/6"],
        },
        revisions=2,
    )
    turn = dialogue["turns"][0]
    assert turn.text == "better"
    assert [(attempt.status, attempt.forced) for attempt in turn.attempts] == [
        ("rejected", False),
        ("accepted", True),
        ("rejected", False),
    ]


async def test_a_reply_that_does_not_fit_is_asked_for_again_with_the_error_and_kept() -> None:
    dialogue, _, model = await play(
        {
            "tutor": ["How many sixths is 1/2?"],
            "critic": ["no JSON", {"verdict": "perhaps"}, ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["5/6"],
        }
    )
    steps = dialogue["turns"][0].steps
    assert [(step.kind, step.role, step.text) for step in steps] == [
        ("misfit", "critic", "no JSON"),
        ("misfit", "critic", '{"verdict": "perhaps"}'),
    ]
    assert "Invalid JSON" in model.prompts("critic")[1][-1][1]
    assert "verdict" in model.prompts("critic")[2][-1][1].split("could not be used")[-1]
    assert len({options["seed"] for role, _, options in model.calls if role == "critic"}) == 3


async def test_a_raw_tab_in_a_text_is_no_misfit() -> None:
    """vLLM's grammar backend lets control characters into strings whose length a schema bounds."""
    verdict = '{"verdict": "revise", "issues": [{"dimension": "a\tb", "severity": "minor", "instruction": "c"}]}'
    dialogue, _, _ = await play(
        {"tutor": ["a"], "critic": [verdict, ACCEPT], "fact_checker": [ACCEPT], "student": ["5/6"]}
    )
    turn = dialogue["turns"][0]
    assert turn.steps == []
    assert turn.attempts[0].reviews[0].issues[0].dimension == "a\tb"


async def test_a_reply_that_never_fits_fails_the_dialogue_with_what_was_said() -> None:
    with pytest.raises(ShapeError, match="'critic' gave 3 replies that do not fit") as failure:
        await play({"tutor": ["a"], "critic": ["no JSON"], "fact_checker": [ACCEPT], "student": ["b"]})
    assert len(failure.value.replies) == 3


async def test_a_misfit_is_kept_when_the_repair_s_call_fails() -> None:
    with pytest.raises(ContextExceeded) as failure:
        await play({"tutor": ["a"], "critic": ["junk", ContextExceeded("too long")], "fact_checker": [ACCEPT]})
    assert [step.text for step in failure.value.replies] == ["junk"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("messages", [1, 2, 3, 5])
@pytest.mark.parametrize("make_graph", [lesson, debate], ids=["lesson", "debate"])
async def test_there_are_never_more_messages_than_the_limit(make_graph: Any, messages: int) -> None:
    script = {role: ["Hm."] for role in ("tutor", "student", "proponent", "opponent")}
    reviews = {"critic": [ACCEPT], "fact_checker": [ACCEPT]}
    ruling = {"moderator": [{"proponent_answer": "x", "opponent_answer": "y", "agreed": False}]}
    dialogue, outcome, _ = await play({**script, **reviews, **ruling}, make_graph, messages=messages)
    assert len(dialogue["turns"]) == messages
    assert outcome.reason == Reason.OUT_OF_TURNS


async def test_an_empty_reply_is_asked_for_again() -> None:
    dialogue, _, _ = await play(
        {"tutor": ["  ", "Hello."], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["5/6"]}
    )
    assert dialogue["turns"][0].text == "Hello."


async def test_verdicts_are_asked_for_by_schema() -> None:
    _, _, model = await play({"tutor": ["Hello."], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["5/6"]})
    formats = {role: options.get("response_format") for role, _, options in model.calls}
    assert formats["tutor"] is None
    assert formats["student"] is None
    schema = formats["critic"]["json_schema"]["schema"]  # type: ignore[index]
    assert schema["properties"]["verdict"]["enum"] == ["accept", "revise"]


async def test_the_student_is_shown_nothing_private() -> None:
    _, _, model = await play(
        {"tutor": ["Hello."], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["Hm", "Hm", "5/6"]}
    )
    shown = str(model.prompts("student")[0])
    assert "five sixths" not in shown
    assert "1/2 is 3/6" not in shown
    assert "Add the tops" in shown


@pytest.mark.parametrize("make_graph", [lesson, debate], ids=["lesson", "debate"])
async def test_of_one_view_each_prompt_without_its_last_message_begins_the_next(make_graph: Any) -> None:
    """So that the endpoint's prefix cache holds all of a conversation but what is new."""
    _, _, model = await play(
        {
            "tutor": ["a", "b", "c", "d", "e", "f"],
            "critic": [sent_back(span="a"), ACCEPT, "junk", ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["1", "2", "3"],
            "proponent": ["p1", "p2", "p3"],
            "opponent": ["o1", "o2", "o3"],
            "moderator": [{"proponent_answer": "x", "opponent_answer": "y", "agreed": False}],
        },
        make_graph,
        messages=6,
    )
    views: dict[str, list[list[tuple[str, str]]]] = {}
    for role, messages, _ in model.calls:
        view = "reviewers" if role in {"critic", "fact_checker"} else role
        views.setdefault(view, []).append([(message.type, str(message.content)) for message in messages])
    for prompts in views.values():
        assert len(prompts) >= 3
        for prompt, following in pairwise(prompts):
            assert following[: len(prompt) - 1] == prompt[:-1]


async def test_reviewers_are_shown_the_same_up_to_their_own_task() -> None:
    _, _, model = await play({"tutor": ["Hello."], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["5/6"]})
    (of_critic,), (of_checker,) = model.prompts("critic"), model.prompts("fact_checker")
    assert of_critic[:-1] == of_checker[:-1]
    shared = of_critic[-1][1].split("You are the critic")[0]
    assert "Hello." in shared
    assert of_checker[-1][1].startswith(shared)
    assert critic.view == fact_checker.view


async def test_calls_of_a_dialogue_have_seeds_of_their_own_and_the_same_again() -> None:
    script = {"tutor": ["Hello."], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["Hm", "5/6"]}
    first = [options["seed"] for _, _, options in (await play(script))[2].calls]
    again = [options["seed"] for _, _, options in (await play(script))[2].calls]
    assert first == again
    assert len(set(first)) == len(first)


async def test_a_dialogue_ends_at_the_run_s_or_the_graph_s_number_of_messages() -> None:
    def chat() -> Any:
        graph = StateGraph(Dialogue, context_schema=Cast)
        graph.add_node("tutor", speak(tutor))
        graph.add_node("student", speak(student))
        graph.add_edge(START, "tutor")
        graph.add_edge("tutor", "student")
        graph.add_conditional_edges("student", stop_or("tutor", max_messages(6)))
        return graph

    dialogue, outcome, _ = await play({"tutor": ["a"], "student": ["b"]}, chat, messages=16)
    assert (len(dialogue["turns"]), outcome.reason) == (6, "out_of_turns")
    dialogue, _, _ = await play({"tutor": ["a"], "student": ["b"]}, chat, messages=4)
    assert len(dialogue["turns"]) == 4


async def test_a_dialogue_ends_before_the_next_prompt_outgrows_the_tokens() -> None:
    dialogue, outcome, _ = await play(
        {"tutor": ["word " * 200], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["word " * 100]},
        tokens=1500,
    )
    assert outcome.reason == Reason.OUT_OF_TOKENS
    assert 2 <= len(dialogue["turns"]) < 16
    calls = [attempt.call for turn in dialogue["turns"] for attempt in turn.attempts]
    assert max(call.prompt_tokens + call.completion_tokens for call in calls) <= 1500
    assert max_tokens(dialogue, Limits(tokens=1_000_000)) is None


def a_turn(index: int, tokens: int, *, prompt: int = 100, candidates: int = 1) -> Turn:
    calls = [
        Call(
            model="m",
            prompt_sha256=str(index),
            sampling={"max_tokens": 50},
            candidate=number if candidates > 1 else None,
            prompt_tokens=0 if number else prompt,
            completion_tokens=0 if number else tokens * candidates,
        )
        for number in range(candidates)
    ]
    attempts = [Attempt(text="a", status="superseded", call=call) for call in calls]
    attempts[-1] = attempts[-1].model_copy(update={"status": "accepted"})
    return Turn(index=index, role="tutor", text="a", attempts=attempts)


def test_the_next_call_takes_the_longest_prompt_a_round_and_the_longest_reply() -> None:
    turns = [a_turn(0, 20), a_turn(1, 40, prompt=300)]
    assert tokens_ahead(turns) == 300 + 50 + round(1.15 * (20 + 40))
    dialogue: Dialogue = {"turns": turns}
    assert max_tokens(dialogue, Limits(tokens=418)) == Outcome(status="completed", reason=Reason.OUT_OF_TOKENS)
    assert max_tokens(dialogue, Limits(tokens=419)) is None


def test_candidates_do_not_make_a_round_longer() -> None:
    assert tokens_ahead([a_turn(0, 20), a_turn(1, 40, candidates=4)]) == tokens_ahead([a_turn(0, 20), a_turn(1, 40)])


def test_a_turn_that_no_model_said_counts_by_its_length() -> None:
    by_a_person = Turn(index=1, role="student", text="word " * 80, attempts=[])
    assert tokens_ahead([a_turn(0, 20), by_a_person]) == 100 + 50 + round(1.15 * (20 + 100))


@pytest.mark.parametrize("outgrown", ["drop", "summarise"])
def test_the_tokens_end_no_dialogue_that_is_shortened(outgrown: Any) -> None:
    dialogue: Dialogue = {"turns": [a_turn(0, 20)]}
    assert max_tokens(dialogue, Limits(tokens=64, outgrown=outgrown)) is None


async def test_a_graph_that_ends_by_an_edge_is_completed() -> None:
    def once() -> Any:
        graph = StateGraph(Dialogue, context_schema=Cast)
        add_critique_loop(graph, tutor, reviewers=[critic], then=END)
        graph.add_edge(START, "tutor")
        return graph

    _, outcome, _ = await play({"tutor": ["a"], "critic": [ACCEPT]}, once)
    assert outcome == Outcome(status="completed", reason="ended")


async def test_a_debate_ends_when_the_moderator_finds_them_agreed() -> None:
    ruling = {"proponent_answer": "5/6", "opponent_answer": "2/5", "agreed": False}
    dialogue, outcome, _ = await play(
        {
            "proponent": ["5/6, for halves are three sixths."],
            "opponent": ["2/5.", "5/6 then."],
            "moderator": [ruling, {**ruling, "opponent_answer": "5/6", "agreed": True}],
        },
        debate,
    )
    assert outcome.reason == Reason.AGREED
    assert [turn.role for turn in dialogue["turns"]] == ["proponent", "opponent"] * 2
    assert dialogue["turns"][-1].private["moderator"]["agreed"] is True
    assert [step.kind for step in dialogue["turns"][1].steps] == ["assessment"]


async def test_agreed_with_the_last_message_is_agreed() -> None:
    """The rule that counts is that of the route which ended it, not one of an earlier route that applies by now, too."""
    dialogue, outcome, _ = await play(
        {
            "proponent": ["5/6."],
            "opponent": ["5/6 then."],
            "moderator": [{"proponent_answer": "5/6", "opponent_answer": "5/6", "agreed": True}],
        },
        debate,
        messages=2,
    )
    assert len(dialogue["turns"]) == 2
    assert outcome.reason == Reason.AGREED


async def test_a_prompt_that_uses_what_its_role_may_not_see_is_an_error_that_says_so() -> None:
    def nosy() -> Any:
        graph = StateGraph(Dialogue, context_schema=Cast)
        graph.add_node("student", speak(Agent(role="student", prompt="tutor")))
        graph.add_edge(START, "student")
        return graph

    with pytest.raises(PromptError, match=r"prompt 'tutor'.*'answer'.*`sees`"):
        await play({"student": ["a"]}, nosy)


def test_agents_in_the_wrong_place_are_refused_when_the_graph_is_made() -> None:
    with pytest.raises(GraphError, match="'tutor' reviews, so it needs a `task`"):
        review(tutor)
    with pytest.raises(GraphError, match="'critic' speaks, so its `reply` must be a subclass of Utterance"):
        speak(critic)
