"""Which of many texts are nearly the same, found without comparing each with each.

Two rows are near-duplicates when their five-word sequences have a Jaccard index of the threshold or more: those of what
is learnt and, by themselves, those of what it answers. "Well done!" that answers two different students is no
duplicate, and neither are two different replies to one long question.

MinHash signatures (Broder 1997; here rensa's R-MinHash) are cut into bands, and rows that agree in a band are compared
(Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4). The comparison itself is exact, so no pair is
found that is none; the bands are chosen so that of pairs that lie on the threshold 98 % are found, and of closer ones
more. Near-duplicates of near-duplicates belong together, as in text-dedup.

What is held in memory is some tens of bytes a row; signatures and word sequences lie in files, 1 KiB a row or so.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self, TypeAlias

from tutelage.checks.similarity import words
from tutelage.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Keys: TypeAlias = NDArray[np.uint64]
    Numbers: TypeAlias = NDArray[np.int64]

LOWEST: Final = 0.5
"""The lowest threshold: below it, `PERMUTATIONS` are too few to find what lies on it."""
NGRAM: Final = 5
"""Words in a sequence that is compared; a text with fewer words is one sequence."""
PERMUTATIONS: Final = 128
"""Of a signature. text-dedup takes 240 and compares no further; here they only find what is then compared exactly."""
RECALL: Final = 0.98
"""The chance that a pair on the threshold, in both texts, agrees in a band."""
_SEED: Final = 20
_BATCH: Final = 2000
"""Rows whose signatures are made at once."""
_ROUNDS: Final = 8
"""How many rows of a band's bucket all others in it are compared with, at most."""
_REMEMBERED: Final = 4096
_BYTES: Final = 4
"""Of a sequence's hash in the file."""
_ODD: Final = 0x9E3779B97F4A7C15


def bands_of(threshold: float) -> tuple[int, int]:
    """How many bands of how many values of each signature find pairs on a threshold with a chance of `RECALL`.

    The longest bands that do: the fewer rows that are not alike agree in one, the less is compared in vain.
    """

    def recall(values: int) -> float:
        return 1 - (1 - threshold ** (2 * values)) ** (PERMUTATIONS // values)

    values = max((each for each in range(1, PERMUTATIONS + 1) if recall(each) >= RECALL), default=1)
    return PERMUTATIONS // values, values


def need_libraries() -> None:
    """Makes sure that near-duplicates can be found.

    Raises:
        ExportError: numpy or rensa is not installed.
    """
    if missing := [name for name in ("numpy", "rensa") if find_spec(name) is None]:
        raise ExportError(
            f"near-duplicates are found with {' and '.join(missing)}, which is not installed: "
            "pip install 'tutelage[quality]'"
        )


class NearDuplicates:
    """Takes rows one by one, and then says which belong together. A context manager, for its files.

    Args:
        threshold: The Jaccard index from which two texts are nearly the same, `LOWEST` to 1.
        folder: Where its files lie meanwhile, in a folder of their own.

    Raises:
        ExportError: numpy or rensa is not installed.
    """

    def __init__(self, threshold: float, folder: Path) -> None:
        need_libraries()
        self._threshold = threshold
        self._bands, self._values = bands_of(threshold)
        self._open = ExitStack()
        self._folder = Path(self._open.enter_context(TemporaryDirectory(prefix=".near-duplicates-", dir=folder)))
        self._files = [self._file(f"band-{band}") for band in range(self._bands)]
        self._sequences = self._file("sequences")
        self._ends: list[Numbers] = []
        """Of each batch, where the sequences of each text end, counted from the beginning of the file."""
        self._end = 0
        self._batch: list[tuple[list[str], list[str], str]] = []
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, learnt: str, answered: str, apart: str = "") -> None:
        """Takes the next row.

        Args:
            learnt: What is learnt from it.
            answered: What that answers; empty where it answers nothing.
            apart: Rows that differ in this are never duplicates: the role, say.
        """
        self._batch.append((sequences(learnt), sequences(answered), apart))
        self._rows += 1
        if len(self._batch) >= _BATCH:
            self._sign()

    def groups(self) -> "Numbers":
        """For each row, in order, the first row that it belongs with: its own number where it is alone, or first."""
        import numpy as np

        self._sign()
        for file in (*self._files, self._sequences):
            file.flush()
        parents = np.arange(self._rows, dtype=np.int64)
        ends = np.concatenate([np.zeros(1, np.int64), *self._ends])
        with (self._folder / "sequences").open("rb") as file:
            alike = _Comparison(file, ends, self._threshold)
            for band in range(self._bands):
                keys = np.fromfile(self._folder / f"band-{band}", dtype=np.uint64)
                _unite(keys, parents, alike)
        return _roots(parents)

    def _file(self, name: str) -> BinaryIO:
        return self._open.enter_context((self._folder / name).open("wb"))

    def _sign(self) -> None:
        """Writes down the signatures and the sequences of a batch."""
        import numpy as np

        if not self._batch:
            return
        learnt, answered, apart = zip(*self._batch, strict=True)
        self._batch = []
        of_learnt, signed_learnt = _signed(learnt)
        of_answered, signed_answered = _signed(answered)
        keys = _keys(signed_learnt, signed_answered, apart, self._bands, self._values)
        for band, file in enumerate(self._files):
            file.write(keys[:, band].tobytes())
        texts = [text for row in zip(of_learnt, of_answered, strict=True) for text in row]
        self._sequences.write(np.concatenate(texts).tobytes())
        ends = self._end + np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._ends.append(ends)
        self._end = int(ends[-1])


class _Comparison:
    """Compares two rows by their sequences, which lie in a file."""

    def __init__(self, file: BinaryIO, ends: "Numbers", threshold: float) -> None:
        import numpy as np

        self._file = file.fileno()
        self._ends = ends
        self._threshold = threshold
        self._lengths = np.diff(ends).reshape(-1, 2)
        self._texts = lru_cache(maxsize=_REMEMBERED)(self._read)

    def is_possible(self, ones: "Numbers", others: "Numbers") -> "NDArray[np.bool_]":
        """Of many pairs, which may be near-duplicates: an index cannot be above the ratio of the sets' sizes."""
        import numpy as np

        first, second = self._lengths[ones], self._lengths[others]
        enough = np.minimum(first, second) >= self._threshold * np.maximum(first, second)
        return np.logical_and(enough[:, 0], enough[:, 1])

    def __call__(self, one: int, other: int) -> bool:
        """Whether they are near-duplicates."""
        return all(
            jaccard(first, second) >= self._threshold
            for first, second in zip(self._texts(one), self._texts(other), strict=True)
        )

    def _read(self, row: int) -> tuple[frozenset[int], frozenset[int]]:
        import numpy as np

        start, middle, end = self._ends[2 * row : 2 * row + 3].tolist()
        found = np.frombuffer(os.pread(self._file, (end - start) * _BYTES, start * _BYTES), np.uint32).tolist()
        return frozenset(found[: middle - start]), frozenset(found[middle - start :])


def sequences(text: str) -> list[str]:
    """The sequences of five words that a text holds, in order; a shorter one is one sequence, an empty one none."""
    said = words(text)
    if len(said) < NGRAM:
        return [" ".join(said)] if said else []
    return list(map(" ".join, zip(*(said[start:] for start in range(NGRAM)), strict=False)))


def jaccard(one: frozenset[Any], other: frozenset[Any]) -> float:
    """What two sets have in common, as a share of all they hold; two empty ones are the same."""
    common = len(one & other)
    together = len(one) + len(other) - common
    return common / together if together else 1.0


def _unite(keys: "Keys", parents: "Numbers", alike: _Comparison) -> None:
    """Unites those rows that agree in a band and are alike: each is compared with the first one of its bucket.

    Those that are not alike it are a bucket of their own, so that one stranger in front does not keep the others apart.
    """
    import numpy as np

    rows = np.argsort(keys, kind="stable")
    for _ in range(_ROUNDS):
        sorted_keys = keys[rows]
        new = np.ones(len(rows), bool)
        new[1:] = sorted_keys[1:] != sorted_keys[:-1]
        firsts = rows[np.flatnonzero(new)][np.cumsum(new) - 1]
        roots = _roots(parents)
        rest = ~new & (roots[rows] != roots[firsts])
        rows, firsts = rows[rest], firsts[rest]
        if not len(rows):
            return
        apart = np.ones(len(rows), bool)
        for pair in np.flatnonzero(alike.is_possible(firsts, rows)).tolist():
            apart[pair] = not _united(int(firsts[pair]), int(rows[pair]), parents, alike)
        rows = rows[apart]


def _united(one: int, other: int, parents: "Numbers", alike: _Comparison) -> bool:
    """Unites two rows if they are alike; whether they are together now."""
    first, second = _root(parents, one), _root(parents, other)
    if first == second:
        return True
    if not alike(one, other):
        return False
    parents[max(first, second)] = min(first, second)
    return True


def _root(parents: "Numbers", row: int) -> int:
    while (parent := int(parents[row])) != row:
        parents[row] = parents[parent]
        row = parent
    return row


def _roots(parents: "Numbers") -> "Numbers":
    """The first row of each row's group."""
    import numpy as np

    roots = parents
    while not np.array_equal(above := roots[roots], roots):
        roots = above
    return roots


def _signed(texts: Sequence[list[str]]) -> "tuple[list[NDArray[np.uint32]], NDArray[np.uint64]]":
    """The hashes of the sequences of each text, each once, and their signatures."""
    import numpy as np
    from rensa import RMinHash

    hashes = RMinHash.hash_token_sets(texts)
    signatures = RMinHash.digest_matrix_from_token_hash_sets(hashes, PERMUTATIONS, _SEED).to_rows()
    # The upper half: the hash's last step is a multiplication, which mixes upwards.
    short = [np.unique((np.array(each, np.uint64) >> np.uint64(32)).astype(np.uint32)) for each in hashes]
    return short, np.array(signatures, np.uint64)


def _keys(learnt: "Keys", answered: "Keys", apart: Sequence[str], bands: int, values: int) -> "NDArray[np.uint64]":
    """For each row and band a hash of its values of both signatures, and of what keeps rows apart."""
    import numpy as np

    keys = np.repeat(np.array([_hash(each) for each in apart], np.uint64)[:, None], bands, axis=1)
    for signature in (learnt, answered):
        cut = signature[:, : bands * values].reshape(-1, bands, values)
        for value in range(values):
            keys = (keys ^ cut[:, :, value]) * np.uint64(_ODD)
            keys ^= keys >> np.uint64(29)
    return keys


@lru_cache(maxsize=1024)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())
