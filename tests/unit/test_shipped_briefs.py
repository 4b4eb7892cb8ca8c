"""The briefs in `examples/briefs` are true and usable.

A fact-checker trusts these files, so nothing in them that can be computed is taken on faith: the programs are run, the
sums are done again, and so is what each misconception makes of them; those of the probes are in `test_shipped_probes.py`.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from tutelage import Brief

FOLDER = Path(__file__).parents[2] / "examples" / "briefs"
KEYS = {
    "id",
    "topic",
    "domain",
    "question",
    "answer",
    "misconception",
    "probes",
    "facts",
    "level",
    "difficulty",
    "language",
}
LEVELS = {"primary", "secondary", "undergraduate"}
DIFFICULTIES = {"easy", "medium", "hard"}
LANGUAGES = {"en", "de", "es"}
COUNTS = {"mathematics": 12, "science": 10, "programming": 10, "history": 8, "language": 8}
MOST_WORDS = 150

Json = dict[str, Any]
Polynomial = tuple[int, ...]
"""Coefficients, the constant first."""


def load() -> list[tuple[str, Json]]:
    """Every shipped brief with the name of its file."""
    return [
        (path.stem, json.loads(line))
        for path in sorted(FOLDER.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


SHIPPED = load()
BRIEFS = [brief for _, brief in SHIPPED]
BY_ID: dict[str, Json] = {brief["id"]: brief for brief in BRIEFS}
each_brief = pytest.mark.parametrize("brief", BRIEFS, ids=lambda brief: str(brief["id"]))


def contains(text: str, form: str) -> bool:
    """Whether `form` stands in `text` as a whole word or number, in any case."""
    return re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text, re.IGNORECASE) is not None


def texts(value: object) -> list[str]:
    """Every string within a JSON value."""
    if isinstance(value, dict):
        return [text for inner in value.values() for text in texts(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in texts(inner)]
    return [str(value)]


# What the files hold


def test_every_domain_has_its_number_of_briefs() -> None:
    assert {domain: sum(stem == domain for stem, _ in SHIPPED) for domain, _ in SHIPPED} == COUNTS


def test_a_file_holds_only_briefs_of_its_domain() -> None:
    assert [brief["id"] for stem, brief in SHIPPED if brief["domain"] != stem] == []


def test_ids_and_questions_are_unique() -> None:
    assert len(BY_ID) == len(BRIEFS)
    assert len({brief["question"] for brief in BRIEFS}) == len(BRIEFS)


@each_brief
def test_a_brief_has_every_key_and_no_empty_text(brief: Json) -> None:
    assert set(brief) - {"giveaway"} == KEYS
    assert set(brief["misconception"]) - {"robustness"} == {"belief", "predicts", "changes_when"}
    assert len(brief["misconception"]["changes_when"]) == 2
    assert all(text.strip() == text and text for text in texts(brief))
    assert isinstance(brief["answer"], list) and brief["answer"]
    assert len(brief["facts"]) in {2, 3}
    assert brief["level"] in LEVELS and brief["difficulty"] in DIFFICULTIES and brief["language"] in LANGUAGES
    assert Brief.model_validate(brief).id == brief["id"]


@each_brief
def test_a_brief_is_short_enough_for_a_small_context(brief: Json) -> None:
    prompted = {key: value for key, value in brief.items() if key != "probes"}
    assert sum(len(text.split()) for text in texts(prompted)) < MOST_WORDS


# What a student is shown gives nothing away


@each_brief
def test_the_answer_stands_neither_in_the_question_nor_in_the_misconception(brief: Json) -> None:
    shown = [brief["topic"], brief["question"], brief["misconception"]["belief"]]
    shown += brief["misconception"]["changes_when"]
    assert [(form, text) for form in brief["answer"] for text in shown if contains(text, form)] == []


@each_brief
def test_what_gives_the_answer_away_is_not_in_sight_already(brief: Json) -> None:
    shown = [brief["topic"], brief["question"], brief["misconception"]["belief"], brief["misconception"]["predicts"]]
    terms = brief.get("giveaway", [])
    assert [(term, text) for term in terms for text in shown if contains(text, term)] == []
    assert not {term.casefold() for term in terms} & {form.casefold() for form in brief["answer"]}


@each_brief
def test_the_predicted_answer_cannot_be_taken_for_a_right_one(brief: Json) -> None:
    predicts = brief["misconception"]["predicts"]
    confused = [form for form in brief["answer"] if contains(predicts, form) or contains(form, predicts)]
    assert confused == []


# The programs are run

AS_BELIEVED = {
    "prog-assignment": ("print(total)", "print(price * 2)"),
    "prog-or-condition": ('or "blue"', 'or colour == "blue"'),
    "prog-string-methods": ("word.replace", "word = word.replace"),
    "prog-float-equality": ("0.1 + 0.2 == 0.3", "1 + 2 == 3"),
    "prog-floor-division": ("-7 // 2", "int(-7 / 2)"),
    "prog-list-alias": ("b = a", "b = a.copy()"),
    "prog-sort-returns-none": ("nums.sort()", "sorted(nums)"),
    "prog-repeated-rows": ("[[]] * 3", "[[], [], []]"),
    "prog-mutable-default": ("    basket.append", "    basket = list(basket)\n    basket.append"),
    "prog-late-binding": ("lambda: i", "lambda i=i: i"),
}
"""A replacement that makes each program do what its misconception says it does already."""


def output(program: str) -> str:
    """What Python prints for `program`, without the last newline."""
    command = [sys.executable, "-I", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.removesuffix("\n")


def program_of(brief: Json) -> str:
    """The program that a question shows: all that follows its first blank line."""
    return str(brief["question"]).partition("\n\n")[2]


def test_every_programming_brief_is_run() -> None:
    assert {brief["id"] for brief in BRIEFS if brief["domain"] == "programming"} == set(AS_BELIEVED)


@pytest.mark.parametrize("name", AS_BELIEVED)
def test_a_program_prints_its_answer(name: str) -> None:
    assert BY_ID[name]["answer"] == [output(program_of(BY_ID[name]))]


@pytest.mark.parametrize("name", AS_BELIEVED)
def test_a_program_as_the_student_believes_it_prints_what_the_misconception_predicts(name: str) -> None:
    program = program_of(BY_ID[name])
    real, believed = AS_BELIEVED[name]
    assert program.count(real) == 1
    assert BY_ID[name]["misconception"]["predicts"] == output(program.replace(real, believed))


# The sums are done again


def product(left: Polynomial, right: Polynomial) -> Polynomial:
    """The product of two polynomials."""
    total = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            total[i + j] += a * b
    return tuple(total)


def derivative(polynomial: Polynomial) -> Polynomial:
    """The derivative of a polynomial."""
    return tuple(power * factor for power, factor in enumerate(polynomial))[1:]


def at_one(polynomial: Polynomial) -> int:
    """The value of a polynomial at 1."""
    return sum(polynomial)


def written(polynomial: Polynomial) -> str:
    """A quadratic in x as the briefs write it."""
    constant, linear, square = polynomial
    terms = [(square, "x^2"), (linear, "x"), (constant, "")]
    return " + ".join(f"{n if n != 1 or not x else ''}{x}" for n, x in terms if n)


def in_order(decimals: list[str], size: Callable[[str], Fraction]) -> str:
    """The decimals with commas between them, smallest first."""
    return ", ".join(sorted(decimals, key=size))


DECIMALS = ["0.6", "0.238", "0.45"]
ILL, FALSE_ALARM = Fraction(1, 1000), Fraction(5, 100)
RISE, FALL = Fraction(120, 100), Fraction(80, 100)
FACTORS: tuple[Polynomial, Polynomial] = ((1, 0, 1), (0, 0, 0, 1))

COMPUTED: dict[str, tuple[object, object]] = {
    "math-fractions-add": (Fraction(1, 2) + Fraction(1, 3), Fraction(1 + 1, 2 + 3)),
    "math-decimals-order": (
        in_order(DECIMALS, Fraction),
        in_order(DECIMALS, lambda decimal: Fraction(decimal.partition(".")[2])),
    ),
    "math-dividir-entre-un-medio": (8 / Fraction(1, 2), 8 // 2),
    "math-order-of-operations": (12 - 5 + 4, 12 - (5 + 4)),
    "math-subtract-negative": (7 - (-5), 7 - 5),
    "math-square-of-sum": (written(product((3, 1), (3, 1))), written((3**2, 0, 1))),
    "math-percent-up-down": (200 * RISE * FALL, 200),
    "math-area-scaling": (3**2, 3),
    "math-average-speed": ((60 + 60) / (Fraction(60, 30) + Fraction(60, 60)), (30 + 60) // 2),
    "math-gamblers-fallacy": (Fraction(1, 2), 1 - Fraction(1, 2) ** 6),
    "math-base-rate": (
        f"{round(100 * ILL / (ILL + (1 - ILL) * FALSE_ALARM))}%",
        f"{100 * (1 - FALSE_ALARM)}%",
    ),
    "math-product-rule": (
        at_one(derivative(product(*FACTORS))),
        at_one(derivative(FACTORS[0])) * at_one(derivative(FACTORS[1])),
    ),
    "science-mixing-water": ((20 + 40) // 2, 20 + 40),
    "history-century": (f"{(1789 - 1) // 100 + 1}th", f"{1789 // 100}th"),
    "history-years-across-bc-ad": ((14 - 1) + 1 + (27 - 1), 14 + 27),
}
"""The answer to a question, and what the misconception makes of it."""


def test_every_mathematics_brief_is_computed() -> None:
    assert {brief["id"] for brief in BRIEFS if brief["domain"] == "mathematics"} <= set(COMPUTED)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_answer_is_the_canonical_form(name: str) -> None:
    answer, _ = COMPUTED[name]
    assert BY_ID[name]["answer"][0] == str(answer)


@pytest.mark.parametrize("name", COMPUTED)
def test_a_misconception_computes_to_what_it_predicts(name: str) -> None:
    _, predicted = COMPUTED[name]
    assert BY_ID[name]["misconception"]["predicts"] == str(predicted)
