"""Reads runs for a report: one pass over the transcripts of each, in memory that does not grow with the run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import orjson

from tutelage.dialogue.view import drafts
from tutelage.errors import ExportError
from tutelage.quality.agreement import Agreements
from tutelage.quality.diversity import DiversityTally
from tutelage.quality.lessons import LessonTally
from tutelage.reports.examples import ExampleSearch
from tutelage.reports.numbers import DecisionCount, Origin, ReportNumbers, RunNumbers
from tutelage.reports.timeline import Timeline
from tutelage.transcripts.caching import CacheTally
from tutelage.transcripts.decisions import Decisions, Judged, read_decisions
from tutelage.transcripts.messages import FILE, PromptParts
from tutelage.transcripts.statistics import StatisticsTally
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript


def read_runs(runs: Sequence[Path | str], *, human: Sequence[Path] = ()) -> ReportNumbers:
    """Counts runs.

    Args:
        runs: Their folders. A run may be under way: what is finished is counted.
        human: Files of what people wrote, to compare with: JSONL with a column `text`.

    Raises:
        RunFolderError: One is no run folder.
        ExportError: A file of what people wrote cannot be read, or numpy is not installed.
    """
    folders = [Path(run).resolve() for run in runs]
    return ReportNumbers(
        runs=[_read(folder, name, human) for folder, name in zip(folders, names_of(folders), strict=True)]
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """What to call each: its own name, with as many of the folders above it as tell it from the others."""
    for length in range(1, max((len(folder.parts) for folder in folders), default=1)):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len({*names}) == len({*folders}):
            return names
    return [str(folder) for folder in folders]


def human_texts(files: Sequence[Path]) -> Iterator[str]:
    """The texts in files of what people wrote.

    Raises:
        ExportError: One cannot be read, or a line of it has no text.
    """
    for path in files:
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    yield _text_of(line, f"{str(path)!r}, line {number}")
        except OSError as error:
            raise ExportError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def _text_of(line: bytes, place: str) -> str:
    try:
        text = orjson.loads(line)["text"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        text = None
    if not isinstance(text, str):
        raise ExportError(f"{place}: it has no text: give one JSON object a line, with a key `text`")
    return text


def _read(run: Path, name: str, human: Sequence[Path]) -> RunNumbers:
    messages = run / FILE
    decisions = read_decisions(run, on_skip=tell_skipped)
    with messages.open("rb") if messages.is_file() else nullcontext() as lines:
        tally = _RunTally(decisions, CacheTally(PromptParts(lines), block=1) if lines else None)
        for transcript in read_transcripts(run, on_skip=tally.skip):
            tally.add(transcript)
        return tally.result(run, name, human)


class _RunTally:
    """Counts transcripts one by one, and keeps of them only the examples."""

    def __init__(self, decisions: Decisions, caching: CacheTally | None) -> None:
        self._statistics = StatisticsTally()
        self._lessons = LessonTally()
        self._timeline = Timeline()
        self._examples = ExampleSearch()
        self._diversity = DiversityTally()
        self._caching = caching
        self._decisions = decisions
        self._authors: Counter[str] = Counter()
        self._agreements = Agreements()
        self._dropped = 0
        self._turns_dropped = 0
        self._unreadable = 0
        self._briefs: set[str] = set()
        self._turns: Counter[int] = Counter()
        self._words: dict[str, Counter[int]] = {}
        self._drafts: dict[str, list[int]] = {}
        self._origins: Counter[tuple[str, int]] = Counter()
        self._parents: Counter[str] = Counter()
        self._real_share = 1.0

    def skip(self, what: str) -> None:
        """Counts a line that cannot be read, and says so."""
        self._unreadable += 1
        tell_skipped(what)

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue."""
        for tally in (self._statistics, self._lessons, self._timeline, self._diversity):
            tally.add(transcript)
        judged = self._decisions.about(transcript)
        if not judged.is_dropped:
            self._examples.add(transcript)
        if self._caching:
            self._caching.add(transcript)
        self._briefs.add(transcript.brief.id)
        self._origins[transcript.lineage.origin, transcript.lineage.generation] += 1
        self._parents.update(transcript.lineage.parents)
        self._real_share = min(self._real_share, transcript.lineage.real_share)
        if transcript.outcome.status == "completed":
            self._turns[len(transcript.turns)] += 1
        self._add_turns(transcript)
        self._add_decisions(judged)

    def result(self, run: Path, name: str, human: Sequence[Path]) -> RunNumbers:
        """What was counted."""
        return RunNumbers(
            run=name,
            statistics=self._statistics.result(name, self._caching.all() if self._caching else []),
            lessons=self._lessons.result(run),
            briefs=len(self._briefs),
            unreadable=self._unreadable,
            turns=dict(sorted(self._turns.items())),
            words={role: dict(sorted(counted.items())) for role, counted in self._words.items()},
            drafts=self._drafts,
            timeline=self._timeline.result(),
            diversity=self._diversity.result(human_texts(human)),
            origins=[
                Origin(origin=origin, generation=generation, dialogues=count)
                for (origin, generation), count in sorted(self._origins.items())
            ],
            real_share=round(self._real_share, 4),
            parents=dict(self._parents.most_common()),
            decisions=self._decided(),
            examples=self._examples.result(),
        )

    def _add_turns(self, transcript: Transcript) -> None:
        for turn in transcript.turns:
            self._words.setdefault(turn.role, Counter())[len(turn.text.split())] += 1
            if any(attempt.reviews for attempt in turn.attempts):
                counts, made = self._drafts.setdefault(turn.role, []), len(drafts(turn.attempts))
                counts.extend([0] * (made - len(counts)))
                for number in range(made):
                    counts[number] += 1

    def _add_decisions(self, judged: Judged) -> None:
        if not judged.decisions:
            return
        turns = judged.transcript.turns
        self._dropped += judged.is_dropped
        self._turns_dropped += 0 if judged.is_dropped else sum(judged.drops(turn.index) for turn in turns)
        self._authors.update(each.by for about in judged.decisions.values() for each in about)
        self._agreements.count_dialogue(judged)

    def _decided(self) -> DecisionCount | None:
        if not self._authors:
            return None
        return DecisionCount(
            decisions=self._authors.total(),
            dropped=self._dropped,
            turns_dropped=self._turns_dropped,
            authors=dict(self._authors.most_common()),
            agreements=self._agreements.found(),
        )
