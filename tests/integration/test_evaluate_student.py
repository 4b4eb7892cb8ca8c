"""`evaluate student`: what a student gives way to, played with a scripted judge, a scripted tongue, and a whole graph."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph

from tutelage import (
    Cast,
    Dialogue,
    add_critique_loop,
    assess,
    generate,
    max_messages,
    needs,
    read_transcripts,
    speak,
    stop_or,
)
from tutelage.agents.feedback_judge import feedback_judge
from tutelage.agents.pupil import pupil
from tutelage.agents.tutor import tutor
from tutelage.errors import BriefError, ConfigError, EndpointUnreachable, ShapeError
from tutelage.generation.evaluate_student import evaluate_student, render
from tutelage.learners.acting import TRIES, in_character
from tutelage.learners.knowledge import Knowledge, knowledge_of
from tutelage.quality.intervals import Mean
from tutelage.testing import ScriptedModel

BRIEFS: list[dict[str, Any]] = [
    {
        "id": "fractions",
        "domain": "mathematics",
        "question": "What is 1/2 + 1/3?",
        "answer": ["5/6", "five sixths"],
        "misconception": {
            "belief": "Add the tops and the bottoms.",
            "predicts": "2/5",
            "changes_when": ["2/5 is less than 1/2, although something was added."],
        },
    },
    {
        "id": "coat",
        "domain": "mathematics",
        "question": "A coat of 200 euros gets 20% dearer, then 20% cheaper. What does it cost?",
        "answer": ["192"],
        "misconception": {
            "belief": "A rise and a fall by the same percentage cancel out.",
            "predicts": "200",
            "changes_when": ["The fall is taken of 240 euros and not of 200.", "20% of 240 is more than 40."],
            "robustness": 2,
        },
    },
]


@needs("question", "answer", "misconception")
def small_socratic() -> StateGraph[Dialogue, Cast]:
    """Tutor, judge, pupil: the least graph that a student with a state takes."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("feedback_judge", assess(feedback_judge))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "feedback_judge")
    graph.add_edge("feedback_judge", "student")
    add_critique_loop(
        graph,
        pupil,
        reviewers=[],
        checks=[in_character],
        max_revisions=TRIES - 1,
        then=stop_or("tutor", max_messages()),
    )
    return graph


def config(folder: Path, briefs: Sequence[dict[str, Any]] = BRIEFS, **more: Any) -> Path:
    (folder / "briefs.jsonl").write_text("\n".join(map(json.dumps, briefs)))
    path = folder / "config.yaml"
    own = {"run": "tried", "graph": f"{__file__}:small_socratic", "briefs": [{"from": "briefs.jsonl"}]}
    path.write_text(json.dumps({**own, **more}))
    return path


def last(messages: Sequence[BaseMessage]) -> str:
    return str(messages[-1].content)


def judge(messages: list[BaseMessage]) -> dict[str, str]:
    """A judge that knows the texts of these briefs: what hits the one is beside the point of the other."""
    system, said = str(messages[0].content), last(messages).rpartition("Tutor:")[2]
    hits = "something was added" in said if "tops" in system else "of 240" in said
    generic = any(each in said for each in ("Think again", "Try once more", "Another look"))
    return {"reason": "so", "feedback": "targeted" if hits else "generic" if generic else "misaligned"}


def student(messages: list[BaseMessage]) -> str:
    """Says what its note has it say; without a note, gives way to whatever it is told."""
    if due := re.search(r'the answer is "(.+?)"', last(messages)):
        return due.group(1)
    if "Reply with JSON" in last(messages):
        right = re.search(r"(\w): (?:5/6|192)$", last(messages), re.MULTILINE)
        return json.dumps({"choice": right.group(1) if right else "?"})
    return "Oh, you are right."


def tried(folder: Path, script: dict[str, Any], **more: Any) -> Any:
    return evaluate_student(config(folder), models={"default": ScriptedModel(script)}, **more)


def test_a_state_machine_is_moved_by_targeted_feedback_alone_and_a_prompted_student_by_any(tmp_path: Path) -> None:
    report = tried(tmp_path, {"feedback_judge": judge, "student": student}, samples=2)
    machine, prompted = report.students
    assert [each.student for each in report.students] == ["state machine", "plainly prompted"]
    assert {kind: (each.count, each.of) for kind, each in machine.flips.items()} == {
        "targeted": (4, 4),
        "misaligned": (0, 4),
        "generic": (0, 4),
    }
    assert machine.selectivity.value == 1 >= 0.6
    assert machine.judged == {"targeted": {"targeted": 6}, "misaligned": {"misaligned": 6}, "generic": {"generic": 6}}
    assert (machine.rendered.share, machine.tries.mean, machine.leaks.count) == (1, 1, 0)
    assert {kind: each.share for kind, each in prompted.flips.items()} == dict.fromkeys(prompted.flips, 1)
    assert prompted.selectivity.value == 0
    assert (prompted.asked.share, prompted.judged["targeted"]) == (1, {})


def test_both_are_told_the_same_and_as_often_as_the_belief_withstands(tmp_path: Path) -> None:
    report = tried(tmp_path, {"feedback_judge": judge, "student": student}, samples=1)
    heard: dict[tuple[str, str], list[list[str]]] = {}
    for trial in report.trials:
        heard.setdefault((trial.brief, trial.kind), []).append([t.text for t in trial.turns if t.role == "tutor"])
    assert all(one == other for one, other in heard.values())
    question = BRIEFS[1]["question"]
    assert heard["coat", "targeted"][0] == [
        question,
        f"Think about this: The fall is taken of 240 euros and not of 200. {question}",
        f"Think about this: 20% of 240 is more than 40. {question}",
    ]
    assert len(heard["fractions", "targeted"][0]) == 2
    assert "The fall is taken" in heard["fractions", "misaligned"][0][1]


def test_a_student_that_says_the_answer_unmoved_is_retried_then_dropped_and_counted(tmp_path: Path) -> None:
    report = tried(tmp_path, {"feedback_judge": judge, "student": ["It is 5/6, or 192."]}, samples=1, briefs=1)
    machine, prompted = report.students
    kinds = {trial.kind: trial for trial in report.trials if trial.student == "state machine"}
    assert kinds["targeted"].rendered
    assert [(kinds[kind].rendered, len(kinds[kind].unsaid)) for kind in ("misaligned", "generic")] == [
        (False, TRIES)
    ] * 2
    assert (machine.rendered.count, machine.rendered.of) == (1, 3)
    assert (machine.leaks_drafted.count, machine.leaks_drafted.of) == (2 * TRIES, 2 * TRIES)
    assert isinstance(machine.tries, Mean)
    assert machine.tries.mean == pytest.approx((1 + TRIES + TRIES) / 3, abs=1e-4), (
        "drafts of turns that were never said are drafts"
    )
    assert "1 brief, 1 trial of each kind" in render(report)
    assert machine.flips["generic"].why
    assert (prompted.leaks.count, prompted.leaks.of) == (2, 2)


def test_a_perfect_judge_is_code_and_leaves_the_words_to_be_tried(tmp_path: Path) -> None:
    model = ScriptedModel({"student": ["It is 2/5, or 200.", "No."]})
    report = evaluate_student(config(tmp_path), models={"default": model}, samples=1, briefs=1, perfect_judge=True)
    machine: Any = report.students[0]
    assert "feedback_judge" not in {role for role, _, _ in model.calls}
    assert machine.judged == {kind: {kind: 1} for kind in ("targeted", "misaligned", "generic")}
    assert (machine.rendered.count, machine.rendered.of) == (0, 3)
    assert machine.vetoes["in_character: answer"] == 3 * TRIES


def test_a_second_draft_that_fits_is_said(tmp_path: Path) -> None:
    def stumbling(messages: list[BaseMessage]) -> str:
        return student(messages) if "sent back" in last(messages) else "5/6, or 192, or 2/5, or 200."

    report = tried(tmp_path, {"feedback_judge": judge, "student": stumbling}, samples=1, briefs=1)
    machine = report.students[0]
    assert (machine.rendered.share, machine.tries.mean) == (1, 2)
    assert machine.selectivity.value == 1
    assert machine.leaks.count == 0


def test_a_trial_that_fails_is_counted_and_leaves_the_others_alone(tmp_path: Path) -> None:
    report = tried(tmp_path, {"feedback_judge": ["no JSON"], "student": student}, samples=1, briefs=1)
    assert report.students[0].failed == {ShapeError.reason: 3}
    assert report.students[1].failed == {}
    assert report.exit_code == 0


def test_a_model_that_cannot_be_reached_ends_it_all(tmp_path: Path) -> None:
    with pytest.raises(EndpointUnreachable):
        tried(tmp_path, {"feedback_judge": judge, "student": [EndpointUnreachable("gone")]})


def test_a_graph_whose_student_has_no_state_is_the_baseline_alone(tmp_path: Path) -> None:
    models = {"default": ScriptedModel({"student": student})}
    report = evaluate_student(config(tmp_path, graph="lesson"), models=models, samples=1)
    assert [each.student for each in report.students] == ["plainly prompted"]
    assert "no student with a state of knowledge" in " ".join(render(report).split())


def test_a_run_without_briefs_that_can_be_tried_is_refused(tmp_path: Path) -> None:
    path = config(tmp_path, [{"topic": "fractions"}], graph="lesson")
    with pytest.raises(BriefError, match="none of 1 briefs can be tried"):
        evaluate_student(path, models={"default": ScriptedModel({})})


def test_a_student_with_a_state_and_no_judge_is_refused(tmp_path: Path) -> None:
    graph = tmp_path / "unjudged.py"
    graph.write_text(
        "from langgraph.graph import START, StateGraph\n"
        "from tutelage import Cast, Dialogue, speak\n"
        "from tutelage.agents.pupil import pupil\n"
        "def unjudged():\n"
        "    graph = StateGraph(Dialogue, context_schema=Cast)\n"
        '    graph.add_node("student", speak(pupil))\n'
        '    graph.add_edge(START, "student")\n'
        "    return graph\n"
    )
    with pytest.raises(ConfigError, match="nobody judges what it is told"):
        evaluate_student(config(tmp_path, graph="unjudged.py:unjudged"), models={"default": ScriptedModel({})})


def test_the_table_names_every_figure(tmp_path: Path) -> None:
    shown = " ".join(render(tried(tmp_path, {"feedback_judge": judge, "student": student}, samples=1)).split())
    for part in ("P(flip | targeted)", "selectivity", "+1.00", "+0.00", "turns with a draft that passed", "judged as"):
        assert part in shown


# --- in a run -------------------------------------------------------------------------------------------------------


def test_what_the_student_knew_is_kept_with_each_turn_and_recomputes_from_the_transcript(tmp_path: Path) -> None:
    said = ["Why?", "But something was added!", "How do you know?"]
    models = {"default": ScriptedModel({"tutor": said, "feedback_judge": judge, "student": student})}
    generate(config(tmp_path, BRIEFS[:1], limits={"messages": 6}), out=tmp_path / "run", models=models)
    (transcript,) = read_transcripts(tmp_path / "run")
    turns = transcript.turns
    kept = [Knowledge.model_validate(turn.private["knowledge"]) for turn in turns if turn.role == "student"]
    assert [each.holds for each in kept] == [True, False, False]
    assert [turn.text for turn in turns if turn.role == "student"] == ["2/5", "5/6", "Oh, you are right."]
    assert kept == [
        knowledge_of({"brief": transcript.brief, "turns": turns[: turn.index]})
        for turn in turns
        if turn.role == "student"
    ]


def test_a_dialogue_that_is_resumed_goes_on_with_the_same_knowledge(tmp_path: Path) -> None:
    """Stopped after the judgement that made the belief fall: the student that speaks next has lost it."""
    said = ["But something was added!", "How do you know?"]

    def script(**more: Any) -> dict[str, Any]:
        return {"default": ScriptedModel({"tutor": said, "feedback_judge": judge, "student": student, **more})}

    path, out = config(tmp_path, BRIEFS[:1], limits={"messages": 4}), tmp_path / "run"
    with pytest.raises(EndpointUnreachable):
        generate(path, out=out, models=script(student=[EndpointUnreachable("gone")]))
    models = script(
        feedback_judge=["nobody is to ask it about the first turn again", {"reason": "", "feedback": "generic"}]
    )
    models["default"].script["tutor"] = said[1:]
    models["default"].script["feedback_judge"] = [{"reason": "", "feedback": "generic"}]
    generate(path, out=out, models=models)
    (transcript,) = read_transcripts(out)
    assert [turn.private["knowledge"]["holds"] for turn in transcript.turns if turn.role == "student"] == [False, False]
    assert transcript.turns[1].text == "5/6"


def test_a_student_that_gives_the_answer_away_discards_its_dialogue(tmp_path: Path) -> None:
    models = {"default": ScriptedModel({"tutor": ["Why?"], "feedback_judge": judge, "student": ["2/5, or is it 5/6?"]})}
    generate(config(tmp_path, BRIEFS[:1], target={"dialogues": 1}), out=tmp_path / "run", models=models)
    transcripts = list(read_transcripts(tmp_path / "run"))
    assert {(each.outcome.status, each.outcome.reason) for each in transcripts} == {("discarded", "out_of_character")}
    assert transcripts[0].unfinished is not None
    assert len(transcripts[0].unfinished.attempts) == TRIES
    asked = [messages for role, messages, _ in models["default"].calls if role == "student"]
    assert 'leak, at "5/6": You have not found that out' in last(asked[1])


def test_the_judge_sees_the_belief_and_what_was_said_and_neither_answer_nor_plan(tmp_path: Path) -> None:
    model = ScriptedModel({"tutor": ["Why?"], "feedback_judge": judge, "student": student})
    generate(config(tmp_path, BRIEFS[:1], limits={"messages": 2}), out=tmp_path / "run", models={"default": model})
    (prompt,) = model.prompts("feedback_judge")
    assert "Add the tops and the bottoms." in str(prompt)
    assert "although something was added" in str(prompt)
    assert "5/6" not in str(prompt)
    (options,) = (options for role, _, options in model.calls if role == "feedback_judge")
    assert options["temperature"] == 0
