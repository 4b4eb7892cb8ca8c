"""A file of lines that only grows: what `append` has returned from is on disk, and nothing of a failed append stays."""

import os
from pathlib import Path

import structlog

log = structlog.get_logger()


class AppendFile:
    """A file of whole lines, open for appending. A last line that a crash has torn is cut off on opening.

    Args:
        path: The file; made if it is not there. Its folder must be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = path.open("w+b" if is_new else "r+b", buffering=0)
        if is_new:
            _sync_folder(path.parent)
        self.size = self._cut_torn_line()
        """Bytes in the file."""

    def append(self, data: bytes) -> None:
        """Appends whole lines, and returns once they are on disk.

        Raises:
            OSError: They could not be written; the file is as it was before.
        """
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(self.size)
            self._file.seek(self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        """Closes the file. What was appended is on disk already."""
        self._file.close()

    def _cut_torn_line(self) -> int:
        size = self._file.seek(0, os.SEEK_END)
        whole = self._end_of_last_line(size)
        if whole < size:
            log.warning("torn_line_cut", file=str(self.path), bytes=size - whole)
            self._file.truncate(whole)
            self._file.seek(whole)
        return whole

    def _end_of_last_line(self, end: int) -> int:
        while end > 0:
            start = max(0, end - 65_536)
            self._file.seek(start)
            newline = self._file.read(end - start).rfind(b"\n")
            if newline >= 0:
                self._file.seek(start + newline + 1)
                return start + newline + 1
            end = start
        return 0


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
