"""What the detectors find in labelled text, with their precision and recall.

`turns.jsonl` and `dialogues.jsonl` were written for this project: half of each was looked at while the lexicons were
written, the other half, `held_out`, never; both are one author's idea of what models do, not a sample of it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage.checks.endings import farewell_loop, no_progress, unless_passed
from tutelage.checks.speech import Fault, faults, in_role, not_said_before
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.cast import Limits
from tutelage.dialogue.turn import Attempt, Call, Turn

DATA = Path(__file__).parents[1] / "data"
HALVES = ("tuned", "held_out")
ARTEFACTS = {
    Fault.LABEL,
    Fault.TEMPLATE_TOKEN,
    Fault.META_TEXT,
    Fault.TRUNCATED,
    Fault.WRONG_LANGUAGE,
    Fault.SPOKE_FOR_OTHER,
}
RULES = (unless_passed(in_role), farewell_loop, unless_passed(not_said_before), no_progress)


@dataclass
class Detection:
    """How often what was found is there, and what is there was found."""

    right: Counter[str] = field(default_factory=Counter)
    false_alarms: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    mistakes: list[str] = field(default_factory=list)

    def count(self, expected: str | None, found: str | None, text: str) -> None:
        if expected == found and found:
            self.right[found] += 1
        if expected != found:
            self.false_alarms.update([found] if found else [])
            self.missed.update([expected] if expected else [])
            self.mistakes.append(f"{expected} taken for {found}: {text}")

    def precision(self, kinds: Iterable[str]) -> float:
        right = sum(self.right[kind] for kind in kinds)
        return right / max(1, right + sum(self.false_alarms[kind] for kind in kinds))

    def recall(self, kinds: Iterable[str]) -> float:
        right = sum(self.right[kind] for kind in kinds)
        return right / max(1, right + sum(self.missed[kind] for kind in kinds))

    @property
    def kinds(self) -> list[str]:
        return sorted({*self.right, *self.false_alarms, *self.missed})

    def table(self) -> str:
        rows = [f"{'':16} precision recall"]
        for name, kinds in [*((kind, [kind]) for kind in self.kinds), ("all", self.kinds)]:
            rows.append(f"{name:16} {self.precision(kinds):9.2f} {self.recall(kinds):6.2f}")
        return "\n".join([*rows, *self.mistakes])


def read(name: str, half: str) -> list[dict[str, Any]]:
    rows = [orjson.loads(line) for line in (DATA / name).read_bytes().splitlines()]
    return [row for row in rows if row["half"] == half]


def turn(index: int, role: str, text: str, finish_reason: str | None = "stop") -> Turn:
    call = Call(model="m", prompt_sha256="", finish_reason=finish_reason)
    return Turn(index=index, role=role, text=text, attempts=[Attempt(text=text, status="accepted", call=call)])


def brief(row: Mapping[str, Any]) -> Brief:
    wrong = row.get("predicts")
    return Brief(
        id="b",
        topic=row.get("about"),
        language=row.get("language"),
        answer=row.get("answer", ()),
        misconception=Misconception(belief="?", predicts=wrong) if wrong else None,
    )


def dialogue(row: Mapping[str, Any]) -> list[Turn]:
    roles = ["tutor", "student"] if row["first"] == "tutor" else ["student", "tutor"]
    return [turn(index, roles[index % 2], text) for index, text in enumerate(row["turns"])]


def ending(turns: list[Turn], about: Brief) -> str | None:
    """The reason of the first rule that would have ended the dialogue, after whichever of its turns."""
    for said in range(1, len(turns) + 1):
        for rule in RULES:
            if outcome := rule({"turns": turns[:said], "brief": about}, Limits()):
                return outcome.reason
    praised = [fault for _, fault, _ in faults(turns, about) if fault == Fault.FALSE_PRAISE]
    return praised[0] if praised else None


@pytest.mark.parametrize("half", HALVES)
def test_artefacts_are_found_and_plain_speech_is_not_taken_for_them(half: str) -> None:
    """Precision and recall of the filter, over all kinds, are .95 and more."""
    found, by_kind = Detection(), Detection()
    for row in read("turns.jsonl", half):
        said = [turn(0, row["role"], row["text"], row.get("finish_reason", "stop"))]
        kinds = [fault for _, fault, _ in faults(said, brief(row)) if fault in ARTEFACTS]
        found.count("bad" if row["fault"] else None, "bad" if kinds else None, row["text"])
        by_kind.count(row["fault"], row["fault"] if row["fault"] in kinds else next(iter(kinds), None), row["text"])
    assert found.precision(["bad"]) >= 0.95, by_kind.table()
    assert found.recall(["bad"]) >= 0.95, by_kind.table()


@pytest.mark.parametrize("half", HALVES)
def test_dialogues_that_go_wrong_are_found_and_others_go_on(half: str) -> None:
    """Precision and recall over farewells, repetition, standstill, role flips and false praise."""
    found = Detection()
    for row in read("dialogues.jsonl", half):
        found.count(row["reason"], ending(dialogue(row), brief(row.get("brief", {}))), " / ".join(row["turns"]))
    assert found.precision(found.kinds) >= 0.95, found.table()
    assert found.recall(found.kinds) >= 0.95, found.table()


def test_the_fixtures_are_large_enough() -> None:
    for name, label in (("turns.jsonl", "fault"), ("dialogues.jsonl", "reason")):
        rows = [row for half in HALVES for row in read(name, half)]
        assert sum(row[label] is not None for row in rows) >= 60
        assert sum(row[label] is None for row in rows) >= 60
        assert len({orjson.dumps({**row, "half": ""}) for row in rows}) == len(rows)
