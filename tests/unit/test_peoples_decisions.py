"""What people decided elsewhere is taken over: once, and only what is about the run."""

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage import Brief
from tutelage.errors import UserError
from tutelage.generation.peoples_decisions import TakenOver, take_over
from tutelage.transcripts.decisions import Decision, read_decisions

BRIEF = Brief(id="b", topic="Sums")


@pytest.fixture
def run(written_run: Any) -> Path:
    drafts = [("It is 4.", "rejected"), ("Is it 4?", "superseded"), ("Why?", "accepted")]
    written_run.add(("tutor", drafts), ("student", [("Hm.", "accepted")]), brief=BRIEF)
    path: Path = written_run.path
    return path


def decisions(run: Path) -> list[Decision]:
    return list(read_decisions(run, on_skip=pytest.fail))


def from_lines(run: Path, *lines: dict[str, Any] | str) -> TakenOver:
    path = run.parent / "people.jsonl"
    written = (each if isinstance(each, str) else json.dumps(each) for each in lines)
    path.write_text("".join(f"{each}\n" for each in written))
    return take_over(run, path)


def said(**fields: Any) -> dict[str, Any]:
    return {"id": "d0", "turn": 0, "by": "ada", "decision": "keep", **fields}


def test_lines_are_taken_over_once_however_often_they_are_read(run: Path) -> None:
    lines = [said(decision="drop"), said(decision="edit", text="Why so?", reason="Kinder."), said(by="bob", turn=None)]
    first = from_lines(run, *lines)
    assert (first.new, first.known, first.refused) == (2, 0, [])
    again = from_lines(run, *lines)
    assert (again.new, again.known) == (0, 2)
    assert [(each.by, each.turn, each.decision, each.text) for each in decisions(run)] == [
        ("ada", 0, "edit", "Why so?"),
        ("bob", None, "keep", None),
    ]
    assert (run / "decisions.jsonl").read_bytes().count(b"\n") == 2


def test_who_changes_their_mind_is_taken_at_their_last_word(run: Path) -> None:
    from_lines(run, said())
    assert from_lines(run, said(decision="drop")).new == 1
    assert [each.decision for each in decisions(run)] == ["drop"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (said(id="d9"), "line 1: the run has no dialogue 'd9'"),
        (said(turn=2), "line 1: the dialogue 'd0' has the turns 0 to 1, and no turn 2"),
        (said(turn=-1), "and no turn -1"),
        (said(decision="perhaps"), "line 1: decision"),
        (said(decision="edit"), "needs a `text`"),
        (said(decision="edit", text="All new.", turn=None), "is about one turn"),
        (said(decision="prefer", text="Nobody said so."), "none of the turn's drafts and candidates"),
        (said(by=""), "line 1: by"),
        (said(more=1), "line 1: more"),
        ("{torn", "line 1: no JSON"),
    ],
)
def test_what_does_not_hold_is_refused_with_its_line_and_the_rest_is_taken(
    run: Path, line: dict[str, Any] | str, says: str
) -> None:
    taken = from_lines(run, line, said(by="bob"))
    assert taken.new == 1
    [refused] = taken.refused
    assert says in refused
    assert [each.by for each in decisions(run)] == ["bob"]


@pytest.mark.parametrize("text", ["It is 4.", " Is it 4? "])
def test_drafts_and_candidates_may_be_preferred(run: Path, text: str) -> None:
    assert from_lines(run, said(decision="prefer", text=text)).new == 1


@pytest.mark.parametrize("lines", [[], [said(id="d9")], ["[torn"]])
def test_a_file_of_which_nothing_holds_is_the_wrong_one(run: Path, lines: list[Any]) -> None:
    with pytest.raises(UserError):
        from_lines(run, *lines)
    assert not decisions(run)


def test_a_file_that_is_not_there_is_said(run: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        take_over(run, run / "nothing.jsonl")


def region(id_: str, place: int, label: str, *, end: int | None = None, **texts: str) -> list[dict[str, Any]]:
    """What Label Studio exports of a marked turn."""
    span = {"start": str(place), "end": str(place if end is None else end), "startOffset": 0, "endOffset": 4}
    marked = {"id": id_, "to_name": "dialogue"}
    result = [
        {
            **marked,
            "from_name": "turn_decision",
            "type": "paragraphlabels",
            "value": {**span, "paragraphlabels": [label]},
        }
    ]
    return result + [
        {**marked, "from_name": name, "type": "textarea", "value": {**span, "text": [text]}}
        for name, text in texts.items()
    ]


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    turns = [{"turn": 0, "role": "tutor", "text": "Why?"}, {"turn": 1, "role": "student", "text": "Hm."}]
    return {
        "id": 1,
        "data": {"dialogue": "d0", "run": "written", "turns": turns, **data},
        "annotations": [*annotations],
    }


def from_label_studio(run: Path, *tasks: Any) -> TakenOver:
    path = run.parent / "label_studio.json"
    path.write_text(json.dumps(tasks))
    return take_over(run, path)


def test_annotations_become_decisions_about_turns_and_dialogues(run: Path) -> None:
    whole = [
        {"id": "x", "from_name": "dialogue_decision", "type": "choices", "value": {"choices": ["keep"]}},
        {"id": "y", "from_name": "dialogue_reason", "type": "textarea", "value": {"text": ["Fine."]}},
    ]
    taken = from_label_studio(
        run,
        task(
            {
                "completed_by": {"id": 3, "email": "ada@example.org"},
                "result": [*region("a", 0, "edit", edit="Why so?", reason="Kinder."), *region("b", 1, "drop"), *whole],
            },
            {"completed_by": 7, "result": region("c", 0, "keep", end=1)},
        ),
    )
    assert (taken.new, taken.refused) == (5, [])
    found = {(each.by, each.turn): (each.decision, each.text, each.reason) for each in decisions(run)}
    assert found == {
        ("ada@example.org", 0): ("edit", "Why so?", "Kinder."),
        ("ada@example.org", 1): ("drop", None, ""),
        ("ada@example.org", None): ("keep", None, "Fine."),
        ("label-studio:7", 0): ("keep", None, ""),
        ("label-studio:7", 1): ("keep", None, ""),
    }


def test_a_turn_is_known_by_its_index_and_not_by_its_place_in_the_task(run: Path) -> None:
    of_one = [{"turn": 1, "role": "student", "text": "Hm."}]
    from_label_studio(run, task({"completed_by": 7, "result": region("a", 0, "drop")}, turns=of_one))
    assert [each.turn for each in decisions(run)] == [1]


def test_an_annotation_that_was_cancelled_says_nothing_and_the_latest_one_counts(run: Path) -> None:
    def annotation(label: str, when: str, **more: Any) -> dict[str, Any]:
        return {"completed_by": 7, "updated_at": when, "result": region("a", 0, label), **more}

    late, early = annotation("drop", "2026-02-02T00:00:00Z"), annotation("keep", "2026-01-01T00:00:00Z")
    cancelled = annotation("keep", "2026-03-03T00:00:00Z", was_cancelled=True)
    from_label_studio(run, task(late, early, cancelled))
    assert [each.decision for each in decisions(run)] == ["drop"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"data": {"text": "another project's"}, "annotations": []},
        "no task",
        task({"completed_by": 7, "result": region("a", 9, "keep")}),
        task({"completed_by": 7, "result": region("a", 0, "edit")}),
        task({"completed_by": 7, "result": region("a", 0, "keep")}, dialogue="d9"),
    ],
)
def test_tasks_of_others_are_refused_with_their_number(run: Path, foreign: Any) -> None:
    taken = from_label_studio(run, task({"completed_by": 7, "result": region("a", 0, "keep")}), foreign)
    assert taken.new == 1
    assert [each.startswith("task 2: ") for each in taken.refused] == [True]
