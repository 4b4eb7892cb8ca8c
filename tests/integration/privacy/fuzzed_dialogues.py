"""Plays dialogues of a graph with a fuzzing model into a run folder, and says which canaries stood where they may not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson

from tutelage import Agent, Brief, Cast, Dialogue, Limits, Transcript
from tutelage.dialogue.nodes import agents_of
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.turn import Attempt, Outcome
from tutelage.errors import CallError, ExportError
from tutelage.transcripts.export import export
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.store import TranscriptStore
from tutelage.transcripts.transcript import GraphIdentity, Usage, calls_of

from .canaries import Canaries, Kind, canary_brief, found_in
from .fuzzing_model import Asked, FuzzingModel

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
NEVER: Mapping[str, frozenset[str]] = {
    "student": frozenset({"answer", "giveaway", "facts", "documents", "extra"}),
    "opponent": frozenset({"answer", "giveaway", "facts", "documents", "extra"}),
}
"""What a role may not see whatever its agent declares: who is to learn something does not read it in the brief."""
LEARNT = frozenset({"prompt", "completion", "messages", "chosen", "rejected"})
"""The columns of an export that a trainer reads. What else stands in a row is about it: what a revision mended, by name."""


@dataclass(slots=True, kw_only=True)
class Fuzzed:
    """A dialogue that was played, and what its models were shown."""

    id: str
    dialogue: Dialogue
    model: FuzzingModel
    public: set[str] = field(default_factory=set)
    """The canaries that were said aloud, in an accepted turn."""
    reviewers: dict[str, set[str]] = field(default_factory=dict)
    """By role, who reviewed its drafts."""

    def __post_init__(self) -> None:
        for turn in self.dialogue.get("turns", []):
            self.public |= found_in(turn.text) & self.model.spoken
            self._note_reviewers(turn.role, turn.attempts)
        self._note_reviewers(self.dialogue.get("speaker", ""), self.dialogue.get("attempts", []))

    def _note_reviewers(self, role: str, attempts: Iterable[Attempt]) -> None:
        found = {review.role for attempt in attempts for review in attempt.reviews}
        self.reviewers.setdefault(role, set()).update(found, {each.role for each in self.dialogue.get("reviews", [])})


class FuzzedRun:
    """Dialogues of one graph, in a run folder.

    Args:
        make_graph: The graph.
        folder: Where the run goes.
        seed: Everything is drawn from it.
    """

    def __init__(self, make_graph: Callable[[], Any], folder: Path, seed: int = 0) -> None:
        self._name = getattr(make_graph, "__name__", "graph")
        self._graph = make_graph()
        self._compiled = self._graph.compile()
        self._folder, self._seed = folder, seed
        self._prompts = PromptLibrary()
        self.canaries = Canaries()
        self.agents: list[Agent] = agents_of(self._graph)
        self.dialogues: dict[str, Fuzzed] = {}
        self.outcomes: dict[str, int] = {}

    async def play(self, dialogues: int) -> None:
        """Plays so many dialogues, each with a brief and limits of its own, and writes the run's files."""
        log, store = MessageLog(), TranscriptStore(self._folder / "transcripts")
        for number in range(dialogues):
            transcript = await self._play(f"d{number}", Random(f"{self._seed}/{number}"), log)
            store.append([transcript.as_line()])
        store.close()
        (self._folder / "messages.jsonl").write_bytes(log.take())

    async def _play(self, id_: str, rng: Random, log: MessageLog) -> Transcript:
        model = FuzzingModel(self.canaries, rng)
        limits = Limits(
            messages=rng.randint(2, 6),
            revisions=rng.randint(0, 2),
            tokens=rng.choice([1500, 8192]),
            outgrown=rng.choice(["end", "drop", "summarise"]),
        )
        cast = Cast(players=Cast.of(model).players, limits=limits, prompts=self._prompts, on_prompt=log.keep)
        brief = canary_brief(rng, self.canaries, id_)
        state: Dialogue = {"id": id_, "seed": rng.getrandbits(31), "brief": brief, "turns": []}
        try:
            async for reached in self._compiled.astream(state, context=cast, stream_mode="values"):
                state = reached
            outcome = outcome_of(self._graph, state, limits)
        except CallError as error:
            outcome = Outcome(status="failed", reason=error.reason)
        self.dialogues[id_] = Fuzzed(id=id_, dialogue=state, model=model)
        self.outcomes[outcome.reason] = self.outcomes.get(outcome.reason, 0) + 1
        return self._transcript(id_, brief, state, outcome)

    def _transcript(self, id_: str, brief: Brief, state: Dialogue, outcome: Outcome) -> Transcript:
        turns = state.get("turns", [])
        return Transcript(
            id=id_,
            run="fuzzed",
            graph=GraphIdentity(name=self._name, sha256="0" * 64),
            brief=brief,
            turns=turns,
            profiles=state.get("profiles", {}),
            findings=state.get("findings", {}),
            # Whatever became of it: what is not exported today may be tomorrow.
            outcome=outcome.model_copy(update={"status": "completed"}),
            usage=Usage.of(calls_of(turns)),
            started=WHEN,
            finished=WHEN,
        )

    def shown_in_vain(self) -> Iterator[str]:
        """Every canary that a role was shown and may not see."""
        for fuzzed in self.dialogues.values():
            for asked in fuzzed.model.asked:
                for word in sorted(asked.shown):
                    kind = self.canaries.kinds[word]
                    if not self._may_see(asked, word, kind, fuzzed):
                        yield f"{asked.role} ({asked.view}) was shown {kind.what} of {kind.whose} in {fuzzed.id}"

    def said_in_vain(self) -> Iterator[str]:
        """Every canary in a public turn that no model meant to say aloud."""
        for fuzzed in self.dialogues.values():
            for turn in fuzzed.dialogue.get("turns", []):
                for word in sorted(found_in(turn.text) - fuzzed.model.spoken):
                    kind = self.canaries.kinds[word]
                    yield f"{turn.role} said {kind.what} of {kind.whose} in {fuzzed.id}"

    def exported_in_vain(self, out: Path) -> Iterator[str]:
        """Every canary in a row of training data that the row's role may not see."""
        for role in dict.fromkeys(agent.role for agent in self.agents):
            for row in self._rows(role, out):
                fuzzed = self.dialogues[row["dialogue"]]
                learnt = {name: text for name, text in row.items() if name in LEARNT}
                for word in sorted(found_in(orjson.dumps(learnt).decode())):
                    kind = self.canaries.kinds[word]
                    if not self._may_learn(role, word, kind, fuzzed):
                        yield f"a row for {role} holds {kind.what} of {kind.whose} in {fuzzed.id}"

    def canaries_of(self, what: str, whose: str) -> list[str]:
        """All canaries of a kind."""
        return [word for word, kind in self.canaries.kinds.items() if kind == Kind(what, whose)]

    def seen(self) -> set[tuple[str, Kind]]:
        """What each role was shown of what is private: so that a test can tell that there was something to see."""
        return {
            (asked.role, self.canaries.kinds[word])
            for fuzzed in self.dialogues.values()
            for asked in fuzzed.model.asked
            for word in asked.shown
        }

    def _may_see(self, asked: Asked, word: str, kind: Kind, fuzzed: Fuzzed) -> bool:
        if word in fuzzed.public:
            return True
        agents = [agent for agent in self.agents if (agent.role, agent.view) == (asked.role, asked.view)]
        if word in fuzzed.model.spoken and any(agent.task for agent in agents):
            return True  # in a draft, by whom it is judged
        match kind.what:
            case "brief":
                return _declared(kind.whose, agents)
            case "reply":
                return asked.role == kind.whose or kind.whose in fuzzed.reviewers.get(asked.role, ())
            case _:
                return asked.role == kind.whose

    def _may_learn(self, role: str, word: str, kind: Kind, fuzzed: Fuzzed) -> bool:
        if word in fuzzed.public | fuzzed.model.spoken_by(role):
            return True
        agents = [agent for agent in self.agents if agent.role == role]
        if word in fuzzed.model.spoken and any(agent.task for agent in agents):
            return True
        if kind.what == "brief":
            return _declared(kind.whose, agents)
        return kind.whose == role

    def _rows(self, role: str, out: Path) -> Iterator[dict[str, Any]]:
        asked: list[Mapping[str, Any]] = [
            {"format": "sft", "forced": True},
            {"format": "sft", "forced": True, "whole_dialogue": True},
            {"format": "dpo"},
        ]
        for number, options in enumerate(asked):
            folder = out / f"{role}-{number}"
            try:
                export(self._folder, out=folder, role=role, files="jsonl", **options)
            except ExportError:  # a role of which there is nothing to learn in this format
                continue
            for path in sorted(folder.rglob("*.jsonl")):
                yield from map(orjson.loads, path.read_bytes().splitlines())


def _declared(field_: str, agents: Iterable[Agent]) -> bool:
    return any(field_ in agent.sees - NEVER.get(agent.role, frozenset()) for agent in agents)
