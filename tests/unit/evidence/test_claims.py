"""Claims: which sentences of a draft claim something, and where they stand."""

import random
from itertools import pairwise

import pytest

from tutelage.evidence.claims import claims_in
from tutelage.evidence.sentences import sentences


def texts(draft: str) -> list[str]:
    return [claim.text for claim in claims_in(draft)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ice floats. Iron sinks.", ["Ice floats.", "Iron sinks."]),
        ("Pi is 3.14 or so. It is no fraction.", ["Pi is 3.14 or so.", "It is no fraction."]),
        ("Dr. Curie and Prof. Meitner met. They talked.", ["Dr. Curie and Prof. Meitner met.", "They talked."]),
        ("Use units, e.g. Newton, i.e. N. Then add.", ["Use units, e.g. Newton, i.e. N. Then add."]),
        (
            "J. S. Bach lived from 1685 to 1750. He wrote fugues.",
            ["J. S. Bach lived from 1685 to 1750.", "He wrote fugues."],
        ),
        ("It boils at 100 °C. The ice melts.", ["It boils at 100 °C.", "The ice melts."]),
        ("The pole is 5 m. The rope is 7 m.", ["The pole is 5 m.", "The rope is 7 m."]),
        ("The answer is 5. Then we go on.", ["The answer is 5.", "Then we go on."]),
        ("Really? Yes! Good… Now this.", ["Really?", "Yes!", "Good…", "Now this."]),
        ('He said "It floats." Then it sank.', ['He said "It floats."', "Then it sank."]),
        ("Is it (really?) so. Yes.", ["Is it (really?) so.", "Yes."]),
        ("Das ist z. B. Eis. Es schwimmt.", ["Das ist z. B. Eis.", "Es schwimmt."]),
        (
            "Am 14. Juli 1789 fiel die Bastille. Das war d. h. Bzw. so.",
            ["Am 14. Juli 1789 fiel die Bastille.", "Das war d. h. Bzw. so."],
        ),
        (
            "Ludwig XVI. Bourbon starb im 18. Jahrhundert. Er war König.",
            ["Ludwig XVI. Bourbon starb im 18. Jahrhundert.", "Er war König."],
        ),
        ("- Ice floats\n- Iron sinks\n1. Gold, too", ["Ice floats", "Iron sinks", "Gold, too"]),
        ("## Water\n\nIt is wet.", ["Water", "It is wet."]),
        ("A line that is\nbroken in two. And more.", ["A line that is\nbroken in two.", "And more."]),
        ("Look:\n```python\nx = 1. \n```\nIt is one.", ["Look:", "It is one."]),
        ("**Bold.** *Slanted.* Plain.", ["**Bold.**", "*Slanted.*", "Plain."]),
        ("水は百度で沸騰する。氷は浮く。", ["水は百度で沸騰する。", "氷は浮く。"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_sentences_end_where_they_end(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize(
    "draft",
    [
        "What is 1/2 + 1/3?",
        "Hello! How are you today?",
        "Hi there, nice to meet you.",
        "Great job! Exactly! Well done.",
        "That's a great question!",
        "You're on the right track.",
        "You said that it is 2/5.",
        "I see what you mean.",
        "Try to write both in sixths.",
        "Let's look at the denominators first.",
        "Now, think about the size of the pieces.",
        "First add the numerators, then the denominators.",
        "Please explain how you got there.",
        "Okay, take your time.",
        "That's close! Not quite. Yes, exactly right.",
        "Step 1: Find the common denominator. Step 2: Rewrite both.",
        "Super, du hast recht!",
        "Hmm, look at the sign again.",
        "Hm.",
        "Here is a hint:",
        "Hallo! Schön, dass du da bist.",
        "Gute Frage!",
        "Überlege, wie groß die Stücke sind.",
        "Was ist größer, 1/8 oder 1/4?",
        "Lass uns zuerst die Nenner ansehen.",
        "Du hast gesagt, es sind 2/5.",
        "```python\nprint(1)\n```",
        "",
    ],
)
def test_questions_greetings_praise_and_instructions_claim_nothing(draft: str) -> None:
    assert texts(draft) == []


@pytest.mark.parametrize(
    "draft",
    [
        "Water boils at 100 °C.",
        "Yes, 1/2 is the same as 3/6.",
        "3/6 + 2/6 = 5/6",
        "Ice floats.\N{NO-BREAK SPACE}",
        "Remember that the denominators must be equal.",
        "Keep in mind that ice is lighter than water.",
        "You need equal denominators to add fractions.",
        "Remember, the denominator tells us how many equal parts the whole has.",
        "Let me give you a hint: plants take in carbon dioxide from the air.",
        "Hint: the Moon turns about its axis.",
        "Water has two parts: hydrogen and oxygen.",
        "You are right that veins look blue, because the skin filters the light.",
        "Use sixths because six is a multiple of two and three.",
        "Actually, the Moon turns about its axis.",
        "Beachte, dass die Nenner gleich sein müssen.",
        "Wasser siedet bei 100 °C.",
        "Der Mond dreht sich um seine Achse.",
        "If the price rises, people buy less, and producers offer more.",
        "Work is force times distance.",
        "Glaciers carve valleys, but rivers do so too.",
    ],
)
def test_what_says_that_something_is_so_is_a_claim(draft: str) -> None:
    if draft.startswith("Ice floats"):
        assert texts(draft) == []  # two words: too little to look up
    else:
        assert texts(draft) == [draft]


def test_of_a_draft_only_what_it_claims_is_left_and_in_its_order() -> None:
    draft = "Good thinking! Water boils at 90 °C at sea level. Why is that?\n\n- Ice sinks in water.\n- Try it out.\n"
    assert texts(draft) == ["Water boils at 90 °C at sea level.", "Ice sinks in water."]


def test_compound_sentences_are_split_where_both_halves_can_stand_alone() -> None:
    assert texts("Ice floats on water; iron sinks in it.") == ["Ice floats on water", "iron sinks in it."]
    assert texts("The numerator stands above, and the denominator is below the line.") == [
        "The numerator stands above",
        "the denominator is below the line.",
    ]
    for whole in (
        "If ice is heated, it melts, and the water is warm.",
        "Bats are mammals, and birds are not.",
        "Both the heart and the lungs work, and they are needed.",
        "He said (and the book is right; I looked) that it floats.",
        "Red, green, and blue are colours.",
    ):
        assert texts(whole) == [whole]


def test_spans_are_the_words_of_the_draft() -> None:
    draft = "Well.  Ice floats\non the water;  it is *lighter* than\nwater. Why?"
    for claim in claims_in(draft):
        assert draft[claim.start : claim.end] == claim.span
        assert claim.text == " ".join(claim.span.split())


def test_a_claim_that_points_back_is_searched_with_what_it_points_to() -> None:
    first, second, third = claims_in("Ice is less dense than water. Therefore it floats. Iron sinks in water.")
    assert first.query == first.text
    assert second.query == "Ice is less dense than water. Therefore it floats."
    assert third.query == third.text


def test_any_text_has_claims_whose_spans_are_right() -> None:
    rng = random.Random(7)
    pieces = [
        "Ice",
        " ",
        "\n",
        ". ",
        "; ",
        ", and the ",
        "is ",
        "1.5",
        "- ",
        "```",
        "?",
        "!",
        "z. B.",
        "“",
        "(",
        "\0",
        "é",
        "*",
        "3. ",
    ]
    for _ in range(2000):
        draft = "".join(rng.choices(pieces, k=rng.randrange(25)))
        spans = [(claim.start, claim.end) for claim in claims_in(draft)]
        assert all(start < end for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all(draft[claim.start : claim.end] == claim.span for claim in claims_in(draft))
