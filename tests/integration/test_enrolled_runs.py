"""Runs whose config says who the students are."""

import json
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage import Cast, Dialogue, generate, read_transcripts, speak
from tutelage.agents import student, tutor
from tutelage.errors import ConfigError
from tutelage.generation.generate import RunSummary
from tutelage.graphs.lesson import lesson
from tutelage.learners.enrolment import enrol
from tutelage.testing import ScriptedModel


def enrolling() -> StateGraph[Dialogue, Cast]:
    """Enrols the student, and has tutor and student speak once each."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("enrol", enrol(student))
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "enrol")
    graph.add_edge("enrol", "tutor")
    graph.add_edge("tutor", "student")
    graph.add_edge("student", END)
    return graph


def run_of(folder: Path, students: dict[str, Any], make_graph: Any) -> RunSummary:
    """A run of 12 dialogues, each of which has two messages."""
    (folder / "briefs.jsonl").write_text(json.dumps({"id": "b", "topic": "Sums", "question": "What is 1 + 1?"}))
    config = {
        "run": "r",
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": 2},
        "students": students,
        "target": {"dialogues": 12},
    }
    model = ScriptedModel({"tutor": ["What do you think?"], "student": ["Three."]})
    return generate(config, graph=make_graph, out=folder / "run", models={"default": model})


def test_a_runs_students_are_those_that_its_config_wants(tmp_path: Path) -> None:
    run_of(tmp_path, {"personas": ["terse", "chatty"], "adversarial": 0.5}, enrolling)
    transcripts = list(read_transcripts(tmp_path / "run"))
    assert {each.profiles["student"]["persona"] for each in transcripts} == {"terse", "chatty"}
    techniques = [each.findings.get("technique") for each in transcripts]
    assert 0 < techniques.count(None) < 12
    assert all(("tactic" in each.profiles["student"]) == ("technique" in each.findings) for each in transcripts)


def test_a_run_with_an_unknown_persona_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no persona 'grumpy'"):
        run_of(tmp_path, {"personas": ["grumpy"]}, enrolling)


def test_a_run_whose_graph_enrols_nobody_does_not_pretend_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enrols nobody"):
        run_of(tmp_path, {"adversarial": 0.5}, lesson)
