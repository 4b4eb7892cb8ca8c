"""Scores of factuality and of grounding: the formulas, on values worked out by hand."""

import pytest

from tutelage.dialogue.turn import Attempt, Call, Claim, Review, Turn
from tutelage.evidence.scores import Verdicts, claims_of, f1_at, factscore, fragments, non_repetition


def test_factscore_has_the_penalty_of_few_claims() -> None:
    assert factscore(Verdicts(supported=5)) == pytest.approx(0.3679, abs=5e-5)
    assert factscore(Verdicts(supported=10)) == 1.0
    assert factscore(Verdicts(supported=6, contradicted=2, not_found=4)) == 0.5
    assert factscore(Verdicts()) is None


def test_f1_at_k_counts_what_is_supported_up_to_k() -> None:
    assert f1_at(5, Verdicts(supported=3, not_found=1)) == pytest.approx(0.6667, abs=5e-5)
    assert f1_at(3, Verdicts(supported=6)) == 1.0
    assert f1_at(5, Verdicts(contradicted=3)) == 0.0


# Worked out by hand: source, text, coverage, density.
GROUNDED = [
    ("ice floats on water", "ice floats on water", 4 / 4, 16 / 4),
    ("ice floats on water", "iron sinks", 0 / 2, 0 / 2),
    ("a b c d e", "a b x d e f", 4 / 6, (4 + 4) / 6),
    # "a b c" at the second place is longer than "a b" at the first
    ("a b x a b c", "a b c y a", 4 / 5, (9 + 1) / 5),
    ("Water boils at 100 degrees.", "At 100 degrees, water boils.", 6 / 7, (9 + 4 + 1) / 7),
]


@pytest.mark.parametrize(("source", "text", "coverage", "density"), GROUNDED)
def test_coverage_and_density_are_those_worked_out_by_hand(
    source: str, text: str, coverage: float, density: float
) -> None:
    found = fragments(text, source)
    assert found.coverage == pytest.approx(coverage)
    assert found.density == pytest.approx(density)


def test_an_empty_text_is_taken_from_nowhere() -> None:
    assert fragments("", "a b").coverage == 0.0


def test_answers_that_repeat_earlier_ones_score_less() -> None:
    assert non_repetition(["a b", "c d"]) == 1.0
    assert non_repetition(["a b", "a b"]) == 0.0
    # the second shares one of two words with the first; the third two of at most three with both
    assert non_repetition(["a b", "a c", "b c"]) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    assert non_repetition(["a b"]) is None


def test_only_the_claims_of_what_was_said_count() -> None:
    call = Call(model="m", prompt_sha256="0")

    def attempt(text: str, status: str, verdict: str) -> Attempt:
        claim = Claim.model_validate({"text": text, "span": text, "verdict": verdict})
        review = Review(role="claim_checker", verdict="accept", claims=[claim])
        return Attempt.model_validate({"text": text, "status": status, "call": call, "reviews": [review]})

    attempts = [attempt("a", "rejected", "contradicted"), attempt("b", "accepted", "supported")]
    turns = [
        Turn(index=0, role="tutor", text="b", attempts=attempts),
        Turn(index=1, role="student", text="c", attempts=[attempt("c", "accepted", "not_found")]),
    ]
    assert Verdicts.of(claims_of(turns)) == Verdicts(supported=1, not_found=1)
    assert Verdicts.of(claims_of(turns, "tutor")) == Verdicts(supported=1)
