"""`tutelage retry`: what failed and was set aside is made again, by the daemon, or by the next start where none runs."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tutelage.errors import RunFolderError
from tutelage.generation import control_socket
from tutelage.generation.control_client import ControlClient
from tutelage.generation.ledger import Ledger, read_set_aside
from tutelage.generation.run_folder import lock


def list_set_aside(folder: Path) -> str:
    """The dialogues of a run that are set aside, a line each: id, brief, reason, and how often it was made."""
    try:
        entries = read_set_aside(folder / "ledger.db")
    except sqlite3.Error as error:
        raise RunFolderError(f"the ledger of {str(folder)!r} cannot be read: {error}") from error
    lines = [f"{entry.id}  {entry.brief}  {entry.reason}  attempt {entry.attempt}" for entry in entries]
    return "\n".join(lines) or "nothing is set aside"


def retry_set_aside(folder: Path, ids: Sequence[str]) -> str:
    """Has dialogues made again, and says how many: these, or all that are set aside.

    Raises:
        RunFolderError: A process that is no daemon holds the run.
    """
    if (folder / control_socket.NAME).exists() and _answers(folder):
        return _said(ControlClient(folder).retry(ids), "made again", ids)
    with closing(lock(folder)), closing(Ledger(folder / "ledger.db", folder / "transcripts")) as ledger:
        count = ledger.retry(ids or [entry.id for entry in ledger.set_aside()])
    return _said(count, "owed again, and made by the next start", ids)


def _said(count: int, what: str, ids: Sequence[str]) -> str:
    if not count and ids:
        return "none of these: they have not failed, or are to be made again already; --list has whole ids"
    if not count:
        return "nothing is set aside"
    others = len(set(ids)) - count
    left = f"; {others} of those named did not fail, or were asked for already" if others > 0 else ""
    return f"{count} dialogue{' is' if count == 1 else 's are'} {what}{left}"


def _answers(folder: Path) -> bool:
    try:
        control_socket.connected_socket(folder, 5).close()
    except OSError:  # a crash has left the socket
        return False
    return True
