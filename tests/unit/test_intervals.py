"""Numbers with how sure they are."""

from random import Random

import pytest

from tutelage.quality.intervals import MOST_RESAMPLED, Mean, Missing, Rate, mean, rate


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        (30, 33, 0.7643, 0.9686),
        (30, 32, 0.7985, 0.9827),
        (0, 10, 0.0, 0.2775),  # Brown, Cai and DasGupta 2001: z² / (n + z²)
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
    ],
)
def test_a_rate_has_wilsons_interval(count: int, of: int, low: float, high: float) -> None:
    measured = Rate.of_counts(count, of)
    assert (measured.count, measured.of, measured.share) == (count, of, round(count / of, 4))
    assert (measured.low, measured.high) == pytest.approx((low, high), abs=1e-4)


def test_a_mean_counts_each_number_as_often_as_it_was_seen() -> None:
    measured = Mean.of_numbers({0.0: 3, 1.0: 1})
    assert (measured.mean, measured.of) == (0.25, 4)


def test_of_one_number_there_is_no_interval() -> None:
    assert Mean.of_numbers({2.0: 1}) == Mean(mean=2.0, of=1)


def test_an_interval_holds_the_truth_about_95_times_of_100() -> None:
    """Means of 40 throws of a die, whose true mean is 3.5."""
    dice, held = Random(7), 0
    for _ in range(200):
        thrown = [dice.randint(1, 6) for _ in range(40)]
        measured = Mean.of_numbers({float(n): thrown.count(n) for n in set(thrown)})
        assert measured.low is not None
        assert measured.high is not None
        held += measured.low <= 3.5 <= measured.high
    assert 180 <= held <= 198


def test_the_interval_of_a_large_sample_is_that_of_the_bootstrap() -> None:
    few = Mean.of_numbers({0.0: MOST_RESAMPLED // 2, 1.0: MOST_RESAMPLED // 2})
    many = Mean.of_numbers({0.0: MOST_RESAMPLED // 2 + 1, 1.0: MOST_RESAMPLED // 2 + 1})
    assert (many.low, many.high) == pytest.approx((few.low, few.high), abs=0.004)


def test_what_cannot_be_measured_says_why_and_is_not_0() -> None:
    assert rate(0, 0, "no probes") == Missing(why="no probes")
    assert mean({}, "no probes") == Missing(why="no probes")
    assert rate(0, 1, "no probes") == Rate.of_counts(0, 1)
