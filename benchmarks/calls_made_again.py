"""Which calls were made again after a kill, and whether each of them had to be.

All of it is read from the endpoint's own record. A call is known by its seed, which is a hash of dialogue, role, turn,
attempt and candidate. A reply is certain to be on disk once its dialogue has gone on to the next step, for it may not
go on before; or once its transcript is whole. So of a dialogue under way the calls of the last step that it had come
to are in flight at a kill, sent or answered: one, or as many as there are reviewers at work. Only these may be made
again, and each once for every kill that met it in flight.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import orjson

from benchmarks.run_process import Project
from tutelage.dialogue.asking import REPAIRS, Occasion
from tutelage.generation.slots import dialogue_id

ROLES = ("tutor", "critic", "fact_checker", "student")
SPEAKERS = ("tutor", "student")


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of a run's process."""

    end: str
    """How it ended."""
    ended: float
    """When, in seconds since the epoch."""
    requests: int
    """That had come to the endpoint by then, in all lives."""
    finished: frozenset[str]
    """Dialogues whose transcript was on disk, whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeAgain:
    """The account of all lives."""

    calls: int
    """Each counted once."""
    in_flight: int
    """At the ends of all lives: the bound."""
    unanswered: int
    """Of those in flight."""
    made_again: int
    """Requests that came more than once."""
    without_need: list[str]
    """Calls that were made again although they had not been in flight."""
    lost_replies: int
    """Of those made again, the ones whose answer had come: it was not on disk yet."""
    median_age: float | None
    """Of the lost replies at the kill, in seconds since they were given."""
    greatest_age: float | None

    @property
    def good(self) -> bool:
        """Whether only what was in flight was made again."""
        return not self.without_need and self.made_again <= self.in_flight


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where in its dialogue a call belongs."""

    dialogue: str
    turn: int
    attempt: int
    role: str
    candidate: int

    @property
    def step(self) -> tuple[int, int, bool]:
        """Steps of a dialogue follow one another in this order: a draft's reviews are counted with the next attempt."""
        return self.turn, self.attempt, self.role in SPEAKERS

    def __str__(self) -> str:
        return f"{self.dialogue}, turn {self.turn}, {self.role}, attempt {self.attempt}, candidate {self.candidate}"


@dataclass(frozen=True, slots=True)
class _Request:
    slot: _Slot
    number: int
    life: int
    answered: float | None
    """When, in seconds since the epoch."""


def calls_made_again(
    project: Project, records: Sequence[Mapping[str, Any]], lives: Sequence[Life], *, messages: int
) -> MadeAgain:
    """Accounts for all requests of a run of the graph `lesson`, each brief once.

    Args:
        project: Of the run.
        records: The endpoint's record of requests, whole.
        lives: All lives of the run's process, in order; the last one finished.
        messages: The config's limit.

    Raises:
        SystemExit: A request belongs to no dialogue, or two calls have the same seed.
    """
    slots = _slots(project, messages)
    requests = [_request(record, slots, lives) for record in records]
    in_flight = [_in_flight(number, life, requests) for number, life in enumerate(lives)]
    of_slot: defaultdict[_Slot, list[_Request]] = defaultdict(list)
    for request in requests:
        of_slot[request.slot].append(request)
    without_need, ages = [], []
    for slot, each in of_slot.items():
        for earlier, later in pairwise(each):
            if earlier.life == later.life or slot not in in_flight[earlier.life]:
                without_need.append(str(slot))
            elif earlier.answered is not None:
                ages.append(lives[earlier.life].ended - earlier.answered)
    open_at_end = (slot for end in in_flight for slot, answered in end.items() if not answered)
    return MadeAgain(
        calls=len(of_slot),
        in_flight=sum(map(len, in_flight)),
        unanswered=sum(1 for _ in open_at_end),
        made_again=len(requests) - len(of_slot),
        without_need=without_need,
        lost_replies=len(ages),
        median_age=median(ages) if ages else None,
        greatest_age=max(ages, default=None),
    )


def _in_flight(number: int, life: Life, requests: Iterable[_Request]) -> dict[_Slot, bool]:
    """The calls in flight at the end of a life, and whether they were answered."""
    last: dict[str, dict[str, _Request]] = {}
    for request in requests:
        slot = request.slot
        if request.life != number or slot.dialogue in life.finished:
            continue
        step = last.setdefault(slot.dialogue, {})
        if step and next(iter(step.values())).slot.step < slot.step:
            step.clear()
        if not step or next(iter(step.values())).slot.step == slot.step:
            known = step.get(slot.role)
            if known is None or known.slot.candidate <= slot.candidate:
                step[slot.role] = request
    return {request.slot: request.answered is not None for step in last.values() for request in step.values()}


def _request(record: Mapping[str, Any], slots: Mapping[int, _Slot], lives: Sequence[Life]) -> _Request:
    slot = slots.get(record["body"]["seed"])
    if slot is None:
        raise SystemExit(f"request {record['number']} belongs to no dialogue of the run")
    life = next(number for number, life in enumerate(lives) if record["number"] <= life.requests)
    answered = record["received"] + record["seconds"] if record["outcome"] == "answered" else None
    return _Request(slot, record["number"], life, answered)


def _slots(project: Project, messages: int) -> dict[int, _Slot]:
    """By its seed, every call that the run may make."""
    config = orjson.loads(project.config.read_bytes())
    revisions = config["limits"].get("revisions", 2)
    briefs = [orjson.loads(line)["id"] for line in (project.folder / "briefs.jsonl").read_bytes().splitlines()]
    slots: dict[int, _Slot] = {}
    for slot in (
        _Slot(dialogue_id(config["run"], brief, 0), turn, attempt, role, candidate)
        for brief in briefs
        for turn in range(messages)
        for role in (ROLES[:3] if turn % 2 == 0 else ROLES[3:])
        for attempt in _attempts(role, revisions)
        for candidate in range(1 + REPAIRS)
    ):
        occasion = Occasion(dialogue=slot.dialogue, turn=slot.turn, attempt=slot.attempt)
        if (seed := occasion.seed(config["seed"], slot.role, slot.candidate)) in slots:
            raise SystemExit(f"two calls of this run have the seed {seed}: give the run another seed")
        slots[seed] = slot
    return slots


def _attempts(role: str, revisions: int) -> range:
    if role == "student":
        return range(1)
    return range(revisions + 1) if role == "tutor" else range(1, revisions + 2)
