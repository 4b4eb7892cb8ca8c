"""Diversity: the measures against known values, and the report over runs."""

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Call, Outcome, Turn
from tutelage.quality.diversity import MEASURES, POINT, POINTS, DiversityTally
from tutelage.quality.uniformity import (
    compression_ratio,
    distinct,
    measures_of,
    near_duplicate_share,
    ngram_similarity,
    self_repetition,
    vendi_score,
    words_of,
)
from tutelage.transcripts.transcript import GraphIdentity, Lineage, Transcript, Usage

START = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = [f"{first}{second}" for first in "bcdfghklmnprst" for second in ("a", "e", "i", "o", "u", "an", "el", "or")]


def sentences(count: int, *, seed: int = 0, words: Sequence[str] = WORDS) -> list[str]:
    """Sentences of 5 to 25 words, each word as likely as it is early in the list: 1 / rank."""
    rng = random.Random(seed)
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(rng.choices(words, weights, k=rng.randint(5, 25))) + "." for _ in range(count)]


def transcript(
    number: int, texts: Sequence[str], *, model: str = "m", generation: int = 1, status: str = "completed"
) -> Transcript:
    call = Call(model=model, prompt_sha256="0" * 64)
    turns = [
        Turn(
            index=index,
            role="student" if index % 2 else "tutor",
            text=text,
            attempts=[Attempt(text=text, status="accepted", call=call)],
        )
        for index, text in enumerate(texts)
    ]
    return Transcript(
        id=f"d{number}",
        run="r",
        graph=GraphIdentity(name="lesson", sha256="0"),
        brief=Brief(id="b"),
        turns=turns,
        outcome=Outcome.model_validate({"status": status, "reason": "max_messages"}),
        lineage=Lineage(generation=generation, parents=[model]),
        usage=Usage(),
        started=START,
        finished=START + timedelta(minutes=number),
    )


def test_vendi_scores_are_those_of_its_paper() -> None:
    """The two examples of the authors' package: six numbers in three places, and a matrix of three."""
    points = np.array([0, 0, 10, 10, 20, 20])
    assert vendi_score(np.exp(-abs(points[:, None] - points))) == pytest.approx(2.9999, abs=1e-3)
    assert vendi_score(np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1.0]])) == pytest.approx(2.1573, abs=1e-3)


def test_vendi_score_of_texts_counts_the_different_ones() -> None:
    different = [words_of(text) for text in ("one two", "three four", "five six")]
    assert vendi_score(ngram_similarity(different)) == pytest.approx(3)
    assert vendi_score(ngram_similarity(different * 5)) == pytest.approx(3)
    assert vendi_score(ngram_similarity(different[:1] * 9)) == pytest.approx(1)


def test_measures_of_small_sets_by_hand() -> None:
    texts = [words_of(text) for text in ("a b a b", "a b c d")]
    assert distinct(texts, 1) == 4 / 8
    assert distinct(texts, 2) == 4 / 6  # ab ba ab, ab bc cd
    assert distinct(texts, 9) == 0
    assert self_repetition([words_of("a b c d e"), words_of("x a b c d"), words_of("nothing like it here")]) == (
        pytest.approx(2 * np.log(2) / 3)
    )
    same = words_of("one two three four five six seven eight nine ten")
    assert near_duplicate_share([same, [*same, "eleven"], words_of("something else")]) == 1 / 3
    assert near_duplicate_share([words_of("yes"), words_of("yes"), words_of("no")]) == 1 / 3


def test_compression_ratio_is_gzipped_once() -> None:
    """The package of the measure's authors gzips what it has gzipped: of one letter, 100,000 times, 61 bytes would stay."""
    assert compression_ratio(["a" * 100_000]) == pytest.approx(100_000 / 133, rel=0.02)


def test_texts_ten_times_over_compress_four_times_better() -> None:
    once = sentences(40)
    tenfold = once * 10
    random.Random(0).shuffle(tenfold)
    before, repeated, different = measures_of(once), measures_of(tenfold), measures_of(sentences(400))
    assert repeated.compression_ratio >= 4 * before.compression_ratio
    assert repeated.compression_ratio_prefix >= 4 * before.compression_ratio_prefix
    assert repeated.near_duplicates == 0.9
    assert repeated.vendi == pytest.approx(before.vendi)
    assert different.near_duplicates == 0
    for measure in MEASURES:
        better, worse = measure.of(different), measure.of(repeated)
        assert better > worse if measure.higher_is_more_diverse else better < worse, measure.title


def test_a_report_is_by_role_model_and_generation() -> None:
    texts = sentences(80)
    tally = DiversityTally()
    for number in range(20):
        tally.add(
            transcript(number, texts[4 * number : 4 * number + 4], model="ab"[number % 2], generation=1 + number % 2)
        )
    tally.add(transcript(99, ["never said"] * 4, status="failed"))
    groups = [(group.role, group.model, group.generation, group.turns) for group in tally.result().groups]
    assert groups == [
        (role, *rest) for role in ("tutor", "student") for rest in ((None, None, 40), ("a", 1, 20), ("b", 2, 20))
    ]


def test_equal_seeds_give_equal_numbers_whatever_the_order() -> None:
    texts = sentences(3000)
    dialogues = [transcript(number, texts[3 * number : 3 * number + 3]) for number in range(1000)]

    def groups(order: Callable[[list[Transcript]], list[Transcript]], seed: int = 0) -> object:
        tally = DiversityTally(seed=seed)
        for each in order(dialogues):
            tally.add(each)
        return {(group.role, group.model): group.measures for group in tally.result().groups}

    assert groups(list) == groups(lambda each: each[::-1])
    assert groups(list) != groups(list, seed=1)


def test_samples_are_of_one_size_however_long_the_run() -> None:
    texts = sentences(2000)
    few, many = DiversityTally(), DiversityTally()
    for number in range(1000):
        many.add(transcript(number, texts[2 * number : 2 * number + 2]))
        if number < 500:
            few.add(transcript(number, texts[2 * number : 2 * number + 2]))
    (short, *_), (long, *_) = few.result().groups, many.result().groups
    assert (short.turns, long.turns) == (500, 1000)
    assert short.measures.texts == long.measures.texts == 400
    assert long.measures.compression_ratio == pytest.approx(short.measures.compression_ratio, rel=0.03)


def test_fewer_turns_than_a_sample_are_measured_as_a_smaller_sample_that_compares() -> None:
    texts = sentences(399)
    tally = DiversityTally()
    for number, text in enumerate(texts):
        tally.add(transcript(number, [text]))
    report = tally.result(texts)
    assert (report.groups[0].turns, report.groups[0].measures.texts) == (399, POINT)
    assert report.human is not None
    assert report.human.texts == POINT
    assert MEASURES[0].human(report.human.texts) is not None


def test_a_curve_falls_where_the_words_run_out_and_stays_bounded() -> None:
    rich, poor = sentences(6000, seed=1), sentences(6000, seed=2, words=WORDS[:12])
    tally = DiversityTally()
    for number, text in enumerate([*rich, *poor]):
        tally.add(transcript(number, [text]))
    points = tally.result().over_time["tutor"]
    assert POINTS <= len(points) <= 2 * POINTS
    assert {point.measures.texts for point in points} == {POINT}
    assert sum(point.turns for point in points) >= 12_000 - points[0].turns
    assert [point.first for point in points] == sorted(point.first for point in points)
    half = len(points) // 2
    assert min(point.measures.vendi for point in points[:half]) > max(point.measures.vendi for point in points[half:])


def test_people_have_a_band_for_the_sizes_that_are_measured() -> None:
    """Ten times repeated sentences are outside of it, on the uniform side."""
    uniform, missing = measures_of(sentences(40) * 10), measures_of(sentences(7))
    assert all(measure.more_uniform_than_people(uniform) for measure in MEASURES)
    assert all(measure.human(7) is None and measure.more_uniform_than_people(missing) is None for measure in MEASURES)
    tally = DiversityTally()
    assert tally.result(["Words of a person.", " ", "More words."]).human is not None
    assert tally.result().human is None
