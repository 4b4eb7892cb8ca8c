"""What keeps models from being trained, round after round, on what models wrote that were trained on what models wrote.

Each round loses some of what is rare, and after a few rounds only the middle is left (Shumailov et al.,
doi 10.1038/s41586-024-07566-y). How many rounds are too many depends on how much of people's text stays in the mix, so the
limits are a product's, not a law's: three rounds are worth a warning, five are refused unless asked for.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import structlog

from tutelage.errors import ExportError
from tutelage.exports.cleaning.mixing import NEARLY, TO_LOOK_AT
from tutelage.exports.request import Request
from tutelage.transcripts.store import parse_transcript, raw_lines
from tutelage.transcripts.transcript import Transcript

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

log = structlog.get_logger()

Concern: TypeAlias = Literal["late_generation", "human_rows_short", "mostly_synthetic"]

WARN_FROM: Final = 3
REFUSE_FROM: Final = 5
"""Generations."""
_NOT_IMITATED: Final = (*TO_LOOK_AT, "grpo")
"""Formats whose texts nobody learns to write: of what grpo rewards, the model itself is the author."""
MOST_SYNTHETIC: Final = 0.5
"""The share of models' text in the mix from which more did harm (arXiv 2410.15226)."""


def refuse_late_runs(runs: Sequence[Path | str], request: Request) -> None:
    """Refuses runs of a late generation by their first dialogues, before anything is made of them.

    Raises:
        ExportError: The first dialogue of a run is of the fifth generation or later.
        RunFolderError: One is no run folder.
    """
    for run in runs:
        for line in raw_lines(run):
            try:
                transcript = parse_transcript(line)
            except ValueError:
                continue
            refuse_late_generation(transcript, request)
            break


def refuse_late_generation(transcript: Transcript, request: Request) -> None:
    """Refuses a dialogue of the fifth generation or later, unless such are asked for.

    Raises:
        ExportError: It is one.
    """
    generation = transcript.lineage.generation
    if generation >= REFUSE_FROM and not request.any_generation:
        raise ExportError(
            f"the dialogue {transcript.id!r} of the run {transcript.run!r} is of generation {generation}: models wrote it "
            f"that were trained on what models wrote, {generation - 1} times over, and each time rare words and ideas are "
            "lost. Train on earlier generations and on what people wrote (`mix`) instead, or export it all the same with "
            "`any_generation` (`--any-generation`)"
        )


def concerns(summary: "ExportSummary") -> Iterator[tuple[Concern, str]]:
    """What whoever trains on an export should know of it: each with its kind."""
    if summary.generation >= WARN_FROM:
        yield "late_generation", _lateness(summary.generation)
    if summary.request.format in _NOT_IMITATED or not summary.rows:
        return
    if summary.request.mix and summary.real_share < summary.request.real_share - NEARLY:
        yield (
            "human_rows_short",
            f"people wrote {summary.real_share:.1%} of what is to be learnt, not {summary.request.real_share:.1%}: `mix` "
            "has no more that is new and fits",
        )
    if 1 - summary.real_share > MOST_SYNTHETIC + NEARLY:
        yield (
            "mostly_synthetic",
            f"models wrote {1 - summary.real_share:.1%} of what is to be learnt: above half, mix in what people wrote "
            "(`mix`), here or in training",
        )


def tell(summary: "ExportSummary") -> None:
    """Says what whoever trains on an export should know, in the log."""
    tell_generation(summary.generation)
    said = {"generation": summary.generation, "real_share": round(summary.real_share, 4)}
    for concern, note in concerns(summary):
        match concern:
            case "human_rows_short":
                log.warning("human_rows_short", note=note, **said)
            case "mostly_synthetic":
                log.warning("mostly_synthetic_exported", note=note, **said)


def tell_generation(generation: int) -> None:
    """Says in the log that what was written is of a late generation, if it is."""
    if generation >= WARN_FROM:
        log.warning("late_generation_exported", generation=generation, note=_lateness(generation))


def _lateness(generation: int) -> str:
    return (
        f"generation {generation}: models wrote it that were trained on what models wrote; each generation loses what is "
        f"rare, and from {REFUSE_FROM} on they are refused"
    )
