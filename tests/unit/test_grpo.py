"""Prompts with a verifier: which turns give one, what the verifier is told, and that its rewards come out the same."""

import inspect
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

import tutelage
from tutelage import Brief, Dialogue, read_transcripts
from tutelage.checks.answers import gives
from tutelage.checks.leaks import leaked_by, undecided
from tutelage.dialogue.brief import Misconception
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.request import FileKind, Request
from tutelage.exports.rewards import gives_the_answer, keeps_the_answer, verified
from tutelage.exports.rows import LeftOut
from tutelage.testing import SimulatedEndpoint
from tutelage.transcripts.messages import Prompts

BRIEF = Brief(
    id="halves",
    topic="fractions",
    question="What is 1/2 + 1/3?",
    answer=("5/6", "five sixths"),
    misconception=Misconception(belief="Add tops and bottoms.", predicts="2/5"),
    giveaway=("common denominator",),
)

Row = dict[str, Any]


def exported(run: Any, out: Path, role: str = "tutor") -> tuple[list[Row], Any]:
    summary = export(run.path, Request(format="grpo", role=role, files="jsonl"), out=out)
    return [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()], summary


def lesson(run: Any, *turns: tuple[str, str], brief: Brief = BRIEF) -> None:
    run.add(*((role, [(text, "unseen")]) for role, text in turns), brief=brief)


def columns(row: Row, times: int = 1) -> dict[str, list[Any]]:
    """A row as a trainer gives it to a reward function: each column as a list, once for each completion."""
    return {name: [value] * times for name, value in row.items()}


def test_a_row_is_what_the_role_was_shown_and_what_its_reply_is_verified_against(
    written_run: Any, tmp_path: Path
) -> None:
    lesson(written_run, ("student", "Is it 2/5?"), ("tutor", "Which parts have both?"))
    [row], _ = exported(written_run, tmp_path / "out")
    assert row["prompt"] == [{"role": "system", "content": "You teach."}, {"role": "user", "content": "Is it 2/5?"}]
    told = ("verifier", "question", "answer", "predicts", "giveaway", "language", "reference", "reward", "seed", "id")
    assert {name: row[name] for name in told} == {
        "verifier": "keeps_the_answer",
        "question": "What is 1/2 + 1/3?",
        "answer": ["5/6", "five sixths"],
        "predicts": "2/5",
        "giveaway": ["common denominator"],
        "language": "",
        "reference": "Which parts have both?",
        "reward": 1.0,
        "seed": 7,
        "id": "d0/1",
    }
    assert "5/6" not in str(row["prompt"])


def test_a_tutor_is_to_keep_the_answer_and_a_student_to_give_it(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, ("tutor", "What is 1/2 in sixths?"), ("student", "It is 5/6."))
    [kept], _ = exported(written_run, tmp_path / "tutor")
    [given], _ = exported(written_run, tmp_path / "student", role="student")
    assert (kept["verifier"], kept["reward"]) == ("keeps_the_answer", 1.0)
    assert (given["verifier"], given["reward"]) == ("gives_the_answer", 1.0)


@pytest.mark.parametrize(
    ("text", "kept", "given"),
    [
        ("Which parts have both?", 1.0, 0.0),
        ("It is 5/6.", 0.0, 1.0),
        ("The answer is five sixths.", 0.0, 1.0),
        ("It is 0.8333.", 0.0, 1.0),
        ("Find a common denominator.", 0.0, 0.0),
        ("It is 2/5.", 1.0, 0.0),
        ("It is 5/6, or it is 2/5.", 0.5, 0.0),
        ("It is 3/6 + 2/6.", 0.5, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_rewards_tell_who_gives_the_answer_from_who_keeps_it(
    written_run: Any, tmp_path: Path, text: str, kept: float, given: float
) -> None:
    lesson(written_run, ("tutor", "What is 1/2 in sixths?"))
    [row], _ = exported(written_run, tmp_path / "out")
    messages = [[{"role": "assistant", "content": text}], [{"role": "assistant", "content": "Hm."}]]
    assert keeps_the_answer(messages, **columns(row, 2)) == [kept, 1.0]
    assert gives_the_answer(messages, **columns(row, 2)) == [given, 0.0]
    assert verified([text], **columns(row)) == [kept]


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"answer": ["chlorophyll", "leaf green"]}, "It is leaf green."), ({"language": "de"}, "Es sind fünf Sechstel.")],
)
def test_each_form_of_the_answer_counts_in_the_language_of_the_dialogue(
    written_run: Any, tmp_path: Path, changes: Row, text: str
) -> None:
    lesson(written_run, ("tutor", "What is 1/2 in sixths?"))
    [row], _ = exported(written_run, tmp_path / "out")
    assert gives_the_answer([text], **columns({**row, **changes})) == [1.0]
    assert gives_the_answer([text], **columns(row)) == [0.0]


def test_reward_functions_take_whatever_else_the_trainer_knows(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, ("tutor", "What is 1/2 in sixths?"))
    [row], _ = exported(written_run, tmp_path / "out")
    more: Row = {"prompts": [row["prompt"]], "completion_ids": [[1, 2]], "trainer_state": None, "log_extra": print}
    for function in (verified, gives_the_answer, keeps_the_answer):
        assert not inspect.iscoroutinefunction(function)
        assert function(completions=["Hm?"], **columns(row), **more) == [float(function is not gives_the_answer)]


def test_a_term_that_was_said_before_gives_nothing_away_any_more(written_run: Any, tmp_path: Path) -> None:
    lesson(
        written_run,
        ("tutor", "What is 1/2 in sixths?"),
        ("student", "Is that a common denominator?"),
        ("tutor", "Yes, that is a common denominator."),
    )
    rows, _ = exported(written_run, tmp_path / "out")
    assert [row["giveaway"] for row in rows] == [["common denominator"], []]
    assert [row["reward"] for row in rows] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("turns", "brief"),
    [
        ([("tutor", "It is 5/6."), ("student", "Ah."), ("tutor", "Yes, 5/6.")], BRIEF),
        ([("tutor", "Well?"), ("student", "5/6"), ("tutor", "Yes, 5/6.")], BRIEF),
        # A small number stands in any talk; who says little else has answered.
        ([("tutor", "Well?"), ("student", "I think 3"), ("tutor", "Yes, 3.")], Brief(id="sides", answer=("3",))),
    ],
)
def test_rows_end_where_the_answer_is_in_sight(
    written_run: Any, tmp_path: Path, turns: list[tuple[str, str]], brief: Brief
) -> None:
    lesson(written_run, *turns, brief=brief)
    rows, summary = exported(written_run, tmp_path / "out")
    assert [row["turn"] for row in rows] == [0]
    assert summary.left_out == {LeftOut.ANSWER_KNOWN: 1}


def test_what_a_person_said_gives_no_row(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", []), ("student", [("Hm.", "unseen")]), ("tutor", [("Well?", "unseen")]), brief=BRIEF)
    rows, summary = exported(written_run, tmp_path / "out")
    assert [row["turn"] for row in rows] == [2]
    assert summary.left_out == {LeftOut.A_PERSONS: 1}


@pytest.mark.parametrize(
    ("brief", "reason"),
    [
        (Brief(id="chat", topic="fractions"), "1 no answer"),
        (BRIEF.model_copy(update={"question": "Is 1/2 + 1/3 equal to 5/6?"}), "1 answer known"),
    ],
)
def test_without_an_answer_to_find_there_is_nothing_to_verify(
    written_run: Any, tmp_path: Path, brief: Brief, reason: str
) -> None:
    lesson(written_run, ("tutor", "Well?"), brief=brief)
    with pytest.raises(ExportError, match=f"left out: {reason}"):
        exported(written_run, tmp_path / "out")


def test_a_turn_that_was_decided_against_gives_no_row(written_run: Any, tmp_path: Path) -> None:
    lesson(written_run, ("tutor", "Well?"), ("student", "Hm."), ("tutor", "What is a half?"))
    written_run.decide(turn=0, by="ada", decision="drop")
    rows, summary = exported(written_run, tmp_path / "out")
    assert [row["turn"] for row in rows] == [2]
    assert summary.left_out == {LeftOut.DROPPED: 1}


# In one of the five the student, in another the tutor has nothing to be rewarded for: the other brought the answer.
PLAYS = """\
tutor: What is 1/2 in sixths?; student: Three sixths.; tutor: And 1/3?; student: 5/6!; tutor: Right.
tutor: It is 5/6.; student: Oh.; tutor: See?
tutor: Halves and thirds?; student: I say 2/5.; tutor: Draw it.; student: Then it is five sixths.
tutor: 3/6 + 2/6?; student: Hm.; tutor: Use a common denominator.; student: A common what?; tutor: Think.
student: 5/6; tutor: How so?
"""


@pytest.mark.parametrize("files", ["jsonl", "parquet"])
@pytest.mark.parametrize("role", ["tutor", "student"])
def test_rewards_of_20_stored_dialogues_recompute_from_the_files(
    written_run: Any, tmp_path: Path, role: str, files: FileKind
) -> None:
    """Against what the checks say of the transcripts themselves, too: SCIENCE's row 32."""
    plays = [[tuple(turn.strip().split(": ", 1)) for turn in line.split("; ")] for line in PLAYS.splitlines()]
    for number in range(25):
        turns = [(name, [(text, "unseen")]) for name, text in plays[number % len(plays)]]
        written_run.add(*turns, brief=BRIEF, id_=f"d{number}")
    export(written_run.path, Request(format="grpo", role=role, files=files, dedup="none"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out", files)
    assert len({row["dialogue"] for row in rows}) == 20
    together = {name: [row[name] for row in rows] for name in rows[0]}
    stored = [row["reward"] for row in rows]
    assert verified([[{"role": "assistant", "content": row["reference"]}] for row in rows], **together) == stored
    assert set(stored) == {0.0, 1.0} if role == "student" else {0.0, 0.5, 1.0}
    transcripts = {transcript.id: transcript for transcript in read_transcripts(written_run.path)}
    for row in rows:
        transcript = transcripts[row["dialogue"]]
        turn = transcript.turns[row["turn"]]
        before: Dialogue = {"brief": transcript.brief, "turns": transcript.turns[: row["turn"]]}
        if role == "student":
            assert row["reward"] == float(gives(turn.text, BRIEF)), row
        else:
            doubt = 0.5 if undecided(turn.text, BRIEF) else 1.0
            assert row["reward"] == (0.0 if leaked_by(before, turn.attempts[0]) else doubt), row


def rows_of(out: Path, files: FileKind) -> list[Row]:
    if files == "parquet":
        return [row for path in out.rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()]


def test_a_prompt_is_what_a_real_run_sent_and_holds_the_answer_only_where_the_role_was_shown_it(
    tmp_path: Path,
) -> None:
    briefs = Path(tutelage.__file__).parents[1] / "examples" / "briefs" / "mathematics.jsonl"
    with SimulatedEndpoint(completion_tokens=16) as endpoint:
        config = {
            "run": "lessons",
            "models": {"default": {"url": endpoint.url, "model": endpoint.config.model}},
            "briefs": [{"from": str(briefs)}],
            "limits": {"messages": 4},
            "target": {"dialogues": 4},
        }
        tutelage.generate(config, out=tmp_path / "run")
    by_id = {transcript.id: transcript for transcript in read_transcripts(tmp_path / "run")}
    export(tmp_path / "run", Request(format="grpo", role="student", files="jsonl"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out", "jsonl")
    assert rows
    with Prompts(tmp_path / "run") as prompts:
        for row in rows:
            transcript = by_id[row["dialogue"]]
            sent = transcript.turns[row["turn"]].attempts[0].call.prompt_sha256
            assert row["prompt"] == prompts.messages(sent)
            assert not gives_the_answer([row["prompt"]], **columns(row))[0]
