"""The transcript of one dialogue: all that training, audits and resuming need."""

from collections.abc import Iterator
from datetime import datetime
from operator import not_
from typing import Any, Literal

from pydantic import ConfigDict, Field

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Call, Outcome, Record, Step, Turn

SCHEMA: Literal["tutelage.transcript/1"] = "tutelage.transcript/1"


class GraphIdentity(Record):
    """Which graph a dialogue ran on."""

    name: str
    sha256: str
    """A hash of its nodes, edges and agents."""


class Unfinished(Record):
    """What was made of a turn that was never accepted."""

    role: str | None = None
    """Whose turn it was, where a draft says so."""
    attempts: list[Attempt] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)


class Lineage(Record):
    """Where a dialogue's text comes from."""

    origin: Literal["human", "synthetic"] = "synthetic"
    generation: int = 1
    """1 + the highest generation among the models that wrote it and its brief; base models and people are 0."""
    parents: list[str] = Field(default_factory=list)
    """The models that wrote it: `model`, or `model+adapter`."""
    real_share: float = 1.0
    """How much people wrote of what those models were trained on: the least among them; 1 for base models."""


class Usage(Record):
    """What a dialogue took, over all its calls."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, calls: "Iterator[Call]") -> "Usage":
        """The sum over calls."""
        count = prompt = cached = completion = 0
        for call in calls:
            count += not call.is_further_candidate
            prompt += call.prompt_tokens
            cached += call.cached_tokens
            completion += call.completion_tokens
        return cls(calls=count, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)


class Transcript(Record):
    """One whole dialogue: one line of a run's `transcripts/*.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    schema_: Literal["tutelage.transcript/1"] = Field(default=SCHEMA, alias="schema")
    id: str
    """Derived from run, brief and repetition."""
    run: str
    graph: GraphIdentity
    brief: Brief
    turns: list[Turn]
    unfinished: Unfinished | None = None
    cut_turns: list[Turn] = Field(default_factory=list, exclude_if=not_)
    """What was said after the last turn that says something, where the outcome cut it off."""
    profiles: dict[str, dict[str, str]] = Field(default_factory=dict, exclude_if=not_)
    """By role, what it was in this dialogue beyond the brief: a persona."""
    findings: dict[str, Any] = Field(default_factory=dict, exclude_if=not_)
    """What was found out about the dialogue as a whole, by the name of what found it out."""
    outcome: Outcome
    lineage: Lineage = Lineage()
    attempt: int = 1
    """Which try of this dialogue it is: of one id the last line counts."""
    usage: Usage
    started: datetime
    finished: datetime
    versions: dict[str, str] = Field(default_factory=dict)
    """Of what it was made with."""

    def as_line(self) -> bytes:
        """The transcript as its line in a file, the newline included.

        Raises:
            ValueError: Something in it is no JSON.
        """
        return self.model_dump_json(by_alias=True).encode() + b"\n"

    def calls(self) -> Iterator[Call]:
        """Every model call of the dialogue."""
        yield from calls_of([*self.turns, *self.cut_turns], self.unfinished)


def calls_of(turns: list[Turn], unfinished: Unfinished | None = None) -> Iterator[Call]:
    """Every model call that went into some turns."""
    attempts = [attempt for turn in turns for attempt in turn.attempts]
    steps = [step for turn in turns for step in turn.steps]
    if unfinished is not None:
        attempts += unfinished.attempts
        steps += unfinished.steps
    for attempt in attempts:
        yield attempt.call
        yield from (review.call for review in attempt.reviews if review.call)
    yield from (step.call for step in steps)
