"""What is owed: which dialogues a run has to make, and in which order."""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Final

from tutelage.briefs.sources import BriefIndex
from tutelage.config import Config
from tutelage.dialogue.brief import Brief

SPARE: Final = 20
"""A target may take twice its dialogues and this many more: where most fail, going on would help nobody."""
LOOKED_UP: Final = 10_000
"""Dialogues that are looked up in the ledger at once, at most: more than some hundredths of a second would be felt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A dialogue that is to be made."""

    id: str
    position: int | None = None
    """Of its brief among the briefs; None where the brief is known already."""
    brief: Brief | None = None
    retry: int = 0
    """How often it was begun anew after it had failed."""
    begun: bool = False
    """Whether it has a checkpoint to go on from."""
    tries: int = 0
    """How often it was tried before within this start, and failed in a way that may heal."""


class Slots:
    """The dialogues that a run's briefs and target ask for, in order: each brief once, and with a target again and again.

    Args:
        config: The run's config.
        briefs: What the dialogues are about. It may grow; `again` starts over, so that new ones are seen.
        known: Of some dialogues, those that are finished or begun already: they are not owed.
    """

    def __init__(self, config: Config, briefs: BriefIndex, known: Callable[[Sequence[str]], Collection[str]]) -> None:
        self._config = config
        self._briefs = briefs
        self._known = known
        self.again()

    def again(self, config: Config | None = None) -> None:
        """Starts over: what is known is skipped."""
        self._config = config or self._config
        self._all = self._enumerate()
        self._ready: Iterator[Owed] = iter(())
        self._chunk: list[tuple[str, int]] = []
        self._looked_up = 16

    async def next(self) -> Owed | None:
        """The next dialogue that is owed; None if there is none."""
        while True:
            for owed in self._ready:
                return owed
            self._chunk = self._chunk or list(islice(self._all, self._looked_up))
            if not self._chunk:
                return None
            known = self._known([id_ for id_, _ in self._chunk])  # it may fail, and is then asked for the same again
            self._ready = iter([Owed(id=id_, position=position) for id_, position in self._chunk if id_ not in known])
            self._chunk = []
            # A run that was all but finished has many to skip; others are to be heard meanwhile.
            self._looked_up = min(2 * self._looked_up, LOOKED_UP)
            await asyncio.sleep(0)

    def _enumerate(self) -> Iterator[tuple[str, int]]:
        """All dialogues, as (id, position of the brief)."""
        if not len(self._briefs):
            return  # for ever, with a target
        target = self._config.target.dialogues
        most = len(self._briefs) if target is None else 2 * target + SPARE
        rounds = ((repetition, *each) for repetition in count() for each in enumerate(self._briefs))
        for repetition, position, brief in islice(rounds, most):
            yield dialogue_id(self._config.run, brief, repetition), position


def dialogue_id(run: str, brief: str, repetition: int) -> str:
    """The id of a dialogue: the same whenever the run is started, so that it cannot be made twice."""
    return hashlib.sha256(f"{run}\0{brief}\0{repetition}".encode()).hexdigest()[:16]
