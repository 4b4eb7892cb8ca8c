"""Rows of people's that no trainer could learn from: each is refused with what is wrong with it."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage.exports.cleaning.human_rows import HumanFile
from tutelage.exports.formats.registry import FORMATS
from tutelage.exports.request import FormatName, Request

ASKED = [{"role": "user", "content": "Halves?"}]
VERIFIED = {"prompt": "What is 1/2 + 1/3?", "answer": ["5/6"], "verifier": "gives_the_answer"}


def read(row: dict[str, Any], format_: FormatName, folder: Path) -> dict[str, Any]:
    path = folder / "people.jsonl"
    path.write_bytes(orjson.dumps(row))
    columns = FORMATS[format_].columns(Request(format=format_))
    with HumanFile(path, columns, name="people", role="tutor", folder=folder) as file:
        return file.row(0)


@pytest.mark.parametrize(
    ("format_", "row", "why"),
    [
        ("sft", {"prompt": [{"role": "human", "content": "Halves?"}], "completion": "Which?"}, "lacks .* a `role`"),
        ("sft", {"prompt": ASKED, "completion": ASKED}, "'completion' ends with what the user says"),
        ("kto", {"prompt": ASKED, "completion": ASKED, "label": True}, "'completion' ends with what the user says"),
        ("dpo", {"prompt": ASKED, "chosen": "Which?", "rejected": ASKED}, "'rejected' ends with what the user says"),
        ("dpo", {"prompt": ASKED, "chosen": "Which?", "rejected": "Which?"}, "are the same"),
        ("prm", {"prompt": "Halves?", "completions": ["a", "b"], "labels": [True]}, "2 'completions' and 1 'labels'"),
        ("grpo", {**VERIFIED, "answer": []}, "needs an 'answer'"),
        ("grpo", {**VERIFIED, "verifier": "mine"}, "gives_the_answer or keeps_the_answer"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_refused(
    format_: FormatName, row: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=why):
        read(row, format_, tmp_path)


def test_a_row_that_can_be_learnt_is_taken(tmp_path: Path) -> None:
    assert read(VERIFIED, "grpo", tmp_path)["answer"] == ["5/6"]
    assert read({"prompt": ASKED, "chosen": "a", "rejected": "b"}, "dpo", tmp_path)["origin"] == "human"
