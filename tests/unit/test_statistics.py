"""`tutelage stats`: what is counted of a run."""

import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Call, Issue, Outcome, Review, Step, Turn
from tutelage.errors import RunFolderError
from tutelage.transcripts.calls import UNFINISHED
from tutelage.transcripts.statistics import (
    MOST_DIMENSIONS,
    OTHER,
    Acceptance,
    Spread,
    Statistics,
    read_statistics,
)
from tutelage.transcripts.statistics_tables import print_stats
from tutelage.transcripts.transcript import GraphIdentity, Transcript, Unfinished, Usage

BEGUN = datetime(2026, 11, 22, 8, tzinfo=UTC)


def call(**more: Any) -> Call:
    values: dict[str, Any] = {"model": "base", "prompt_sha256": "0" * 64, "prompt_tokens": 100, "cached_tokens": 60}
    return Call(**(values | {"completion_tokens": 10, "seconds": 0.5} | more))


def issue(dimension: str, severity: Any = "major") -> Issue:
    return Issue(dimension=dimension, severity=severity, instruction="Mend it.")


def review(role: str, *issues: Issue) -> Review:
    return Review(role=role, verdict="revise" if issues else "accept", issues=list(issues), call=call())


def attempt(text: str, status: Any = "accepted", *reviews: Review, forced: bool = False, **more: Any) -> Attempt:
    return Attempt(text=text, status=status, reviews=list(reviews), forced=forced, call=call(**more))


def turn(role: str, *attempts: Attempt, steps: Sequence[Step] = ()) -> Turn:
    return Turn(index=0, role=role, text=attempts[-1].text, attempts=list(attempts), steps=list(steps))


def transcript(id_: str, *turns: Turn, status: Any = "completed", reason: str = "mastered", **more: Any) -> Transcript:
    values: dict[str, Any] = {"started": BEGUN, "finished": BEGUN + timedelta(minutes=30)}
    return Transcript(
        id=id_,
        run="r",
        graph=GraphIdentity(name="lesson", sha256="0"),
        brief=Brief(topic="t"),
        turns=list(turns),
        usage=Usage(),
        outcome=Outcome(status=status, reason=reason),
        **(values | more),
    )


def run_of(tmp_path: Path, *transcripts: Transcript) -> Path:
    run = tmp_path / "fractions"
    (run / "transcripts").mkdir(parents=True)
    with (run / "transcripts" / "00000.jsonl").open("wb") as file:
        file.writelines(each.model_dump_json(by_alias=True).encode() + b"\n" for each in transcripts)
    return run


def counted(tmp_path: Path, *transcripts: Transcript) -> Statistics:
    return read_statistics(run_of(tmp_path, *transcripts))


def test_dialogues_are_counted_by_outcome_and_reason(tmp_path: Path) -> None:
    statistics = counted(
        tmp_path,
        transcript("a", status="failed", reason="wrong_shape"),
        transcript("b", reason="out_of_turns"),
        transcript("c"),
        transcript("d"),
    )
    assert statistics.dialogues == 4
    assert [(each.status, each.reason, each.dialogues) for each in statistics.endings] == [
        ("completed", "mastered", 2),
        ("completed", "out_of_turns", 1),
        ("failed", "wrong_shape", 1),
    ]


def test_a_retried_dialogue_counts_once_as_it_went_last(tmp_path: Path) -> None:
    statistics = counted(tmp_path, transcript("a", status="failed", reason="wrong_shape"), transcript("a", attempt=2))
    assert [(each.reason, each.dialogues) for each in statistics.endings] == [("mastered", 1)]


def test_turns_are_accepted_at_first_after_revision_or_by_force(tmp_path: Path) -> None:
    bad = review("critic", issue("leak"))
    good = review("critic")
    statistics = counted(
        tmp_path,
        transcript("a", turn("tutor", attempt("x", "accepted", good)), turn("student", attempt("y"))),
        transcript("b", turn("tutor", attempt("x", "rejected", bad), attempt("y", "accepted", good))),
        transcript("c", turn("tutor", attempt("x", "rejected", bad), attempt("y", "accepted", bad, forced=True))),
        transcript("d", turn("tutor", attempt("x", "accepted", bad, forced=True))),
    )
    assert statistics.acceptance == [
        Acceptance(role="tutor", turns=4, at_first=1, after_revision=1, forced=2, sent_back=2)
    ], "a student whom nobody reviews is not among them"


def test_verdicts_and_the_dimensions_of_issues_are_counted_by_reviewer(tmp_path: Path) -> None:
    first = attempt(
        "x", "rejected", review("critic", issue("Leak", "block"), issue("tone", "minor")), review("checker")
    )
    second = attempt("y", "accepted", review("critic"), review("checker"))
    pending = Unfinished(attempts=[attempt("z", "pending", review("critic", issue(" leak "), issue("leak")))])
    statistics = counted(tmp_path, transcript("a", turn("tutor", first, second), unfinished=pending))
    critic, checker = statistics.reviewers
    assert (critic.role, critic.accept, critic.revise) == ("critic", 1, 2)
    assert {name: (each.block, each.major, each.minor) for name, each in critic.issues.items()} == {
        "leak": (1, 2, 0),
        "tone": (0, 0, 1),
    }
    assert (checker.role, checker.accept, checker.revise, checker.issues) == ("checker", 2, 0, {})


def test_the_commonest_dimension_comes_first_and_too_many_are_counted_together(tmp_path: Path) -> None:
    inventive = [
        transcript(str(n), turn("tutor", attempt("x", "accepted", review("critic", issue(f"d{n}")))))
        for n in range(MOST_DIMENSIONS)
    ]
    late = [
        transcript(f"late{n}", turn("tutor", attempt("x", "accepted", review("critic", issue(f"late{n}")))))
        for n in range(5)
    ]
    [critic] = counted(tmp_path, *inventive, *late).reviewers
    assert len(critic.issues) == MOST_DIMENSIONS + 1
    assert next(iter(critic.issues)) == OTHER
    assert critic.issues[OTHER].major == 5


def test_calls_are_counted_by_role_model_and_adapter(tmp_path: Path) -> None:
    drafts = (
        attempt("x", "rejected", review("critic")),
        attempt("y", adapter="v2", finish_reason="length", seconds=1.5),
    )
    misfit = Step(kind="misfit", role="critic", text="{", call=call(model="small"))
    plan = Step(kind="plan", role="tutor", text="wait", call=call(cached_tokens=0))
    pending = Unfinished(attempts=[attempt("z", "pending")])
    statistics = counted(tmp_path, transcript("a", turn("tutor", *drafts, steps=[misfit, plan]), unfinished=pending))
    by_key = {(each.role, each.player): each for each in statistics.calls}
    assert list(by_key) == [
        ("tutor", "base"),
        ("critic", "base"),
        ("tutor", "base + v2"),
        ("critic", "small"),
        (UNFINISHED, "base"),
    ]
    tutor, adapted = by_key["tutor", "base"], by_key["tutor", "base + v2"]
    assert (tutor.calls, tutor.prompt_tokens, tutor.cached_tokens, tutor.completion_tokens) == (2, 200, 60, 20)
    assert (tutor.cached_share, tutor.mean_seconds, tutor.cut_off, tutor.misfits) == (0.3, 0.5, 0, 0)
    assert (adapted.calls, adapted.cut_off, adapted.mean_seconds) == (1, 1, 1.5)
    assert by_key["critic", "small"].misfits == 1


def test_candidates_of_one_request_are_one_call(tmp_path: Path) -> None:
    other = attempt("Or else?", "superseded", candidate=1, prompt_tokens=0, cached_tokens=0, completion_tokens=0)
    counts = counted(tmp_path, transcript("a", turn("tutor", other, attempt("What now?", candidate=0)))).calls
    assert [(count.calls, count.seconds, count.completion_tokens) for count in counts] == [(1, 0.5, 10)]


def test_turns_per_dialogue_and_words_per_turn_are_spread(tmp_path: Path) -> None:
    long = turn("tutor", attempt("one two three four"))
    short = turn("tutor", attempt("one two"))
    statistics = counted(tmp_path, transcript("a", long, short, short), transcript("b", turn("student", attempt("no"))))
    assert statistics.turns == Spread(mean=2.0, median=1, least=1, most=3)
    assert statistics.words == {
        "tutor": Spread(mean=2.67, median=2, least=2, most=4),
        "student": Spread(mean=1.0, median=1, least=1, most=1),
    }


@pytest.mark.parametrize(("numbers", "median"), [([1], 1), ([1, 2, 3], 2), ([1, 1, 9], 1), ([5, 6, 7, 8], 6)])
def test_a_median_is_a_number_that_was_counted(numbers: list[int], median: int) -> None:
    assert Spread.of(Counter(numbers)).median == median


def test_pace_is_taken_over_the_whole_run(tmp_path: Path) -> None:
    said = turn("tutor", attempt("x", completion_tokens=900, prompt_tokens=3600))
    late = transcript("b", said, started=BEGUN + timedelta(minutes=30), finished=BEGUN + timedelta(hours=2))
    throughput = counted(tmp_path, late, transcript("a", said)).throughput
    assert throughput is not None
    assert (throughput.seconds, throughput.dialogues_per_hour) == (7200, 1)
    assert (throughput.prompt_tokens_per_second, throughput.completion_tokens_per_second) == (1.0, 0.25)


def printed(run: Path, *, width: int = 80, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_stats(run, console=console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_fit_a_terminal_and_show_what_was_counted(tmp_path: Path) -> None:
    bad = attempt("x", "rejected", review("fact_checker", issue("correctness", "block")))
    said = turn("tutor", bad, attempt("y", "accepted", review("fact_checker"), model="Qwen/Qwen3-32B"))
    text = printed(run_of(tmp_path, transcript("a", said), transcript("b", status="failed", reason="wrong_shape")))
    assert max(map(len, text.splitlines())) <= 80
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert rows[0] == "fractions 2 dialogues"
    assert "30 min 0 s from 2026-11-22 08:00 UTC · 4 dialogues/h" in rows
    assert "completed mastered 1 50 %" in rows
    assert "tutor 1 · 1 (100 %) · 1" in rows
    assert "fact_checker 1 (50 %) 1 (50 %) correctness 1/0/0" in rows
    assert "tutor Qwen/Qwen3-32B 1 100 60 % 10 0.50 · ·" in rows


def test_json_is_one_object_with_every_number(tmp_path: Path) -> None:
    run = run_of(tmp_path, transcript("a", turn("tutor", attempt("x", "accepted", review("critic")))))
    value = json.loads(printed(run, json=True))
    assert value["dialogues"] == 1
    assert value["endings"] == [{"status": "completed", "reason": "mastered", "dialogues": 1}]
    assert value["calls"][0]["cached_share"] == 0.6
    assert value["throughput"]["started"] == "2026-11-22T08:00:00Z"


def test_what_models_and_users_wrote_is_data(tmp_path: Path) -> None:
    odd = "\x1b[31m\u202e[bold]x[/bold]"
    said = turn(odd, attempt(odd, "accepted", review(odd, issue(odd)), model=odd, adapter=odd))
    text = printed(run_of(tmp_path, transcript("a", said, reason=odd)), width=200)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("[bold]x[/bold]") >= 6


def test_a_run_without_dialogues_and_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert printed(run_of(tmp_path)).strip() == "fractions   0 dialogues"
    assert json.loads(printed(tmp_path / "fractions", json=True))["throughput"] is None
    with pytest.raises(RunFolderError, match="is no run folder"):
        read_statistics(tmp_path)


def test_memory_does_not_grow_with_what_was_said(tmp_path: Path) -> None:
    words = "w" * 10_000
    run = run_of(tmp_path, *(transcript(str(n), *[turn("tutor", attempt(words))] * 5) for n in range(200)))
    assert (run / "transcripts" / "00000.jsonl").stat().st_size > 10_000_000
    tracemalloc.start()
    try:
        read_statistics(run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
