"""Texts as the words that a search compares: in lower case, without the most common ones, cut down to their stems."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

from tutelage.errors import ConfigError

LANGUAGES: Final = (
    "english",
    "german",
    "dutch",
    "french",
    "spanish",
    "portuguese",
    "italian",
    "russian",
    "swedish",
    "norwegian",
    "danish",
    "turkish",
)
"""Those that have a list of common words in `bm25s` and a Snowball stemmer, by the stemmer's name."""
_SAMPLE: Final = 20_000
"""So many words are enough to tell a language."""
_WORD = re.compile(r"\d+(?:[.,/:]\d+)*|\w+")
"""Numbers stay whole: 3.14, 1/2 and 12:30 are words."""


def language_of(texts: Sequence[str]) -> str:
    """The language whose common words are met most often; English if none is.

    Passages and queries are cut down alike, in the language of the whole index: what stands there in another one is found by
    its words all the same, only less well in its inflected forms.
    """
    words: list[str] = []
    for text in texts:
        words += _split(text)
        if len(words) > _SAMPLE:
            break
    return max(LANGUAGES, key=lambda language: sum(word in common_words(language) for word in words))


def words_of(text: str, language: str) -> list[str]:
    """The words of a text, as they are compared.

    Not from several threads at once: a stemmer has a memory.

    Raises:
        ConfigError: The extra `evidence` is not installed.
    """
    common = common_words(language)
    return _stemmer(language)([word for word in _split(text) if word not in common])


@cache
def common_words(language: str) -> frozenset[str]:
    """The words of a language that say nothing of what a text is about."""
    from bm25s import stopwords

    # Its list called English has articles and little else; this one has as much as the others' lists.
    name = "EN_PLUS" if language == "english" else language.upper()
    return frozenset(getattr(stopwords, f"STOPWORDS_{name}"))


def _split(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


@cache
def _stemmer(language: str) -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ImportError as error:
        raise ConfigError(
            "documents to check against are searched by the stems of words, and PyStemmer is not installed: install the "
            "extra `evidence` (pip install 'tutelage[evidence]')"
        ) from error
    stemmer: Any = Stemmer.Stemmer(language)
    stem_words: Callable[[list[str]], list[str]] = stemmer.stemWords
    return stem_words
