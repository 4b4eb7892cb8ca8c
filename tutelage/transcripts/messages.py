"""What every call was sent: `messages.jsonl`, the parts of all prompts of a run, each once, by their hash.

Two kinds of lines: a text, `{"sha256", "text"}`, and a link of a prompt's hash chain, `{"sha256", "parent", "role",
"opens", "text_sha256"}`. A prompt is known by the hash of its last link; going from parent to parent rebuilds it, byte
for byte. Prompts that begin alike share their first links, so a dialogue takes about as much room here as its text.
"""

import hashlib
import re
import weakref
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, Self, TypeAlias, TypeVar

import orjson

from tutelage.dialogue.prompt import JOINT, Prompt
from tutelage.errors import RunFolderError

FILE = "messages.jsonl"
_SHARED = 32_768
_REMEMBERED = 16_384
_MOST_AHEAD: Final = 1_000_000
_MOST_BEHIND: Final = 65_536
"""Twice what the log that is being written remembers of what dialogues share."""

Value = TypeVar("Value")
Messages: TypeAlias = list[dict[str, str]]

_SHA256: Final = re.compile(rb'\{"sha256":"([0-9a-f]{64})"')
_KEY: Final = 8
"""Bytes of a hash that an index entry holds: so few that two records may share them, so each is checked when read."""
_ENTRY: Final = 16
"""Bytes of an index entry: the key, and where the record begins."""
_HASH: Final = slice(len(b'{"sha256":"'), len(b'{"sha256":"') + 64)
"""Where a record's hash stands in its line."""
_STRETCH: Final = 4 * 2**20
"""Bytes of a file that are read at once."""
_STRETCHES: Final = 48
"""So many are held, with all their records 350 MB: what five thousand dialogues of fifteen turns have sent."""


class MessageLog:
    """Gathers the lines of `messages.jsonl` that are not written yet.

    Of the texts and links of a dialogue under way all are remembered; of those that dialogues share (system prompts,
    tasks) the last ten thousands. One that was forgotten is written again, which costs room and nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[str, set[int]] = {}
        """By dialogue, of its hashes what Python makes of them: an int takes a quarter of the room."""
        self._shared: OrderedDict[str, None] = OrderedDict()
        self._lines: deque[bytes] = deque()
        """Taken by another thread than the one that adds to it."""

    def keep(self, dialogue: str, prompt: Prompt) -> None:
        """Notes a prompt of a dialogue."""
        known = self._known.setdefault(dialogue, set())
        for link in prompt.links():
            if hash(link.sha256) in known:
                continue
            known.add(hash(link.sha256))
            if self._is_shared(link.sha256):
                continue
            text_sha256 = hashlib.sha256(link.text.encode()).hexdigest()
            if hash(text_sha256) not in known and not self._is_shared(text_sha256):
                self._lines.append(orjson.dumps({"sha256": text_sha256, "text": link.text}) + b"\n")
            known.add(hash(text_sha256))
            record = {"sha256": link.sha256, "parent": link.parent, "role": link.role, "opens": link.opens}
            self._lines.append(orjson.dumps({**record, "text_sha256": text_sha256}) + b"\n")

    def forget(self, dialogue: str) -> None:
        """Lets go of a dialogue that is over."""
        self._known.pop(dialogue, None)

    def take(self) -> bytes:
        """The lines that are to be written now."""
        return b"".join(self._lines.popleft() for _ in range(len(self._lines)))

    def _is_shared(self, sha256: str) -> bool:
        if sha256 in self._shared:
            self._shared.move_to_end(sha256)
            return True
        self._shared[sha256] = None
        if len(self._shared) > _SHARED:
            self._shared.popitem(last=False)
        return False


class Prompts:
    """Rebuilds the prompts of a run from its `messages.jsonl`, which stays on disk.

    The messages of two prompts that begin alike are the same objects, and must not be changed.

    A context manager; without `with`, its file is closed when it is collected.

    Args:
        run: The run's folder.
        in_order: Prompts are asked for in the order of the run's transcripts: that takes one pass over the file, and no
            index of it, which holds 16 bytes a record. What is not found near by is looked up all the same.

    Raises:
        RunFolderError: The run has no such file.
    """

    def __init__(self, run: Path | str, *, in_order: bool = False) -> None:
        path = Path(run) / FILE
        if not path.is_file():
            raise RunFolderError(f"{str(run)!r} has no {FILE}: its prompts cannot be rebuilt")
        self._file = path.open("rb")
        self.close = weakref.finalize(self, self._file.close)
        """Closes the file."""
        records = _NearBy(self._file) if in_order else _Indexed(self._file)
        # The prompts of one dialogue are asked for one after the other, and dialogues share parts (system prompts, tasks).
        self._record = lru_cache(maxsize=_REMEMBERED)(records.read)
        self._built: dict[str, Messages] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(self, prompt_sha256: str) -> Messages:
        """The messages of a call, `{role, content}`, as they were sent.

        Raises:
            KeyError: The run has no such prompt.
        """
        missing: list[dict[str, Any]] = []
        sha256: str | None = prompt_sha256
        while sha256 is not None and sha256 not in self._built:
            missing.append(link := self._record(sha256))
            sha256 = link["parent"]
        messages = [] if sha256 is None else self._built[sha256]
        if len(self._built) > _REMEMBERED:
            self._built.clear()
        for link in reversed(missing):
            text = self._record(link["text_sha256"])["text"]
            if link["opens"]:
                messages = [*messages, {"role": link["role"], "content": text}]
            else:
                *before, begun = messages
                messages = [*before, {"role": begun["role"], "content": begun["content"] + JOINT + text}]
            self._built[link["sha256"]] = messages
        return messages

    def parent(self, prompt_sha256: str) -> str | None:
        """The prompt without its last part: what a note at its end was added to. None if it has one part only.

        Raises:
            KeyError: The run has no such prompt.
        """
        parent: str | None = self._record(prompt_sha256)["parent"]
        return parent


class PromptParts:
    """Gives the parts of a run's prompts to whoever goes through its transcripts in order, in one pass over the file.

    The file is read as far as the next prompt that is asked for; what was read is held until its dialogue is let go, so
    that there is as much of it as there were dialogues under way at once. Of what was let go the newest is held, for
    dialogues share parts (system prompts, tasks).

    Args:
        lines: The lines of `messages.jsonl`.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._parts: _Held[PromptPart] = _Held()
        self._texts: _Held[str] = _Held()

    def last_of(self, prompt_sha256: str) -> "PromptPart | None":
        """The last part of a prompt, and with it all before; None where the file does not have them."""
        wanted = _key_of(prompt_sha256)
        while (part := self._parts.get(wanted)) is None and (line := next(self._lines, None)) is not None:
            self._read(line)
        return part

    def let_go(self, prompts: Iterable["PromptPart"]) -> None:
        """Lets go of a dialogue's prompts, by their last parts."""
        gone = set[int]()
        for prompt in prompts:
            for part in prompt.backwards():
                if part.key in gone:
                    break
                gone.add(part.key)
                self._parts.let_go(part.key)
                self._texts.let_go(part.text_key)

    def _read(self, line: bytes) -> None:
        try:
            record = orjson.loads(line)
            key = _key_of(record["sha256"])
            if "text" in record:
                self._texts.add(key, record["text"])
                return
            text_key, above = _key_of(record["text_sha256"]), record["parent"]
            text, parent = self._texts.get(text_key), self._parts.get(_key_of(above)) if above else None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            return  # torn by a crash
        if text is None or (above and parent is None):
            return
        header = record["role"] if record["opens"] else ""
        end = (parent.end if parent else 0) + len(text) + (0 if header else len(JOINT))
        self._parts.add(key, PromptPart(key, parent, header, text, text_key, end))


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A part of a prompt, with those before it."""

    key: int
    """64 bits of the hash of it and all before it."""
    parent: "PromptPart | None"
    header: str
    """The role of the message that it opens; empty if it goes on with the one before."""
    text: str
    text_key: int
    end: int
    """Characters of the prompt up to its end."""

    def backwards(self) -> "Iterator[PromptPart]":
        """The part, the one before it, and so on to the beginning of the prompt."""
        part: PromptPart | None = self
        while part is not None:
            yield part
            part = part.parent


class _Held(Generic[Value]):
    """What was read: all that is still to come in a transcript, and the newest of what was there already."""

    def __init__(self) -> None:
        self._ahead: OrderedDict[int, Value] = OrderedDict()
        self._behind: OrderedDict[int, Value] = OrderedDict()

    def get(self, key: int) -> Value | None:
        return self._ahead[key] if key in self._ahead else self._behind.get(key)

    def add(self, key: int, value: Value) -> None:
        if key not in self._behind:
            self._ahead[key] = value
            if len(self._ahead) > _MOST_AHEAD:  # of dialogues that never ended, or were made again
                self._ahead.popitem(last=False)

    def let_go(self, key: int) -> None:
        """Moves what a dialogue had to what may be forgotten, the newest last."""
        if key in self._ahead:
            self._behind[key] = self._ahead.pop(key)
        elif key in self._behind:
            self._behind.move_to_end(key)
        if len(self._behind) > _MOST_BEHIND:
            self._behind.popitem(last=False)


def text_key(text: str) -> int:
    """What a part's `text_key` is for that text."""
    return _key_of(hashlib.sha256(text.encode()).hexdigest())


def _key_of(sha256: str) -> int:
    return int(sha256[:16], 16)


class _Indexed:
    """Finds the records of a file wherever they stand.

    For each, it holds the first eight bytes of its SHA-256 and its offset, sorted.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # One table for each first byte of a hash, so that no more than a 256th is being sorted at once.
        tables = [bytearray() for _ in range(256)]
        offset = file.seek(0)
        for line in file:
            if match := _SHA256.match(line):
                key = bytes.fromhex(match.group(1).decode())[:_KEY]
                tables[key[0]] += key + offset.to_bytes(_ENTRY - _KEY, "big")
            offset += len(line)
        self._tables = [_sorted(table) for table in tables]

    def read(self, sha256: str) -> dict[str, Any]:
        """A record.

        Raises:
            KeyError: There is none with that hash.
        """
        for offset in self._offsets(sha256) if _is_sha256(sha256) else ():
            self._file.seek(offset)
            try:
                record: dict[str, Any] = orjson.loads(self._file.readline())
            except orjson.JSONDecodeError:
                continue  # torn by a crash; what it held was written again when the dialogue was done again
            if record["sha256"] == sha256:
                return record
        raise KeyError(sha256)

    def _offsets(self, sha256: str) -> Iterator[int]:
        """Those of all records that may be the one with that hash."""
        key = bytes.fromhex(sha256)[:_KEY]
        table = self._tables[key[0]]
        count = len(table) // _ENTRY
        entry = bisect_left(range(count), key, key=lambda number: table[number * _ENTRY : number * _ENTRY + _KEY])
        while table[entry * _ENTRY : entry * _ENTRY + _KEY] == key:
            yield int.from_bytes(table[entry * _ENTRY + _KEY : (entry + 1) * _ENTRY], "big")
            entry += 1


class _NearBy:
    """Finds the records of a file in about the order in which they stand there: reads on, and holds what it has just read.

    What stands elsewhere is looked up in an index, which is made once it is needed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stretches: deque[dict[bytes, bytes]] = deque(maxlen=_STRETCHES)
        """Lines by their hashes, the newest first."""
        self._index: _Indexed | None = None

    def read(self, sha256: str) -> dict[str, Any]:
        """A record.

        Raises:
            KeyError: There is none with that hash.
        """
        if self._index is not None:
            return self._index.read(sha256)
        key = sha256.encode()
        while True:
            for stretch in self._stretches:
                if (line := stretch.get(key)) and line.endswith(b"}\n"):
                    record: dict[str, Any] = orjson.loads(line)
                    return record
            if not self._read_on():
                self._stretches.clear()
                self._index = _Indexed(self._file)
                return self._index.read(sha256)

    def _read_on(self) -> bool:
        """Whether there was more to read."""
        lines = self._file.readlines(_STRETCH)
        self._stretches.appendleft({line[_HASH]: line for line in lines})
        return bool(lines)


def _sorted(table: bytearray) -> bytes:
    return b"".join(sorted(bytes(table[start : start + _ENTRY]) for start in range(0, len(table), _ENTRY)))


def _is_sha256(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None
