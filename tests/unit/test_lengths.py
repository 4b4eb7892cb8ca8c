"""Pairs whose lengths say nothing."""

import random
from statistics import fmean

import pytest

from tutelage.quality.lengths import TOLERANCE, is_lopsided, unbalanced


def kept(lengths: list[tuple[int, int]]) -> list[tuple[int, int]]:
    gone = unbalanced([chosen for chosen, _ in lengths], [rejected for _, rejected in lengths])
    return [pair for number, pair in enumerate(lengths) if number not in gone]


def ratio(lengths: list[tuple[int, int]]) -> float:
    """Of the mean lengths, the larger to the smaller."""
    means = sorted((fmean(chosen for chosen, _ in lengths), fmean(rejected for _, rejected in lengths)))
    return means[1] / means[0]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_the_means_are_within_five_percent_afterwards(seed: int, factor: float) -> None:
    rng = random.Random(seed)
    lengths = []
    for _ in range(300):
        rejected = rng.randint(40, 400)
        lengths.append((max(1, int(rejected * factor * rng.lognormvariate(0, 0.3))), rejected))
    left = kept(lengths)
    assert left and ratio(left) <= 1 + TOLERANCE
    for gone in set(lengths) - set(left):
        assert ratio([*left, gone]) > 1 + TOLERANCE, "and none went that could stay"


def test_pairs_that_are_balanced_all_stay() -> None:
    lengths = [(100, 104), (90, 88), (50, 50)]
    assert kept(lengths) == lengths


def test_no_smaller_number_of_pairs_would_do() -> None:
    """Without the one pair of 200 against 100 the others are balanced."""
    assert kept([(200, 100), (100, 100), (100, 100), (105, 100)]) == [(100, 100), (100, 100), (105, 100)]


def test_the_last_pair_to_go_is_one_that_just_suffices() -> None:
    """Else the shorter side would become the longer one, and the rest would go as well."""
    assert kept([(200, 100), (145, 100), (50, 138), (100, 100)]) == [(200, 100), (50, 138), (100, 100)]


def test_where_no_pair_can_stay_none_does() -> None:
    assert kept([(140, 100)] * 5) == []
    assert kept([]) == []


def test_a_pair_is_lopsided_above_twice_the_length() -> None:
    assert is_lopsided(201, 100) and is_lopsided(100, 201) and not is_lopsided(200, 100)
