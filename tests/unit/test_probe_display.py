"""Learning probes as `tutelage show` has them."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tutelage import Attempt, Brief, Call, Outcome, Step, Transcript, Turn
from tutelage.dialogue.brief import Probe
from tutelage.transcripts.display import show
from tutelage.transcripts.probe_display import together
from tutelage.transcripts.transcript import GraphIdentity, Usage

CALL = Call(model="m", prompt_sha256="0" * 64)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
PROBE = Probe(
    question="What is [bold]1/3 + 1/4[/bold]?", choices=("7/12", "2/7", "1/12"), answer="7/12", misconception="2/7"
)


def reply(choice: str, when: str = "before", probe: int = 0) -> Step:
    right, wrong = choice == PROBE.answer, choice == PROBE.misconception
    data: dict[str, Any] = {"probe": probe, "choice": choice, "correct": right, "misconception": wrong}
    return Step(kind=f"probe_{when}", role="student", text="{}", data=data, call=CALL)


def shown(folder: Path, steps: list[Step], **more: Any) -> str:
    said = Attempt(text="Is it 2/5?", status="accepted", call=CALL)
    transcript = Transcript(
        id="d",
        run="r",
        graph=GraphIdentity(name="socratic", sha256="0" * 64),
        brief=Brief(id="b", topic="Sums", probes=(PROBE,)),
        turns=[Turn(index=0, role="student", text="Is it 2/5?", attempts=[said], steps=steps)],
        outcome=Outcome(status="completed", reason="mastered"),
        usage=Usage(),
        started=NOW,
        finished=NOW,
        **more,
    )
    (folder / "transcripts").mkdir()
    (folder / "transcripts" / "0.jsonl").write_bytes(transcript.as_line())
    console = Console(file=io.StringIO(), width=100)
    show(folder, "d", console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_probe_is_shown_once_with_how_often_each_choice_was_taken(tmp_path: Path) -> None:
    page = shown(tmp_path, [reply("2/7"), reply("7/12"), reply("2/7"), reply("1/12"), reply("7/12", "after")])
    assert page.count("What is [bold]1/3 + 1/4[/bold]?") == 2
    before, after = page.split("asked after the lesson")
    assert "asked before the lesson" in before
    assert "✗ 2/7: 2 of 4, as the misconception has it" in before
    assert "✓ 7/12: 1 of 4" in before and "✗ 1/12: 1 of 4" in before
    assert "✓ 7/12: 1 of 1" in after


def test_what_was_asked_before_the_lesson_stands_before_its_first_words(tmp_path: Path) -> None:
    solution = Step(kind="solution", role="solver", text="print(7 / 12)", call=CALL)
    judgement = Step(kind="assessment", role="judge", text="{}", call=CALL)
    page = shown(tmp_path, [solution, reply("2/7"), judgement, reply("7/12", "after")])
    before, after = page.split("Is it 2/5?")
    assert before.index("print(7 / 12)") < before.index("asked before the lesson")
    assert "Judge, assessment" in after and "asked after the lesson" in after
    assert "print(7 / 12)" not in after and "asked before" not in after


def test_a_probe_that_the_brief_has_not_is_shown_by_its_number(tmp_path: Path) -> None:
    assert "probe 7" in shown(tmp_path, [reply("2/7", probe=7)])


def test_other_steps_stand_alone() -> None:
    misfit = Step(kind="misfit", role="student", text="?", call=CALL)
    steps = [misfit, misfit, reply("2/7"), reply("7/12"), misfit, reply("7/12"), reply("2/7", probe=1)]
    assert [len(group) for group in together(steps)] == [1, 1, 2, 1, 1, 1]


def test_who_the_student_is_and_what_was_found_stand_at_the_top(tmp_path: Path) -> None:
    profiles = {"student": {"persona": "terse", "manner": "You say little."}}
    page = shown(tmp_path, [], profiles=profiles, findings={"technique": "direct_request"})
    top = page.split("Is it 2/5?")[0]
    assert all(text in top for text in ("persona: terse", "manner: You say little.", "technique: direct_request"))
