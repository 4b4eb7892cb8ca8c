"""How likely a teacher finds what was said, packed for distillation: Parquet, one row for each turn.

A row has the tokens of the prompt and the reply, the mask of those that are to be learnt, and for each of these what the
teacher says of its place: its likeliest tokens, or tokens drawn by their probabilities, with the probability of all others
as one number. Log-probabilities are natural and kept as half-precision numbers: of one below 1, 2, 4 or 8 the error is at
most .00025, .0005, .001 or .002, and so the probabilities of a place add up to 1 within .001.

Sources: DistillKit's recipe of scoring afterwards; "Sparse Logit Sampling" (arXiv:2503.16870) for drawn tokens, whose mean is
the teacher's distribution, as that of its likeliest tokens is not.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from tutelage.errors import ExportError
from tutelage.exports.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

Mode: TypeAlias = Literal["topk", "sampled"]

RAW: Final = "raw_logprobs"
"""vLLM's name for log-probabilities at temperature 1, before anything is cut off or penalised."""
CLOSES_WITHIN: Final = 1e-3
"""How far the probabilities of a place may be from adding up to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a teacher says of one place in a text."""

    ids: Sequence[int]
    """Tokens: the likeliest ones, likeliest first, or those that were drawn, as often as they were."""
    logprobs: Sequence[float]
    """Of each of them."""
    logprob: float
    """Of the token that stands there, which need not be one of them."""
    tail: float
    """Of all tokens together that are not among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTurn:
    """A turn, and how likely each of its tokens was."""

    identity: Row
    """Where it is from: the columns of `COLUMNS` that come before its tokens."""
    input_ids: Sequence[int]
    """Of the prompt, of what was said, and of the token that ends it."""
    begin: int
    """How many of them are the prompt's."""
    places: Sequence[Place]
    """One for each token from `begin` on."""


def tail_of(logprobs: Iterable[float]) -> float:
    """The logarithm of what is left of 1 beside these probabilities; minus infinity where nothing is."""
    left = 1.0 - math.fsum(map(math.exp, logprobs))
    return math.log(left) if left > 0 else -math.inf


def closing_tail(place_logprobs: Sequence[float], tail: float) -> float:
    """The tail that is written beside logprobs that were rounded to half precision.

    It is the true one, unless rounding has moved their sum by more than half of what `CLOSES_WITHIN` allows, as it may where
    dozens of tokens are equally likely: then it is what makes the sum 1.
    """
    rounded = [as_half(each) for each in place_logprobs]
    missing = 1.0 - math.fsum(map(math.exp, rounded)) - math.exp(tail)
    return tail if abs(missing) <= CLOSES_WITHIN / 2 else tail_of(rounded)


def as_half(value: float) -> float:
    """The nearest number of half precision."""
    return float(struct.unpack("<e", struct.pack("<e", value))[0])


COLUMNS: Final = {
    "id": "unique among the rows; the id of the same turn in an export of format sft",
    "dialogue": "the transcript that it is from",
    "brief": "what was taught; split training and test data by it, not by row",
    "role": "whose words they are",
    "turn": "the turn's index in the dialogue, from 0",
    "text": "what was said; the tokens under the mask decode to it, and the token that ends it",
    "written_by": "who said it: the model, or `model+adapter`",
    "input_ids": "the tokens of the prompt, of what was said, and the one that ends it",
    "loss_mask": "1 for the tokens that were said and the one that ends them, 0 for the prompt's",
    "topk_ids": "for each token under the mask, the teacher's likeliest ones in its place, likeliest first",
    "topk_logprobs": "their log-probabilities",
    "sampled_ids": "for each token under the mask, tokens drawn in its place by the teacher's probabilities, with repeats",
    "sampled_logprobs": "their log-probabilities",
    "tail_logmass": "for each token under the mask, the log-probability of all tokens that are not listed",
    "token_logprobs": "for each token under the mask, its own log-probability, listed or not",
    "tokenizer_sha": "what the teacher's tokenizer makes of a fixed text, hashed: equal where tokenizers are",
    "chat_template_sha": "what its chat template makes of a fixed conversation, hashed",
    "model": "the teacher",
    "adapter": "the LoRA adapter on it; empty if there is none",
    "logprobs_mode": "raw_logprobs: at temperature 1, of all tokens, before anything is cut off",
}
"""What is in the columns; a file has either the likeliest tokens or those that were drawn."""
_OF_MODE: Final = {"topk": ("topk_ids", "topk_logprobs"), "sampled": ("sampled_ids", "sampled_logprobs")}


def columns_of(mode: Mode) -> list[str]:
    """The columns of a file, in their order."""
    other = _OF_MODE["sampled" if mode == "topk" else "topk"]
    return [name for name in COLUMNS if name not in other]


def schema_of(mode: Mode) -> "pa.Schema":
    """The types of the columns.

    Raises:
        ExportError: pyarrow is not installed.
    """
    pa = _pyarrow()
    ids, logprobs = _OF_MODE[mode]
    types = {
        "turn": pa.int64(),
        "input_ids": pa.list_(pa.uint32()),
        "loss_mask": pa.list_(pa.int8()),
        ids: pa.list_(pa.list_(pa.uint32())),
        logprobs: pa.list_(pa.list_(pa.float16())),
        "tail_logmass": pa.list_(pa.float16()),
        "token_logprobs": pa.list_(pa.float16()),
    }
    return pa.schema([pa.field(name, types.get(name, pa.string())) for name in columns_of(mode)])


class LogprobFile:
    """One Parquet file of scored turns, compressed with zstd.

    Args:
        path: Where it is written.
        mode: What it holds.
        shared: The columns that all of its rows have in common, from `tokenizer_sha` on.

    Raises:
        ExportError: pyarrow is not installed.
    """

    def __init__(self, path: Path, mode: Mode, shared: Row) -> None:
        self._schema, self._mode, self._shared = schema_of(mode), mode, shared
        from pyarrow.parquet import ParquetWriter

        self._file = path.open("wb")
        self._writer = ParquetWriter(self._file, self._schema, compression="zstd")

    @property
    def size(self) -> int:
        """Bytes that were written so far."""
        return self._file.tell()

    def write(self, turns: Sequence[ScoredTurn]) -> None:
        """Appends turns, as one row group."""
        self._writer.write_table(packed(turns, self._mode, self._shared, self._schema))

    def close(self) -> None:
        """Ends the file; without it, nothing of it can be read."""
        try:
            self._writer.close()
        finally:
            self._file.close()


def packed(turns: Sequence[ScoredTurn], mode: Mode, shared: Row, schema: "pa.Schema") -> "pa.Table":
    """Scored turns as a table."""
    pa = _pyarrow()
    ids, logprobs = _OF_MODE[mode]
    masks = ([0] * turn.begin + [1] * len(turn.places) for turn in turns)
    built: dict[str, Any] = {
        "input_ids": pa.array([list(turn.input_ids) for turn in turns], schema.field("input_ids").type),
        "loss_mask": pa.array(list(masks), schema.field("loss_mask").type),
        ids: pa.array([[list(place.ids) for place in turn.places] for turn in turns], schema.field(ids).type),
        logprobs: _nested([[place.logprobs for place in turn.places] for turn in turns]),
        "tail_logmass": _lists([[_tail(place, mode) for place in turn.places] for turn in turns]),
        "token_logprobs": _lists([[place.logprob for place in turn.places] for turn in turns]),
    }
    for name in schema.names:
        if name not in built:
            values = [shared[name] if name in shared else turn.identity[name] for turn in turns]
            built[name] = pa.array(values, schema.field(name).type)
    return pa.table([built[name] for name in schema.names], schema=schema)


def _tail(place: Place, mode: Mode) -> float:
    # Of tokens that were drawn twice the probability counts once.
    logprobs = place.logprobs if mode == "topk" else list(dict(zip(place.ids, place.logprobs, strict=True)).values())
    return closing_tail(logprobs, place.tail)


def _nested(lists: Sequence[Sequence[Sequence[float]]]) -> "pa.Array":
    pa = _pyarrow()
    return pa.ListArray.from_arrays(_offsets(lists), _lists(list(chain.from_iterable(lists))))


def _lists(lists: Sequence[Sequence[float]]) -> "pa.Array":
    pa = _pyarrow()
    values = list(chain.from_iterable(lists))
    # pyarrow itself makes half-precision numbers only of numpy's, before its version 22.
    buffer = pa.py_buffer(struct.pack(f"<{len(values)}e", *values))
    return pa.ListArray.from_arrays(_offsets(lists), pa.Array.from_buffers(pa.float16(), len(values), [None, buffer]))


def _offsets(lists: Sequence[Sequence[Any]]) -> "pa.Array":
    offsets = [0]
    for each in lists:
        offsets.append(offsets[-1] + len(each))
    return _pyarrow().array(offsets, _pyarrow().int32())


def read_ids(path: Path) -> Iterator[str]:
    """The ids of a file's rows.

    Raises:
        OSError: It is no whole Parquet file.
    """
    pa = _pyarrow()
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["id"]):
                yield from batch.column(0).to_pylist()
    except pa.ArrowInvalid as error:
        raise OSError(f"{path} is no whole Parquet file: {error}") from error


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ExportError("Parquet needs pyarrow, which is not installed: pip install 'tutelage[export]'") from error
    return pyarrow
