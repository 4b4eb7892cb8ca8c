"""The Unix socket in a run folder, by which a daemon is asked and told: its owner's alone."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tutelage.errors import RunFolderError

NAME: Final = "control.sock"
LONGEST: Final = 103
"""Bytes that a socket's path may have everywhere; the kernel keeps 104 with the closing zero on macOS, 108 on Linux."""


def listening_socket(folder: Path) -> socket.socket:
    """A socket in the run folder, for the process that holds the folder's lock; not listening yet.

    One that a crashed process left is replaced.

    Raises:
        RunFolderError: There can be none.
    """
    path = folder / NAME
    server = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            path.unlink()
        with _address(folder) as address:
            server.bind(address)
        # Before it listens nobody can connect, so there is no moment at which others could.
        path.chmod(0o600)
    except OSError as error:
        server.close()
        raise RunFolderError(
            f"the socket {str(path)!r}, by which the daemon is controlled, cannot be made: {error.strerror or error}; "
            "take an --out on a file system that can hold one"
        ) from error
    return server


def connected_socket(folder: Path, timeout: float) -> socket.socket:
    """A connection to the daemon of a run folder.

    Args:
        folder: The run folder.
        timeout: Seconds for each exchange.

    Raises:
        OSError: Nobody listens there.
    """
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(timeout)
    try:
        with _address(folder) as address:
            client.connect(address)
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """The socket's path, short enough for the kernel while the block lasts: by way of the open folder if need be."""
    path = str(folder / NAME)
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    if not Path("/proc/self/fd").is_dir():
        raise OSError(f"its path has more than {LONGEST} bytes, the most that a socket's may have: shorten it")
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{NAME}"
    finally:
        os.close(opened)
