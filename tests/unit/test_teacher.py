"""Where in a rendered conversation the reply is, and which tokens are drawn."""

import math
from random import Random

import pytest

from tutelage.generation.teacher import Tokens, Unscorable, _Told, aligned


def test_the_mask_begins_behind_the_prompt_and_ends_with_the_stop_token() -> None:
    assert aligned([1, 2, 3], [1, 2, 3, 40, 41], [1, 2, 3, 40, 41, 9]) == Tokens([1, 2, 3, 40, 41, 9], 3)


def test_what_a_template_writes_behind_the_stop_token_is_left_out() -> None:
    assert aligned([1], [1, 40], [1, 40, 9, 10]) == Tokens([1, 40, 9], 1)


@pytest.mark.parametrize(
    ("prompt", "opened", "closed", "why"),
    [
        ([1, 2], [1, 5, 40], [1, 5, 40, 9], Unscorable.TEMPLATE_DIFFERS),
        ([1, 2, 3], [1, 2], [1, 2, 9], Unscorable.TEMPLATE_DIFFERS),
        ([], [40], [40, 9], Unscorable.TEMPLATE_DIFFERS),
        ([1], [1], [1, 9], Unscorable.WORDS_CHANGED),
        ([1], [1, 40], [1, 40], Unscorable.NO_STOP_TOKEN),
        ([1], [1, 40], [1, 41, 9], Unscorable.NO_STOP_TOKEN),
    ],
    ids=["prompt differs", "prompt longer", "no prompt", "no words", "no end", "end merges with the words"],
)
def test_a_template_that_cannot_be_followed_is_a_reason(
    prompt: list[int], opened: list[int], closed: list[int], why: Unscorable
) -> None:
    assert aligned(prompt, opened, closed) is why
    assert why.about


def told(*probabilities: float, own: float) -> _Told:
    entry = {str(id_): {"logprob": math.log(each), "rank": id_ + 1} for id_, each in enumerate(probabilities)}
    entry |= {"77": {"logprob": math.log(own), "rank": 900}}
    return _Told.of(77, entry)


def test_the_token_that_stands_there_is_not_among_the_likeliest_if_it_is_not() -> None:
    place = told(0.5, 0.2, 0.1, own=0.01).place(3)
    assert list(place.ids) == [0, 1, 2]
    assert place.logprob == pytest.approx(math.log(0.01))
    assert math.exp(place.tail) == pytest.approx(0.2)


def test_the_token_that_stands_there_takes_its_place_if_it_is_likely() -> None:
    place = told(0.4, 0.1, own=0.3).place(2)
    assert list(place.ids) == [0, 77]
    assert math.exp(place.tail) == pytest.approx(0.3)


def test_tokens_are_drawn_by_their_probabilities_and_what_was_not_told_is_missing() -> None:
    place = told(0.5, 0.2, 0.1, own=0.05)
    drawn = place.draw(Random(1), 40_000)
    shares = [drawn.count(rank) / 40_000 for rank in range(4)]
    assert shares == pytest.approx([0.5, 0.2, 0.1, 0.05], abs=0.01)
    assert 1 - len(drawn) / 40_000 == pytest.approx(0.15, abs=0.01)


def test_nothing_is_missing_where_all_is_told() -> None:
    assert len(told(0.6, 0.4 - 1e-9, own=1e-9).draw(Random(1), 5000)) == 5000
