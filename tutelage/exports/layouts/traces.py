"""The Hub's Session Trace Simple Format: one file for each dialogue, a line that says what it is, then its messages.

The Hub finds such files by themselves and shows them in its trace viewer.
https://huggingface.co/docs/hub/session-traces-format
"""

import hashlib
import re
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import orjson

from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.request import FileKind
from tutelage.exports.rows import Column, Kind, Row

HARNESS: Final = "tutelage"
PER_FOLDER: Final = 5_000
"""The Hub wants fewer than 10,000 files in a folder."""

_SAFE: Final = re.compile(r"\w[\w.-]{0,99}")


class TraceFiles:
    """Writes each dialogue into a file of its own: `data/train/00000/<dialogue>.jsonl`. A context manager."""

    def __init__(self, folder: Path, _: FileKind, __: Columns) -> None:
        self._folder = folder / "data"
        self._counts: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def write(self, split: str, row: Row) -> None:
        """Writes a dialogue."""
        count = self._counts.get(split, 0)
        self._counts[split] = count + 1
        folder = self._folder / split / f"{count // PER_FOLDER:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        id_ = row["session"]["id"]
        lines = [row["session"], *row["messages"]]
        text = b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
        (folder / f"{_file_name(id_)}.jsonl").write_bytes(text)


def _file_name(id_: str) -> str:
    """The id, where it is one that names a file here and on the Hub; a hash of it where it is not."""
    return id_ if _SAFE.fullmatch(id_) else hashlib.sha256(id_.encode()).hexdigest()[:16]


def _trace(row: Row) -> Row:
    others = {speaker for speaker, each in zip(row["speakers"], row["messages"], strict=True) if each["role"] == "user"}
    said = zip(row["messages"], row["speakers"], row["models"], strict=True)
    return {
        "session": {
            "type": "session",
            "harness": HARNESS,
            "id": row["dialogue"],
            "name": row["title"],
            **{name: row[name] for name in ("brief", "run", "graph", "outcome", "origin")},
            "assistant": row["role"],
        },
        "messages": [
            {
                "type": "message",
                "message": {
                    "role": message["role"],
                    # The viewer knows one user: where there were several, each is named.
                    "content": f"{speaker}: {message['content']}"
                    if len(others) > 1 and message["role"] == "user"
                    else message["content"],
                    "model": model,
                },
            }
            for message, speaker, model in said
        ],
    }


def _columns(_: Columns) -> dict[str, Column]:
    header = ("type", "harness", "id", "name", "brief", "run", "graph", "outcome", "origin", "assistant")
    message: Kind = {"type": "text", "message": {"role": "text", "content": "text", "model": "text"}}
    return {
        "session": Column(
            dict.fromkeys(header, "text"), "the first line: which dialogue it is, and who is the assistant"
        ),
        "messages": Column([message], "the other lines: what was said, and who wrote it"),
    }


TRACES: Final = Layout(
    tool="the Hub's trace viewer",
    columns=_columns,
    row=_trace,
    kinds=("jsonl",),
    open=TraceFiles,
    rows_at=None,
    usage="Each file below `data/` is one dialogue, in the Session Trace Simple Format: upload the folder as a data set, and "
    "the Hub shows the dialogues in its trace viewer.",
)
