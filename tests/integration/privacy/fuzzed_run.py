"""Plays dialogues of a graph with a fuzzing model into a run folder, and says which canaries stood where they may not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson

from tutelage import Agent, Brief, Cast, Dialogue, Limits, Transcript
from tutelage.dialogue.cast import DEFAULT_PLAYER, Evidence, Player, Students
from tutelage.dialogue.nodes import agents_of
from tutelage.dialogue.prompt import Prompt, PromptLibrary
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.turn import Outcome, Review
from tutelage.errors import CallError, ExportError
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.store import TranscriptStore
from tutelage.transcripts.transcript import GraphIdentity, Usage, calls_of

from .canaries import Canaries, Kind, canary_brief, found_in, write_canary_prompts
from .fuzzing_model import FuzzingModel
from .visibility import Fuzzed

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
LEARNT = frozenset({"prompt", "completion", "completions", "messages", "chosen", "rejected", "reference"})
"""The columns of an export that a trainer reads. What else stands in a row is about it: what a revision mended, by name."""


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
        self.canaries = Canaries()
        self._prompts = PromptLibrary([write_canary_prompts(folder.with_name("prompts"), self.canaries)])
        self.agents: list[Agent] = agents_of(self._graph)
        self.dialogues: dict[str, Fuzzed] = {}
        self.outcomes: dict[str, int] = {}

    async def play(self, dialogues: int) -> None:
        """Plays so many dialogues, each with a brief and limits of its own, and writes the run's files."""
        log, store = MessageLog(), TranscriptStore(self._folder / "transcripts")
        played = [await self._play(f"d{n}", Random(f"{self._seed}/{n}"), log) for n in range(dialogues)]
        store.append([transcript.as_line() for transcript in played])
        store.close()
        (self._folder / "messages.jsonl").write_bytes(log.take())

    async def _play(self, id_: str, rng: Random, log: MessageLog) -> Transcript:
        model = FuzzingModel(self.canaries, f"{self._seed}/{id_}")
        outgrown: Any = rng.choice(["end", "drop", "summarise"])
        limits = Limits(
            messages=rng.randint(2, 8),
            revisions=rng.randint(0, 2),
            tokens=8192 if outgrown == "end" else rng.randint(350, 900),
            outgrown=outgrown,
        )

        def keep(dialogue: str, prompt: Prompt) -> None:
            log.keep(dialogue, prompt)
            model.expect(prompt)

        player = Player(model=model, sampling={"max_tokens": 32})
        cast = Cast(
            players={DEFAULT_PLAYER: replace(player, panel=(player,) * rng.choice([0, 0, 2]))},
            limits=limits,
            prompts=self._prompts,
            evidence=Evidence(policy=rng.choice(["strict", "mark", "open"])),
            students=Students(adversarial=0.5),
            on_prompt=keep,
        )
        brief = canary_brief(rng, self.canaries, id_)
        state: Dialogue = {"id": id_, "seed": rng.getrandbits(31), "brief": brief, "turns": []}
        try:
            async for reached in self._compiled.astream(state, context=cast, stream_mode="values"):
                state = reached
            outcome = outcome_of(self._graph, state, limits)
        except CallError as error:
            outcome = Outcome(status="failed", reason=error.reason)
        self.dialogues[id_] = Fuzzed(id_, brief, state, model, self.agents, self.canaries.kinds)
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
                    if not fuzzed.may_be_shown(asked, word):
                        yield f"{asked.role} ({asked.view}) was shown {self.canaries.kinds[word]} in {fuzzed.id}"

    def said_in_vain(self) -> Iterator[str]:
        """Every canary in a public turn that no model meant to say aloud."""
        for fuzzed in self.dialogues.values():
            for turn in fuzzed.turns:
                for word in sorted(found_in(turn.text) - fuzzed.model.spoken):
                    yield f"{turn.role} said {self.canaries.kinds[word]} in {fuzzed.id}"

    def exported_in_vain(self, out: Path) -> Iterator[str]:
        """Every canary in a row of training data that the row's role may not see."""
        for role in dict.fromkeys(agent.role for agent in self.agents):
            for row in self._rows(role, out):
                learnt = {name: text for name, text in row.items() if name in LEARNT}
                fuzzed = self.dialogues[row["dialogue"]]
                for word in sorted(found_in(orjson.dumps(learnt).decode())):
                    if not fuzzed.may_be_learnt(role, row["turn"], word):
                        yield f"a row for {role} holds {self.canaries.kinds[word]} in {fuzzed.id}"

    def instructions(self) -> set[tuple[str, str]]:
        """Who was told by whom what to mend, in the reviewer's own words, as (speaker, reviewer)."""
        return {
            (turn.role, review.role)
            for fuzzed in self.dialogues.values()
            for turn in fuzzed.turns
            for attempt in turn.attempts[:-1]
            for review in attempt.reviews
            if attempt.status == "rejected" and review.verdict == "revise" and self._are_own_words(review)
        }

    def _are_own_words(self, review: Review) -> bool:
        return any(
            self.canaries.kinds[word] == Kind("reply", review.role)
            for word in found_in(review.model_dump_json(exclude={"reply"}))
        )

    def profiles(self) -> set[str]:
        """The roles that were somebody beyond their brief."""
        return {role for fuzzed in self.dialogues.values() for role in fuzzed.dialogue.get("profiles", {})}

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

    def _rows(self, role: str, out: Path) -> Iterator[dict[str, Any]]:
        asked: list[Mapping[str, Any]] = [
            {"format": "sft", "forced": True, "unchecked": True},
            {"format": "sft", "forced": True, "whole_dialogue": True},
            {"format": "dpo"},
            {"format": "kto"},
            {"format": "prm"},
            {"format": "grpo"},
        ]
        for number, options in enumerate(asked):
            folder = out / f"{role}-{number}"
            try:
                export(self._folder, Request(role=role, files="jsonl", **options), out=folder)
            except ExportError:  # a role of which there is nothing to learn in this format
                continue
            for path in sorted(folder.rglob("*.jsonl")):
                yield from map(orjson.loads, path.read_bytes().splitlines())
