"""The values that stand in a text, however they are written."""

import random
from collections.abc import Callable
from fractions import Fraction

import pytest

from tutelage.checks.answers import states
from tutelage.checks.forms import quantities, quantity
from tutelage.checks.quantity import same


def values(text: str, language: str | None = None) -> list[Fraction]:
    return [each.amount for each in quantities(text, language)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3,600", 3600),
        ("3 600", 3600),
        ("3\u202f600", 3600),
        ("3'600", 3600),
        ("3{,}600", 3600),
        ("3600.0", 3600),
        ("1,00,000", 100000),
        ("3.6e3", 3600),
        ("3.6 \u00d7 10^3", 3600),
        ("3.6 \\times 10^{3}", 3600),
        ("3.6 thousand", 3600),
        (".5", "1/2"),
        ("7200/2", 3600),
        ("7200 / 2", 3600),
        ("\\frac{5}{6}", "5/6"),
        ("$\\dfrac{5}{6}$", "5/6"),
        ("⅚", "5/6"),
        ("1 1/2", "3/2"),
        ("1½", "3/2"),
        ("10 %", "1/10"),
        ("10%", "1/10"),
        ("ten percent", "1/10"),
        ("10 per cent", "1/10"),
        ("-4", -4),
        ("\u22124", -4),
        ("\u20134", -4),
        ("minus four", -4),
        ("negative four", -4),
        ("twenty-one", 21),
        ("thirty-six hundred", 3600),
        ("three thousand six hundred", 3600),
        ("a hundred and ninety-two", 192),
        ("two million", 2000000),
        ("a dozen", 12),
        ("five sixths", "5/6"),
        ("a third", "1/3"),
        ("half", "1/2"),
        ("one and a half", "3/2"),
        ("2 and three quarters", "11/4"),
        ("three point five", "7/2"),
        ("0.8(3)", "5/6"),
        ("\uff13\uff16\uff10\uff10", 3600),
        ("٣٦", 36),
        ("3.6 km", 3600),
        ("1 h 30 min", 5400),
        ("€192", 192),
        ("14 m²", 14),
        ("14 square metres", 14),
        ("36 km/h", 10),
        ("36 kilometres per hour", 10),
        ("18th", 18),
        ("eighteenth", 18),
    ],
)
def test_a_number_is_read_however_it_is_written(text: str, value: int | str) -> None:
    read = quantity(text)
    assert read is not None and read.amount == Fraction(value)
    assert read.kind != "calculation"


@pytest.mark.parametrize(
    ("text", "language", "value"),
    [
        ("3,5", "de", "7/2"),
        ("3.600", "de", 3600),
        ("3.600,5", "de", "7201/2"),
        ("einundzwanzig", "German", 21),
        ("fünf Sechstel", "de", "5/6"),
        ("dreißig", "de", 30),
        ("zweihundertfünf", "de", 205),
        ("dieciséis", "es", 16),
        ("treinta y cinco", "es", 35),
        ("trois quarts", "fr", "3/4"),
        ("dix-sept", "fr", 17),
        ("0,75", "fr", "3/4"),
    ],
)
def test_a_number_is_read_as_its_language_writes_it(text: str, language: str, value: int | str) -> None:
    read = quantity(text, language)
    assert read is not None and read.amount == Fraction(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7200 ÷ 2", 3600),
        ("60 * 60", 3600),
        ("60 times 60", 3600),
        ("4 x 3.5", 14),
        ("1/2 + 1/3", "5/6"),
        ("(3 + 4) * 2", 14),
        ("7 - (-5)", 12),
        ("3^2", 9),
        ("3²", 9),
        ("2**10", 1024),
        ("half of 7200", 3600),
        ("20% of 240", 48),
        ("twice 1800", 3600),
        ("7200 divided by 2", 3600),
        ("32 : 2", 16),
    ],
)
def test_a_calculation_is_worked_out_exactly(text: str, value: int | str) -> None:
    first = quantities(text)[0]
    assert (first.value, first.kind) == (Fraction(value), "calculation")


@pytest.mark.parametrize(
    "text",
    [
        "6x + 9",
        "x + 3",
        "x^2",
        "CO2",
        "x_3",
        "step 3",
        "Question 12",
        "range(3)",
        "1.2.3",
        "1/0",
        "#4",
        "2^(999999999)",
    ],
)
def test_what_is_no_value_is_not_read_as_one(text: str) -> None:
    assert Fraction(3) not in values(text) and Fraction(9) not in values(text)
    assert all(abs(value) < 10**12 for value in values(text))


def test_a_third_is_a_fraction_and_a_third_friend_is_none() -> None:
    assert values("A third of it.")[0] == Fraction(1, 3)
    assert values("Then comes a third friend.") == [3]


def test_markers_of_a_list_are_no_values() -> None:
    assert values("1. Add the 20.\n2) Then the 30.") == [20, 30]
    assert values("The answer: 3.") == [3]


@pytest.mark.timeout(20)
def test_hostile_text_is_read_in_time() -> None:
    for text in (
        "(" * 5000,
        "9" * 5000,
        "1/" * 5000,
        "-" * 5000,
        "^9" * 3000,
        "twenty " * 3000,
        "half of " * 3000,
        "9^9*" * 2000,
        "1/97+" * 2000,
    ):
        assert all(max(value.numerator.bit_length(), value.denominator.bit_length()) < 2000 for value in values(text))
    assert values("9^9^9^9^9") != []


@pytest.mark.parametrize(
    ("form", "said", "expected"),
    [
        ("5/6", "0.8333", True),
        ("5/6", "0.83", True),
        ("5/6", "0.84", False),
        ("5/6", "0.8", False),
        ("400/3", "133.3", True),
        ("400/3", "133.4", False),
        ("4/3", "1.3", False),
        ("12.04", "12.0", False),
        ("30 °C", "30 euros", False),
        ("1/3", "0.333", True),
        ("0.333", "1/3", True),
        ("3.14", "3.14159", True),
        ("0.238", "0.24", False),
        ("3.6 km", "3600 m", True),
        ("3.6 km", "3.6", True),
        ("3.6 km", "3.6 minutes", False),
        ("10 %", "0.1", True),
        ("10 %", "1/10", True),
        ("0.1", "10 %", True),
        ("0.1", "0.1 %", False),
        ("3", "third", False),
        ("18th", "eighteenth", True),
        ("40", "41", False),
        ("-4", "4", False),
        ("90 min", "1 h 30 min", True),
    ],
)
def test_values_are_the_same_across_forms_and_units(form: str, said: str, expected: bool) -> None:
    one, other = quantity(form), quantity(said)
    assert one is not None and other is not None
    assert same(one, other) is expected


WAYS: list[Callable[[Fraction], str]] = [
    lambda value: f"{value.numerator}/{value.denominator}",
    lambda value: f"{3 * value.numerator}/{3 * value.denominator}",
    lambda value: rf"\frac{{{value.numerator}}}{{{value.denominator}}}",
    lambda value: f"{float(value):.6f}",
    lambda value: f"{float(value * 100):.4f} %",
]
WHOLE_WAYS: list[Callable[[int], str]] = [
    str,
    lambda value: f"{value:,}",
    lambda value: f"{value:_}",
    lambda value: f"{value:,}".replace(",", "\u202f"),
    lambda value: f"{value}.0",
    lambda value: f"{2 * value}/2",
    lambda value: f"**{value}**",
]
AROUND = ["It is {}.", "So you get {}, I think", "({})", "x = {}", "Perhaps {}?", "{} it is!", "`{}`", "“{}”"]


def test_a_random_value_is_found_in_every_way_to_write_it() -> None:
    chance = random.Random(7)
    for _ in range(300):
        value = Fraction(chance.randint(1, 400), chance.choice([3, 7, 9, 11, 13]))
        whole = chance.randint(11, 10**7)
        around = chance.choice(AROUND)
        if value.denominator > 1:
            text = around.format(chance.choice(WAYS)(value))
            assert states(text, [f"{value.numerator}/{value.denominator}"]), (value, text)
        text = around.format(chance.choice(WHOLE_WAYS)(whole))
        assert states(text, [str(whole)]), (whole, text)


def test_another_random_value_is_not_found() -> None:
    chance = random.Random(8)
    for _ in range(300):
        value = Fraction(chance.randint(1, 400), chance.choice([1, 3, 7, 9, 11, 13]))
        other = value + Fraction(chance.choice([-1, 1]) * chance.randint(1, 50), chance.choice([1, 2, 3, 7]))
        ways = WAYS if other.denominator > 1 else [WAYS[0]]
        text = chance.choice(AROUND).format(chance.choice(ways)(other))
        assert not states(text, [f"{value.numerator}/{value.denominator}"]), (value, other, text)
