"""The probes of the briefs in `examples/briefs` are true and tell who holds the misconception.

What can be computed is: the programs are run, the sums are done again, and so is what each misconception makes of them.
"""

import contextlib
import io
import json
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "briefs"
MOST_WORDS = 60
HALF = Fraction(1, 2)

Json = dict[str, Any]
Polynomial = tuple[int, ...]
"""Coefficients, the constant first."""

BRIEFS: list[Json] = [
    json.loads(line)
    for path in sorted(FOLDER.glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]
PROBES: dict[tuple[str, int], Json] = {
    (brief["id"], number): probe for brief in BRIEFS for number, probe in enumerate(brief["probes"])
}
each_probe = pytest.mark.parametrize("place", PROBES, ids=lambda place: f"{place[0]}-{place[1]}")


# What the files hold


def test_every_brief_has_three_probes_and_no_question_comes_twice() -> None:
    assert {len(brief["probes"]) for brief in BRIEFS} == {3}
    questions = [probe["question"] for probe in PROBES.values()] + [brief["question"] for brief in BRIEFS]
    assert len(set(questions)) == len(questions)


@each_probe
def test_answer_and_misconception_are_two_of_the_choices(place: tuple[str, int]) -> None:
    probe = PROBES[place]
    assert set(probe) == {"question", "choices", "answer", "misconception"}
    assert len(probe["choices"]) >= 3
    assert len({choice.casefold() for choice in probe["choices"]}) == len(probe["choices"]) - _only_case_differs(place)
    assert {probe["answer"], probe["misconception"]} <= set(probe["choices"])
    assert probe["answer"] != probe["misconception"]


@each_probe
def test_no_text_is_empty_long_or_has_space_around_it(place: tuple[str, int]) -> None:
    probe = PROBES[place]
    texts = [probe["question"], *probe["choices"]]
    assert all(text and text == text.strip() for text in texts)
    assert sum(len(text.split()) for text in texts) < MOST_WORDS


def test_the_right_choice_stands_in_every_place() -> None:
    places = {probe["choices"].index(probe["answer"]) for probe in PROBES.values()}
    assert places >= {0, 1, 2}


def _only_case_differs(place: tuple[str, int]) -> int:
    """How many choices differ from another in nothing but case, as they must where a program's output is asked for."""
    return {("prog-string-methods", 0): 2, ("prog-string-methods", 2): 1}.get(place, 0)


# The programs are run

ALIKE = {
    "prog-or-condition": [('"Sunday":', 'day == "Sunday":'), ("or 2", "or n == 2"), ('or "e"', 'or letter == "e"')],
    "prog-string-methods": [("s.upper", "s = s.upper"), ("t.replace", "t = t.replace"), ("w.cap", "w = w.cap")],
    "prog-assignment": [("print(b)", "print(a + 1)"), ("print(area)", "print(width * 3)"), ("print(y)", "print(x)")],
    "prog-float-equality": [
        ("0.1 + 0.1 + 0.1 == 0.3", "1 + 1 + 1 == 3"),
        ("0.1 * 3", "3 / 10"),
        ("1.1 + 2.2 == 3.3", "11 + 22 == 33"),
    ],
    "prog-floor-division": [("-5 // 2", "int(-5 / 2)"), ("-9 // 4", "int(-9 / 4)"), ("-1 // 10", "int(-1 / 10)")],
    "prog-list-alias": [("b = a\n", "b = a.copy()\n"), ("= team\n", "= team.copy()\n"), ("y = x\n", "y = x.copy()\n")],
    "prog-sort-returns-none": [
        ("words.sort()", "sorted(words)"),
        ("nums.sort()", "sorted(nums)"),
        ("names.sort()", "sorted(names)"),
    ],
    "prog-repeated-rows": [
        ("[[0]] * 2", "[[0], [0]]"),
        ("[[1, 2]] * 3", "[[1, 2], [1, 2], [1, 2]]"),
        ("[[0, 0]] * 2", "[[0, 0], [0, 0]]"),
    ],
    "prog-mutable-default": [
        ("    log.append", "    log = list(log)\n    log.append"),
        ("    seen[len(seen)] =", "    seen = dict(seen)\n    seen[len(seen)] ="),
        ("    tags.append", "    tags = list(tags)\n    tags.append"),
    ],
    "prog-late-binding": [("lambda:", "lambda n=n:"), ("lambda x:", "lambda x, k=k:"), ("lambda:", "lambda k=k:")],
}
"""By brief, for each of its probes: a replacement that makes the program do what the misconception says."""
PROGRAMS = [(name, number) for name, replacements in ALIKE.items() for number in range(len(replacements))]


def output(program: str) -> str:
    """What Python prints for `program`, without the last newline."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "probe", "exec"), {})
    return printed.getvalue().removesuffix("\n")


def test_every_programming_probe_is_run() -> None:
    assert {place for place in PROBES if place[0].startswith("prog-")} == set(PROGRAMS)


@pytest.mark.parametrize("place", PROGRAMS)
def test_a_program_prints_its_answer_and_as_believed_what_the_misconception_says(place: tuple[str, int]) -> None:
    probe, (real, believed) = PROBES[place], ALIKE[place[0]][place[1]]
    program = probe["question"].partition("\n\n")[2]
    assert program.count(real) == 1
    assert output(program) == probe["answer"]
    assert output(program.replace(real, believed)) == probe["misconception"]


# The sums are done again


def product(left: Polynomial, right: Polynomial) -> Polynomial:
    """The product of two polynomials."""
    total = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            total[i + j] += a * b
    return tuple(total)


def slope_at_one(polynomial: Polynomial) -> int:
    """The value of a polynomial's derivative at 1."""
    return sum(power * factor for power, factor in enumerate(polynomial))


def written(polynomial: Polynomial) -> str:
    """A quadratic in x as the briefs write it."""
    constant, linear, square = polynomial
    terms = [(square, "x^2"), (linear, "x"), (constant, "")]
    return " + ".join(f"{n if n != 1 or not x else ''}{x}" for n, x in terms if n)


def digits(decimal: str) -> int:
    """What stands after the point, read as a whole number."""
    return int(decimal.partition(".")[2])


def compared(left: Fraction, right: Fraction) -> str:
    return "it is more" if left > right else "it is less" if left < right else "it is equal"


def average_speed(distance: int, speeds: Iterable[int]) -> Fraction:
    """Over ways of the same distance."""
    hours = [Fraction(distance, speed) for speed in speeds]
    return distance * len(hours) / sum(hours, Fraction())


def chance_if_positive(ill: Fraction, false_alarm: Fraction) -> Fraction:
    return ill / (ill + (1 - ill) * false_alarm)


def percent(share: Fraction) -> str:
    return f"{round(100 * share)}%"


def century(year: int) -> str:
    return f"{(year - 1) // 100 + 1}th"


def first_digits(year: int) -> str:
    return f"{year // 100}th"


def in_the_16th(name: object) -> int:
    """The one of three years whose century, by some way of naming centuries, is the 16th."""
    assert callable(name)
    (year,) = (year for year in (1450, 1550, 1650) if name(year) == "16th")
    return year


ONE, TWO, SQUARE, CUBE = (1, 1), (2, 1), (0, 0, 1), (0, 0, 0, 1)
"""x + 1, x + 2, and powers of x."""
COMPUTED: dict[str, list[tuple[object, object] | None]] = {
    "math-fractions-add": [
        (Fraction(1, 3) + Fraction(1, 4), Fraction(1 + 1, 3 + 4)),
        (Fraction(2, 3) + Fraction(1, 4), Fraction(2 + 1, 3 + 4)),
        (compared(HALF + Fraction(1, 5), HALF), compared(Fraction(1 + 1, 2 + 5), HALF)),
    ],
    "math-decimals-order": [
        (max("0.5", "0.125", "0.36", key=Fraction), max("0.5", "0.125", "0.36", key=digits)),
        (min("0.7", "0.409", "0.58", key=Fraction), min("0.7", "0.409", "0.58", key=digits)),
        (max("0.8", "0.75", key=Fraction), max("0.8", "0.75", key=digits)),
    ],
    "math-dividir-entre-un-medio": [
        (6 / HALF, 6 // 2),
        (10 / HALF, 10 // 2),
        (f"{'mayor' if 14 / HALF > 14 else 'menor'} que 14", f"{'mayor' if 14 // 2 > 14 else 'menor'} que 14"),
    ],
    "math-order-of-operations": [(10 - 3 + 2, 10 - (3 + 2)), (20 - 8 + 6 - 1, 20 - (8 + 6) - 1), None],
    "math-subtract-negative": [(4 - (-3), 4 - 3), (-2 - (-6), -2 - 6), (9 - (-4), 9 - 4)],
    "math-square-of-sum": [
        (written(product((5, 1), (5, 1))), written((5**2, 0, 1))),
        (written(product(ONE, ONE)), written((1**2, 0, 1))),
        ((2 + 4) ** 2, 2**2 + 4**2),
    ],
    "math-percent-up-down": [
        (100 * Fraction(110, 100) * Fraction(90, 100), 100),
        (f"it is {percent(1 - HALF * (1 + HALF))} lower", "it is the same"),
        (f"by about {percent(Fraction(80, 60) - 1)}", "by 25%"),
    ],
    "math-area-scaling": [(2**2, 2), (5**2, 5), (4**2, 4)],
    "math-average-speed": [
        (average_speed(12, (12, 6)), (12 + 6) // 2),
        (average_speed(6, (2, 6)), (2 + 6) // 2),
        (f"{'less' if average_speed(1, (40, 80)) < 60 else 'more'} than 60 km/h", f"{(40 + 80) // 2} km/h"),
    ],
    "math-gamblers-fallacy": [(HALF, 1 - HALF**4), None, None],
    "math-base-rate": [
        (percent(chance_if_positive(Fraction(1, 100), Fraction(1, 10))), percent(1 - Fraction(1, 10))),
        (
            "the machine is sound" if chance_if_positive(Fraction(1, 500), Fraction(2, 100)) < HALF else "",
            "the machine has the fault" if 1 - Fraction(2, 100) > HALF else "",
        ),
        None,
    ],
    "math-product-rule": [
        (slope_at_one(product(SQUARE, CUBE)), slope_at_one(SQUARE) * slope_at_one(CUBE)),
        (slope_at_one(product(ONE, TWO)), slope_at_one(ONE) * slope_at_one(TWO)),
        (3 * 4 + 2 * 5, 3 * 5),
    ],
    "science-mixing-water": [((20 + 20) // 2, 20 + 20), ((10 + 50) // 2, 10 + 50), None],
    "history-century": [
        (century(1492), first_digits(1492)),
        (century(1215), first_digits(1215)),
        (in_the_16th(century), in_the_16th(first_digits)),
    ],
    "history-years-across-bc-ad": [(5 - 1 + 1 + 5 - 1, 5 + 5), (10 - 1 + 1 + 20 - 1, 10 + 20), None],
}
"""By brief, for each of its probes: the answer, and what the misconception makes of it; None where nothing is computed."""
SUMS = [(name, number) for name, pairs in COMPUTED.items() for number, pair in enumerate(pairs) if pair]


def test_every_mathematics_brief_has_probes_that_are_computed() -> None:
    assert {brief["id"] for brief in BRIEFS if brief["domain"] == "mathematics"} <= set(COMPUTED)


@pytest.mark.parametrize("place", SUMS)
def test_a_computed_probe_has_its_answer_and_its_misconceptions(place: tuple[str, int]) -> None:
    pair = COMPUTED[place[0]][place[1]]
    assert pair is not None
    assert (PROBES[place]["answer"], PROBES[place]["misconception"]) == (str(pair[0]), str(pair[1]))


def test_of_the_bracketed_sums_only_the_answer_is_equal() -> None:
    probe = PROBES["math-order-of-operations", 2]
    assert [choice for choice in probe["choices"] if eval(choice) == 9 - 4 + 3] == [probe["answer"]]
