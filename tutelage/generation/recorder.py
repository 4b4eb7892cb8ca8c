"""Puts what a run has made on disk, for all dialogues together and off the event loop.

The order makes a crash at any moment harmless. Prompts come before the checkpoints that refer to them; a dialogue's last
checkpoint before its transcript; the transcript before its ledger entry; and only then its checkpoints are let go.
Prompts that nothing refers to are dead weight; a transcript that the ledger does not know is found when the ledger
catches up; checkpoints of a dialogue that is finished are dropped at the next start.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.turn import Call
from tutelage.errors import RunFolderError
from tutelage.generation.checkpoints import CheckpointSaver
from tutelage.generation.group_commit import GroupCommit
from tutelage.generation.ledger import Entry, Ledger
from tutelage.generation.run_folder import RunFolder
from tutelage.transcripts.append_file import AppendFile
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.store import Location, TranscriptStore
from tutelage.transcripts.transcript import GraphIdentity, Transcript

log = structlog.get_logger()


@dataclass(slots=True)
class _Order:
    """Something to be written."""

    begun: tuple[str, str] | None = None
    """A dialogue, as (id, brief), that is under way now."""
    transcript: Transcript | None = None
    line: bytes = field(default=b"", repr=False)
    location: Location | None = None
    """Where the transcript is, once it is on disk: it must not be written twice if the ledger then fails."""


class Recorder:
    """Writes transcripts, prompts, ledger and checkpoints of a run. An async context manager.

    Args:
        folder: The run's folder.
        ledger: The run's ledger.
        graph: What the dialogues run on: one that was begun on another graph is begun anew.
        keep_all: Whether all checkpoints of a dialogue are needed to resume it.
        patience: Seconds for which a write is tried again where the disk is full or a file is locked.
        on_commit: Called after each commit of checkpoints with the seconds it took and how many writes it had.

    Raises:
        RunFolderError: A file cannot be opened.
    """

    def __init__(
        self,
        folder: RunFolder,
        ledger: Ledger,
        graph: GraphIdentity,
        *,
        keep_all: bool = False,
        patience: float = 0.0,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        self._messages = MessageLog()
        self._lines = b""
        self._writing_lines = threading.Lock()
        try:
            self._message_file = AppendFile(folder.messages)
            self._store = TranscriptStore(folder.transcripts)
        except OSError as error:
            raise RunFolderError(f"the run folder {str(folder.path)!r} cannot be written: {error}") from error
        self._ledger = ledger
        self._writer = GroupCommit[_Order]("transcripts", self._write, patience=patience)
        self.checkpoints = CheckpointSaver(
            folder.checkpoints,
            keep="all" if keep_all else "latest",
            patience=patience,
            before_commit=self._write_prompts,
            on_commit=on_commit,
        )
        self._replies: dict[str, dict[str, tuple[str, Call]]] = {}
        try:
            self._drop_what_is_over(graph)
        except BaseException:
            self._close()
            raise

    async def __aenter__(self) -> "Recorder":
        self._writer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what is still to be written."""
        await asyncio.to_thread(self._writer.close)  # it may still let go of checkpoints
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.checkpoints.close()
        self._store.close()
        self._message_file.close()

    @property
    def trouble(self) -> str | None:
        """What keeps the run from writing just now: a full disk, a locked file."""
        return self._writer.trouble or self.checkpoints.writer.trouble

    def keep_prompt(self, dialogue: str, prompt: Prompt) -> None:
        """Keeps what a call was sent; it is on disk before a checkpoint or a transcript that refers to it."""
        self._messages.keep(dialogue, prompt)

    def begin(self, dialogue: str, brief: str) -> None:
        """Notes that a dialogue is under way. Nobody waits for that: after a crash it is owed all the same."""
        self._writer.hand_in(_Order(begun=(dialogue, brief)))

    async def finish(self, transcript: Transcript, line: bytes) -> None:
        """Returns once a transcript, as its line, its prompts and its ledger entry are on disk.

        Raises:
            RunFolderError: They could not be written, or something before them could not: then nothing more is.
        """
        self._messages.forget(transcript.id)
        self._replies.pop(transcript.id, None)
        await self._writer.put(_Order(transcript=transcript, line=line))
        self.checkpoints.forget(transcript.id)

    def leave(self, dialogue: str) -> None:
        """Lets go of what is remembered of a dialogue that stays owed."""
        self._messages.forget(dialogue)
        self._replies.pop(dialogue, None)

    def remember_replies(self, dialogue: str) -> None:
        """Has the replies at hand that an earlier start journalled of a dialogue."""
        if kept := self.checkpoints.store.replies(dialogue):
            try:
                self._replies[dialogue] = {key: _read_reply(reply) for key, reply in kept.items()}
            except (ValueError, KeyError, TypeError) as error:  # another version's
                log.warning("replies_unreadable", error=repr(error), note="they are asked for again")

    def recall(self, dialogue: str, key: str) -> tuple[str, Call] | None:
        """A reply that did not fit, if it was journalled."""
        replies = self._replies.get(dialogue)
        return None if replies is None else replies.get(key)

    async def keep(self, dialogue: str, key: str, text: str, call: Call) -> None:
        """Journals a reply that does not fit, and returns once it is on disk."""
        self._replies.setdefault(dialogue, {})[key] = (text, call)
        reply = orjson.dumps({"text": text, "call": call.model_dump(mode="json")})
        await self.checkpoints.keep_reply(dialogue, key, reply)

    def _drop_what_is_over(self, graph: GraphIdentity) -> None:
        begun = set(self.checkpoints.threads)
        same = self.checkpoints.store.about("graph") in (None, graph.sha256)
        if begun and not same:
            log.warning("begun_anew", dialogues=len(begun), note="the graph has changed since they were begun")
        if over := self._ledger.known(list(begun)) if same else begun:
            self.checkpoints.delete_threads(over)
        # Only now: a start that was killed before must find again that the graph has changed.
        self.checkpoints.store.note("graph", graph.sha256)

    def _write_prompts(self) -> None:
        with self._writing_lines:
            self._lines += self._messages.take()
            if self._lines:
                self._message_file.append(self._lines)
                self._lines = b""

    def _write(self, orders: Sequence[_Order]) -> None:
        self._write_prompts()
        if new := [order for order in orders if order.transcript and order.location is None]:
            for order, location in zip(new, self._store.append([order.line for order in new]), strict=True):
                order.location = location
        if begun := [order.begun for order in orders if order.begun]:
            self._ledger.begin(begun)
        finished = [(order.transcript, order.location) for order in orders if order.transcript and order.location]
        if finished:
            self._ledger.finish(Entry.of(transcript, location) for transcript, location in finished)


def _read_reply(reply: bytes) -> tuple[str, Call]:
    read: dict[str, Any] = orjson.loads(reply)
    return read["text"], Call.model_validate(read["call"])
