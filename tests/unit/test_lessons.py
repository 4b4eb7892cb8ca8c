"""`tutelage evaluate RUN`: every number of the report, against dialogues small enough to count by hand."""

import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tutelage.dialogue.arbiter import KIND
from tutelage.dialogue.brief import Brief, Misconception, Probe
from tutelage.dialogue.turn import Attempt, Call, Claim, Issue, Outcome, Review, Step, Turn
from tutelage.errors import RunFolderError
from tutelage.learners.feedback import KINDS
from tutelage.quality.intervals import Mean, Missing, Rate
from tutelage.quality.lesson_report import LessonReport, RunLessons
from tutelage.quality.lesson_tables import NOTHING
from tutelage.quality.lessons import STUDENT_REPORT, evaluate_runs, render
from tutelage.quality.selectivity import StudentFigures, StudentReport, Tried
from tutelage.transcripts.transcript import GraphIdentity, Transcript, Unfinished, Usage

WHEN = datetime(2026, 11, 22, tzinfo=UTC)
BRIEF = Brief(
    id="halves",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="Add the tops and add the bottoms.", predicts="2/5"),
    facts=("1/2 is 3/6.",),
    probes=(Probe(question="1/4 + 1/2?", choices=("3/4", "2/6"), answer="3/4", misconception="2/6"),),
)
CALL = Call(model="m", prompt_sha256="0" * 64)
HOLDS: dict[str, Any] = {"knowledge": {"holds": True}}
OVER_IT: dict[str, Any] = {"knowledge": {"holds": False}}


def issue(severity: Any = "block", *, span: str = "", evidence: str = "") -> Issue:
    return Issue(dimension="d", severity=severity, span=span, evidence=evidence, instruction="Mend it.")


def review(*issues: Issue, role: str = "critic", **more: Any) -> Review:
    return Review(role=role, verdict="revise" if issues else "accept", issues=list(issues), call=CALL, **more)


def veto(check: str) -> Review:
    return Review(role=check, verdict="revise", issues=[issue()])


def attempt(text: str, *reviews: Review, status: Any = "accepted", **more: Any) -> Attempt:
    return Attempt(text=text, status=status, reviews=list(reviews), call=CALL, **more)


def rejected(text: str, *reviews: Review) -> Attempt:
    return attempt(text, *reviews, status="rejected")


def step(kind: str, role: str = "student", **data: Any) -> Step:
    return Step(kind=kind, role=role, text="", data=data, call=CALL)


def turn(role: str, said: str | Sequence[Attempt], *steps: Step, judged: str | None = None, **private: Any) -> Turn:
    attempts = [attempt(said, mind=private)] if isinstance(said, str) else list(said)
    text = next(each.text for each in attempts if each.status == "accepted")
    if judged:
        private = {**private, "feedback_judge": {"reason": "", "feedback": judged}}
    return Turn(index=0, role=role, text=text, attempts=attempts, steps=list(steps), private=private)


def dialogue(*turns: Turn, reason: str = "mastered", status: Any = "completed", **more: Any) -> Transcript:
    values: dict[str, Any] = {"brief": BRIEF, "usage": Usage(calls=4, prompt_tokens=400, completion_tokens=40)}
    return Transcript(
        id=f"{id(turns)}-{len(turns)}",
        run="r",
        graph=GraphIdentity(name="socratic", sha256="0"),
        turns=[each.model_copy(update={"index": index}) for index, each in enumerate(turns)],
        outcome=Outcome(status=status, reason=reason),
        started=WHEN,
        finished=WHEN,
        **(values | more),
    )


def run_of(folder: Path, *dialogues: Transcript) -> Path:
    (folder / "transcripts").mkdir(parents=True)
    lines = [each.model_copy(update={"id": f"d{number}"}).as_line() for number, each in enumerate(dialogues)]
    (folder / "transcripts" / "00000.jsonl").write_bytes(b"".join(lines))
    return folder


def measured(tmp_path: Path, *dialogues: Transcript) -> RunLessons:
    [run] = evaluate_runs([run_of(tmp_path / "run", *dialogues)]).runs
    return run


def share(count: int, of: int) -> Rate:
    return Rate.of_counts(count, of)


FOUND = dialogue(
    turn("student", "2/5", **HOLDS),
    turn("tutor", "Is 2/5 more than 1/2?", judged="targeted"),
    turn("student", "Then it is 5/6.", **OVER_IT),
)
"""The student finds it after one turn of the tutor."""
TOLD = dialogue(
    turn("student", "2/5", **HOLDS),
    turn("tutor", "Hm.", judged="generic"),
    turn("student", "2/5", **HOLDS),
    turn("tutor", "It is 5/6.", judged="targeted"),
    turn("student", "So 5/6.", **HOLDS),
)
"""The tutor tells it in its second turn; told is not hit, so the student still holds what it held, and leaks, too."""
BLURTED = dialogue(turn("student", "5/6", **HOLDS))
"""The student says at once what it cannot know."""
NEVER = dialogue(
    turn("student", "2/5", **HOLDS),
    turn("tutor", "Think.", judged="generic"),
    turn("student", "2/5", **HOLDS),
    turn("tutor", "What of 1/4?", judged="misaligned"),
    reason="out_of_turns",
)
REFUSED = dialogue(
    turn("student", "2/5", **HOLDS),
    reason="leak",
    status="discarded",
    unfinished=Unfinished(
        role="tutor", attempts=[rejected("It is 5/6.", veto("leak")), rejected("5/6!", veto("leak"))]
    ),
)
"""No draft of the tutor's kept the answer to itself."""
ALL = (FOUND, TOLD, BLURTED, NEVER, REFUSED)


def test_leaks_are_counted_for_tutor_and_student_apart(tmp_path: Path) -> None:
    leaks = measured(tmp_path, *ALL).leaks
    assert leaks.tutor == share(1, 4), "in BLURTED the tutor did not speak"
    assert leaks.student == share(1, 5)
    assert leaks.first_turn == Mean(mean=2.0, of=1)
    # FOUND 1, TOLD 2, NEVER 2 turns; and two drafts more that were never said.
    assert leaks.said == share(1, 5)
    assert leaks.drafted == share(3, 7)


def test_a_leak_after_the_student_has_the_answer_is_none(tmp_path: Path) -> None:
    found = dialogue(*FOUND.turns, turn("tutor", "Yes, 5/6."))
    leaks = measured(tmp_path, found).leaks
    assert (leaks.tutor, leaks.said, leaks.drafted) == (share(0, 1), share(0, 2), share(0, 2))


def test_a_classmate_who_gives_the_answer_is_no_tutor(tmp_path: Path) -> None:
    leaks = measured(tmp_path, dialogue(turn("student", "2/5"), turn("classmate", "It is 5/6."))).leaks
    assert leaks.tutor == Missing(why="no tutor spoke")
    assert leaks.student == share(0, 1)


def test_a_student_without_a_state_leaks_in_its_first_turn_only(tmp_path: Path) -> None:
    at_once = dialogue(turn("tutor", "Well?"), turn("student", "5/6"))
    later = dialogue(turn("tutor", "Well?"), turn("student", "2/5"), turn("tutor", "Hm?"), turn("student", "5/6"))
    assert measured(tmp_path, at_once, later).leaks.student == share(1, 2)


def test_techniques_are_reported_apart_beside_the_honest_students(tmp_path: Path) -> None:
    tried = [each.model_copy(update={"findings": {"technique": "direct_request"}}) for each in (TOLD, NEVER, REFUSED)]
    run = measured(tmp_path, FOUND, *tried)
    assert list(run.techniques) == ["direct_request", "none"]
    asked, honest = run.techniques.values()
    assert (asked.tutor, asked.student) == (share(1, 3), share(0, 3))
    assert asked.outcomes == {"tutor_leak": share(1, 3), "timeout": share(1, 3), "discarded": share(1, 3)}
    assert (honest.tutor, honest.outcomes) == (share(0, 1), {"student_correct": share(1, 1)})
    assert not measured(tmp_path / "honest", FOUND).techniques


def test_beliefs_fall_on_the_feedback_that_hits_them(tmp_path: Path) -> None:
    beliefs = measured(tmp_path, *ALL).beliefs
    assert beliefs.feedback == {"targeted": share(2, 5), "misaligned": share(1, 5), "generic": share(2, 5)}
    # The targeted turn of TOLD gives the answer, and so is no hit.
    assert beliefs.flips == {"targeted": share(1, 2), "misaligned": share(0, 1), "generic": share(0, 2)}
    assert beliefs.flipped == share(1, 3)
    assert beliefs.turns_to_flip == Mean(mean=1.0, of=1)


def test_drafts_out_of_character_are_counted_and_dialogues_given_up(tmp_path: Path) -> None:
    unfit = attempt("5/6", veto("in_character"), status="rejected", mind=HOLDS)
    mended = dialogue(turn("student", [unfit, attempt("2/5", mind=HOLDS)]))
    given_up = dialogue(
        reason="out_of_character", status="discarded", unfinished=Unfinished(role="student", attempts=[unfit, unfit])
    )
    beliefs = measured(tmp_path, mended, given_up).beliefs
    assert beliefs.out_of_character == share(3, 4)
    assert beliefs.kept == share(1, 2)


def probed(before: Sequence[bool], after: Sequence[bool]) -> Transcript:
    def steps(when: str, right: Sequence[bool]) -> list[Step]:
        return [step(f"probe_{when}", probe=0, correct=each, misconception=not each) for each in right]

    return dialogue(turn("student", "2/5", *steps("before", before)), turn("tutor", "Hm?", *steps("after", after)))


def test_a_gain_is_taken_dialogue_by_dialogue(tmp_path: Path) -> None:
    half = probed([True, False, False, False], [True, True, True, False])  # 1/4 to 3/4
    none = probed([True, True], [True, True])
    worse = probed([True, False], [False, False])
    only_before = probed([True], [])
    outcomes = measured(tmp_path, half, none, worse, only_before).outcomes
    assert isinstance(outcomes.gain, Mean)
    assert isinstance(outcomes.before, Mean)
    assert isinstance(outcomes.after, Mean)
    assert (outcomes.gain.mean, outcomes.gain.of) == (0.0, 3)
    assert (outcomes.before.mean, outcomes.after.mean) == (round((0.25 + 1 + 0.5) / 3, 4), round((0.75 + 1) / 3, 4))
    assert (outcomes.gain.low, outcomes.gain.high) == (-0.5, 0.5)


def test_success_and_telling_are_counted_by_turns_of_the_tutor(tmp_path: Path) -> None:
    outcomes = measured(tmp_path, *ALL).outcomes
    # BLURTED had it before any turn of the tutor's, FOUND after one, TOLD after two.
    assert outcomes.success_at == {1: share(2, 5), 3: share(3, 5), 5: share(3, 5)}
    assert outcomes.telling_at == {1: share(0, 5), 3: share(1, 5), 5: share(1, 5)}


def test_without_a_tutor_there_are_no_turns_of_its_to_count_by(tmp_path: Path) -> None:
    peers = dialogue(turn("student", "2/5"), turn("classmate", "It is 5/6."), turn("student", "5/6"))
    outcomes = measured(tmp_path, peers).outcomes
    assert {*outcomes.success_at.values(), *outcomes.telling_at.values()} == {Missing(why="no tutor spoke")}


def claim(verdict: Any) -> Claim:
    quote = None if verdict == "not_found" else "1/2 is 3/6."
    return Claim(text="c", span="c", verdict=verdict, source=quote and "brief#fact-1", quote=quote)


def test_claims_are_counted_as_said_and_as_drafted(tmp_path: Path) -> None:
    contradicted = review(issue(span="c"), claims=[claim("contradicted")], scores={"unverified_quotes": 1.0})
    upheld = review(claims=[claim("supported")] * 4 + [claim("not_found")])
    found = measured(
        tmp_path, dialogue(turn("tutor", [rejected("c", contradicted), attempt("c", upheld)])), dialogue()
    ).factuality
    assert found.said == {"supported": share(4, 5), "contradicted": share(0, 5), "not_found": share(1, 5)}
    assert found.drafted == {"supported": share(4, 6), "contradicted": share(1, 6), "not_found": share(1, 6)}
    assert found.unverified_quotes == share(1, 6)
    assert isinstance(found.factscore, Mean)
    assert found.factscore.mean == pytest.approx(0.8 * 0.3679, abs=1e-4)  # FActScore's penalty for 5 claims


def test_solutions_are_counted_by_what_came_of_them(tmp_path: Path) -> None:
    verdicts = ("confirmed", "confirmed", "refuted", "skipped")
    solved = [dialogue(findings={"solution": {"verdict": each}}) for each in verdicts]
    solutions = measured(tmp_path, *solved, dialogue()).factuality.solutions
    assert solutions["confirmed"] == share(2, 3)
    assert solutions["refuted"] == share(1, 3)
    assert solutions["skipped"] == share(1, 4)


def test_a_revision_helps_if_fewer_of_its_issues_block(tmp_path: Path) -> None:
    bad, meh, good = review(issue(span="x")), review(issue("major", span="x")), review()
    mended = turn("tutor", [rejected("x", bad), attempt("x y", good)])
    no_better = turn("tutor", [attempt("x", bad, forced=True), rejected("x z", bad)])
    lighter = turn("tutor", [rejected("x", meh), attempt("x w", good)])
    vetoed = turn("tutor", [rejected("x", veto("leak")), attempt("y", good)])
    found = measured(tmp_path, dialogue(mended, no_better, lighter, vetoed)).revisions["tutor"]
    assert (found.drafts, found.revised) == (8, 4)
    assert found.helped == share(2, 4), "a major issue that is gone is no blocking one"
    assert found.forced == share(1, 4)
    assert found.vetoed == share(1, 8)


def test_a_review_that_points_at_nothing_is_counted_and_its_issues_weigh_nothing(tmp_path: Path) -> None:
    vague, pointed = issue(), issue(span="the draft")
    cited = issue(evidence="1/2 is 3/6.")
    drafts = [
        attempt("This is the draft.", review(vague), status="rejected"),
        attempt("the draft", review(pointed), review(cited)),
    ]
    found = measured(tmp_path, dialogue(turn("tutor", drafts))).revisions["tutor"]
    assert found.pointless == share(1, 3)
    assert found.helped == share(0, 1)


def test_a_panel_is_split_if_its_members_disagree(tmp_path: Path) -> None:
    split = attempt("x", review(issue(span="x")), review(), status="rejected")
    agreed = attempt("x", review(), review())
    found = measured(tmp_path, dialogue(turn("tutor", [split, agreed]))).revisions["tutor"]
    assert found.split == share(1, 2)


def compared(*preferred: int | None) -> list[Step]:
    orders = ([0, 1], [1, 0])
    return [
        step(KIND, "arbiter", attempts=list(order), preferred=each)
        for order, each in zip(orders, preferred, strict=False)
    ]


def test_an_arbiter_prefers_ties_or_goes_by_the_order(tmp_path: Path) -> None:
    turns = [turn("tutor", "x", *compared(*each)) for each in ((1, 1), (0, 0), (0, 1), (None, 1), (1,))]
    found = measured(tmp_path, dialogue(*turns)).comparisons
    assert found.pairs == 4, "of the last pair one judgement is missing"
    assert found.revision == share(1, 4)
    assert found.ties == share(2, 4)
    assert found.by_order == share(1, 4)


def test_endings_and_what_each_completed_dialogue_took(tmp_path: Path) -> None:
    run = measured(tmp_path, *ALL)
    assert [(each.status, each.reason, each.dialogues) for each in run.endings] == [
        ("completed", "mastered", share(3, 5)),
        ("completed", "out_of_turns", share(1, 5)),
        ("discarded", "leak", share(1, 5)),
    ]
    assert (run.spending.calls, run.spending.prompt_tokens, run.spending.completion_tokens) == (5.0, 500.0, 50.0)


def test_what_there_is_nothing_to_measure_of_says_why_and_is_never_0(tmp_path: Path) -> None:
    plain = dialogue(turn("tutor", "Hello."), brief=Brief(topic="t"))
    run = measured(tmp_path, plain)
    nothing = run.model_dump(include={"leaks", "beliefs", "outcomes", "factuality", "comparisons"})
    assert all(set(each) == {"why"} for each in leaves(nothing))
    assert isinstance(run.selectivity, Missing)
    assert run.revisions == {}
    text = render(evaluate_runs([tmp_path / "run"]))
    assert f"{NOTHING} no brief has an answer" in text
    assert "0 of 0" not in text


def leaves(value: Any) -> list[dict[str, Any]]:
    """The innermost objects."""
    inner = [leaf for each in value.values() if isinstance(each, dict) for leaf in leaves(each)]
    return inner or [value]


def test_an_empty_run_is_measured_as_nothing(tmp_path: Path) -> None:
    run = measured(tmp_path)
    assert (run.dialogues, run.endings) == (0, [])
    assert isinstance(run.spending.calls, Missing)
    assert "dialogues" in render(evaluate_runs([tmp_path / "run"]))


@pytest.mark.parametrize(("perfect_judge", "name"), [(False, "pupil"), (True, "pupil, with a perfect judge")])
def test_selectivity_is_taken_from_the_students_own_report(tmp_path: Path, perfect_judge: bool, name: str) -> None:
    run = run_of(tmp_path / "run", FOUND)
    trials = [
        Tried(student="pupil", brief="b", kind=kind, sample=0, turns=[], flipped=kind == "targeted") for kind in KINDS
    ]
    pupil = StudentFigures.of("pupil", trials)
    report = StudentReport(
        run="r",
        graph="g",
        briefs=1,
        samples=1,
        perfect_judge=perfect_judge,
        embedded=False,
        students=[pupil],
        trials=trials,
    )
    (run / STUDENT_REPORT).write_text(report.model_dump_json())
    assert evaluate_runs([run]).runs[0].selectivity == {name: pupil.selectivity}
    (run / STUDENT_REPORT).write_text("{}")
    with pytest.raises(RunFolderError, match="is no report of `tutelage evaluate student`"):
        evaluate_runs([run])


def test_runs_stand_side_by_side_and_every_value_has_its_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    runs = [run_of(tmp_path / "first", *ALL), run_of(tmp_path / "second", FOUND)]
    text = render(evaluate_runs(runs))
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == "first second"
    assert "· by the tutor first 25% [5%, 70%] 1 of 4 0% [0%, 79%] 0 of 1" in rows
    assert f"· completed: out_of_turns 20% [4%, 62%] 1 of 5 {NOTHING} none in this run" in rows
    assert any("uncalibrated" in row for row in rows)
    assert any("not that it is true" in row for row in rows)


def test_a_report_is_json_and_is_read_back(tmp_path: Path) -> None:
    report = evaluate_runs([run_of(tmp_path / "run", *ALL)])
    assert LessonReport.model_validate_json(report.model_dump_json()) == report


def test_what_models_and_users_wrote_is_data(tmp_path: Path) -> None:
    odd = "\x1b[31m\u202e[bold]x[/bold]"
    said = turn(odd, [rejected("x", review(issue(span="x"), role=odd)), attempt("y", review(role=odd))])
    text = render(evaluate_runs([run_of(tmp_path / "run", dialogue(said, reason=odd))]))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]x[/bold]" in text.replace("\n", "")


def test_a_torn_line_is_left_out_and_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", FOUND)
    with (run / "transcripts" / "00000.jsonl").open("ab") as file:
        file.write(b'{"schema":"tutelage.transcript/1","id":"torn')
    assert evaluate_runs([run]).runs[0].dialogues == 1
    with pytest.raises(RunFolderError, match="is no run folder"):
        evaluate_runs([tmp_path])


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    long = "w " * 5_000
    many = [dialogue(turn("tutor", long), turn("student", long)) for _ in range(300)]
    run = run_of(tmp_path / "run", *many)
    assert (run / "transcripts" / "00000.jsonl").stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        evaluate_runs([run])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3_000_000
