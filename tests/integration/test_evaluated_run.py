"""`tutelage evaluate` on a real run: what the socratic graph writes down is what the report reads."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage

from tutelage import generate
from tutelage.quality.intervals import Mean, Rate
from tutelage.quality.lessons import evaluate_runs, render
from tutelage.testing import ScriptedModel

FACT = "Without air all things fall equally fast."
HINT = "What slows a feather here, then?"
PROBE = {
    "question": "A coin and a leaf?",
    "choices": ["both", "the coin"],
    "answer": "both",
    "misconception": "the coin",
}
BRIEF = {
    "question": "On the Moon a hammer and a feather are dropped. Which lands first?",
    "answer": "at the same time",
    "misconception": {"belief": "Heavier things fall faster.", "predicts": "the hammer"},
    "facts": [FACT],
    "probes": [PROBE],
}
PLAN = {
    "student_claim": "The hammer.",
    "first_wrong_step": "That weight counts.",
    "error_type": "misconception",
    "strategy": "counterexample",
    "reveals": False,
    "ends": False,
}
ACCEPT = {"verdict": "accept", "issues": []}


def student(messages: Sequence[BaseMessage]) -> Any:
    """Believes what it believes until the tutor has spoken, and then the right thing."""
    prompt = "\n".join(str(message.content) for message in messages)
    is_over_it = HINT in prompt
    if "`choice`" in prompt:
        letters = {text: letter for letter, text in re.findall(r"^([A-Z]): (.+)$", prompt, re.MULTILINE)}
        return {"choice": letters["both" if is_over_it else "the coin"]}
    return "Then they land at the same time!" if is_over_it else "I think the hammer, for it is heavier."


SCRIPT: dict[str, Any] = {
    "student": student,
    "tutor": [
        {**PLAN, "utterance": "They land at the same time."},
        {**PLAN, "utterance": f"{FACT} {HINT}"},
    ],
    "critic": [ACCEPT],
    "leak_judge": [{"reveals": "nothing", **ACCEPT}],
    "claim_checker": [{"findings": [{"claim": 1, "source": 1, "quote": FACT, "verdict": "supported"}]}],
    "feedback_judge": [{"reason": "Weight counts for nothing there.", "feedback": "targeted"}],
}


def one(count: int, of: int = 1) -> Rate:
    return Rate.of_counts(count, of)


def test_a_socratic_lesson_is_measured_as_it_went(tmp_path: Path) -> None:
    (tmp_path / "briefs.jsonl").write_text(json.dumps(BRIEF))
    config = {"run": "r", "graph": "socratic", "briefs": [{"from": str(tmp_path / "briefs.jsonl")}]}
    generate(config, out=tmp_path / "run", models={"default": ScriptedModel(SCRIPT)})
    report = evaluate_runs([tmp_path / "run"])
    [run] = report.runs
    assert [(each.status, each.reason, each.dialogues) for each in run.endings] == [("completed", "mastered", one(1))]
    assert (run.leaks.tutor, run.leaks.student) == (one(0), one(0))
    assert (run.leaks.said, run.leaks.drafted) == (one(0), one(1, 2))
    assert run.beliefs.feedback["targeted"] == run.beliefs.flips["targeted"] == run.beliefs.flipped == one(1)
    assert (run.beliefs.kept, run.beliefs.out_of_character) == (one(1), one(0, 2))
    assert [run.outcomes.before, run.outcomes.after, run.outcomes.gain] == [Mean(mean=each, of=1) for each in (0, 1, 1)]
    assert run.outcomes.success_at[1] == one(1)
    assert run.factuality.said["supported"] == one(1)
    assert run.factuality.solutions["skipped"] == one(1), "there is nothing to calculate"
    assert run.revisions["tutor"].helped == one(1)
    assert run.revisions["tutor"].vetoed == one(1, 2)
    assert "completed: mastered" in render(report)


def test_a_socratic_lesson_is_discarded_for_a_leak_that_only_plan_and_judge_see(tmp_path: Path) -> None:
    (tmp_path / "briefs.jsonl").write_text(json.dumps(BRIEF))
    config = {"run": "r", "graph": "socratic", "briefs": [{"from": str(tmp_path / "briefs.jsonl")}]}
    telling = [{**PLAN, "reveals": True, "utterance": f"{FACT} {HINT}"}]
    script = {**SCRIPT, "tutor": telling, "leak_judge": [{"reveals": "answer", **ACCEPT}]}
    generate(config, out=tmp_path / "run", models={"default": ScriptedModel(script)})
    [run] = evaluate_runs([tmp_path / "run"]).runs
    assert [(each.status, each.reason, each.dialogues) for each in run.endings] == [("discarded", "leak", one(1))]
