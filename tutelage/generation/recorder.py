"""Puts finished dialogues on disk: for all that finish at once together, and off the event loop.

The order makes a crash at any moment harmless: first the prompts, then the transcripts, then the ledger. Prompts
without a transcript are dead weight; a transcript that the ledger does not know is found when the ledger catches up.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutelage.dialogue.prompt import Prompt
from tutelage.errors import RunFolderError
from tutelage.generation.ledger import Entry, Ledger
from tutelage.generation.run_folder import RunFolder
from tutelage.transcripts.append_file import AppendFile
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.store import TranscriptStore
from tutelage.transcripts.transcript import Transcript


@dataclass(frozen=True, slots=True)
class _Order:
    """Something to be written, and who waits for it."""

    done: asyncio.Future[None]
    begun: tuple[str, str] | None = None
    """A dialogue, as (id, brief), that is under way now."""
    transcript: Transcript | None = None
    line: bytes = field(default=b"", repr=False)
    prompts: bytes = field(default=b"", repr=False)


class Recorder:
    """Writes transcripts, prompts and ledger of a run in a thread of its own. An async context manager."""

    def __init__(self, folder: RunFolder, ledger: Ledger) -> None:
        self._messages = MessageLog()
        try:
            self._message_file = AppendFile(folder.messages)
            self._store = TranscriptStore(folder.transcripts)
        except OSError as error:
            raise RunFolderError(f"the run folder {str(folder.path)!r} cannot be written: {error}") from error
        self._ledger = ledger
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._broken: RunFolderError | None = None
        """Why nothing more is written: a transcript must not come without the prompts that an earlier batch lost."""

    async def __aenter__(self) -> "Recorder":
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what is still to be written, and stops the thread."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)
        self._store.close()
        self._message_file.close()

    def keep_prompt(self, dialogue: str, prompt: Prompt) -> None:
        """Keeps what a call was sent; it is on disk before the dialogue's transcript is."""
        self._messages.keep(dialogue, prompt)

    def begin(self, dialogue: str, brief: str) -> None:
        """Notes that a dialogue is under way. Nobody waits for that: after a crash it is owed all the same."""
        self._orders.put(_Order(self._loop.create_future(), begun=(dialogue, brief)))

    async def finish(self, transcript: Transcript, line: bytes) -> None:
        """Returns once a transcript, as its line, its prompts and its ledger entry are on disk.

        Raises:
            RunFolderError: They could not be written, or something before them could not: then nothing more is.
        """
        self._messages.forget(transcript.id)
        order = _Order(self._loop.create_future(), transcript=transcript, line=line, prompts=self._messages.take())
        self._orders.put(order)
        await order.done

    def _work(self) -> None:
        more = True
        while more:
            orders = [self._orders.get()]
            while not self._orders.empty():
                orders.append(self._orders.get())
            more = None not in orders
            batch = [order for order in orders if order is not None]
            if self._broken is None:
                self._broken = self._write(batch)
            self._loop.call_soon_threadsafe(_tell, batch, self._broken)

    def _write(self, orders: Sequence[_Order]) -> RunFolderError | None:
        finished = [order.transcript for order in orders if order.transcript]
        try:
            if prompts := b"".join(order.prompts for order in orders):
                self._message_file.append(prompts)
            if begun := [order.begun for order in orders if order.begun]:
                self._ledger.begin(begun)
            if finished:
                locations = self._store.append([order.line for order in orders if order.transcript])
                self._ledger.finish(map(Entry.of, finished, locations))
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is: a full disk, mostly
            return RunFolderError(
                f"the run folder cannot be written: {error}. What was finished before is safe: make room, and start again"
            )
        return None


def _tell(orders: Sequence[_Order], error: RunFolderError | None) -> None:
    for order in orders:
        if order.done.done():
            continue
        if error is None or order.transcript is None:
            order.done.set_result(None)
        else:
            order.done.set_exception(error)
