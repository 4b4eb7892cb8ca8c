"""The report on runs, for `tutelage report`: one HTML page with pictures, or its numbers as JSON."""

from collections.abc import Sequence
from pathlib import Path

from tutelage.errors import ExportError
from tutelage.reports.page import as_page
from tutelage.reports.reading import read_runs


def write_report(runs: Sequence[Path | str], *, out: Path | str = "report.html", human: Sequence[Path] = ()) -> str:
    """Makes one page of runs, side by side: it needs nothing from elsewhere, so it can be sent and kept.

    Args:
        runs: Their folders. A run may be under way: what is finished is in it.
        out: The page. One that is there is replaced.
        human: Files of what people wrote in such dialogues, to compare with: JSONL with a column `text`.

    Returns:
        What was written where.

    Raises:
        RunFolderError: One is no run folder.
        ExportError: A file cannot be read or written, or matplotlib is not installed.
    """
    out = Path(out)
    page = as_page(read_runs(runs, human=human))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = out.with_name(f".{out.name}.new")
        new.write_text(page, encoding="utf-8")
        new.replace(out)
    except OSError as error:
        raise ExportError(f"the report {str(out)!r} cannot be written: {error.strerror}") from error
    return f"{out}: open it in a browser"


def as_json(runs: Sequence[Path | str], *, human: Sequence[Path] = ()) -> str:
    """The numbers of a report.

    Raises:
        RunFolderError: One is no run folder.
        ExportError: A file of what people wrote cannot be read.
    """
    return read_runs(runs, human=human).model_dump_json(indent=2)
