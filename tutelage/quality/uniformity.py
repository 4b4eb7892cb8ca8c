"""How much alike the texts of a sample are: measures of one set of texts, each a plain function.

What they are worth: cheap alarms. On sets that a strong model had made they failed to rank which trains the better model
(arXiv 2410.15226), so a difference between two good sets says little, and a fall over time or far from what people
write says much. All depend on how many texts there are: compare samples of one size.
"""

import gzip
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zlib import crc32

from pydantic import BaseModel, ConfigDict

from tutelage.errors import ExportError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Words: TypeAlias = Sequence[str]

PREFIX: Final = 20
"""Words of each text in the compression ratio that does not reward long texts."""
NEAR: Final = 0.7
"""From this Jaccard similarity of their 5-grams two texts are near-duplicates (the default of text-dedup)."""
NEEDED: Final = ("numpy", "threadpoolctl")
"""Libraries, of the extra quality."""

_WORD: Final = re.compile(r"\w+|[^\w\s]")
_COLUMNS: Final = 4096
"""Of the hashed counts of 1- and 2-grams; what people's texts were measured with."""


class Measures(BaseModel):
    """How much alike the texts of a sample are."""

    model_config = ConfigDict(frozen=True)

    texts: int
    """How many were measured. Samples of different sizes do not compare."""
    words: float
    """Of a text, on average."""
    compression_ratio: float
    """Bytes over bytes gzipped: 1 does not compress."""
    compression_ratio_prefix: float
    """The same of the first 20 words of each text, so that long texts do not look more uniform for being long."""
    distinct_1: float
    distinct_2: float
    """Different word pairs over all word pairs: 1 if no pair comes twice."""
    distinct_3: float
    self_repetition: float
    """How often the 4-grams of a text come in other texts: the mean of log(1 + occurrences elsewhere)."""
    vendi: float
    """How many different texts there seem to be, by their words and word pairs: 1 if all are the same."""
    near_duplicates: float
    """The share of texts of which another that came before is a near-duplicate."""


def measures_of(texts: Sequence[str]) -> Measures:
    """All measures of some texts, of which each has a word, and there is one at least.

    Raises:
        ExportError: numpy is not installed.
    """
    words = [words_of(text) for text in texts]
    prefixes = [" ".join(text.split()[:PREFIX]) for text in texts]
    return Measures(
        texts=len(texts),
        words=sum(len(text.split()) for text in texts) / len(texts),
        compression_ratio=compression_ratio(texts),
        compression_ratio_prefix=compression_ratio(prefixes),
        distinct_1=distinct(words, 1),
        distinct_2=distinct(words, 2),
        distinct_3=distinct(words, 3),
        self_repetition=self_repetition(words),
        vendi=vendi_score(ngram_similarity(words)),
        near_duplicates=near_duplicate_share(words),
    )


def words_of(text: str) -> list[str]:
    """Words and punctuation marks, in lower case."""
    return _WORD.findall(text.lower())


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, one a line, over their bytes gzipped (Shaib et al., arXiv 2403.00553).

    Gzipped once: the authors' own package gzips twice.
    """
    plain = "\n".join(texts).encode()
    return len(plain) / len(gzip.compress(plain, mtime=0))


def distinct(texts: Sequence[Words], n: int) -> float:
    """Different n-grams over all n-grams of the texts (Li et al., arXiv 1510.03055); 0 if there are none."""
    grams = [gram for words in texts for gram in _ngrams(words, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_repetition(texts: Sequence[Words], n: int = 4) -> float:
    """The mean over texts of log(1 + in how many other texts its n-grams come) (Shaib et al., arXiv 2403.00553)."""
    grams = [set(_ngrams(words, n)) for words in texts]
    texts_with = Counter(gram for each in grams for gram in each)
    return sum(math.log1p(sum(texts_with[gram] - 1 for gram in each)) for each in grams) / len(texts)


def near_duplicate_share(texts: Sequence[Words], *, n: int = 5, threshold: float = NEAR) -> float:
    """The share of texts that are near-duplicates of one before them: what deduplication would leave out.

    Exact, and for samples: of n-grams that all texts share, the time grows with the square of their number.
    """
    shingles = [set(_ngrams(words, n)) or {tuple(words)} for words in texts]
    kept_with: dict[tuple[str, ...], list[int]] = {}
    dropped = 0
    for number, mine in enumerate(shingles):
        shared = Counter(other for gram in mine for other in kept_with.get(gram, ()))
        if any(both / (len(mine) + len(shingles[other]) - both) >= threshold for other, both in shared.items()):
            dropped += 1
            continue
        for gram in mine:
            kept_with.setdefault(gram, []).append(number)
    return dropped / len(texts)


def ngram_similarity(texts: Sequence[Words]) -> "NDArray[Any]":
    """How alike any two texts are: the cosine of their counts of words and word pairs, hashed into 4,096 columns.

    Returns:
        A matrix [texts, texts] of 0 to 1, with 1 on its diagonal.

    Raises:
        ExportError: numpy is not installed.
    """
    np = _numpy()
    counts = np.zeros((len(texts), _COLUMNS))
    for row, words in zip(counts, texts, strict=True):
        for gram in (*_ngrams(words, 1), *_ngrams(words, 2)):
            row[crc32(" ".join(gram).encode()) % _COLUMNS] += 1
    counts /= np.linalg.norm(counts, axis=1, keepdims=True)
    with _one_thread():
        similarity: NDArray[Any] = counts @ counts.T
    return similarity


def vendi_score(similarity: "NDArray[Any]") -> float:
    """The exponential of the entropy of a similarity matrix's eigenvalues (Friedman & Dieng, arXiv 2210.02410).

    Args:
        similarity: [n, n], symmetric, positive semidefinite, with 1 on its diagonal.
    """
    np = _numpy()
    with _one_thread():
        shares = np.linalg.eigvalsh(similarity / len(similarity))
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _ngrams(words: Words, n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _one_thread() -> AbstractContextManager[Any]:
    """For matrices of this size, threads of BLAS wait more than they work: beside a run, five times the CPU time."""
    from threadpoolctl import threadpool_limits

    one: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return one


def _numpy() -> Any:
    try:
        import numpy
        import threadpoolctl  # noqa: F401 - its absence is to be told with numpy's
    except ImportError as error:
        raise ExportError(
            f"measures of diversity need {error.name}, which is not installed: pip install 'tutelage[quality]'"
        ) from error
    return numpy
