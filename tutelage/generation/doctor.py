"""`tutelage doctor`: checks a config against the world before a run is begun. It changes nothing.

A check that fails does not keep the others from being made: only a config that cannot be read ends it at once.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import Config, load_config
from tutelage.dialogue.agent import Agent
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.nodes import Draft, Speak, actions_of
from tutelage.dialogue.prompt import Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Call, Issue, Review, Turn
from tutelage.dialogue.view import check_prompts, judge_prompt, speaker_prompt
from tutelage.errors import BriefError, ConfigError, GraphError, PromptError, RunFolderError, UserError
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.casting import prompt_library
from tutelage.generation.demands import check_panels, models_of, parts_of
from tutelage.generation.findings import Finding, Level, Notes, render
from tutelage.generation.lineage import with_training_read
from tutelage.generation.model_examination import examine_embedded, examine_models
from tutelage.generation.probing import Part
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.generation.run_folder import check_run_folder
from tutelage.generation.session import MANY_PER_BRIEF

__all__ = ["Finding", "examine", "render"]

SAMPLE: Final = 200
"""So many briefs, the first ones, have their prompts rendered."""
LITTLE_ROOM: Final = 2**30
"""Bytes; with less on the disk, doctor warns."""


def examine(config: Path | str, *, out: Path | str | None = None) -> list[Finding]:
    """Checks a config against the world.

    Args:
        config: The path of a config file.
        out: The run's folder; `runs/NAME` if not given.

    Returns:
        What each check found, in the order in which it is to be shown.
    """
    return asyncio.run(_examine(Path(config), Path(out) if out else None))


async def _examine(path: Path, out: Path | None) -> list[Finding]:
    try:
        config = with_training_read(load_config(path))
    except ConfigError as error:
        return [*Notes("Config").problem(str(error))]
    subject = _Subject.of(config)
    offline = [
        *_config(subject, path),
        *subject.brief_notes,
        *_prompts(subject),
        *_run_folder(config, out or Path("runs") / config.run),
    ]
    return [*offline, *_reached(await _endpoints(subject))]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is examined, as far as it could be loaded."""

    config: Config
    graph: LoadedGraph | None
    graph_error: str
    briefs: BriefIndex | None
    brief_notes: Notes
    sample: Sequence[Brief]

    @classmethod
    def of(cls, config: Config) -> "_Subject":
        graph, graph_error = None, ""
        try:
            graph = load_graph(config.graph, config.folder)
        except GraphError as error:
            graph_error = str(error)
        notes, briefs, sample = Notes("Briefs"), None, list[Brief]()
        try:
            if graph is None:
                briefs = read_briefs(config.briefs, config.folder)
            else:
                briefs = read_briefs(config.briefs, config.folder, graph.make, brief_check(graph, config.folder))
            sample = [briefs.brief(position) for position in range(min(SAMPLE, len(briefs)))]
        except BriefError as error:
            notes.problem(str(error))
        else:
            _count_briefs(notes, config, graph, briefs)
        return cls(config=config, graph=graph, graph_error=graph_error, briefs=briefs, brief_notes=notes, sample=sample)

    @property
    def agents(self) -> Sequence[Agent]:
        return self.graph.agents if self.graph else ()

    def model_of(self, role: str) -> str | None:
        """The name of the model that plays the role; None for the embedded one, and where nobody does."""
        try:
            return self.config.model_of(role)
        except ValueError:
            return None

    def candidates(self) -> dict[str, int]:
        """By role, how many candidates its model is asked for at once."""
        most: dict[str, int] = {}
        for node in actions_of(self.graph.graph) if self.graph else ():
            if isinstance(node, Speak | Draft):
                most[node.agent.role] = max(node.candidates, most.get(node.agent.role, 1))
        return most

    def parts(self, model: str | None) -> list[Part]:
        """What the roles that a model plays will ask of it."""
        if self.graph is None:
            return []
        prompts = prompt_library(self.config, self.graph)
        agents = {agent.role: agent for agent in self.agents}
        return [
            replace(
                part,
                candidates=self.candidates().get(part.role, 1),
                prompt=max(self._first_prompts(agents[part.role], prompts), key=_length, default=None),
            )
            for part in parts_of(self.config, self.graph, model)
        ]

    def _first_prompts(self, agent: Agent, prompts: PromptLibrary) -> Iterator[Prompt]:
        for brief in self.sample:
            if not _rendering_fails(agent, brief, prompts):
                yield _rendered(agent, {"brief": brief}, prompts)


# --- what is on this machine --------------------------------------------------------------------------------------


def _config(subject: _Subject, path: Path) -> Notes:
    config, notes = subject.config, Notes("Config").fine(f"{path} holds")
    if subject.graph is None:
        return notes.problem(subject.graph_error)
    roles = subject.graph.roles
    notes.fine(f"the graph {subject.graph.name!r} loads; its roles are {', '.join(roles)}")
    for role in config.roles:
        if role not in roles:
            notes.problem(f"roles.{role}: the graph {subject.graph.name!r} has no such role; it has {', '.join(roles)}")
    try:
        check_panels(config, subject.graph)
    except ConfigError as error:
        notes.problem(str(error))
    played: dict[str | None, list[str]] = {}
    for role in roles:
        try:
            for model in models_of(config, role):
                played.setdefault(model, []).append(role)
        except ValueError as error:
            notes.problem(str(error))
    for model, those in played.items():
        notes.fine(f"{', '.join(those)}: played by {model or 'the embedded model'}")
    if (embedding := config.evidence.embedding) is not None:
        notes.fine(f"evidence.embedding: {embedding} searches the documents")
    for model in config.models:
        if model not in played and model != embedding:
            notes.warning(f"models.{model} plays no role: name it under `roles:`, or take it out")
    return notes


def _count_briefs(notes: Notes, config: Config, graph: LoadedGraph | None, briefs: BriefIndex) -> None:
    files = len({briefs.place(position).rpartition(",")[0] for position in range(len(briefs))})
    have = f", and have what {graph.name!r} needs" if graph else ""
    notes.fine(f"{_number(len(briefs), 'brief')} in {_number(files, 'file')} can be read{have}")
    target = config.target.dialogues
    if target is not None and target > MANY_PER_BRIEF * len(briefs):
        notes.warning(
            f"{target} dialogues of {_number(len(briefs), 'brief')}: above {MANY_PER_BRIEF} of one they grow alike; "
            "more briefs teach more"
        )


def _prompts(subject: _Subject) -> Notes:
    notes = Notes("Prompts")
    if subject.graph is None:
        return notes
    if not subject.sample:
        return notes.warning("were not rendered, for there is no brief to render them for")
    prompts = prompt_library(subject.config, subject.graph)
    sample, whole = subject.sample, subject.briefs is not None and len(subject.briefs) == len(subject.sample)
    briefs = _number(len(sample), "brief") if whole else f"the first {len(sample)} briefs"
    for agent in subject.agents:
        failures = [(brief, said) for brief in sample if (said := _rendering_fails(agent, brief, prompts))]
        if failures:
            brief, said = failures[0]
            notes.problem(f"{agent.role}: for {len(failures)} of {briefs}, at first {brief.id!r}: {said}")
        else:
            notes.fine(f"{agent.role}: all render for {briefs}")
    for name in _templates(subject.agents):
        if instead := _overrides(prompts, name):
            notes.fine(f"{instead} is used instead of our prompt {name!r}")
    return notes


def _rendering_fails(agent: Agent, brief: Brief, prompts: PromptLibrary) -> str:
    """What is said of a prompt that does not render at the start of the dialogue or in its midst; empty if all do."""
    try:
        check_prompts(agent, {"brief": brief}, prompts)
        _rendered(agent, _midst(brief, agent), prompts)
        prompts.render("repair", error="it was empty")
    except Exception as error:  # noqa: BLE001 - a template may raise whatever the expressions in it raise
        return " ".join(str(error).split()) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return ""


def _rendered(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Prompt:
    return (judge_prompt if agent.task else speaker_prompt)(agent, dialogue, prompts)


def _midst(brief: Brief, agent: Agent) -> Dialogue:
    """A dialogue under way: one turn is said, and a draft of the next was sent back."""
    call = Call(model="", prompt_sha256="")
    issue = Issue(dimension="leak", severity="block", span="said", evidence="a fact", instruction="Say it otherwise.")
    review = Review(role="reviewer", verdict="revise", issues=[issue], call=call)
    said = Attempt(text="Said.", status="accepted", call=call)
    sent_back = Attempt(text="Drafted.", status="rejected", call=call, reviews=[review])
    turn = Turn(index=0, role="somebody", text=said.text, attempts=[said])
    return {"brief": brief, "turns": [turn], "speaker": agent.role, "attempts": [sent_back]}


def _templates(agents: Sequence[Agent]) -> list[str]:
    named = chain.from_iterable((agent.template, agent.task or "revision") for agent in agents)
    return list(dict.fromkeys([*named, "repair", "summary"]))


def _overrides(prompts: PromptLibrary, name: str) -> str | None:
    """Where a template of the user's is that goes before one of ours."""
    try:
        ours, used = PromptLibrary().template(name).source, prompts.template(name).source
    except PromptError:
        return None
    return used if used != ours else None


def _run_folder(config: Config, path: Path) -> Notes:
    notes = Notes("Run folder")
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    try:
        notes.fine(_usable(config, path))
    except RunFolderError as error:
        notes.problem(str(error))
    else:
        if not os.access(there, os.W_OK | os.X_OK):
            notes.problem(f"{str(there)!r} cannot be written: mend its permissions, or choose another --out")
    free = shutil.disk_usage(there).free
    if free < LITTLE_ROOM:
        notes.warning(f"{free / 2**20:.0f} MiB are free on its disk: make room, for a full disk stops a run")
    else:
        notes.fine(f"{free / 2**30:.0f} GiB are free on its disk")
    return notes


def _usable(config: Config, path: Path) -> str:
    """What there is to say of a run folder that can be used. Looks only: opening it would claim it.

    Raises:
        RunFolderError: It cannot be used.
    """
    check_run_folder(path, config)
    if not path.exists():
        return f"{str(path)!r} will be made"
    if _is_held(path / ".lock"):
        raise RunFolderError(f"{str(path)!r} is in use by another process: stop that one before you start another")
    if not (path / "run.yaml").exists():
        return f"{str(path)!r} is empty"
    return f"{str(path)!r} is this config's: the run would go on"


def _is_held(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# --- where words come from ----------------------------------------------------------------------------------------


async def _endpoints(subject: _Subject) -> list[Finding]:
    config = subject.config
    if not config.models:
        return await examine_embedded(subject.parts(None), config)
    played = {name: subject.parts(name) for name in config.models}
    return await examine_models(config, played)


def _reached(findings: Sequence[Finding]) -> list[Finding]:
    """The findings; one endpoint that is down counts as a problem to mend where another one answered."""
    down = {finding.group for finding in findings if finding.unreachable}
    if {finding.group for finding in findings if finding.level is Level.FINE} - down:
        return [replace(finding, unreachable=False) for finding in findings]
    return list(findings)


def _length(prompt: Prompt) -> int:
    return sum(len(message.content) for message in prompt.messages)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
