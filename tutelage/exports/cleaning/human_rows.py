"""Rows that people wrote, in files of their own: JSONL or Parquet with a format's columns, as TRL names them.

A column that is learnt from must be there, as messages or as plain text; what else a format's rows have (who played the
role, why the model stopped) is filled in. Any row can be read by its number, and of a file of millions only the places of
its lines are held.
"""

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final, Self

import orjson

from tutelage.errors import ExportError
from tutelage.exports.cleaning.comparing import compared
from tutelage.exports.rewards import VERIFIERS
from tutelage.exports.rows import MESSAGES, Column, Kind, Row

LEARNT: Final = (
    *("messages", "prompt", "completion", "completions", "chosen", "rejected", "label", "labels"),
    *("answer", "verifier"),
)
"""The columns that a row of people must have, where the format has them."""
ROLES: Final = ("system", "user", "assistant")
ENDINGS: Final = (".jsonl", ".ndjson", ".parquet")

_INSTEAD: Final = {"source": "human", "by": "people"}
"""What other columns say of a row that a person wrote."""
_TYPES: Final = {"text": str, "integer": int, "flag": bool}
_NOTHING: Final = {"text": "", "integer": 0, "number": None, "flag": False}
_SHOWN: Final = 40


class HumanFile:
    """A file of rows that people wrote. A context manager.

    Args:
        path: A file of JSON lines, or Parquet.
        columns: Those of the format.
        name: Unique among the files; in the rows' ids.
        role: Whose words they are.
        folder: Whose disk takes what is put aside.

    Raises:
        ExportError: It cannot be read.
    """

    def __init__(self, path: Path, columns: Mapping[str, Column], *, name: str, role: str, folder: Path) -> None:
        self.path = path
        self._columns = columns
        self._name = name
        self._role = role
        if path.suffix not in ENDINGS:
            raise ExportError(f"{str(path)!r}: rows by people are read from files that end in {', '.join(ENDINGS)}")
        self._unit = "row" if path.suffix == ".parquet" else "line"
        try:
            self._file: BinaryIO = _as_json_lines(path, folder) if self._unit == "row" else path.open("rb")
        except OSError as error:
            raise ExportError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
        self._numbers, self._addresses = array("Q"), array("Q")
        address = 0
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                self._numbers.append(number)
                self._addresses.append(address)
            address += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Lines that are not blank, or rows."""
        return len(self._numbers)

    def place(self, at: int) -> str:
        """Where a row stands, as a message gives it."""
        return f"{self.path}, {self._unit} {self._numbers[at]}"

    def row(self, at: int) -> Row:
        """The row at a position, from 0, with all columns of the format.

        Raises:
            ValueError: There is none of the format; the message says why.
        """
        self._file.seek(self._addresses[at])
        try:
            given = orjson.loads(self._file.readline())
        except orjson.JSONDecodeError as error:
            raise ValueError(f"it is no valid JSON: {error}") from error
        if not isinstance(given, dict):
            raise ValueError("it is no JSON object")
        place = f"human/{self._name}/{self._numbers[at]}"
        row = {
            name: _learnt(name, given, column.kind) if name in LEARNT else _beside(name, given, column.kind)
            for name, column in self._columns.items()
        }
        if "train" in row and len(row["train"]) != len(row["messages"]):  # it does not say which are learnt
            row["train"] = [message["role"] == "assistant" for message in row["messages"]]
        row |= {"id": place, "dialogue": place, "brief": place, "role": self._role, "origin": "human"}
        if not compared(row).learnt.strip():
            raise ValueError("it has no text to learn")
        if reason := _why_unfit(row):
            raise ValueError(reason)
        return row

    def check(self) -> None:
        """Makes sure that there is a row of the format in it.

        Raises:
            ExportError: There is none.
        """
        first_reason = "it is empty"
        for at in range(len(self)):
            try:
                self.row(at)
            except ValueError as error:
                if not at:
                    first_reason = f"{self.place(at)}: {error}"
            else:
                return
        needed = " and ".join(f"`{name}`" for name in self._columns if name in LEARNT)
        raise ExportError(
            f"{str(self.path)!r} has no row to mix in: {first_reason}. A row has {needed}, as TRL reads them"
        )


def _as_json_lines(path: Path, folder: Path) -> BinaryIO:
    """The rows of a Parquet file, put aside as JSON lines, of which any can be read without the others."""
    file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by whom it is given to
    try:
        for row in _parquet_rows(path):
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE, default=str))
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ExportError(f"{str(path)!r}: Parquet needs pyarrow: pip install 'tutelage[export]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ExportError(f"{str(path)!r} cannot be read as Parquet: {error}") from error


def _learnt(name: str, given: Mapping[str, Any], kind: Kind) -> Any:
    value = given.get(name)
    if value is None:
        raise ValueError(f"it has no {name!r}")
    if kind == MESSAGES:
        return _messages(name, value)
    if kind == ["text"] and isinstance(value, str):
        value = [value]
    if not _fits(value, kind):
        raise ValueError(f"its {name!r} is {_shown(value)}, which is no {_as_told(kind)}")
    return value


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    """Messages, or a text: a prompt is what the user says, all else what the assistant does."""
    if isinstance(value, str):
        return [{"role": "user" if name == "prompt" else "assistant", "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        raise ValueError(f"its {name!r} is {_shown(value)}, which is neither a text nor a list of messages")
    for message in value:
        if message.get("tool_calls"):
            raise ValueError(f"its {name!r} calls tools, for which the rows have no place")
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise ValueError(
                f"a message of its {name!r} lacks a `content` that is a text, or a `role`: {' or '.join(ROLES)}"
            )
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _why_unfit(row: Row) -> str | None:
    """What keeps a row from being learnt, though each of its columns is what it should be; None if nothing does."""
    for name in ("completion", "chosen", "rejected"):
        if name in row and row[name][-1]["role"] != "assistant":
            return f"its {name!r} ends with what the {row[name][-1]['role']} says: the assistant's words are learnt"
    if "chosen" in row and row["chosen"] == row["rejected"]:
        return "its 'chosen' and its 'rejected' are the same"
    if "completions" in row and len(row["completions"]) != len(row["labels"]):
        return f"it has {len(row['completions'])} 'completions' and {len(row['labels'])} 'labels'"
    if "verifier" in row and (row["verifier"] not in VERIFIERS or not row["answer"]):
        return f"it needs an 'answer', and as its 'verifier' {' or '.join(VERIFIERS)}"
    return None


def _beside(name: str, given: Mapping[str, Any], kind: Kind) -> Any:
    """What stands in a column that nothing is learnt from: what the row says, if it fits, or that it is not known."""
    value = given.get(name)
    if value is not None and _fits(value, kind):
        return value
    return _INSTEAD.get(name) or _nothing(kind)


def _nothing(kind: Kind) -> Any:
    if isinstance(kind, str):
        return _NOTHING[kind]
    return {name: _nothing(each) for name, each in kind.items()} if isinstance(kind, Mapping) else []


def _fits(value: Any, kind: Kind) -> bool:
    if kind == "number":
        return type(value) in (int, float)
    if isinstance(kind, str):
        return type(value) is _TYPES[kind]
    if isinstance(kind, Mapping):
        is_one = isinstance(value, dict) and value.keys() == kind.keys()
        return is_one and all(_fits(value[name], each) for name, each in kind.items())
    return isinstance(value, list) and all(_fits(each, kind[0]) for each in value)


def _as_told(kind: Kind) -> str:
    return str(kind) if isinstance(kind, str) else "list" if not isinstance(kind, Mapping) else "object"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
