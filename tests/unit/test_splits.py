"""Splits by groups of briefs."""

import random
from collections import Counter

import pytest

from tutelage.errors import ExportError
from tutelage.quality.splits import Together, splits_of

SHARES = {"test": 0.1, "validation": 0.2}


def rows_by_split(rows: dict[str, int], splits: dict[str, str]) -> Counter[str]:
    counted = Counter[str]()
    for group, split in splits.items():
        counted[split] += rows[group]
    return counted


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_met_up_to_half_a_group(seed: int) -> None:
    rng = random.Random(seed)
    rows = {f"brief{number}": rng.randint(1, 30) for number in range(200)}
    counted = rows_by_split(rows, splits_of(rows, SHARES, seed))
    total = sum(rows.values())
    assert counted.total() == total
    for split, share in SHARES.items():
        assert abs(counted[split] - share * total) <= 15


def test_the_same_rows_are_split_the_same_in_any_order_and_another_seed_splits_them_otherwise() -> None:
    rows = {f"brief{number}": 3 for number in range(100)}
    back = dict(reversed(rows.items()))
    assert splits_of(rows, SHARES, 1) == splits_of(back, SHARES, 1)
    assert splits_of(rows, SHARES, 1) != splits_of(rows, SHARES, 2)


def test_when_more_rows_come_only_groups_at_a_border_move() -> None:
    """Twice the briefs: of those that were held out for testing, few are trained on now."""
    few = {f"brief{number}": 5 for number in range(400)}
    many = {f"brief{number}": 5 for number in range(800)}
    before, after = splits_of(few, SHARES, 0), splits_of(many, SHARES, 0)
    moved = [group for group in few if before[group] != after[group]]
    assert len(moved) < 0.1 * len(few)
    tested = [group for group in few if before[group] == "test"]
    assert all(after[group] in {"test", "validation"} for group in tested)
    more_rows = splits_of(dict.fromkeys(few, 10), SHARES, 0)
    assert more_rows == before, "more rows of the same briefs move nothing"


def test_each_split_gets_a_group_and_one_is_left_to_train_on() -> None:
    assert sorted(splits_of({"a": 100, "b": 100, "c": 100}, SHARES, 0).values()) == ["test", "train", "validation"]
    assert sorted(splits_of({"a": 1, "b": 1}, {"test": 0.9}, 0).values()) == ["test", "train"]


def test_a_group_that_is_larger_than_the_share_is_not_held_out_while_others_are_there() -> None:
    rows = {"giant": 900, **{f"brief{number}": 10 for number in range(10)}}
    for seed in range(10):
        splits = splits_of(rows, {"validation": 0.05}, seed)
        assert splits["giant"] == "train" and rows_by_split(rows, splits)["validation"] == 50


def test_too_few_groups_are_an_error_and_a_share_of_zero_asks_for_nothing() -> None:
    with pytest.raises(ExportError, match="1 groups of briefs, too few for 2 splits"):
        splits_of({"a": 10}, {"validation": 0.1, "test": 0.0}, 0)
    assert splits_of({"a": 10}, {"validation": 0.0}, 0) == {"a": "train"}
    assert splits_of({}, SHARES, 0) == {}


def test_briefs_that_were_united_in_any_order_are_one_group() -> None:
    pairs = [(f"b{number}", f"b{number + 1}") for number in range(20) if number != 10]
    for seed in range(5):
        random.Random(seed).shuffle(pairs)
        together = Together()
        for one, other in pairs:
            together.unite(other, one)
        assert {together.of(f"b{number}") for number in range(11)} == {"b0"}
        assert {together.of(f"b{number}") for number in range(11, 21)} == {"b11"}
        assert together.of("alone") == "alone"
