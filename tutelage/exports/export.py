"""Exports: transcripts as the rows that a training tool reads, as a data set of its own with a card."""

import gc
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Final

from tutelage.errors import ExportError
from tutelage.exports.card import FILE as CARD
from tutelage.exports.card import dataset_card
from tutelage.exports.cleaning.clean import clean, scrub_log
from tutelage.exports.cleaning.mixing import Mix
from tutelage.exports.folder import moved_when_whole, refuse_to_replace
from tutelage.exports.formats.dpo import DPO
from tutelage.exports.formats.registry import FORMATS
from tutelage.exports.guard import refuse_late_generation, refuse_late_runs, tell
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.layouts.registry import layout_of
from tutelage.exports.manifest import FILE as MANIFEST
from tutelage.exports.manifest import Manifest, write_manifest
from tutelage.exports.request import Request
from tutelage.exports.rows import OF_SOME_FORMATS, LeftOut, Row
from tutelage.exports.summary import ExportSummary
from tutelage.transcripts.decisions import Judged, read_decisions
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript


def export(
    runs: Path | str | Sequence[Path | str], request: Request, *, out: Path | str, force: bool = False
) -> ExportSummary:
    """Makes training files of the completed dialogues of one run or several.

    The files are first written beside `out` and then moved there, whole. What was decided about dialogues and turns
    (`decisions.jsonl`) is honoured; the runs themselves are only read.

    Args:
        runs: The runs' folders. A run may be under way: what is finished is exported.
        request: Which rows, of which turns, for which tool.
        out: The data set's folder, with `README.md` and `data/`.
        force: Replace an earlier export in `out`.

    Returns:
        What was written and what was left out.

    Raises:
        ExportError: `out` is in the way, a run is named twice, the format has no such option, there is no row to write, a
            dialogue is of the fifth generation or later, people's rows cannot be read, or the disk is full.
        RunFolderError: One of `runs` is no run folder.
    """
    _refuse_what_means_nothing(request)
    runs, out = [runs] if isinstance(runs, Path | str) else runs, Path(out)
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise ExportError("one of the runs is named twice: its dialogues would count twice")
    refuse_to_replace(out, force)
    refuse_late_runs(runs, request)
    try:
        with moved_when_whole(out) as folder:
            layout = layout_of(request)
            summary = ExportSummary(format=FORMATS[request.format], layout=layout, request=request, out=out)
            with _no_collections():
                _write(runs, folder, summary)
            if not summary.rows:
                raise ExportError(_why_empty(runs, summary))
            for name, text in layout.beside(summary).items():
                (folder / name).write_text(text, encoding="utf-8")
            (folder / CARD).write_text(dataset_card(summary, runs), encoding="utf-8")
            write_manifest(folder, _manifest(summary, [*(each.name for each in folder.iterdir()), MANIFEST]))
    except OSError as error:
        raise ExportError(f"the export to {str(out)!r} failed, and nothing is left of it: {error}") from error
    tell(summary)
    return summary


@contextmanager
def _no_collections() -> Iterator[None]:
    """Rows and transcripts hold no cycles, and the collector would go over all that is held again and again: a tenth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _write(runs: Iterable[Path | str], folder: Path, summary: ExportSummary) -> None:
    layout = summary.layout
    request, left_out = summary.request, summary.left_out
    columns = summary.format.columns(request)
    with (
        Mix(request, columns, left_out=left_out, folder=folder) as mix,
        layout.open(folder, summary.files, summary.columns) as files,
        scrub_log(request, folder) as note_scrubbed,
    ):
        # First what the tool cannot hold: no row that it can may go for the sake of one that is not written.
        held = _held_by(layout, mix.add_to(_rows(runs, summary)), left_out)
        rows = clean(held, request, left_out=left_out, folder=folder)
        for split, row in mix.take_share(rows):
            laid_out = layout.row(row)
            if isinstance(laid_out, LeftOut):  # for what was put in place of personal data
                left_out[laid_out] += 1
            else:
                files.write(split, laid_out)
                note_scrubbed(split, row)
                summary.count_row(split, row)


def _held_by(layout: Layout, rows: Iterable[Row], left_out: Counter[LeftOut]) -> Iterator[Row]:
    for row in rows:
        if isinstance(laid_out := layout.row(row), LeftOut):
            left_out[laid_out] += 1
        else:
            yield row


def _rows(runs: Iterable[Path | str], summary: ExportSummary) -> Iterator[Row]:
    def skip(what: str) -> None:
        summary.unreadable += 1
        tell_skipped(what)

    known: set[str] = set()
    for run in runs:
        decisions = read_decisions(run, on_skip=skip)
        ids: set[str] = set()
        with Prompts(run, in_order=True) as prompts:
            for transcript in read_transcripts(run, on_skip=skip):
                _refuse_the_same(transcript, run, known)
                ids.add(transcript.id)
                summary.count_dialogue(transcript)
                if transcript.outcome.status == "completed":
                    yield from _rows_of(decisions.about(transcript), prompts, summary)
        summary.astray += decisions.astray(ids)
        known |= ids


def _refuse_the_same(transcript: Transcript, run: Path | str, known: Container[str]) -> None:
    if transcript.id in known:
        raise ExportError(
            f"the dialogue {transcript.id!r} is in two of the runs, {str(run)!r} and an earlier one: rows of both would have "
            "one id, made of the run's name, the brief and the repetition. Leave out one of the runs, or give the one that "
            "is made anew a name of its own (`run:`)"
        )


def _rows_of(judged: Judged, prompts: Prompts, summary: ExportSummary) -> Iterator[Row]:
    summary.contents.count_decisions(judged)
    if judged.is_dropped and not summary.format.with_dropped:
        summary.left_out[LeftOut.DROPPED] += 1
        return
    refuse_late_generation(judged.transcript, summary.request)
    for row in summary.format.rows(judged, prompts, summary.request):
        if isinstance(row, LeftOut):
            summary.left_out[row] += 1
        else:
            summary.generation = max(summary.generation, judged.transcript.lineage.generation)
            yield row


def _manifest(summary: ExportSummary, files: list[str]) -> Manifest:
    return Manifest(
        format=summary.format.name,
        tool=summary.request.tool,
        role=summary.request.role,
        runs=dict(summary.runs),
        splits=dict(summary.splits),
        generation=summary.generation,
        real_share=round(summary.real_share, 6),
        learnt_characters=summary.learnt.total(),
        files=sorted(files),
    )


def _refuse_what_means_nothing(request: Request) -> None:
    if request.format not in FORMATS:
        raise ExportError(f"there is no format {request.format!r}: there is {', '.join(FORMATS)}")
    for option in fields(Request):
        given = option.default is not MISSING and getattr(request, option.name) != option.default
        if given and option.name in OF_SOME_FORMATS and option.name not in FORMATS[request.format].options:
            raise ExportError(f"the format {request.format!r} has no option {option.name!r}: leave it out")
        if given and option.name == "real_share" and not request.mix:
            raise ExportError("real_share is the share of people's rows: say which files they are in (`mix`)")
    if request.with_private and request.whole_dialogue:
        raise ExportError("a whole dialogue holds what was said, and nothing private: leave out one of the two options")
    if request.reasoning and request.whole_dialogue:
        raise ExportError(
            "no prompt holds what was thought before an earlier turn, so a whole dialogue cannot: leave out `reasoning` or "
            "`whole_dialogue`"
        )
    for senseless, why in _senseless(request):
        if senseless:
            raise ExportError(why)
    if not request.gap >= 0:
        raise ExportError(f"the gap between two scores cannot be {request.gap}: give 0 or more")


def _senseless(request: Request) -> Iterator[tuple[bool, str]]:
    """Options that would change nothing, each with what to say of it."""
    defaults = Request(format=request.format)
    kind = request.pairs
    yield (
        request.minimal_edit and kind not in ("all", "revisions"),
        f"`minimal_edit` is about revisions, and `pairs` is {kind!r}: leave out one of the two",
    )
    yield (
        request.gap != defaults.gap and kind not in ("all", "siblings"),
        f"`gap` is about siblings, and `pairs` is {kind!r}: leave out one of the two",
    )
    yield (
        request.near != defaults.near and request.dedup != "near" and not (request.validation or request.test),
        "`near` says what near-duplicates are: ask for `dedup` near, or for splits, which keep them together",
    )
    yield (
        request.drop_artefacts and request.format == "grpo",
        "rows of grpo hold nothing that is imitated: leave out `drop_artefacts`",
    )


_NO_PAIRS: Final = {
    "revisions": "no draft of the role {role} was sent back",
    "siblings": "no turn of the role {role} had candidates",
    "people": "nobody edited a turn of the role {role} or preferred a draft",
    "all": "no draft of the role {role} was sent back, none had candidates, and nobody edited one or preferred another",
}


def _what_would_help(summary: ExportSummary) -> Iterator[str]:
    if LeftOut.FORCED in summary.left_out and "forced" in summary.format.options:
        yield "; the option `forced` keeps forced ones"
    if LeftOut.UNCHECKED in summary.left_out:
        yield (
            f". A verdict of {summary.request.role!r} is learnt only where a check from outside agrees with it: have another "
            "model judge the run (`tutelage judge`), or a person, or take every verdict (`--unchecked`)"
        )
    if LeftOut.UNSCORED in summary.left_out:
        yield ". Candidates are scored where the graph chooses them by `ByScore`"


def _why_empty(runs: Iterable[Path | str], summary: ExportSummary) -> str:
    run = ", ".join(map(str, runs))
    role, there = summary.request.role, ", ".join(summary.learnable) or "none"
    outcomes = ", ".join(f"{count} {status} ({reason})" for (status, reason), count in summary.outcomes.most_common())
    if not summary.outcomes:
        return f"{run!r} has no finished dialogue yet: nothing to export"
    if sent_back := summary.never_said[role] if role not in summary.roles else 0:
        drafts = "its one draft was" if sent_back == 1 else f"all {sent_back:,} drafts of it were"
        return f"the role {role!r} never speaks in {run!r}, for {drafts} sent back. Dialogues: {outcomes}"
    if not summary.completed:
        return f"no dialogue of {run!r} was completed, so there is nothing to export: {outcomes}"
    if role not in summary.roles:
        return f"the role {role!r} never speaks in {run!r}: there are rows of {there}"
    if summary.left_out:
        reasons = "; ".join(f"{count} {reason} ({reason.about})" for reason, count in summary.left_out.most_common())
        return (
            f"all that could be a row of {summary.format.name} for the role {role!r} is left out: "
            f"{reasons}{''.join(_what_would_help(summary))}"
        )
    if summary.request.whole_dialogue:
        return f"the role {role!r} takes no turns, so it has no whole dialogues: leave out `whole_dialogue`"
    if summary.format is DPO:
        return (
            f"{_NO_PAIRS[summary.request.pairs].format(role=repr(role))}, so there are no pairs. Dialogues: {outcomes}"
        )
    return f"the role {role!r} gives no rows of {summary.format.name} in {run!r}: there are rows of {there}"
