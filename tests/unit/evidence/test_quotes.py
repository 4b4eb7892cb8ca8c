"""Quotes: what stands in a source, and what does not."""

import random

import pytest

from tutelage.evidence.quotes import LEAST, bears_on, find_quote

SOURCE = (
    "At sea level, water boils at 100 °C. On a high\nmountain it boils at less;  1.5 metres\tup makes no difference."
)


@pytest.mark.parametrize(
    "quote",
    [
        "water boils at 100 °C",
        "At sea level, water boils at 100 °C.",
        "On a high mountain it boils",
        "it boils at less; 1.5 metres up",
        " water  boils\nat 100 ",
        SOURCE,
    ],
)
def test_a_quote_that_stands_in_its_source_is_found(quote: str) -> None:
    place = find_quote(quote, SOURCE)
    assert place is not None
    assert SOURCE[slice(*place)].split() == quote.split()


@pytest.mark.parametrize(
    "quote",
    [
        "water boils at 90 °C",
        "Water boils at 100 °C",
        "water boils … at 100 °C",
        '"water boils at 100 °C"',
        "water boils at 10",
        "ater boils at 100 °C",
        "5 metres up makes",
        "metres up makes no diff",
        "boils at 100 °C On a high",
        "sea level",
        "it",
        "°C. ;",
        "",
        "  ",
    ],
)
def test_a_quote_that_does_not_stand_there_or_says_nothing_is_not(quote: str) -> None:
    assert find_quote(quote, SOURCE) is None


@pytest.mark.parametrize(
    ("quote", "claim", "expected"),
    [
        ("water boils at 100 °C", "Water boils at 90 °C.", True),
        ("the boiling point falls", "It boils at less.", True),
        ("3/6 + 2/6 = 5/6", "The sum is 5/6.", True),
        ("The French Revolution", "Louis XVI was executed in 1789.", False),
        ("On a high mountain", "Water boils at 90 °C.", False),
        ("at 9 of 10", "Water boils at 90 °C.", False),
        ("Straßen sind lang", "Die STRASSE ist kurz.", True),
        ("水は百度で沸騰する", "水は九十度で沸騰する。", True),
    ],
)
def test_a_quote_must_have_something_to_do_with_its_claim(quote: str, claim: str, expected: bool) -> None:
    assert bears_on(quote, claim) is expected


def test_a_short_source_may_be_quoted_as_a_whole() -> None:
    assert find_quote("1/2 = 3/6", "1/2 = 3/6") == (0, 9)
    assert find_quote("1/2", "1/2 = 3/6") is None


def test_a_quote_is_no_pattern() -> None:
    assert find_quote(".*.*.*.*.*.*.*", SOURCE) is None
    assert find_quote("a (really) odd [text]*", "Here is a (really) odd [text]* for you") == (8, 30)


def test_a_quote_in_which_a_word_was_changed_added_or_left_out_is_never_found() -> None:
    rng = random.Random(7)
    words = SOURCE.split()
    for _ in range(3000):
        start = rng.randrange(len(words) - 5)
        quoted = words[start : start + rng.randrange(5, 9)]
        if sum(map(str.isalnum, "".join(quoted))) >= LEAST:
            assert find_quote(" ".join(quoted), SOURCE) is not None
        at = rng.randrange(1, len(quoted) - 1)
        fabricated = rng.choice(
            [
                [*quoted[:at], quoted[at] + "s", *quoted[at + 1 :]],
                [*quoted[:at], "not", *quoted[at:]],
                [*quoted[:at], *quoted[at + 1 :]],
                [*quoted[:at], quoted[at].swapcase() + "x", *quoted[at + 1 :]],
            ]
        )
        assert find_quote(" ".join(fabricated), SOURCE) is None, fabricated
