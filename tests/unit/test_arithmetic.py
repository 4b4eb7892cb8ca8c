# ruff: noqa: RUF001 - signs as people type them
"""Statements of a text that can be worked out, and which of them are called wrong."""

from fractions import Fraction

import pytest

from tutelage.checks.arithmetic import arithmetic, plain, wrong_statements
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Call

RIGHT = [
    "So 12 * 3 = 36, and 36 + 4 = 40.",
    "2 × 3 × 4 = 24",
    "3 + 4 × 2 = 11",
    "(3 + 4) × 2 = 14",
    "7 - 10 = -3",
    "1/2 + 1/3 = 5/6",
    "10 / 3 = 3.33",
    "2 / 3 ≈ 0.67",
    "10 / 3 = 3.333...",
    "22 / 7 ≈ 3",
    "10% of 50 = 5",
    "0.25 = 25%",
    "$3.50 × 2 = $7",
    "2^10 = 1024",
    "1,200 + 34 = 1,234",
    "6 = 2 × 3 = 1 + 5",
    "24 ÷ 6 = 4",
    "5 x 3 = 15",
    "So we have 4 + 5 = 9!",
]

WRONG = [
    ("12 * 3 = 35", "12 * 3", Fraction(36), "35"),
    ("So 7 + 5 = 13, doesn't it.", "7 + 5", Fraction(12), "13"),
    ("1/2 + 1/3 = 2/5", "1/2 + 1/3", Fraction(5, 6), "2/5"),
    ("3 + 4 × 2 = 14", "3 + 4 × 2", Fraction(11), "14"),
    ("7 / 2 = 4", "7 / 2", Fraction(7, 2), "4"),
    ("10% of 50 = 10", "10% of 50", Fraction(5), "10"),
    ("2 / 3 = 0.7 and 2 / 3 = 0.6", "2 / 3", Fraction(2, 3), "0.6"),
    ("6 × 7 = 42 = 40 + 3", "42", Fraction(42), "40 + 3"),
    ("2^3 = 6", "2^3", Fraction(8), "6"),
    ("0.1 + 0.2 = 0.4", "0.1 + 0.2", Fraction(3, 10), "0.4"),
]

SAYS_NOTHING = [
    "2x + 3 = 7",
    "x = 5",
    "If 3x = 12, then x = 4.",
    "Is 3 + 4 = 8?",
    "You wrote 5 m + 3 m = 9 m",
    "7 / 2 = 3 remainder 1",
    "7 / 2 = 3 R 1",
    "Step 3 = 4",
    "f(2) = 5",
    "n - 3 = 8",
    "100 + 10% = 110",
    "at 10:30 = 5",
    "2 + 2 ≠ 5",
    "3 + 4 = 7x",
    "3 + 4 = 2 × n",
    "sqrt(4 + 5) = 3",
    "5 / 0 = 0",
    "9^9^9 = 1",
    "a_2 + 3 = 4",
    "4 + 5 = 3²",
    "-2^2 = 4",
    "1 m + 50 cm = 150 cm",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_is_reckoned_rightly_is_not_called_wrong(text: str) -> None:
    assert wrong_statements(text) == []


@pytest.mark.parametrize(("text", "expression", "value", "stated"), WRONG)
def test_what_is_reckoned_wrongly_is_named_with_what_it_comes_to(
    text: str, expression: str, value: Fraction, stated: str
) -> None:
    (wrong,) = wrong_statements(text)
    assert (wrong.expression, wrong.value, wrong.stated) == (expression, value, stated)
    assert wrong.span in text


@pytest.mark.parametrize("text", SAYS_NOTHING)
def test_what_states_nothing_certain_is_left_alone(text: str) -> None:
    assert wrong_statements(text) == []


def test_a_wrong_statement_is_a_minor_issue_that_points_at_the_words() -> None:
    draft = Attempt(text="Look: 12 * 3 = 35.", status="pending", call=Call(model="m", prompt_sha256="0"))
    (issue,) = arithmetic.look({"brief": Brief()}, draft)
    assert (issue.severity, issue.span, issue.evidence) == ("minor", "12 * 3 = 35", "12 * 3 = 36")


def test_a_long_text_of_digits_and_signs_is_read_in_no_time() -> None:
    """No pattern backtracks for ever."""
    assert wrong_statements("1+" * 5000 + "=") == []
    assert wrong_statements("(" * 5000 + "1" + ")" * 5000 + " = 2") == []
    assert wrong_statements("1 " * 5000 + "= 2") == []
    assert wrong_statements("1,111" * 3000) == []


@pytest.mark.parametrize(
    ("value", "written"), [(Fraction(36), "36"), (Fraction(1, 8), "0.125"), (Fraction(5, 6), "5/6")]
)
def test_a_value_is_written_as_people_write_it(value: Fraction, written: str) -> None:
    assert plain(value) == written
