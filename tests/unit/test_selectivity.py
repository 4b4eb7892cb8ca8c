"""Selectivity: P(flip | targeted) less the larger of the others, and how sure it is."""

from typing import cast

import pytest

from tutelage.learners.feedback import Kind
from tutelage.quality.intervals import Missing, Rate
from tutelage.quality.selectivity import Selectivity, StudentFigures, Tried, selectivity


def flips(**counts: tuple[int, int]) -> dict[Kind, Rate | Missing]:
    return {cast(Kind, kind): Rate.of_counts(*count) for kind, count in counts.items()}


def test_the_golden_case() -> None:
    found = selectivity(flips(targeted=(16, 20), misaligned=(2, 20), generic=(1, 20)))
    assert isinstance(found, Selectivity)
    assert (found.value, found.against) == (0.7, "misaligned")


def test_the_interval_is_newcombe_s() -> None:
    """Newcombe 1998, table II, (a): 56/70 less 48/80 is .2000, by method 10 from .0524 to .3339."""
    found = selectivity(flips(targeted=(56, 70), generic=(48, 80)))
    assert isinstance(found, Selectivity)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_one_that_nothing_moves_and_one_that_anything_moves_have_none() -> None:
    for count in (0, 10):
        found = selectivity(flips(targeted=(count, 10), misaligned=(count, 10), generic=(count, 10)))
        assert isinstance(found, Selectivity)
        assert found.value == 0


def test_without_targeted_feedback_or_without_another_kind_there_is_none() -> None:
    assert isinstance(selectivity({**flips(targeted=(1, 2)), "generic": Missing(why="none")}), Missing)
    assert isinstance(selectivity(flips(generic=(1, 2))), Missing)


def test_trials_that_failed_or_were_dropped_say_nothing_about_flips() -> None:
    def tried(**more: object) -> Tried:
        return Tried.model_validate({"student": "s", "brief": "b", "kind": "targeted", "sample": 0, **more})

    figures = StudentFigures.of(
        "s",
        [
            tried(flipped=True, read_from="words", tries=[1]),
            tried(flipped=False, read_from="choice", tries=[3]),
            tried(rendered=False, tries=[1]),
            tried(failed="wrong_shape"),
        ],
    )
    assert isinstance(targeted := figures.flips["targeted"], Rate)
    assert (targeted.count, targeted.of) == (1, 2)
    assert isinstance(rendered := figures.rendered, Rate)
    assert (rendered.count, rendered.of) == (3, 4)
    assert figures.failed == {"wrong_shape": 1}
