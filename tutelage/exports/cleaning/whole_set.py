"""Steps of an export that must see all rows before the first goes on: they put the rows aside on disk meanwhile.

What they remember of a row is a few numbers.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import Final

from tutelage.errors import ExportError
from tutelage.exports.cleaning.comparing import Compared, Tasks, compared
from tutelage.exports.cleaning.earlier import earlier_rows
from tutelage.exports.cleaning.spool import Spool
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut, Row
from tutelage.quality.lengths import is_lopsided, unbalanced
from tutelage.quality.near_duplicates import NearDuplicates
from tutelage.quality.splits import TEST, TRAIN, VALIDATION, Together, splits_of

SCORES: Final = {"sft": "score", "dpo": "margin"}
"""By format, the column that its best rows are told by."""


def without_near_duplicates(
    rows: Iterable[Row], request: Request, left_out: Counter[LeftOut], folder: Path
) -> Iterator[Row]:
    """The first row of each group of near-duplicates, unless an earlier export has one of the group."""
    with Spool(folder) as spool, NearDuplicates(request.near, folder) as near:
        tasks, earlier = Tasks(), 0
        for each in earlier_rows(request.against):
            tasks.notice(each.answered)
        spool.fill(rows, lambda row: tasks.notice(compared(row).answered))
        for each in earlier_rows(request.against):
            _add(near, each, tasks)
            earlier += 1
        for row in spool:
            _add(near, compared(row), tasks)
        groups = near.groups().tolist()
        for number, row in enumerate(spool, start=earlier):
            if groups[number] == number:
                yield row
            elif groups[number] < earlier:
                left_out[LeftOut.EXPORTED_BEFORE] += 1
            else:
                left_out[LeftOut.NEAR_DUPLICATE] += 1


def the_best(rows: Iterable[Row], request: Request, left_out: Counter[LeftOut], folder: Path) -> Iterator[Row]:
    """The share of the scored rows that has the highest scores, and all that people wrote without being scored.

    Of rows with equal scores, chance says which stay.
    """
    share, column = request.best or 1.0, SCORES[request.format]
    scored: list[tuple[float, bytes, int]] = []
    kept = bytearray()

    def notice(row: Row) -> None:
        if row[column] is not None:
            scored.append((-row[column], _drawn(request.seed, row["id"]), len(kept)))
        kept.append(row[column] is None and row["origin"] == "human")

    with Spool(folder) as spool:
        spool.fill(rows, notice)
        if kept and not scored:
            raise ExportError(f"no row has a score in its column {column!r}, so there are no best: leave out `best`")
        scored.sort()
        best = max(1, round(share * len(scored)))
        _count(left_out, LeftOut.NO_SCORE, kept.count(0) - len(scored))
        _count(left_out, LeftOut.LOW_SCORE, len(scored) - best)
        for _, _, number in scored[:best]:
            kept[number] = 1
        yield from compress(spool, kept)


def balanced(rows: Iterable[Row], left_out: Counter[LeftOut], folder: Path) -> Iterator[Row]:
    """Pairs whose chosen and rejected texts are about equally long, each pair and on average, in characters."""
    chosen, rejected = array("q"), array("q")

    def even() -> Iterator[Row]:
        for row in rows:
            of_chosen, of_rejected = _length(row["chosen"]), _length(row["rejected"])
            if is_lopsided(of_chosen, of_rejected):
                left_out[LeftOut.LOPSIDED] += 1
            else:
                chosen.append(of_chosen)
                rejected.append(of_rejected)
                yield row

    with Spool(folder) as spool:
        spool.fill(even(), lambda _: None)
        gone = unbalanced(chosen, rejected)
        _count(left_out, LeftOut.LENGTH, len(gone))
        yield from (row for number, row in enumerate(spool) if number not in gone)


def split(rows: Iterable[Row], request: Request, folder: Path) -> Iterator[tuple[str, Row]]:
    """Each row with its split: those of one brief, and of briefs with near-duplicates in common, are in one."""
    briefs: dict[str, int] = {}
    of_row = array("q")
    tasks = Tasks()

    def notice(row: Row) -> None:
        of_row.append(briefs.setdefault(row["brief"], len(briefs)))
        tasks.notice(compared(row).answered)

    with Spool(folder) as spool, NearDuplicates(request.near, folder) as near:
        spool.fill(rows, notice)
        for row in spool:
            _add(near, compared(row), tasks)
        names, together = list(briefs), Together()
        for number, first in enumerate(near.groups().tolist()):
            together.unite(names[of_row[number]], names[of_row[first]])
        groups = [together.of(name) for name in names]
        shares = {TEST: request.test, VALIDATION: request.validation}
        splits = splits_of(Counter(groups[brief] for brief in of_row), shares, request.seed)
        for brief, row in zip(of_row, spool, strict=True):
            yield splits[groups[brief]], row


def in_one(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    """Each row in the one split that there is."""
    return ((TRAIN, row) for row in rows)


def _count(left_out: Counter[LeftOut], reason: LeftOut, rows: int) -> None:
    if rows:  # a reason for nothing is none
        left_out[reason] += rows


def _add(near: NearDuplicates, row: Compared, tasks: Tasks) -> None:
    near.add(row.learnt, tasks.without(row.answered), row.label)


def _length(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _drawn(seed: int, id_: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{id_}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
