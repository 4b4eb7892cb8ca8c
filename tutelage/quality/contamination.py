"""Whether a text holds something of a benchmark: then a model that has learnt it cannot be measured with it any more.

As in GPT-3's and later reports, a text is contaminated that shares 13 words in a row with an item (Brown et al. 2020,
arXiv 2005.14165, appendix C). Letter case, punctuation and layout do not count. An item of fewer words is looked for as
a whole, down to five words: shorter ones are answers and labels ("Paris", "B"), which any text may hold.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import orjson

from tutelage.errors import ExportError

NGRAM: Final = 13
"""Words in a row."""
FEWEST: Final = 5
"""Words of an item that is looked for."""
READABLE: Final = (".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".md")
_REMEMBERED: Final = 8192
"""Texts: prompts share most of their messages."""

# Scripts that put no space between words are read character by character.
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")


class Benchmarks:
    """The word sequences of benchmark items; 40 bytes or so are held of each, and not the items.

    Args:
        items: Their texts.
    """

    def __init__(self, items: Iterable[str]) -> None:
        self._sequences: dict[int, set[int]] = {}
        """By length in words, their hashes."""
        for item in items:
            said = _words(item)
            if len(said) >= FEWEST:
                length = min(len(said), NGRAM)
                self._sequences.setdefault(length, set()).update(_hashes(said, length))
        self.touch = lru_cache(maxsize=_REMEMBERED)(self._touch)
        """Whether a text shares a sequence with an item."""

    def __bool__(self) -> bool:
        return bool(self._sequences)

    def _touch(self, text: str) -> bool:
        said = _words(text)
        return any(not known.isdisjoint(_hashes(said, length)) for length, known in self._sequences.items())


def read_benchmarks(paths: Iterable[Path]) -> Benchmarks:
    """Reads benchmarks: of JSONL, JSON and Parquet each text in each field, of other files each line.

    Raises:
        ExportError: A file cannot be read, or has no item of five words.
    """
    return Benchmarks(item for path in paths for item in _items(path))


def _items(path: Path) -> Iterator[str]:
    found = False
    try:
        for text in _texts(path):
            found = found or len(_words(text)) >= FEWEST
            yield text
    except OSError as error:
        raise ExportError(f"the benchmark {str(path)!r} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"the benchmark {str(path)!r} is no UTF-8 text: {error}") from error
    if not found:
        raise ExportError(f"the benchmark {str(path)!r} has no item of {FEWEST} words or more: is it the right file?")


def _texts(path: Path) -> Iterator[str]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield from texts_of(_parsed(line, f"{path}:{number}"))
        case ".json":
            yield from texts_of(_parsed(path.read_bytes(), str(path)))
        case ".parquet":
            yield from _strings_of_parquet(path)
        case ".txt" | ".md":
            with path.open(encoding="utf-8") as file:
                yield from file
        case other:
            raise ExportError(
                f"the benchmark {str(path)!r} is {other or 'without a suffix'}: read are {', '.join(READABLE)}"
            )


def _parsed(text: bytes, place: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ExportError(f"{place}: the benchmark is no JSON here: {error}") from error


def _strings_of_parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ExportError(
            f"the benchmark {str(path)!r} needs pyarrow, which is not installed: pip install 'tutelage[export]'"
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from texts_of(batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise ExportError(f"the benchmark {str(path)!r} is no Parquet: {error}") from error


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts_of(each)


def _words(text: str) -> list[str]:
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return _WORD.findall(plain.casefold())


def _hashes(words: list[str], length: int) -> Iterator[int]:
    return map(hash, zip(*(words[start:] for start in range(length)), strict=False))
