"""Exports: transcripts as the rows that a training tool reads, as a data set of its own with a card."""

import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from tutelage.errors import ExportError
from tutelage.transcripts.dataset_card import FILE as CARD
from tutelage.transcripts.dataset_card import dataset_card
from tutelage.transcripts.dpo import DPO
from tutelage.transcripts.export_summary import ExportSummary
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.sft import SFT
from tutelage.transcripts.store import raw_lines, read_transcripts
from tutelage.transcripts.training_files import FileKind, TrainingFiles
from tutelage.transcripts.training_rows import Format, LeftOut, Request

FORMATS: Final[Mapping[str, Format]] = {each.name: each for each in (SFT, DPO)}
"""By name. A new format is one `Format`: a function that gives rows, and the columns that they have."""

_SCORES: Final = re.compile(rb'"scores":\s*\{\s*"')


def export(
    run: Path | str,
    *,
    format: Literal["sft", "dpo"],  # noqa: A002 - the name that the command and its readers use
    out: Path | str,
    role: str = "tutor",
    files: FileKind = "parquet",
    whole_dialogue: bool = False,
    forced: bool = False,
    with_private: bool = False,
    force: bool = False,
) -> ExportSummary:
    """Makes training files of a run's completed dialogues.

    The files are first written beside `out` and then moved there, whole.

    Args:
        run: The run's folder. The run may be under way: what is finished is exported.
        format: `sft`: a prompt and a completion for each turn. `dpo`: a draft that was sent back against the revision.
        out: The data set's folder, with `README.md` and `data/`.
        role: Whose words are to be learnt: a speaker, or, for `sft`, a reviewer.
        files: Parquet (needs the extra `export`), or JSONL.
        whole_dialogue: For `sft`: one row of `messages` for each dialogue, as the role saw it.
        forced: For `sft`: keep turns that the reviewers still refused after the last revision.
        with_private: For `sft`: of a reply with a schema, the completion is all of it as JSON, the utterance last; without
            it, only the utterance. Not with `whole_dialogue`, whose prompt holds what was said.
        force: Replace an earlier export in `out`.

    Returns:
        What was written and what was left out.

    Raises:
        ExportError: `out` is in the way, the format has no such option, there is no row to write, or the disk is full.
        RunFolderError: `run` is no run folder.
    """
    request = Request(role=role, whole_dialogue=whole_dialogue, forced=forced, with_private=with_private)
    chosen = _format(format, request)
    run, out = Path(run), Path(out)
    _refuse_to_replace(out, force)
    try:
        with closing(Prompts(run)) as prompts, _moved_when_whole(out) as folder:
            if chosen.scores:
                request = replace(request, scored=any(_SCORES.search(line) for line in raw_lines(run)))
            summary = ExportSummary(format=chosen, request=request, files=files, out=out)
            _write_rows(run, prompts, folder, summary)
            if not summary.rows:
                raise ExportError(_why_empty(run, summary))
            (folder / CARD).write_text(dataset_card(summary), encoding="utf-8")
    except OSError as error:
        raise ExportError(f"the export to {str(out)!r} failed, and nothing is left of it: {error}") from error
    return summary


def _write_rows(run: Path, prompts: Prompts, folder: Path, summary: ExportSummary) -> None:
    def skip(_: str) -> None:
        summary.unreadable += 1

    make_rows = summary.format.rows
    with TrainingFiles(folder, summary.files, summary.columns) as training_files:
        for transcript in read_transcripts(run, on_skip=skip):
            summary.count_dialogue(transcript)
            if transcript.outcome.status != "completed":
                continue
            rows_before = summary.rows
            for row in make_rows(transcript, prompts, summary.request):
                if isinstance(row, LeftOut):
                    summary.left_out[row] += 1
                else:
                    training_files.write(row)
                    summary.count_row(row)
            summary.dialogues += summary.rows > rows_before


def _format(name: str, request: Request) -> Format:
    if name not in FORMATS:
        raise ExportError(f"there is no format {name!r}: there is {', '.join(FORMATS)}")
    chosen = FORMATS[name]
    for option in ("whole_dialogue", "forced", "with_private"):
        if getattr(request, option) and option not in chosen.options:
            raise ExportError(f"the format {name!r} has no option {option!r}: leave it out")
    if request.with_private and request.whole_dialogue:
        raise ExportError("a whole dialogue holds what was said, and nothing private: leave out one of the two options")
    return chosen


def _refuse_to_replace(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{str(out)!r} is a file: choose another folder")
    entries = {entry.name for entry in out.iterdir()}
    if entries and not force:
        raise ExportError(f"{str(out)!r} is not empty: choose another folder, or replace it with force")
    if not entries <= {CARD, "data"}:
        strangers = ", ".join(sorted(entries - {CARD, "data"})[:3])
        raise ExportError(f"{str(out)!r} holds more than an export ({strangers}), so it is not replaced")


@contextmanager
def _moved_when_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place in the end, or is gone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{secrets.token_hex(4)}.{end}") for end in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _why_empty(run: Path, summary: ExportSummary) -> str:
    role, there = summary.request.role, ", ".join(summary.learnable) or "none"
    outcomes = ", ".join(f"{count} {status} ({reason})" for (status, reason), count in summary.outcomes.most_common())
    if not summary.outcomes:
        return f"{str(run)!r} has no finished dialogue yet: nothing to export"
    if sent_back := summary.never_said[role] if role not in summary.roles else 0:
        drafts = "its one draft was" if sent_back == 1 else f"all {sent_back:,} drafts of it were"
        return f"the role {role!r} never speaks in {str(run)!r}, for {drafts} sent back. Dialogues: {outcomes}"
    if not summary.completed:
        return f"no dialogue of {str(run)!r} was completed, so there is nothing to export: {outcomes}"
    if role not in summary.roles:
        return f"the role {role!r} never speaks in {str(run)!r}: there are rows of {there}"
    if summary.left_out:
        reasons = "; ".join(f"{count} {reason} ({reason.about})" for reason, count in summary.left_out.most_common())
        would_help = LeftOut.FORCED in summary.left_out and "forced" in summary.format.options
        hint = "; the option `forced` keeps forced ones" if would_help else ""
        return f"all that could be a row of {summary.format.name} for the role {role!r} is left out: {reasons}{hint}"
    if summary.request.whole_dialogue:
        return f"the role {role!r} takes no turns, so it has no whole dialogues: leave out `whole_dialogue`"
    if summary.format is DPO:
        return f"no draft of the role {role!r} was sent back, so there are no pairs. Dialogues: {outcomes}"
    return f"the role {role!r} gives no rows of {summary.format.name} in {str(run)!r}: there are rows of {there}"
