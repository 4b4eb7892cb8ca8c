"""Whether a text gives the answer."""

import pytest

from tutelage.checks.answers import states


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("So it must be 5/6!", "5/6"),
        ("I get **5/6**.", "5/6"),
        ("Five  Sixths, then", "five sixths"),
        ("x = 5", "5"),
        ("It is \u22125.", "-5"),
        ("It is 2*3.", "2*3"),
        ("The answer: 3.", "3"),
        ("It prints `[1, 2]`.", "[1, 2]"),
    ],
)
def test_an_accepted_form_is_found(text: str, form: str) -> None:
    assert states(text, ["no", form])


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("It is 15/6.", "5/6"),
        ("It is 5/60.", "5/6"),
        ("It is 5.5.", "5"),
        ("I think it is -5.", "5"),
        ("I think it is \u22125.", "5"),
        ("It is 3 1/2.", "1/2"),
        ("It is 23.", "2*3"),
        ("Fewer", "few"),
        ("anything", ""),
    ],
)
def test_another_number_or_word_is_not_taken_for_it(text: str, form: str) -> None:
    assert not states(text, [form])
