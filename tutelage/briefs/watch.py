"""New briefs for a run that goes on: files that appear, lines that are appended, files that another takes the place of.

A look costs one `stat` for each file where nothing has changed, and where something has, only the new lines are parsed.
Whether what was read before is unchanged is seen by its last bytes if the file has grown, and by a hash of it all if
another file has taken its place.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import structlog

from tutelage.briefs.files import Part, Stamp, open_briefs
from tutelage.briefs.sources import MOST_PROBLEMS, BriefIndex, Check, Intake, Source, find
from tutelage.config import BriefSource
from tutelage.dialogue.brief import Brief
from tutelage.errors import BriefError

log = structlog.get_logger()

_CHUNK: Final = 2**20
_TAIL: Final = 512
"""Bytes before the end of what was read that must be as they were, for the file to have only grown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What has changed since the last look."""

    added: int = 0
    """New briefs; they are the last of the index."""
    gone: tuple[int, ...] = ()
    """Positions of briefs that no file has any more: they cannot be begun."""
    back: tuple[int, ...] = ()
    """Positions of briefs that were gone and are there again."""
    refused: tuple[str, ...] = ()
    """Files and lines that could not be taken, each with its place and the reason, as a message."""


class BriefWatch:
    """Looks again for the briefs of a run.

    What does not hold is reported once, and the rest is taken: a run that goes on is not ended by a file that someone
    has dropped. A last line without an end is taken when the file has lain still from one look to the next. A brief
    whose line is gone keeps its position, and has it again when the line comes back, in whichever file.

        watch = BriefWatch(read_briefs(config.briefs, config.folder), config.briefs, config.folder)
        look = await asyncio.to_thread(watch.look)
        brief = await watch.brief(position)

    Args:
        index: The briefs as `read_briefs` found them, or an empty index: then the first look takes what holds of all.
        sources: The config's `briefs:`.
        folder: Where the config is.
        make_graph: The graph whose needs each brief must meet.
        check: What else it must pass.
    """

    def __init__(
        self,
        index: BriefIndex,
        sources: Sequence[BriefSource],
        folder: Path,
        make_graph: Callable[[], Any] | None = None,
        check: Check | None = None,
    ) -> None:
        self.index = index
        self._sources = tuple(sources)
        self._folder = folder
        self._make_graph = make_graph
        self._check = check
        self._intake: Intake | None = None
        self._files = {
            source.file.path: _File(slot=slot, stamp=source.stamp) for slot, source in enumerate(index.sources)
        }
        self._nowhere = _File()
        self._reported = len(index)
        self._gone: list[int] = []
        self._back: list[int] = []
        self._refused: list[str] = []
        self._looking = threading.Lock()
        self._mending = asyncio.Lock()

    def follow(self, sources: Sequence[BriefSource]) -> None:
        """Looks from now on where a changed config says. A file whose `map:` or `generation:` has changed is read anew."""
        self._sources = tuple(sources)

    def look(self) -> Look:
        """Takes up what is new. It may take a while, and is for a thread of its own.

        Returns:
            What has changed since this was last called.
        """
        with self._looking:
            self._look()
            return self._news()

    async def brief(self, position: int) -> Brief | None:
        """Reads a brief; where its file has changed since the last look, after another look.

        Returns:
            The brief; None if it is gone. When it is there again, a look says so.
        """
        if (brief := self._read(position)) is not None:
            return brief
        async with self._mending:  # whoever waited here finds the file looked at
            for anew in (False, True):
                if (brief := self._read(position)) is not None or not self.index.is_there(position):
                    return brief
                await asyncio.to_thread(self._look_because_of, position, anew)
            if (brief := self._read(position)) is None:  # its file changes faster than it can be read
                await asyncio.to_thread(self._miss, position)
            return brief

    def _news(self) -> Look:
        there = self.index.is_there
        news = Look(
            added=len(self.index) - self._reported,
            gone=tuple(position for position in dict.fromkeys(self._gone) if not there(position)),
            back=tuple(position for position in dict.fromkeys(self._back) if there(position)),
            refused=tuple(self._refused),
        )
        self._reported = len(self.index)
        for each in (self._gone, self._back, self._refused):
            each.clear()
        return news

    def _read(self, position: int) -> Brief | None:
        try:
            return self.index.brief(position)
        except BriefError:
            return None

    def _look_because_of(self, position: int, anew: bool) -> None:
        with self._looking:
            path = self.index.sources[self.index.slot(position)].file.path
            if anew and path in self._files:
                self._files[path].forget()
            self._look()

    def _miss(self, position: int) -> None:
        with self._looking:
            self._back.append(position)

    def _look(self) -> None:
        try:
            found = dict(find(self._sources, self._folder))
        except OSError as error:  # a folder that may not be entered: what is known stays as it is
            self._refuse_file(self._folder, self._nowhere, error)
            return
        stale: set[int] = set()
        for path in [path for path in self._files if path not in found]:
            log.warning("briefs_file_changed", file=str(path), change="gone")
            self._give_up(self._files.pop(path), stale)
        tasks = [task for path, entry in found.items() if (task := self._task(path, entry, stale)) is not None]
        stale.update(task.file.slot for task in tasks if task.anew and task.file.slot is not None)
        for task in tasks:
            self._do(task, stale)
        self._drop(stale)

    def _task(self, path: Path, entry: BriefSource, stale: set[int]) -> "_Task | None":
        """What is to be read of a file now; None if nothing."""
        file, stamp = self._files.setdefault(path, _File()), Stamp.of(path)
        if stamp is None:  # it went just now
            return None
        try:
            return self._compare(path, entry, file, stamp)
        except (BriefError, OSError) as error:
            self._refuse_file(path, file, error)
            self._give_up(file, stale)
            return None

    def _compare(self, path: Path, entry: BriefSource, file: "_File", stamp: Stamp) -> "_Task | None":
        has_lines = open_briefs(path).has_lines
        as_mapped = file.slot is None or self.index.sources[file.slot].is_read_as(entry)
        if is_still := stamp == file.stamp and as_mapped:
            if has_lines and file.slot is not None and file.lines is None and not file.waits:
                file.lines = _Lines.of(path, stamp)
            if not file.waits:
                return None
        goes_on = has_lines and as_mapped and file.lines is not None and file.lines.begin(path, stamp, file.stamp)
        start = file.lines.end if goes_on and file.lines is not None else 0
        stop = stamp.size if is_still or not has_lines else _end_of_last_line(path, start, stamp.size)
        if not goes_on and file.slot is not None and file.stamp is not None and not is_still:
            log.info("briefs_file_changed", file=str(path), change="replaced")
        file.stamp, file.waits = stamp, stop < stamp.size
        if stop == start and (goes_on or file.waits):
            return None
        return _Task(path=path, entry=entry, file=file, stamp=stamp, stop=stop, anew=not goes_on, is_still=is_still)

    def _do(self, task: "_Task", stale: set[int]) -> None:
        file, path = task.file, task.path
        try:
            if task.anew:
                file.slot, file.lines = self.index.begin(Source(path, task.entry), file.slot), _Lines()
            self._take(task, stale)
        except (BriefError, OSError) as error:
            self._refuse_file(path, file, error)
        now = Stamp.of(path)
        if now is None or (now.device, now.inode) != (task.stamp.device, task.stamp.inode) or now.size < task.stop:
            file.forget()  # another file came in between: who knows which of the two was read

    def _take(self, task: "_Task", stale: set[int]) -> None:
        file, before, problems = task.file, len(self.index), list[str]()
        assert file.slot is not None and file.lines is not None  # noqa: PT018 - a task is of a file that was begun
        if self._intake is None:
            self._intake = Intake(self.index, self._make_graph, self._check)
        brief_file = self.index.sources[file.slot].file
        part, whole = Part(start=file.lines.end, line=file.lines.count + 1, stop=task.stop), task.stop
        for each in self._intake.take(file.slot, part, moved_from=stale, back=self._back):
            if each.torn and not task.is_still:
                whole, file.waits = each.address, True
            elif file.is_news(each.number, each.reason):
                problems.append(f"{brief_file.place(each.number)}: {each.reason}")
        if brief_file.has_lines:
            file.lines.read(task.path, _end_of_last_line(task.path, part.start, whole))
        self._report(task.path, problems)
        added = len(self.index) - before
        if added and before:  # the first of all are no news
            log.info("briefs_added", file=str(task.path), briefs=added)

    def _give_up(self, file: "_File", stale: set[int]) -> None:
        if file.slot is not None:
            stale.add(file.slot)
            file.slot = None

    def _drop(self, stale: set[int]) -> None:
        """Says of the briefs that are still where nothing is any more that they are gone."""
        if stale and (gone := self.index.positions(stale)):
            for position in gone:
                self.index.drop(position)
            self._gone += gone
            log.warning("briefs_gone", briefs=len(gone), first=self.index.place(gone[0]))

    def _refuse_file(self, path: Path, file: "_File", error: BriefError | OSError) -> None:
        reason = f"{path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        if file.is_news(0, reason):
            self._report(path, [reason])
        file.forget()  # it may be mended without a trace in its stamp: whether it can be read is tried at each look

    def _report(self, path: Path, problems: list[str]) -> None:
        for problem in problems[:MOST_PROBLEMS]:
            log.warning("brief_refused", file=str(path), reason=problem)
        if len(problems) > MOST_PROBLEMS:
            log.warning("brief_refused", file=str(path), reason=f"{len(problems) - MOST_PROBLEMS} more do not hold")
        self._refused += problems


class _Lines:
    """The whole lines that were read of a file, and how to know them again."""

    def __init__(self) -> None:
        self.end = 0
        """The byte after them."""
        self.count = 0
        self._hash = blake2b(digest_size=16)
        self._tail = b""

    @classmethod
    def of(cls, path: Path, stamp: Stamp) -> "_Lines | None":
        """Those of a file that was read by others when it had this stamp; None if it has not any more."""
        lines = cls()
        lines.read(path, _end_of_last_line(path, 0, stamp.size))
        return lines if Stamp.of(path) == stamp else None

    def read(self, path: Path, end: int) -> None:
        """Goes on to a byte that a line ends at."""
        with path.open("rb") as file:
            file.seek(self.end)
            while self.end < end and (chunk := file.read(min(_CHUNK, end - self.end))):
                self._hash.update(chunk)
                self._tail = (self._tail + chunk)[-_TAIL:]
                self.count += chunk.count(b"\n")
                self.end += len(chunk)

    def begin(self, path: Path, stamp: Stamp, before: Stamp | None) -> bool:
        """Whether the file begins with them still. Where there are none, there is nothing to know it by."""
        if before is None or not self.end or stamp.size < self.end:
            return False
        if stamp == before:
            return True
        with path.open("rb") as file:
            if (stamp.device, stamp.inode) == (before.device, before.inode) and stamp.size > before.size:
                file.seek(self.end - len(self._tail))
                return file.read(len(self._tail)) == self._tail
        again = _Lines()
        again.read(path, self.end)
        return (again.end, again._hash.digest()) == (self.end, self._hash.digest())


@dataclass(slots=True, kw_only=True)
class _File:
    """What is known of a file since the last look."""

    slot: int | None = None
    """In the index; None if nothing of it was read."""
    stamp: Stamp | None = None
    """None if it is to be read anew, whatever it looks like."""
    lines: _Lines | None = None
    waits: bool = False
    """Whether there is something behind the whole lines, which is to be taken if it lies still."""
    _said: set[tuple[int, str]] = field(default_factory=set)

    def forget(self) -> None:
        """Has it read anew."""
        self.stamp, self.lines, self.waits = None, None, False

    def is_news(self, number: int, reason: str) -> bool:
        """Whether it was not said before what is wrong with that line."""
        is_news = (number, reason) not in self._said
        self._said.add((number, reason))
        return is_news


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A file of which something is to be read."""

    path: Path
    entry: BriefSource
    file: _File
    stamp: Stamp
    stop: int
    """The byte to read to."""
    anew: bool
    """Whether from the beginning, and not from where the last look ended."""
    is_still: bool
    """Whether nobody has written to it since the last look."""


def _end_of_last_line(path: Path, start: int, end: int) -> int:
    """The byte after the last line break between two bytes of a file; the first of them if there is none."""
    with path.open("rb") as file:
        while end > start:
            begin = max(start, end - _CHUNK)
            file.seek(begin)
            if (newline := file.read(end - begin).rfind(b"\n")) >= 0:
                return begin + newline + 1
            end = begin
    return start
