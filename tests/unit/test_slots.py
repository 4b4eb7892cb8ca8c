"""What is owed, and in which order."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import Config, load_config
from tutelage.generation.slots import SPARE, Owed, Slots, dialogue_id


def config(tmp_path: Path, **values: Any) -> Config:
    return load_config(
        {"run": "r", "graph": "lesson", "briefs": [{"from": str(tmp_path / "*.jsonl")}], **values},
    )


def add_briefs(tmp_path: Path, name: str, *ids: str) -> None:
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"id": id_, "topic": "t"}) + "\n" for id_ in ids))


def index(tmp_path: Path) -> BriefIndex:
    return read_briefs(config(tmp_path).briefs, tmp_path)


class Known:
    """What is finished, or begun."""

    def __init__(self, *ids: str) -> None:
        self.ids = set(ids)
        self.asked: list[int] = []

    def __call__(self, ids: Sequence[str]) -> set[str]:
        self.asked.append(len(ids))
        return self.ids.intersection(ids)


async def all_of(slots: Slots) -> list[Owed]:
    owed = []
    while (each := await slots.next()) is not None:
        owed.append(each)
    return owed


def ids(owed: Sequence[Owed]) -> list[str]:
    return [each.id for each in owed]


async def test_without_a_target_each_brief_is_owed_once_in_order(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", *(f"b{n}" for n in range(50)))
    owed = await all_of(Slots(config(tmp_path), index(tmp_path), Known()))
    assert [each.position for each in owed] == list(range(50))
    assert ids(owed) == [dialogue_id("r", f"b{n}", 0) for n in range(50)]
    assert not any(each.begun or each.retry or each.tries for each in owed)


async def test_a_target_goes_round_the_briefs_and_has_some_to_spare(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", "x", "y", "z")
    owed = await all_of(Slots(config(tmp_path, target={"dialogues": 10}), index(tmp_path), Known()))
    assert len(owed) == 2 * 10 + SPARE
    assert [each.position for each in owed[:7]] == [0, 1, 2, 0, 1, 2, 0]
    assert ids(owed)[3] == dialogue_id("r", "x", 1)
    assert len(set(ids(owed))) == len(owed)
    assert max(Counter(each.position for each in owed).values()) == 14


async def test_a_small_target_leaves_briefs_out(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", *(f"b{n}" for n in range(100)))
    owed = await all_of(Slots(config(tmp_path, target={"dialogues": 1}), index(tmp_path), Known()))
    assert [each.position for each in owed] == list(range(2 + SPARE))


async def test_what_is_known_is_skipped_and_looked_up_many_at_a_time(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", *(f"b{n}" for n in range(3000)))
    known = Known(*(dialogue_id("r", f"b{n}", 0) for n in range(3000) if n != 2500))
    owed = await all_of(Slots(config(tmp_path), index(tmp_path), known))
    assert [each.position for each in owed] == [2500]
    assert sum(known.asked) == 3000
    assert len(known.asked) < 20


async def test_what_comes_to_be_known_after_the_look_up_is_asked_for_only_by_again(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", *(f"b{n}" for n in range(40)))
    known = Known()
    slots = Slots(config(tmp_path), index(tmp_path), known)
    first = [await slots.next() for _ in range(5)]
    known.ids.update(each.id for each in first if each)
    slots.again()
    assert [each.position for each in await all_of(slots)] == list(range(5, 40))


async def test_briefs_that_are_added_are_owed_after_again(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", "x", "y")
    briefs, known = index(tmp_path), Known()
    slots = Slots(config(tmp_path), briefs, known)
    known.ids.update(ids(await all_of(slots)))
    briefs.add("new", 0, 3, 0)
    assert await slots.next() is None
    slots.again()
    assert ids(await all_of(slots)) == [dialogue_id("r", "new", 0)]


async def test_a_higher_target_is_taken_into_account(tmp_path: Path) -> None:
    add_briefs(tmp_path, "a", "x")
    known = Known()
    slots = Slots(config(tmp_path), index(tmp_path), known)
    known.ids.update(ids(await all_of(slots)))
    slots.again(config(tmp_path, target={"dialogues": 3}))
    assert ids(await all_of(slots))[:2] == [dialogue_id("r", "x", 1), dialogue_id("r", "x", 2)]


async def test_without_briefs_nothing_is_owed_whatever_the_target(tmp_path: Path) -> None:
    slots = Slots(config(tmp_path, target={"dialogues": 3}), BriefIndex(), Known())
    assert await slots.next() is None


@pytest.mark.parametrize("other", [("q", "b", 0), ("r", "c", 0), ("r", "b", 1)])
def test_an_id_tells_runs_briefs_and_repetitions_apart_and_stays(other: tuple[str, str, int]) -> None:
    assert dialogue_id("r", "b", 0) == "2f7f0e8cfafe07f4"
    assert dialogue_id(*other) != dialogue_id("r", "b", 0)
