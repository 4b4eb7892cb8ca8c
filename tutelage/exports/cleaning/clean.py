"""What is done to an export's rows before they are written, in this order; each step is a generator over rows.

 1. `scrub`: personal data gives way to placeholders, in prompts as in what is learnt. First, so that rows that differ only
    in that are the same from here on.
 2. `drop_artefacts`: rows whose words are no speech go.
 3. `benchmarks`: rows that hold something of a benchmark go.
 4. `dedup`, `against`: what came before, here or in an earlier export, goes: first what is the same, then what is nearly so.
 5. `best`: of what is left, those with the highest scores stay.
 6. `balance_lengths`: pairs go until chosen and rejected texts are about equally long.
 7. `validation`, `test`: briefs are held out, whole, together with those that they have near-duplicates in common with.

From step 4 (near) on, a step must see all rows before the first goes on, and puts them aside on disk (`whole_set.py`).
What goes is counted with its reason, once, at the first step that it fails.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson

from tutelage.checks.artefacts import broken_off, label, meta_text, template_token
from tutelage.errors import ExportError
from tutelage.exports.cleaning.comparing import compared, imitated
from tutelage.exports.cleaning.earlier import check_earlier, earlier_rows
from tutelage.exports.cleaning.whole_set import SCORES, balanced, in_one, split, the_best, without_near_duplicates
from tutelage.exports.request import Request
from tutelage.exports.rows import IDENTITY, SCRUBBED, LeftOut, Row
from tutelage.quality.contamination import Benchmarks, read_benchmarks, texts_of
from tutelage.quality.near_duplicates import LOWEST, need_libraries
from tutelage.quality.personal_data import scrubbed

LOG: Final = "scrubbed.jsonl"
"""Beside the data: of each placeholder in it the row, the place, the kind; not what stood there, and no hash of it."""
_THOUGHT: Final = re.compile(r"\A<think>\n.*?\n</think>\n\n", re.DOTALL)


def clean(
    rows: Iterable[Row], request: Request, *, left_out: Counter[LeftOut], folder: Path
) -> Iterator[tuple[str, Row]]:
    """The rows that stay, each with its split.

    Args:
        rows: Those of all runs, in order. None is read before what is asked for was checked.
        request: What is asked for.
        left_out: Counts what is dropped, by its reason.
        folder: The data set's folder, where rows are put aside.

    Raises:
        ExportError: What is asked for makes no sense, a file that it names cannot be read, or a library is missing.
    """
    check(request)
    benchmarks = read_benchmarks(request.benchmarks)
    if request.scrub:
        rows = map(_scrub, rows)
    if request.drop_artefacts:
        rows = _staying(rows, _artefact, left_out)
    if benchmarks:
        rows = _staying(rows, partial(_contaminated, benchmarks), left_out)
    # Two dialogues with the same words are two tasks: each is decided about by its own id.
    if (request.dedup != "none" or request.against) and request.format != "label-studio":
        rows = _without_repeats(rows, request, left_out)
    if request.dedup == "near":
        rows = without_near_duplicates(rows, request, left_out, folder)
    if request.best is not None:
        rows = the_best(rows, request, left_out, folder)
    if request.balance_lengths:
        rows = balanced(rows, left_out, folder)
    return split(rows, request, folder) if request.validation or request.test else in_one(rows)


@contextmanager
def scrub_log(request: Request, folder: Path) -> Iterator[Callable[[str, Row], None]]:
    """Opens the log of what was replaced, if anything is to be; what it gives is told of each row that is written."""
    if not request.scrub:
        yield lambda *_: None
        return
    with (folder / LOG).open("wb") as file:

        def note(split_: str, row: Row) -> None:
            for line in row.get(SCRUBBED, ()):
                file.write(orjson.dumps({"id": row["id"], "split": split_, **line}, option=orjson.OPT_APPEND_NEWLINE))

        yield note


def check(request: Request) -> None:
    """Makes sure that what is asked of the cleaning makes sense and can be done.

    Raises:
        ExportError: It does not, or cannot.
    """
    if not LOWEST <= request.near <= 1:
        raise ExportError(f"near={request.near} is no similarity from which rows count as the same: give {LOWEST} to 1")
    if request.best is not None and not 0 < request.best <= 1:
        raise ExportError(f"best={request.best} is no share of the rows: give more than 0, and at most 1")
    if request.best is not None and request.format not in SCORES:
        raise ExportError(f"rows of {request.format} have no score to tell the best by: leave out `best`")
    for name in ("validation", "test"):
        if not 0 <= getattr(request, name) < 1:
            raise ExportError(f"{name}={getattr(request, name)} is no share of the rows: give 0 or more, below 1")
    if request.validation + request.test >= 1:
        raise ExportError(
            f"validation={request.validation} and test={request.test} leave nothing to train on: together, below 1"
        )
    if request.dedup == "near" or request.validation or request.test:
        need_libraries()
    check_earlier(request)


def _scrub(row: Row) -> Row:
    """The row with placeholders, and beside its columns what the log is to say of them."""
    lines: list[Row] = []

    def clean_value(value: Any, place: str) -> Any:
        if isinstance(value, str):
            text, replaced = scrubbed(value)
            lines.extend({"place": place, "kind": each.kind, "start": each.start} for each in replaced)
            return text
        if isinstance(value, dict):
            return {name: clean_value(each, f"{place}/{name}") for name, each in value.items()}
        if isinstance(value, list):
            return [clean_value(each, f"{place}/{number}") for number, each in enumerate(value)]
        return value

    clean_row = {name: value if name in IDENTITY else clean_value(value, name) for name, value in row.items()}
    return {**clean_row, SCRUBBED: lines} if lines else clean_row


def _staying(
    rows: Iterable[Row], why_not: Callable[[Row], LeftOut | None], left_out: Counter[LeftOut]
) -> Iterator[Row]:
    for row in rows:
        if reason := why_not(row):
            left_out[reason] += 1
        else:
            yield row


def _artefact(row: Row) -> LeftOut | None:
    texts = imitated(row)
    if texts and row.get("finish_reason") == "length":
        return LeftOut.CUT_OFF
    return LeftOut.ARTEFACT if any(_is_artefact(text, row["role"]) for text in texts) else None


def _is_artefact(text: str, role: str) -> bool:
    text = _THOUGHT.sub("", text)
    if text.startswith("{"):
        try:
            fields = orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # then it is speech with a brace in front, or JSON that broke off
        else:
            # A reply with a schema is JSON on purpose; of its fields only the utterance is said.
            said = fields.get("utterance")
            spoilt = isinstance(said, str) and _is_artefact(said, role)
            return spoilt or any(template_token(each) for each in texts_of(fields))
    return bool(label(text, role) or template_token(text) or meta_text(text) or broken_off(text))


def _contaminated(benchmarks: Benchmarks, row: Row) -> LeftOut | None:
    texts = texts_of({name: value for name, value in row.items() if name not in IDENTITY and name != SCRUBBED})
    return LeftOut.IN_A_BENCHMARK if any(map(benchmarks.touch, texts)) else None


def _without_repeats(rows: Iterable[Row], request: Request, left_out: Counter[LeftOut]) -> Iterator[Row]:
    before = {each.digest for each in earlier_rows(request.against)}
    seen: set[int] = set()
    for row in rows:
        digest = compared(row).digest
        if digest in before:
            left_out[LeftOut.EXPORTED_BEFORE] += 1
        elif digest in seen:
            left_out[LeftOut.DUPLICATE] += 1
        else:
            if request.dedup != "none":
                seen.add(digest)
            yield row
