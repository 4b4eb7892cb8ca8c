"""What people and judges decided about a run's dialogues: `decisions.jsonl` beside the transcripts, which never change.

A decision is about a dialogue or one of its turns. Of several by one author about the same, the last one counts. A
person's `keep` outweighs what judges say.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import Field, ValidationError

from tutelage.dialogue.turn import Record
from tutelage.transcripts.transcript import Transcript

log = structlog.get_logger()

FILE: Final = "decisions.jsonl"
JUDGE: Final = "judge:"
"""What the name of an author begins with that is no person."""


class Decision(Record):
    """What one author says of a dialogue, or of one of its turns."""

    id: str
    """The dialogue's."""
    turn: int | None = None
    """The turn's index; None if the whole dialogue is meant."""
    by: str = Field(min_length=1)
    """Who says so: a person's name, or `judge:` and what judged."""
    decision: Literal["keep", "drop", "edit", "prefer"]
    """Keep it, leave it out, say `text` instead, or take the candidate or draft whose words are `text`."""
    text: str | None = None
    reason: str = ""

    @property
    def is_a_persons(self) -> bool:
        """Whether a person made it, and no judge."""
        return not self.by.startswith(JUDGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A transcript, and what was decided about it."""

    transcript: Transcript
    decisions: Mapping[int | None, Sequence[Decision]] = field(default_factory=dict)
    """By turn (None: the whole dialogue), the last decision of each author."""

    @property
    def is_dropped(self) -> bool:
        """Whether no part of the dialogue is to be used."""
        return _is_dropped(self.decisions.get(None, ()))

    def drops(self, turn: int) -> bool:
        """Whether a turn is not to be used."""
        return _is_dropped(self.decisions.get(turn, ()))

    def edits(self, turn: int) -> Sequence[Decision]:
        """What people wrote instead of a turn's text."""
        return [each for each in self.decisions.get(turn, ()) if each.decision == "edit" and each.text]

    def preferences(self, turn: int) -> Sequence[Decision]:
        """Which words of a turn's drafts and candidates were preferred."""
        return [each for each in self.decisions.get(turn, ()) if each.decision == "prefer" and each.text]


class Decisions:
    """The decisions about a run's dialogues.

    Args:
        decisions: In the order in which they were made.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        last: dict[str, dict[tuple[int | None, str], Decision]] = defaultdict(dict)
        for each in decisions:
            last[each.id][each.turn, each.by] = each
        self._by_dialogue = last

    def __len__(self) -> int:
        return sum(map(len, self._by_dialogue.values()))

    def about(self, transcript: Transcript) -> Judged:
        """The transcript with what was decided about it."""
        by_turn: dict[int | None, list[Decision]] = defaultdict(list)
        for decision in self._by_dialogue.get(transcript.id, {}).values():
            by_turn[decision.turn].append(decision)
        return Judged(transcript=transcript, decisions=by_turn)


def read_decisions(run: Path | str, *, on_skip: Callable[[str], None] | None = None) -> Decisions:
    """Reads what was decided about a run's dialogues; nothing, where there is no such file.

    Args:
        run: The run's folder.
        on_skip: Called with file, line and reason for each line that is no decision; a warning in the log without it.
    """
    path = Path(run) / FILE
    if not path.exists():
        return Decisions()
    skip = on_skip or (lambda what: log.warning("decision_skipped", line=what))
    decisions = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                decisions.append(Decision.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                skip(f"{path}, line {number}: {'.'.join(map(str, first['loc']))} {first['msg']}")
    return Decisions(decisions)


def _is_dropped(decisions: Sequence[Decision]) -> bool:
    if any(each.is_a_persons and each.decision != "drop" for each in decisions):
        return False
    return any(each.decision == "drop" for each in decisions)
