"""Which rows are trained on, and which are held out: whole groups of briefs, never single rows.

The groups stand in an order that is drawn from the seed and their briefs' names alone. The test split takes groups from
the front until it has its share of the rows, then the validation split. So the same rows are always split the same; and
when more rows come, with or without new briefs, groups move only where a split's border moves, or where new rows are
near-duplicates in two groups: those in the middle of a split stay. That no group ever moves cannot be had together with
shares that are met.
"""

import hashlib
from collections.abc import Mapping

from tutelage.errors import ExportError

TRAIN, VALIDATION, TEST = "train", "validation", "test"


class Together:
    """Briefs that may not be torn apart, because rows of theirs are near-duplicates: a union-find."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def unite(self, one: str, other: str) -> None:
        """Puts two briefs, and all that are with them, into one group."""
        first, second = self.of(one), self.of(other)
        if first != second:
            self._above[max(first, second)] = min(first, second)

    def of(self, brief: str) -> str:
        """The group's name: the first of its briefs in alphabetical order."""
        while (above := self._above.get(brief, brief)) != brief:
            self._above[brief] = self._above.get(above, above)
            brief = above
        return brief


def splits_of(rows: Mapping[str, int], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """The split of each group.

    A split that is asked for gets at least one group, so long as one is left to train on, and so many that its share of
    the rows is met as nearly as whole groups allow, up to half of the next group.

    Args:
        rows: By group, its number of rows.
        shares: By split other than `train`, its share of the rows, 0 to 1; a share of 0 asks for nothing.
        seed: What the order of groups is drawn from.

    Raises:
        ExportError: There are too few groups.
    """
    wanted = {split: share for split, share in shares.items() if share > 0}
    if not rows:
        return {}
    if len(rows) <= len(wanted):
        raise ExportError(
            f"there are {len(rows)} groups of briefs, too few for {len(wanted) + 1} splits: rows of one brief, and of briefs "
            "that have near-duplicates in common, stay together. Export more briefs, or without a split; or with dedup near, "
            "which leaves out what holds briefs together"
        )
    order = sorted(rows, key=lambda group: _drawn(seed, group))
    splits = dict.fromkeys(rows, TRAIN)
    for number, (split, share) in enumerate(wanted.items(), start=1):
        free = [group for group in order if splits[group] == TRAIN]
        still_to_fill = len(wanted) - number + 1
        for group in _taken(free, rows, share * sum(rows.values()), most=len(free) - still_to_fill):
            splits[group] = split
    return splits


def _taken(order: list[str], rows: Mapping[str, int], target: float, *, most: int) -> list[str]:
    """The first groups that have together about so many rows: those that alone are too large are passed over."""
    taken: list[str] = []
    count = 0
    for group in order:
        if rows[group] > target:
            continue
        if len(taken) == most or count + rows[group] - target > target - count:
            break
        taken.append(group)
        count += rows[group]
    return taken or [min(order, key=lambda group: rows[group])]


def _drawn(seed: int, group: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
