"""Searching passages: by their words, and by their meaning where there is a model for it.

Words are searched with BM25 (`bm25s`, arXiv 2407.03618), which needs no model. Embeddings find what is said in other words;
the two rankings are fused by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009), which needs no weights.
"""

import asyncio
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from tutelage.errors import ConfigError
from tutelage.evidence.passages import Passage
from tutelage.evidence.words import language_of, words_of

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

RANK_CONSTANT: Final = 60
"""The k of reciprocal rank fusion, as its authors set it."""
DEPTH: Final = 4
"""Of each ranking, so many times the passages that are wanted are fused."""


class WordIndex:
    """Finds passages by their words. It is built once, and may be asked from several threads."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        """Builds the index; a heading's words count as its passages' own.

        Args:
            passages: What is searched.

        Raises:
            ConfigError: The extra `evidence` is not installed.
        """
        try:
            import bm25s
        except ImportError as error:
            raise ConfigError(
                "documents to check against are searched with bm25s, which is not installed: install the extra `evidence` "
                "(pip install 'tutelage[evidence]')"
            ) from error
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to tell whatever it does
        self.passages = tuple(passages)
        texts = [_searched(passage) for passage in passages]
        self.language = language_of(texts)
        self._lock = threading.Lock()
        """A stemmer serves one thread at a time."""
        self._scores: Any = None
        if any(words := [words_of(text, self.language) for text in texts]):
            self._scores = bm25s.BM25(backend="numpy")
            self._scores.index(words, show_progress=False)

    def search(self, query: str, k: int) -> list[Passage]:
        """At most `k` passages that share a word with the query, the best first."""
        with self._lock:
            words = words_of(query, self.language)
        if self._scores is None or not words:
            return []
        return _best(self.passages, self._scores.get_scores(words), k)


class MeaningIndex:
    """Finds passages by their embeddings: those whose direction is nearest to the query's.

    LangChain's `InMemoryVectorStore` does the same, but makes an array of all vectors for each query: among 10,000 passages
    that took 180 to 430 ms, in the event loop, and this 7 to 18 on the same busy machine.
    """

    def __init__(
        self, passages: Sequence[Passage], vectors: Sequence[Sequence[float]], embeddings: "Embeddings"
    ) -> None:
        """Keeps the vectors, each of length 1, in one matrix of 32-bit floats.

        Args:
            passages: What is searched.
            vectors: Their embeddings.
            embeddings: Embeds the queries.
        """
        import numpy as np

        self.passages = tuple(passages)
        self._embeddings = embeddings
        matrix = np.asarray(vectors, dtype=np.float32)
        self._matrix: Any = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)

    async def search(self, query: str, k: int) -> list[Passage]:
        """At most `k` passages, the nearest first.

        Raises:
            CallError: The query's embedding could not be had.
        """
        import numpy as np

        vector = np.asarray(await self._embeddings.aembed_query(query), dtype=np.float32)
        return _best(self.passages, self._matrix @ vector, k)


@dataclass(frozen=True, slots=True)
class PassageIndex:
    """Finds passages by their words, and by their meaning where there are embeddings."""

    by_words: WordIndex
    by_meaning: MeaningIndex | None = None

    @classmethod
    async def of(cls, passages: Sequence[Passage], embeddings: "Embeddings | None" = None) -> Self:
        """Indexes passages.

        Args:
            passages: What is searched.
            embeddings: Any of LangChain's.

        Raises:
            ConfigError: The extra `evidence` is not installed.
            CallError: The embeddings could not be had.
        """
        by_words = await asyncio.to_thread(WordIndex, passages)
        if embeddings is None:
            return cls(by_words)
        vectors = await embeddings.aembed_documents([_searched(passage) for passage in passages])
        return cls(by_words, MeaningIndex(passages, vectors, embeddings))

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All of them, in the order of their documents."""
        return self.by_words.passages

    async def search(self, query: str, k: int) -> list[Passage]:
        """At most `k` passages, the best first.

        Raises:
            CallError: The query's embedding could not be had.
        """
        if self.by_meaning is None:
            return self.by_words.search(query, k)
        rankings = [self.by_words.search(query, DEPTH * k), await self.by_meaning.search(query, DEPTH * k)]
        return fused(rankings, k)


def fused(rankings: Sequence[Sequence[Passage]], k: int) -> list[Passage]:
    """The best `k` of several rankings by the sum of 1 / (60 + rank); of equals, the one that was met first."""
    passages = {passage.id: passage for ranking in rankings for passage in ranking}
    scores = dict.fromkeys(passages, 0.0)
    for ranking in rankings:
        for rank, passage in enumerate(ranking, start=1):
            scores[passage.id] += 1 / (RANK_CONSTANT + rank)
    return [passages[each] for each in sorted(scores, key=lambda each: -scores[each])[:k]]


def _best(passages: Sequence[Passage], scores: Any, k: int) -> list[Passage]:
    """The passages with the highest scores above zero, the highest first; equals in their own order."""
    import numpy as np

    found = np.flatnonzero(scores > 0)
    return [passages[each] for each in found[np.argsort(-scores[found], kind="stable")[:k]]]


def _searched(passage: Passage) -> str:
    return f"{passage.heading}\n{passage.text}"
