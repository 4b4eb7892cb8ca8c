"""Rows that people wrote, mixed among those that models wrote, until they are a given share of what is to be learnt.

Models that are trained on what models wrote, and again on what those wrote, lose what is rare first (Shumailov et al.,
doi 10.1038/s41586-024-07566-y); where what people wrote stays in the mix, the loss is bounded (Gerstgrasser et al.,
arXiv 2404.01413), and beyond about as much synthetic text as real, more of it did harm (arXiv 2410.15226).

The share is one of characters, which stand for tokens: no tokenizer is asked, and of one language both have about as many.
"""

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final, Self

import orjson
import structlog

from tutelage.errors import ExportError
from tutelage.exports.cleaning.comparing import compared
from tutelage.exports.cleaning.human_rows import HumanFile
from tutelage.exports.request import Request
from tutelage.exports.rows import Column, LeftOut, Row

log = structlog.get_logger()

TO_LOOK_AT: Final = ("traces", "label-studio")
"""Formats that nobody trains on."""
NEARLY: Final = 0.02
"""The share may be missed by so much: the last row is taken whole or not at all."""

_MOST_NAMED: Final = 10
"""So many lines that hold no row are named in the log; the others are only counted."""
_ADDRESS: Final = 40
"""Bits of a row's position in its file."""


def learnt_characters(row: Row) -> int:
    """How much a row weighs in the mix: the characters that are to be learnt, of a pair those of both texts."""
    if "completion" in row:  # most rows are of this kind, and there are millions
        return sum([len(message["content"]) for message in row["completion"]])
    return len(compared(row).learnt)


class Mix:
    """The rows of people that an export asks for, if any. A context manager.

    Args:
        request: What is asked for: which files, which share, which seed.
        columns: The format's.
        left_out: Counts lines that hold no row of the format.
        folder: Whose disk takes what is put aside.

    Raises:
        ExportError: A file cannot be read or has no row of the format, or the share makes no sense.
    """

    def __init__(
        self, request: Request, columns: Mapping[str, Column], *, left_out: Counter[LeftOut], folder: Path
    ) -> None:
        self._seed = request.seed
        self._share = request.real_share
        self._left_out = left_out
        self._folder = folder
        self._ours = 0
        """Characters of the models' rows that went in."""
        self._came_through = 0
        """Characters of people's rows that cleaning has left."""
        self._files: list[HumanFile] = []
        self._stack = ExitStack()
        if not request.mix:
            return
        if request.format in TO_LOOK_AT:
            raise ExportError(f"nobody trains on {request.format!r}, so nothing is mixed into it: leave out `mix`")
        if not 0 < self._share < 1:
            raise ExportError(f"real_share is {self._share}, but a share of people's rows lies between 0 and 1")
        try:
            for number, path in enumerate(request.mix):
                file = HumanFile(path, columns, name=f"{number}/{path.name}", role=request.role, folder=folder)
                self._files.append(self._stack.enter_context(file))
                file.check()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add_to(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows of models, and after them people's, as drawn, until enough of those have come through the cleaning."""
        if not self._files:
            yield from rows
            return
        for row in rows:
            self._ours += learnt_characters(row)
            yield row
        enough = self._wanted(self._ours)  # or more, for cleaning has taken away of the models' rows
        for row in self._drawn():
            yield row
            if self._came_through >= enough:
                return

    def take_share(self, rows: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
        """Of rows that are cleaned, with their splits, in any order: all of the models', and people's up to their share.

        Cleaning takes away of both, so only now is it known how many make the share. People's are put aside on disk until
        then, and come last: trainers shuffle.
        """
        if not self._files:
            yield from rows
            return
        ours = 0
        with TemporaryFile(dir=self._folder) as aside:
            for split, row in rows:
                learnt = learnt_characters(row)
                if row["origin"] == "human":
                    self._came_through += learnt
                    aside.write(orjson.dumps([split, learnt, row], option=orjson.OPT_APPEND_NEWLINE))
                else:
                    ours += learnt
                    yield split, row
            aside.seek(0)
            wanted, taken = self._wanted(ours), 0.0
            for split, learnt, row in map(orjson.loads, aside):
                if taken + learnt / 2 > wanted:  # nearer to the share without it
                    break
                taken += learnt
                yield split, row

    def _wanted(self, ours: int) -> float:
        """How many characters of people's make the share, beside so many of models'."""
        return ours * self._share / (1 - self._share)

    def _drawn(self) -> Iterator[Row]:
        """All rows of the files, in an order of the seed's."""
        places = array("Q", (n << _ADDRESS | at for n, file in enumerate(self._files) for at in range(len(file))))
        random.Random(self._seed).shuffle(places)
        for place in places:
            file, at = self._files[place >> _ADDRESS], place & ((1 << _ADDRESS) - 1)
            try:
                row = file.row(at)
            except ValueError as error:
                self._left_out[LeftOut.FOREIGN] += 1
                if self._left_out[LeftOut.FOREIGN] <= _MOST_NAMED:
                    log.warning("human_row_skipped", place=file.place(at), reason=str(error))
            else:
                yield row
