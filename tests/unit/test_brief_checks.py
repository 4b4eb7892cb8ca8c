"""Briefs that could only be discarded, or fail in mid-dialogue, are refused before a run begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from tutelage.dialogue.brief import Brief
from tutelage.errors import BriefError
from tutelage.evidence.documents import SourceDocument, read_document
from tutelage.generation import brief_checks, generate
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.registry import load_graph


def check(folder: Path, graph: str = "open_book", **brief: Any) -> None:
    brief_check(load_graph(graph, folder), folder)(Brief.model_validate({"topic": "Tides", **brief}))


@pytest.mark.parametrize("graph", ["open_book", "socratic"])
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("nowhere.md", "'nowhere.md' cannot be read: No such file"),
        ("notes.docx", "'notes.docx' is of no kind that is read"),
        ("tides.rst", "'tides.rst' is of no kind that is read"),
        ("nothing", "'nothing' matches no file"),
        ("nothing/*.md", r"'nothing/\*.md' matches no file"),
        ("empty", "'empty' matches no file"),
        ("blank.md", "'blank.md' is empty"),
        ("latin.txt", "'latin.txt' is not in UTF-8"),
    ],
)
def test_a_document_that_cannot_be_had_is_refused(tmp_path: Path, graph: str, entry: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.docx").write_text("Tides.")
    (tmp_path / "blank.md").write_text("\n")
    (tmp_path / "latin.txt").write_bytes(b"mar\xe9e")
    with pytest.raises(ValueError, match=f"^documents: .*{reason}"):
        check(tmp_path, graph, documents=["The Moon pulls at the sea.", entry])


def test_what_is_there_is_taken_and_a_graph_that_reads_none_does_not_look(tmp_path: Path) -> None:
    (tmp_path / "sea").mkdir()
    (tmp_path / "sea" / "tides.md").write_text("# Tides")
    check(tmp_path, documents=["sea", "sea/*.md", "sea/tides.md", "The Moon pulls at the sea."])
    check(tmp_path, "lesson", documents=["nowhere.md"])


def test_a_document_of_many_briefs_is_read_once_and_again_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[str]()

    def reading(path: Path, name: str) -> SourceDocument:
        read.append(name)
        return read_document(path, name)

    monkeypatch.setattr(brief_checks, "read_document", reading)
    (tmp_path / "tides.md").write_text("# Tides")
    checked = brief_check(load_graph("open_book", tmp_path), tmp_path)
    for number in range(3):
        checked(Brief(id=str(number), documents=("tides.md",)))
    assert read == ["tides.md"]
    (tmp_path / "tides.md").write_text("")
    with pytest.raises(ValueError, match="is empty"):
        checked(Brief(id="4", documents=("tides.md",)))


@pytest.mark.parametrize(("answer", "predicts"), [("5/6", "10/12"), ("1 km", "1000 m"), ("3600", "3,600")])
def test_a_misconception_that_predicts_the_answer_s_value_is_refused(
    tmp_path: Path, answer: str, predicts: str
) -> None:
    with pytest.raises(ValueError, match=rf"predicts: '{predicts}' has the value of the answer '{answer}'"):
        check(tmp_path, "socratic", answer=answer, misconception={"belief": "b", "predicts": predicts})


@pytest.mark.parametrize(("answer", "predicts"), [("5/6", "2/5"), ("3", "3rd"), ("none", "two"), ("18th", "17th")])
def test_one_that_predicts_another_is_taken(tmp_path: Path, answer: str, predicts: str) -> None:
    check(tmp_path, "socratic", answer=answer, misconception={"belief": "b", "predicts": predicts})


def test_a_run_does_not_begin_with_such_a_brief_and_says_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "a", "topic": "Tides", "documents": "tides.md"}) + "\n")
    config = {
        "run": "r",
        "graph": "open_book",
        "briefs": [{"from": str(tmp_path / "b.jsonl")}],
        "models": {"m": {"url": "http://127.0.0.1:9/v1", "model": "m"}},
    }
    with pytest.raises(BriefError, match=r"b\.jsonl, line 1: documents: the document 'tides\.md'"):
        generate.generate(config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert [each.name for each in tmp_path.iterdir()] == ["b.jsonl"]
