"""Whole dialogues for people: session traces for the Hub's viewer, tasks for Label Studio."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import orjson
import pytest

from tutelage import Brief, Turn
from tutelage.dialogue.turn import Attempt, Call, Outcome
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.layouts import label_studio, traces
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut
from tutelage.generation.peoples_decisions import take_over
from tutelage.transcripts.decisions import Decision, read_decisions
from tutelage.transcripts.store import TranscriptStore
from tutelage.transcripts.transcript import GraphIdentity, Transcript, Usage

Row = dict[str, Any]

SAID = (
    ("tutor", "Which size must the parts have?"),
    ("student", "The same."),
    ("tutor", "Why?"),
    ("student", "Or I add pears to apples."),
)
BRIEF = Brief(id="halves", topic="fractions", question="What is 1/2 + 1/3?", answer=("5/6",))


def transcript(id_: str = "d0", said: Sequence[tuple[str, str]] = SAID) -> Transcript:
    return Transcript(
        id=id_,
        run="fractions",
        graph=GraphIdentity(name="lesson", sha256="0" * 64),
        brief=BRIEF,
        turns=[turn(index, role, text) for index, (role, text) in enumerate(said)],
        outcome=Outcome(status="completed", reason="out_of_turns"),
        usage=Usage(),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 2, tzinfo=UTC),
    )


def turn(index: int, role: str, text: str) -> Turn:
    """What a person says has no attempts: here those whose role says so."""
    attempts = (
        []
        if role == "person"
        else [Attempt(text=text, status="accepted", call=Call(model=f"model-of-{role}", prompt_sha256="0" * 64))]
    )
    return Turn(index=index, role=role, text=text, attempts=attempts)


def run_of(folder: Path, *transcripts: Transcript, decisions: Sequence[Decision] = ()) -> Path:
    store = TranscriptStore(folder / "transcripts")
    store.append([each.as_line() for each in transcripts])
    store.close()
    (folder / "messages.jsonl").touch()
    (folder / "decisions.jsonl").write_bytes(b"".join(each.model_dump_json().encode() + b"\n" for each in decisions))
    return folder


def traced(
    folder: Path, *transcripts: Transcript, decisions: Sequence[Decision] = (), **options: Any
) -> dict[str, list[Row]]:
    """The lines of each trace, by its file's name."""
    run = run_of(folder / "run", *transcripts, decisions=decisions)
    export(run, Request(format="traces", **options), out=folder / "out")
    files = (folder / "out" / "data" / "train" / "00000").iterdir()
    return {path.name: [orjson.loads(line) for line in path.read_bytes().splitlines()] for path in files}


def tasks_of(folder: Path, *transcripts: Transcript, decisions: Sequence[Decision] = ()) -> list[Row]:
    run = run_of(folder / "run", *transcripts, decisions=decisions)
    export(run, Request(format="label-studio"), out=folder / "out")
    paths = sorted((folder / "out" / "data").iterdir())
    return [task for path in paths for task in orjson.loads(path.read_bytes())]


def contents(lines: list[Row]) -> list[str]:
    return [line["message"]["content"] for line in lines[1:]]


def test_a_trace_is_a_session_line_and_then_its_messages(tmp_path: Path) -> None:
    session, *messages = traced(tmp_path, transcript())["d0.jsonl"]
    assert session["type"] == "session"
    assert session["harness"] == "tutelage"
    assert session["id"] == "d0"
    assert session["name"] == "What is 1/2 + 1/3?"
    assert messages == [
        {
            "type": "message",
            "message": {
                "role": {"tutor": "assistant", "student": "user"}[role],
                "content": text,
                "model": f"model-of-{role}",
            },
        }
        for role, text in SAID
    ]


def test_the_role_that_is_asked_for_is_the_assistant(tmp_path: Path) -> None:
    lines = traced(tmp_path, transcript(), role="student")["d0.jsonl"]
    assert [line["message"]["role"] for line in lines[1:]] == ["user", "assistant", "user", "assistant"]


def test_where_several_others_spoke_each_is_named(tmp_path: Path) -> None:
    said = (("tutor", "Who begins?"), ("ann", "I do."), ("bob", "No, I."))
    lines = traced(tmp_path, transcript(said=said))["d0.jsonl"]
    assert contents(lines) == ["Who begins?", "ann: I do.", "bob: No, I."]


def test_a_persons_words_are_said_to_be_a_persons(tmp_path: Path) -> None:
    lines = traced(tmp_path, transcript(said=(("tutor", "Hello?"), ("person", "Hi."))))["d0.jsonl"]
    assert [line["message"]["model"] for line in lines[1:]] == ["model-of-tutor", "a person"]


def test_a_trace_has_what_people_wrote_instead_and_ends_before_what_they_dropped(tmp_path: Path) -> None:
    decisions = [
        Decision(id="d0", turn=0, by="ada", decision="edit", text="How large are the parts?"),
        Decision(id="d0", turn=2, by="ada", decision="drop"),
    ]
    lines = traced(tmp_path, transcript(), decisions=decisions)["d0.jsonl"]
    assert contents(lines) == ["How large are the parts?", "The same."]
    assert [line["message"]["model"] for line in lines[1:]] == ["a person", "model-of-student"]


def test_an_id_that_would_be_no_file_name_is_hashed(tmp_path: Path) -> None:
    files = traced(tmp_path, transcript("../../outside"))
    (name,) = files
    assert re.fullmatch(r"[0-9a-f]{16}\.jsonl", name)
    assert files[name][0]["id"] == "../../outside"


def test_a_dialogue_that_is_in_two_runs_is_refused_rather_than_written_over(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, transcript()) for name in ("one", "two")]
    with pytest.raises(ExportError, match=r"the dialogue 'd0' is in two of the runs"):
        export(runs, Request(format="traces", dedup="none"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_traces_are_spread_over_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "PER_FOLDER", 2)
    said = [[(role, f"{text} {number}") for role, text in SAID] for number in range(5)]
    run = run_of(tmp_path / "run", *(transcript(f"d{number}", each) for number, each in enumerate(said)))
    export(run, Request(format="traces"), out=tmp_path / "out")
    folders = sorted((tmp_path / "out" / "data" / "train").iterdir())
    assert [len(list(folder.iterdir())) for folder in folders] == [2, 2, 1]


def test_a_task_has_the_dialogues_id_and_each_turn_with_its_index(tmp_path: Path) -> None:
    (task,) = tasks_of(tmp_path, transcript())
    assert task["data"]["dialogue"] == "d0"
    assert task["data"]["turns"] == [
        {"turn": index, "role": role, "text": text} for index, (role, text) in enumerate(SAID)
    ]
    assert task["predictions"] == []


def test_a_task_shows_what_was_decided_before_by_author(tmp_path: Path) -> None:
    decisions = [
        Decision(id="d0", turn=2, by="ada", decision="edit", text="What tells you so?", reason="Kinder."),
        Decision(id="d0", turn=1, by="judge:critic", decision="drop"),
        Decision(id="d0", by="judge:critic", decision="keep", reason="Sound."),
    ]
    (task,) = tasks_of(tmp_path, transcript(), decisions=decisions)
    by_author = {each["model_version"]: each["result"] for each in task["predictions"]}
    assert set(by_author) == {"ada", "judge:critic"}
    label, edit, reason = by_author["ada"]
    assert label["from_name"] == "turn_decision"
    assert label["value"]["paragraphlabels"] == ["edit"]
    assert task["data"]["turns"][int(label["value"]["start"])]["turn"] == 2
    assert (edit["from_name"], edit["value"]["text"]) == ("edit", ["What tells you so?"])
    assert (reason["from_name"], reason["value"]["text"]) == ("reason", ["Kinder."])
    assert len({each["id"] for each in by_author["ada"]}) == 1
    dropped, kept, why = by_author["judge:critic"]
    assert dropped["value"]["paragraphlabels"] == ["drop"]
    assert kept["value"] == {"choices": ["keep"]}
    assert why["value"] == {"text": ["Sound."]}


def test_a_task_leaves_out_decisions_that_label_studio_has_no_place_for(tmp_path: Path) -> None:
    decisions = [
        Decision(id="d0", turn=99, by="ada", decision="drop"),
        Decision(id="d0", turn=0, by="ada", decision="prefer", text="Else?"),
    ]
    (task,) = tasks_of(tmp_path, transcript(), decisions=decisions)
    assert task["predictions"] == []


def test_a_task_shows_turns_as_they_were_said_though_somebody_edited_or_dropped_them(tmp_path: Path) -> None:
    decisions = [
        Decision(id="d0", turn=0, by="ada", decision="edit", text="Else."),
        Decision(id="d0", turn=1, by="ada", decision="drop"),
    ]
    (task,) = tasks_of(tmp_path, transcript(), decisions=decisions)
    assert [each["text"] for each in task["data"]["turns"]] == [text for _, text in SAID]


def test_tasks_are_lists_in_json_of_which_none_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio, "FILE_BYTES", 1000)
    said = [[(role, f"{text} {number}") for role, text in SAID] for number in range(5)]
    tasks = tasks_of(tmp_path, *(transcript(f"d{number}", each) for number, each in enumerate(said)))
    assert [task["data"]["dialogue"] for task in tasks] == [f"d{number}" for number in range(5)]
    assert len(list((tmp_path / "out" / "data").iterdir())) > 1


def test_the_labelling_config_has_the_names_that_the_tasks_speak_of() -> None:
    config = ET.fromstring(label_studio.CONFIG)
    names: Mapping[str, ET.Element] = {each.get("name", ""): each for each in config.iter() if each.get("name")}
    assert set(names) == {"dialogue", "turn_decision", "edit", "reason", "dialogue_decision", "dialogue_reason"}
    assert names["dialogue"].tag == "Paragraphs", "the community edition has no other tag for dialogues"
    assert [each.get("value") for each in names["turn_decision"]] == ["keep", "drop", "edit"]
    assert [each.get("value") for each in names["dialogue_decision"]] == ["keep", "drop"]


def test_a_dialogue_that_was_dropped_as_a_whole_is_no_trace_but_can_be_reviewed(tmp_path: Path) -> None:
    said = [(role, f"{text} Really.") for role, text in SAID]
    drop = [Decision(id="d1", by="judge:critic", decision="drop")]
    run = run_of(tmp_path / "run", transcript(), transcript("d1", said), decisions=drop)
    shown = export(run, Request(format="traces"), out=tmp_path / "traces")
    assert (shown.rows, shown.left_out[LeftOut.DROPPED]) == (1, 1)
    reviewed = export(run, Request(format="label-studio"), out=tmp_path / "tasks")
    assert (reviewed.rows, reviewed.left_out[LeftOut.DROPPED]) == (2, 0)


def test_what_a_task_shows_as_decided_is_read_back_as_the_same_decisions_once(tmp_path: Path) -> None:
    """An annotator who takes the predictions as they stand decides what was decided."""
    decisions = [
        Decision(id="d0", turn=2, by="ada@example.org", decision="edit", text="What tells you so?", reason="Kinder."),
        Decision(id="d0", turn=1, by="ada@example.org", decision="drop"),
        Decision(id="d0", by="ada@example.org", decision="keep", reason="Sound."),
    ]
    (task,) = tasks_of(tmp_path, transcript(), decisions=decisions)
    (prediction,) = task["predictions"]
    by = {"email": prediction["model_version"]}
    exported = tmp_path / "exported.json"
    exported.write_bytes(
        orjson.dumps([{**task, "annotations": [{"completed_by": by, "result": prediction["result"]}]}])
    )
    fresh = run_of(tmp_path / "fresh", transcript())
    assert take_over(fresh, exported).new == 3
    assert take_over(fresh, exported).new == 0
    judged = read_decisions(fresh).about(transcript())
    assert sorted((each for of in judged.decisions.values() for each in of), key=str) == sorted(decisions, key=str)
