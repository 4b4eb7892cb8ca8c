"""Numbers that say how sure they are: each has a 95 % interval, and what could not be measured says why.

An interval holds the value that ever more dialogues of the same kind would come to, 95 times of 100. It takes dialogues
as independent of each other; those of one brief are a little alike, so it is rather too narrow than too wide.
"""

from collections.abc import Mapping
from math import sqrt
from random import Random
from typing import Final, TypeAlias

from pydantic import BaseModel, ConfigDict

Z: Final = 1.959964
"""The standard normal's 97.5 % quantile: 95 % of its mass lies within so many standard deviations."""
RESAMPLES: Final = 1000
MOST_RESAMPLED: Final = 1000
"""Samples larger than this have the normal interval, which by then is the bootstrap's to within its own noise."""


class _Measured(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Measured):
    """How many of some things are so, with the Wilson score interval of the share (Wilson 1927)."""

    count: int
    of: int
    share: float
    low: float
    high: float

    @classmethod
    def of_counts(cls, count: int, of: int) -> "Rate":
        """The share of `count` in `of`, which must not be 0."""
        share, shrink = count / of, 1 + Z**2 / of
        centre = (share + Z**2 / (2 * of)) / shrink
        half = Z / shrink * sqrt(share * (1 - share) / of + Z**2 / (4 * of**2))
        low, high = max(0.0, centre - half), min(1.0, centre + half)
        return cls(count=count, of=of, share=round(share, 4), low=round(low, 4), high=round(high, 4))


class Mean(_Measured):
    """The mean of some numbers. Of a single one there is no interval."""

    mean: float
    of: int
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_numbers(cls, counted: Mapping[float, int]) -> "Mean":
        """The mean of numbers that were each counted so many times; there must be one.

        The interval is the percentile bootstrap's (Efron 1979), drawn with a fixed seed.
        """
        n = sum(counted.values())
        mean = sum(number * times for number, times in counted.items()) / n
        low, high = _interval(counted, mean, n) if n > 1 else (None, None)
        return cls(mean=round(mean, 4), of=n, low=low, high=high)


class Missing(_Measured):
    """There was nothing to measure, which is not 0."""

    why: str


AnyRate: TypeAlias = Rate | Missing
AnyMean: TypeAlias = Mean | Missing


def rate(count: int, of: int, otherwise: str) -> AnyRate:
    """A rate, or why there is none: `otherwise`, if there was nothing to count in."""
    return Rate.of_counts(count, of) if of else Missing(why=otherwise)


def mean(counted: Mapping[float, int], otherwise: str) -> AnyMean:
    """A mean, or why there is none: `otherwise`, if there was no number."""
    return Mean.of_numbers(counted) if counted else Missing(why=otherwise)


def _interval(counted: Mapping[float, int], mean: float, n: int) -> tuple[float, float]:
    if n > MOST_RESAMPLED:
        variance = sum(times * (number - mean) ** 2 for number, times in counted.items()) / (n - 1)
        return round(mean - Z * sqrt(variance / n), 4), round(mean + Z * sqrt(variance / n), 4)
    draw, numbers, times = Random(0), list(counted), list(counted.values())
    means = sorted(sum(draw.choices(numbers, times, k=n)) / n for _ in range(RESAMPLES))
    return round(means[round(0.025 * RESAMPLES)], 4), round(means[round(0.975 * RESAMPLES) - 1], 4)
