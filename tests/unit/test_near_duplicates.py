"""Near-duplicates: what is found is what comparing each with each finds."""

import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from tutelage.errors import ExportError
from tutelage.quality import near_duplicates
from tutelage.quality.near_duplicates import RECALL, NearDuplicates, bands_of, jaccard, need_libraries, sequences

LONG = "if you add the tops and the bottoms of both fractions what do you get and can it be less than a half of one"


def groups_of(rows: Sequence[tuple[str, ...]], folder: Path, threshold: float = 0.7) -> list[int]:
    with NearDuplicates(threshold, folder) as near:
        for row in rows:
            near.add(*row)
        found: list[int] = near.groups().tolist()
    assert not list(folder.iterdir()), "its files are gone afterwards"
    return found


def varied(rng: random.Random, texts: int) -> list[str]:
    """Texts of which many are others with some words changed."""
    words = [f"word{number}" for number in range(500)]
    made: list[list[str]] = []
    for _ in range(texts):
        if made and rng.random() < 0.6:
            text = list(rng.choice(made))
            for _ in range(rng.randint(0, 3)):
                text[rng.randrange(len(text))] = rng.choice(words)
        else:
            text = rng.choices(words, k=rng.randint(3, 60))
        made.append(text)
    return [" ".join(text) for text in made]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_bands_find_what_comparing_all_pairs_finds(seed: int, threshold: float, tmp_path: Path) -> None:
    """No pair that is none, ever; and of the pairs hardly one less."""
    rng = random.Random(seed)
    rows = list(zip(varied(rng, 300), varied(rng, 12) * 25, strict=True))
    sets = [tuple(frozenset(sequences(text)) for text in row) for row in rows]
    pairs = [
        (one, other)
        for one, other in combinations(range(len(rows)), 2)
        if all(jaccard(a, b) >= threshold for a, b in zip(sets[one], sets[other], strict=True))
    ]
    parents = list(range(len(rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            row = parents[row]
        return row

    for one, other in pairs:
        parents[max(root(one), root(other))] = min(root(one), root(other))
    expected = [root(row) for row in range(len(rows))]
    found = groups_of(rows, tmp_path, threshold)
    assert len(pairs) >= 5
    assert all(expected[row] == expected[first] for row, first in enumerate(found)), "nothing is together that is not"
    together = [pair for pair in pairs if found[pair[0]] == found[pair[1]]]
    assert len(together) >= RECALL * len(pairs)


def test_a_pair_just_below_the_threshold_is_none(tmp_path: Path) -> None:
    """One word of 24 changed in the middle: 15 of 25 sequences are the same, .6."""
    words = LONG.split()
    changed = " ".join([*words[:12], "otherwise", *words[13:]])
    alike = jaccard(frozenset(sequences(LONG)), frozenset(sequences(changed)))
    assert 0.55 < alike < 0.65
    rows = [(LONG, ""), (changed, "")]
    assert groups_of(rows, tmp_path, alike + 0.01) == [0, 1]
    assert groups_of(rows, tmp_path, alike - 0.01) == [0, 0]


def test_the_same_reply_to_something_else_is_no_duplicate_and_neither_is_another_reply_to_the_same(
    tmp_path: Path,
) -> None:
    rows = [
        ("Well done!", "Is it five sixths, because a third is two sixths?"),
        ("Well done!", "Then the leaf makes sugar out of light and water."),
        ("Not quite. Which size must the parts have?", "Is it five sixths, because a third is two sixths?"),
        ("well done", "Is it five sixths because a third is two sixths"),
    ]
    assert groups_of(rows, tmp_path) == [0, 1, 2, 0]


def test_what_keeps_rows_apart_keeps_them_apart(tmp_path: Path) -> None:
    assert groups_of([(LONG, "", "True"), (LONG, "", "False"), (LONG, "", "True")], tmp_path) == [0, 1, 0]


def test_near_duplicates_of_near_duplicates_belong_together(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(60)]
    chain = [" ".join([*words[: 60 - n], *[f"other{number}" for number in range(60 - n, 60)]]) for n in range(20)]
    sets = [frozenset(sequences(text)) for text in chain]
    assert jaccard(sets[0], sets[1]) > 0.7 > jaccard(sets[0], sets[-1])
    assert groups_of([(text, "") for text in chain], tmp_path) == [0] * 20


def test_one_stranger_in_front_does_not_keep_the_others_of_a_bucket_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one band that all share, only the comparison tells them apart."""
    monkeypatch.setattr(near_duplicates, "_keys", lambda learnt, *_: near_duplicates_keys(len(learnt)))
    rows = (
        [("nothing like the others is said here at all", "")] + [(LONG, "")] * 3 + [("and one more that is alone", "")]
    )
    assert groups_of(rows, tmp_path) == [0, 1, 1, 1, 4]


def near_duplicates_keys(rows: int) -> object:
    import numpy as np

    return np.zeros((rows, bands_of(0.7)[0]), np.uint64)


def test_rows_of_several_batches_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_BATCH", 3)
    rows = [(text, "") for text in varied(random.Random(7), 8)] + [(LONG, "")] * 2
    assert groups_of(rows, tmp_path)[-2:] == [8, 8]


def test_empty_texts_are_the_same_and_no_rows_have_no_groups(tmp_path: Path) -> None:
    assert groups_of([("", ""), ("word", ""), ("", "")], tmp_path) == [0, 1, 0]
    assert groups_of([], tmp_path) == []


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_bands_are_chosen_by_the_chance_to_find_what_lies_on_the_threshold(threshold: float) -> None:
    bands, values = bands_of(threshold)
    assert 1 - (1 - threshold ** (2 * values)) ** bands >= RECALL


def test_without_rensa_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "find_spec", lambda name: None if name == "rensa" else object())
    with pytest.raises(ExportError, match=r"rensa.*pip install 'tutelage\[quality\]'"):
        need_libraries()
