"""What an export holds and what it leaves out, counted while its rows are written."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tutelage.exports.cleaning.mixing import learnt_characters
from tutelage.exports.contents import Contents, is_mixed_in
from tutelage.exports.layouts.layout import Layout
from tutelage.exports.request import FileKind, Request
from tutelage.exports.rows import MESSAGES, Column, Format, LeftOut, Row
from tutelage.transcripts.transcript import Transcript


@dataclass(slots=True, kw_only=True)
class ExportSummary:
    """The numbers of an export. `str()` is their short form; the data set's card is the long one."""

    format: Format
    layout: Layout
    request: Request
    out: Path
    rows: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    """Rows by split."""
    used: set[str] = field(default_factory=set)
    """Completed dialogues that gave at least one row, by id."""
    turns: int = 0
    """Public turns of all roles in the completed dialogues."""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Finished dialogues by status and reason. Only completed ones give rows."""
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    unreadable: int = 0
    """Lines of transcript files that could not be read."""
    mixed: int = 0
    """Rows among them that people wrote."""
    learnt: Counter[str] = field(default_factory=Counter)
    """Characters that are to be learnt, by their origin: human or synthetic."""
    generation: int = 0
    """The highest among the dialogues that give rows."""
    astray: int = 0
    """Decisions about dialogues that their run does not have."""
    cut_off: int = 0
    """Rows whose text ends where the model had no tokens left."""
    roles: defaultdict[str, Counter[str]] = field(default_factory=partial(defaultdict, Counter))
    """By role, in the order in which they appear: calls in the completed dialogues by who answered."""
    learnable: dict[str, None] = field(default_factory=dict)
    """The roles that the completed dialogues have rows of, in the order in which they appear."""
    never_said: Counter[str] = field(default_factory=Counter)
    """By role, drafts of turns that were never accepted, in all dialogues, that were sent back."""
    runs: Counter[str] = field(default_factory=Counter)
    graphs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Completed dialogues by their graph's name and hash."""
    origins: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Completed dialogues by origin and generation."""
    languages: Counter[str] = field(default_factory=Counter)
    """Completed dialogues by their brief's language, where it names one."""
    versions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Completed dialogues by what they were made with."""
    briefs: set[str] = field(default_factory=set)
    """Those of the completed dialogues."""
    contents: Contents = field(init=False)
    """What its rows and dialogues are like."""
    columns: dict[str, Column] = field(init=False)
    """The columns of the rows, as they are laid out."""
    _columns: dict[str, Column] = field(init=False)
    _characters: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.contents = Contents(self.request)
        self._columns = self.format.columns(self.request)
        self.columns = self.layout.columns(self._columns)

    @property
    def files(self) -> FileKind:
        """What the rows are written as."""
        return self.request.files or self.layout.kinds[0]

    @property
    def dialogues(self) -> int:
        """Completed dialogues that gave at least one row."""
        return len(self.used)

    @property
    def completed(self) -> int:
        """Completed dialogues."""
        return sum(count for (status, _), count in self.outcomes.items() if status == "completed")

    @property
    def real_share(self) -> float:
        """How much of what is to be learnt people wrote, by characters: 0 to 1."""
        return self.learnt["human"] / self.learnt.total() if self.learnt.total() else 0.0

    @property
    def mean_characters(self) -> dict[str, float]:
        """For each column of messages, the mean length of their text in a row."""
        return {name: count / self.rows for name, count in self._characters.items()}

    def count_dialogue(self, transcript: Transcript) -> None:
        """Counts a finished dialogue."""
        self.outcomes[transcript.outcome.status, transcript.outcome.reason] += 1
        completed = transcript.outcome.status == "completed"
        if (unfinished := transcript.unfinished) and unfinished.role:
            self.never_said[unfinished.role] += sum(draft.status == "rejected" for draft in unfinished.attempts)
        for (role, who), count in Counter(_calls(transcript)).items():
            self.roles[role][who] += count * completed
        if not completed:
            return
        self.contents.count_dialogue(transcript)
        self.learnable.update(dict.fromkeys(self.format.roles(transcript)))
        self.turns += len(transcript.turns)
        self.briefs.add(transcript.brief.id)
        self.runs[transcript.run] += 1
        self.graphs[transcript.graph.name, transcript.graph.sha256] += 1
        self.origins[transcript.lineage.origin, transcript.lineage.generation] += 1
        self.versions.update(transcript.versions.items())
        if transcript.brief.language:
            self.languages[transcript.brief.language] += 1

    def count_row(self, split: str, row: Row) -> None:
        """Counts a row that is written, as its format has it."""
        self.rows += 1
        self.splits[split] += 1
        self.contents.count_row(split, row)
        self.learnt[row["origin"]] += learnt_characters(row)
        self.mixed += row["origin"] == "human"
        if not is_mixed_in(row):
            self.used.add(row["dialogue"])
        self.cut_off += row.get("finish_reason") == "length"
        for name, column in self._columns.items():
            if column.kind is MESSAGES:
                self._characters[name] += sum(len(message["content"]) for message in row[name])

    def __str__(self) -> str:
        """What was written where, and what was not."""
        lines = [
            f"{self.rows:,} rows of {self.format.name} for the role {self.request.role}, from {self.dialogues:,} of "
            f"{self.completed:,} completed dialogues: {self.out}",
            *(f"  left out: {count:,} {reason} ({reason.about})" for reason, count in self.left_out.most_common()),
            *(
                f"  no rows from {count:,} dialogues that were {status}: {reason}"
                for (status, reason), count in self.outcomes.most_common()
                if status != "completed"
            ),
        ]
        if self.unreadable:
            lines.append(f"  {self.unreadable:,} lines of transcripts and decisions could not be read")
        if self.astray:
            lines.append(f"  {self.astray:,} decisions are about dialogues that their run does not have")
        if self.mixed:
            lines.append(
                f"  {self.mixed:,} of the rows were written by people: {self.real_share:.1%} of what is learnt"
            )
        if len(self.splits) > 1:
            lines.append(f"  splits: {', '.join(f'{split} {count:,}' for split, count in self.splits.items())}")
        if self.cut_off:
            lines.append(f"  {self.cut_off:,} rows end where the model had no tokens left (finish_reason: length)")
        if lengths := [f"{name} {length:,.0f}" for name, length in self.mean_characters.items()]:
            lines.append(f"  mean characters: {', '.join(lengths)}")
        return "\n".join(lines)


def _calls(transcript: Transcript) -> Iterator[tuple[str, str]]:
    """Of each call the role, and who answered."""
    for turn in transcript.turns:
        for attempt in turn.attempts:
            yield turn.role, attempt.call.player
            for review in attempt.reviews:
                if review.call:
                    yield review.role, review.call.player
        for step in turn.steps:
            yield step.role, step.call.player
