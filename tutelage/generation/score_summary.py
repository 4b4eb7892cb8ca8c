"""What `tutelage score` says: how far it is, what it has written in the end, and the data set's card."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tutelage.dialogue.turn import player_name
from tutelage.exports.card import code
from tutelage.exports.logprob_set import fields_of
from tutelage.exports.logprobs import Mode
from tutelage.exports.rows import LeftOut
from tutelage.generation.progress import now_and_then
from tutelage.generation.teacher import Fingerprint, Teacher, Unscorable
from tutelage.generation.teachers import Likeness

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class ScoreSummary:
    """The numbers of a scoring. `str()` is their short form; the data set's card is the long one."""

    run: Path
    out: Path
    role: str
    teacher: Teacher
    likeness: Likeness
    """What shows that it has the tokenizer of the model that played the role."""
    scored: int = 0
    """Turns that were scored now."""
    resumed: int = 0
    """Turns that an earlier start had scored."""
    tokens: int = 0
    """Of the turns that were scored now, those under the mask."""
    left_out: Counter[LeftOut | Unscorable] = field(default_factory=Counter)
    unreadable: int = 0
    """Lines of transcripts and decisions that were skipped."""

    @property
    def rows(self) -> int:
        """Turns in the data set."""
        return self.scored + self.resumed

    @property
    def unanswered(self) -> int:
        """Turns that the endpoint did not answer for: the data set is not in its place before they are scored."""
        return self.left_out[Unscorable.FAILED]

    @property
    def exit_code(self) -> int:
        """What the command exits with: 1 if the endpoint did not answer for a turn."""
        return 1 if self.unanswered else 0

    @property
    def name(self) -> str:
        """The teacher, as it is named."""
        return player_name(self.teacher.model, self.teacher.adapter)

    @property
    def kept(self) -> str:
        """What is kept of each place."""
        samples = self.teacher.samples
        return f"the {self.teacher.k} likeliest tokens" if samples is None else f"{samples} tokens drawn"

    def __str__(self) -> str:
        """What was written where, and what was not."""
        lines = [
            f"{self.rows:,} turns of the role {self.role}, scored by {self.name}, {self.kept} in each place: {self.out}",
            f"  {self.tokens:,} tokens in {self.scored:,} turns now"
            + (f", {self.resumed:,} turns by an earlier start" if self.resumed else ""),
            f"  shares its tokenizer with the model that played the role, as shown by: {self.likeness}",
            *(f"  left out: {count:,} {reason} ({reason.about})" for reason, count in self.left_out.most_common()),
        ]
        if self.unanswered:
            lines.append(f"  {self.out} is not there yet: the same command asks again for what was not answered")
        if self.unreadable:
            lines.append(f"  {self.unreadable:,} lines were skipped, for they cannot be read")
        return "\n".join(lines)


@contextmanager
def show_scoring(summary: ScoreSummary, *, shown: bool) -> Iterator[Callable[[], None]]:
    """Shows on stderr how many turns are scored; gives what is called after each."""
    console = Console(stderr=True)
    if not shown:
        yield lambda: None
    elif not console.is_terminal:
        yield now_and_then(partial(_tell, summary))
    else:
        columns = (TextColumn("turns"), BarColumn(), TextColumn("{task.completed:,.0f}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("turns", total=None)
            yield lambda: bar.advance(task)


def _tell(summary: ScoreSummary) -> None:
    log.info("turns_scored", turns=summary.scored, tokens=summary.tokens, left_out=summary.left_out.total())


def card(summary: ScoreSummary, fingerprint: Fingerprint, mode: Mode) -> str:
    """The text of the data set's card."""
    left_out = "\n".join(f"- {count:,} {reason}: {reason.about}" for reason, count in summary.left_out.most_common())
    return f"""# Log-probabilities of what {code(summary.role)} said

{summary.rows:,} turns that were accepted in dialogues between models, made by Tutelage, each with what the teacher
{code(summary.name)} says of every token: {summary.kept} in its place, and the probability of all others as one number.
A second pass gave them, after the dialogues were over: one prefill of each turn, at temperature 1.

| | |
|---|---|
| role | {code(summary.role)} |
| teacher | {code(summary.name)} |
| kept in each place | {summary.kept} |
| turns | {summary.rows:,} |
| shares its tokenizer with the model that played the role, as shown by | {summary.likeness} |
| tokenizer | `{fingerprint.tokenizer[:16]}` |
| chat template | `{fingerprint.chat_template[:16]}` |

Log-probabilities are natural, and half-precision numbers: the error of one below 1, 2, 4 or 8 is at most .00025, .0005, .001
or .002. Prompts are rendered by the teacher's chat template.

## Columns

{fields_of(mode)}

## Left out

{left_out or "Nothing."}
"""
