"""Replies that are one of some texts, match a regular expression or follow a grammar."""

from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage import (
    Agent,
    Brief,
    Cast,
    Dialogue,
    Grammar,
    Limits,
    Matching,
    OneOf,
    Outcome,
    assess,
    completed,
    max_messages,
    speak,
    stop_or,
)
from tutelage.agents import tutor
from tutelage.dialogue.shapes import Shape, request_options
from tutelage.dialogue.turn import Turn
from tutelage.errors import GraphError, ShapeError
from tutelage.testing import ScriptedModel

FRACTION = Matching(r"-?\d+/\d+")


async def played(shape: Shape, *said: str) -> tuple[Turn, ScriptedModel]:
    """A turn of somebody whose replies have a shape."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("student", speak(Agent(role="student", sees=frozenset({"misconception"}), reply=shape)))
    graph.add_edge(START, "student")
    graph.add_edge("student", END)
    model = ScriptedModel({"student": said})
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": Brief(topic="Sums")}, context=Cast.of(model))
    return dialogue["turns"][0], model


@pytest.mark.parametrize(
    ("shape", "asked"),
    [
        (OneOf("yes", "no"), {"choice": ["yes", "no"]}),
        (FRACTION, {"regex": r"-?\d+/\d+"}),
        (Grammar('root ::= "yes" | "no"'), {"grammar": 'root ::= "yes" | "no"'}),
    ],
)
async def test_a_shape_goes_to_the_endpoint_as_a_structured_output(shape: Shape, asked: dict[str, Any]) -> None:
    said = "5/6" if shape == FRACTION else "yes"
    turn, model = await played(shape, said)
    assert turn.text == said
    assert model.calls[0][2]["structured_outputs"] == asked
    assert "response_format" not in model.calls[0][2]


@pytest.mark.parametrize(
    ("shape", "misfit", "fits", "complaint"),
    [
        (OneOf("yes", "no"), "Yes, I think so.", "yes", "must be one of yes, no"),
        (FRACTION, "It is 5/6.", "5/6", "must match the regular expression"),
        (Grammar("root ::= [a-z]+"), "", "abc", "was empty"),
    ],
)
async def test_a_reply_that_does_not_fit_is_asked_for_again(
    shape: Shape, misfit: str, fits: str, complaint: str
) -> None:
    """llama.cpp ignores structured outputs without a word, so an endpoint's following them is not relied upon."""
    turn, model = await played(shape, misfit, fits)
    assert turn.text == fits
    assert [(step.kind, step.text) for step in turn.steps] == [("misfit", misfit)]
    assert complaint in model.prompts("student")[1][-1][1]


async def test_a_reply_that_never_fits_fails() -> None:
    with pytest.raises(ShapeError, match="must be one of yes, no"):
        await played(OneOf("yes", "no"), "perhaps")


async def test_an_assessment_may_be_a_text_that_routes_go_by() -> None:
    def over(dialogue: Dialogue, limits: Limits) -> Outcome | None:
        return completed("said_stop") if dialogue["turns"][-1].private.get("judge") == "stop" else None

    graph = StateGraph(Dialogue, context_schema=Cast)
    verdict = OneOf("go on", "stop")
    graph.add_node("tutor", speak(tutor))
    graph.add_node("judge", assess(Agent(role="judge", prompt="review", task="critic", sees=tutor.sees, reply=verdict)))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "judge")
    graph.add_conditional_edges("judge", stop_or("tutor", over, max_messages(9)))
    model = ScriptedModel({"tutor": ["a"], "judge": ["go on", "stop"]})
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": Brief(topic="Sums")}, context=Cast.of(model))
    assert [turn.private["judge"] for turn in dialogue["turns"]] == ["go on", "stop"]
    assert [step.kind for step in dialogue["turns"][0].steps] == ["assessment"]


@pytest.mark.parametrize("texts", [(), ("a", "a"), ("a", ""), (" a", "b")])
def test_texts_that_cannot_be_told_apart_are_refused(texts: tuple[str, ...]) -> None:
    with pytest.raises(GraphError, match="OneOf needs texts"):
        OneOf(*texts)


def test_what_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(GraphError, match="is no regular expression"):
        Matching("(")


def test_plain_text_is_asked_for_with_nothing() -> None:
    assert request_options(None) == {}


def test_shapes_are_values() -> None:
    assert OneOf("a", "b") == OneOf("a", "b") != OneOf("b", "a")
    assert len({FRACTION, Matching(r"-?\d+/\d+"), Grammar("x")}) == 2
