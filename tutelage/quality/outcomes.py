"""Learning outcomes: probes before and after, and after how many turns of the tutor the answer came.

Probes are asked beside the dialogue (`learners/probes.py`), and success@k and telling@k are MathDial's (`learners/gains.py`).
"""

from collections import Counter
from typing import Final

from pydantic import BaseModel, ConfigDict

from tutelage.checks.leaks import TUTOR
from tutelage.learners.gains import solve_rate_gain, solve_rates, solved_within, told_within
from tutelage.quality.intervals import AnyMean, AnyRate, mean, rate
from tutelage.transcripts.transcript import Transcript

AT: Final = (1, 3, 5)
"""After so many turns of the tutor success and telling are looked at."""
NO_PROBES: Final = "no probes before and after"
NO_ANSWER: Final = "no brief has an answer"
NO_TUTOR: Final = "no tutor spoke"


class Outcomes(BaseModel):
    """What came of dialogues, as far as the student could answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: AnyMean
    """The share of right replies to the probes before the dialogue, of dialogues that were probed after it, too."""
    after: AnyMean
    gain: AnyMean
    """What the share rose by, dialogue by dialogue."""
    success_at: dict[int, AnyRate]
    """Dialogues in which the student gave the answer within so many turns of the tutor."""
    telling_at: dict[int, AnyRate]
    """Dialogues in which the tutor gave it before that, within so many turns."""


class OutcomeTally:
    """Counts what students could answer, and keeps no text."""

    def __init__(self) -> None:
        self._rates: dict[str, Counter[float]] = {"before": Counter(), "after": Counter()}
        self._gains: Counter[float] = Counter()
        self._solved: Counter[int] = Counter()
        self._told: Counter[int] = Counter()
        self._dialogues = 0
        self._is_tutored = False

    def add(self, transcript: Transcript) -> None:
        """Counts a dialogue."""
        turns = [*transcript.turns, *transcript.cut_turns]
        if (gain := solve_rate_gain(turns)) is not None:
            before, after = solve_rates(turns, "before"), solve_rates(turns, "after")
            both = before.keys() & after.keys()
            self._gains[gain] += 1
            for when, shares in (("before", before), ("after", after)):
                self._rates[when][float(sum(shares[probe] for probe in both) / len(both))] += 1
        if transcript.brief.answer and transcript.turns:
            solved, told = (within(turns, transcript.brief) for within in (solved_within, told_within))
            self._dialogues += 1
            self._is_tutored |= any(turn.role == TUTOR for turn in turns)
            self._solved.update(k for k in AT if solved is not None and solved <= k)
            self._told.update(k for k in AT if told is not None and told <= k)

    def result(self) -> Outcomes:
        """What was counted."""
        # In a graph without a tutor there are no turns to count by; where there is one, a student may not have needed it.
        of, why = (self._dialogues, NO_ANSWER) if self._is_tutored or not self._dialogues else (0, NO_TUTOR)
        return Outcomes(
            before=mean(self._rates["before"], NO_PROBES),
            after=mean(self._rates["after"], NO_PROBES),
            gain=mean(self._gains, NO_PROBES),
            success_at={k: rate(self._solved[k], of, why) for k in AT},
            telling_at={k: rate(self._told[k], of, why) for k in AT},
        )
