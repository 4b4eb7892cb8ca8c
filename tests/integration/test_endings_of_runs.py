"""How the dialogues of a run end, and what its transcripts keep of the end."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from langgraph.graph import START, StateGraph

from tutelage import (
    Attempt,
    Cast,
    Dialogue,
    Issue,
    Transcript,
    add_critique_loop,
    agenerate,
    read_transcripts,
    speak,
    stop_or,
)
from tutelage.agents import student, tutor
from tutelage.checks.answers import mastered
from tutelage.checks.endings import usual_endings
from tutelage.checks.speech import plain_speech
from tutelage.dialogue.checking import Check
from tutelage.errors import CheckerFailed
from tutelage.testing import ScriptedModel, SimulatedEndpoint

Graph = StateGraph[Dialogue, Cast]


def lesson() -> Graph:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", *usual_endings(mastered)))
    graph.add_conditional_edges("student", stop_or("tutor", *usual_endings(mastered)))
    return graph


async def the_transcript(
    folder: Path, graph: Callable[[], Graph], model: ScriptedModel | None = None, **config: Any
) -> Transcript:
    (folder / "briefs.jsonl").write_bytes(orjson.dumps({"id": "tides", "topic": "Tides"}))
    settings = {
        "run": "endings",
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        **config,
    }
    await agenerate(settings, graph=graph, out=folder / "run", models={"default": model} if model else None)
    (transcript,) = read_transcripts(folder / "run")
    return transcript


async def test_goodbyes_are_kept_apart_from_what_is_trained_on(tmp_path: Path) -> None:
    said = ["The moon pulls on the sea, and the sea bulges towards it.", "You're welcome! Have a nice day!"]
    model = ScriptedModel({"tutor": said, "student": ["Thank you so much, bye!"]})
    transcript = await the_transcript(tmp_path, lesson, model)
    assert (transcript.outcome.status, transcript.outcome.reason) == ("completed", "farewell_loop")
    assert [turn.text for turn in transcript.turns] == said[:1]
    assert [turn.text for turn in transcript.cut_turns] == ["Thank you so much, bye!", said[1]]


@pytest.fixture
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", completion_tokens=60) as running:
        yield running


async def test_a_reply_that_max_tokens_cuts_is_truncated(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    """Also if no draft of it ends in time: each is sent back, and none is said."""

    def checked() -> Graph:
        graph = StateGraph(Dialogue, context_schema=Cast)
        graph.add_node("student", speak(student))
        add_critique_loop(graph, tutor, checks=plain_speech, then=stop_or("student", *usual_endings()))
        graph.add_edge(START, "tutor")
        graph.add_conditional_edges("student", stop_or("tutor", *usual_endings()))
        return graph

    config: dict[str, Any] = {
        "models": {"default": {"url": endpoint.url, "model": "m"}},
        "roles": {"tutor": {"max_tokens": 8}},
    }
    for number, graph in enumerate((lesson, checked)):
        (folder := tmp_path / str(number)).mkdir()
        transcript = await the_transcript(folder, graph, **config)
        assert (transcript.outcome.status, transcript.outcome.reason) == ("discarded", "truncated")
        assert len(transcript.turns) == (1 if graph is lesson else 0)


async def test_a_checker_that_cannot_do_its_work_fails_the_dialogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.generation.run.TRY_AGAIN", [0.0, 0.0])

    def look(dialogue: Dialogue, attempt: Attempt) -> Sequence[Issue]:
        raise CheckerFailed("the library of tides is closed")

    def graph() -> Graph:
        graph = StateGraph(Dialogue, context_schema=Cast)
        add_critique_loop(graph, tutor, checks=[Check(name="library", look=look)], then="student")
        graph.add_node("student", speak(student))
        graph.add_edge(START, "tutor")
        return graph

    model = ScriptedModel({"tutor": ["High water comes twice a day."]})
    transcript = await the_transcript(tmp_path, graph, model)
    assert (transcript.outcome.status, transcript.outcome.reason) == ("failed", "checker_failed")
    assert "the library of tides is closed" in str(transcript.outcome.detail)
