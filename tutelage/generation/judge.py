"""`tutelage judge`: another reviewer judges stored transcripts, and nothing is generated anew.

    transcripts ─▶ each turn as it stood under review ─▶ reviewer ─▶ decisions.jsonl, appended and synced

A reviewer is shown what it would have been shown in the run, and its verdict counts by the rule of the run's gate: what
would have sent the draft back drops the turn. The transcripts never change. What an author has judged is not judged twice,
so a judging that was interrupted goes on where it was.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from langchain_core.language_models import BaseChatModel
from structlog.contextvars import bound_contextvars

from tutelage.config import Config, EvidenceConfig, StudentsConfig, load_config
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Turn
from tutelage.errors import (
    AuthRefused,
    CallError,
    EndpointUnreachable,
    ModelNotServed,
    TutelageError,
    UserError,
)
from tutelage.evidence.fact_checking import FactCheck
from tutelage.generation.casting import cast_of, check_roles, prompt_library
from tutelage.generation.generate import fast_loop
from tutelage.generation.group_commit import GroupCommit
from tutelage.generation.judge_display import show_judging
from tutelage.generation.judge_summary import JudgeSummary, JudgeTally
from tutelage.generation.peoples_decisions import take_over
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.generation.reviewers import (
    FoundReviewer,
    Judge,
    ModelJudge,
    Opinion,
    check_at,
    cold,
    reviewer_at,
    reviewer_in,
    reviewers_of,
)
from tutelage.generation.run_folder import read_run_yaml
from tutelage.generation.session import raise_file_limit, unhurried_collector
from tutelage.quality.agreement import THE_RUN, Agreement, Agreements, said_by_run, said_in
from tutelage.quality.doubt import Doubt, uncertain_first
from tutelage.transcripts.decisions import Decision, DecisionFile, Decisions, read_decisions
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript
from tutelage.transcripts.under_review import under_review

log = structlog.get_logger()

PATIENCE: Final = 20.0
"""Seconds for which a write is tried again where the disk is full."""
_ENDS_IT: Final = (EndpointUnreachable, AuthRefused, ModelNotServed, UserError)
"""What is no turn's own matter."""


def judge(
    run: Path | str,
    *,
    config: Path | str | Mapping[str, Any] | Config | None = None,
    by: str | None = None,
    role: str = "tutor",
    checks: Sequence[str] = (),
    decisions: Path | str | None = None,
    again: bool = False,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> JudgeSummary:
    """Has a run's completed dialogues judged again, or takes over what people decided about them.

    Args:
        run: The run's folder. A run may be under way: what is finished is judged.
        config: Whose models and roles judge, and whose graph has the role; the run's own if not given.
        by: The reviewer: a role of the graph, or one of one's own, `agents/mine.py:my_critic`.
        role: Whose turns are judged.
        checks: Checks in code that judge, too: `package.module:check` or `checks/mine.py:check`.
        decisions: A file of what people decided: JSONL, or what Label Studio exports.
        again: Judge also what this reviewer has judged before.
        models: Models by role, instead of the config's.
        progress: Whether to show progress on stderr.

    Raises:
        UserError: The config, the reviewer, a prompt or the file of decisions does not hold; nothing was judged.
        EndpointUnreachable: A model cannot be reached. What was decided before is on disk.
        KeyboardInterrupt: Ctrl-C. What was decided before is on disk.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(
            ajudge(
                run,
                config=config,
                by=by,
                role=role,
                checks=checks,
                decisions=decisions,
                again=again,
                models=models,
                progress=progress,
            )
        )


async def ajudge(
    run: Path | str,
    *,
    config: Path | str | Mapping[str, Any] | Config | None = None,
    by: str | None = None,
    role: str = "tutor",
    checks: Sequence[str] = (),
    decisions: Path | str | None = None,
    again: bool = False,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> JudgeSummary:
    """`judge` for code that is async itself; cancelled, it leaves all that was decided on disk."""
    folder = Path(run)
    settings = _Settings.of(folder, config)
    if by is None and not checks and decisions is None:
        raise UserError(_who_there_is(settings))
    found = None if by is None else _reviewer(by, settings)
    in_code = [check_at(place, settings.config.folder) for place in checks]
    summary = JudgeSummary(folder=folder, role=role)
    if decisions is not None:
        summary.taken_over = take_over(folder, Path(decisions))
    if found is not None or in_code:
        async with _judges(found, in_code, settings, models) as (judges, at_once):
            await _Bench(folder, role, judges, settings.seed, again=again).judge_all(summary, at_once, progress)
    now = {each.by for each in summary.reviewers}
    if summary.taken_over is not None:
        now |= summary.taken_over.authors
    summary.agreements = [each for each in _agreements(folder, role) if now.intersection(each.authors)]
    return summary


def doubtful(run: Path | str, *, role: str = "tutor", most: int | None = None) -> list[Doubt]:
    """The turns of a run's completed dialogues that a person should look at, the most doubtful first.

    Raises:
        RunFolderError: It is no run folder.
    """
    decisions = read_decisions(run)
    return uncertain_first((decisions.about(each) for each in _completed(run)), role, most)


# --- who judges -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """Whose config judges, and on which graph."""

    config: Config
    graph: str
    seed: int
    """The run's: what is drawn by chance in a dialogue comes from it."""

    @classmethod
    def of(cls, folder: Path, config: Path | str | Mapping[str, Any] | Config | None) -> "_Settings":
        written = load_config(read_run_yaml(folder))
        if config is None:
            # The config's own folder is not written down: a run lies in runs/ beside where it was started, mostly.
            project = folder.resolve().parent.parent if folder.resolve().parent.name == "runs" else Path.cwd()
            own = written.model_copy(update={"folder": project})
            return cls(config=own, graph=own.graph, seed=written.seed)
        given = load_config(config)
        graph = given.graph if "graph" in given.model_fields_set else written.graph
        return cls(config=given, graph=graph, seed=written.seed)

    def load_graph(self) -> LoadedGraph:
        """The graph whose roles judge."""
        return load_graph(self.graph, self.config.folder)


def _reviewer(by: str, settings: _Settings) -> FoundReviewer:
    config, graph = settings.config, settings.load_graph()
    if ":" not in by and not by.endswith(".py"):
        check_roles(config, graph)
        return reviewer_in(graph, by)
    found = reviewer_at(by, config.folder)
    others = {role: each for role, each in config.roles.items() if role != found.node.agent.role}
    check_roles(config.model_copy(update={"roles": others}), graph)
    return found


def _who_there_is(settings: _Settings) -> str:
    there = ", ".join(reviewers_of(settings.load_graph())) or "none"
    return (
        f"say who judges: --by ROLE (the graph {settings.graph!r} has {there}), --by agents/mine.py:my_critic, "
        "--check package.module:check, or --decisions FILE for what people decided"
    )


@asynccontextmanager
async def _judges(
    found: FoundReviewer | None,
    in_code: Sequence[Judge],
    settings: _Settings,
    models: Mapping[str, BaseChatModel] | None,
) -> AsyncIterator[tuple[list[Judge], int]]:
    """All who judge, with their models reached, and how many turns are judged at once."""
    config = settings.config
    if found is None:
        yield [*in_code], 1
        return
    # The reviewer alone takes part: what the config says of evidence and students is for others.
    unasked: dict[str, Any] = {"students": StudentsConfig()}
    if not isinstance(found.node, FactCheck):
        unasked["evidence"] = EvidenceConfig()
    config, stage = config.model_copy(update=unasked), found.stage
    raise_file_limit()
    async with cast_of(config, stage, prompt_library(config, stage), models=models) as casting:
        agent = found.node.agent
        judging = ModelJudge(found.node, cold(casting.cast, agent.role, agent.sampling))
        at_once = min(config.concurrency, casting.at_once or config.concurrency)
        yield [judging, *in_code], at_once


# --- judging --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owed:
    """A turn that somebody is to judge."""

    judge: Judge
    tally: JudgeTally
    turn: Turn
    dialogue: Dialogue


class _Bench:
    """Has judges judge the turns of a run, and writes down what they decide."""

    def __init__(self, folder: Path, role: str, judges: Sequence[Judge], seed: int, *, again: bool) -> None:
        self._folder = folder
        self._role = role
        self._judges = [(judge, JudgeTally(by=judge.by)) for judge in judges]
        self._seed = seed
        self._again = again
        self._roles = Counter[str]()
        """Whose turns there are."""

    async def judge_all(self, summary: JudgeSummary, at_once: int, progress: bool) -> None:
        """Judges what is owed, many turns at once.

        Raises:
            EndpointUnreachable, AuthRefused, ModelNotServed: Nobody judges any more.
            UserError: A prompt does not render, nobody speaks in the role, or the decisions cannot be written.
        """

        def skip(what: str) -> None:
            summary.unreadable += 1
            tell_skipped(what)

        summary.reviewers = [tally for _, tally in self._judges]
        async with AsyncExitStack() as stack:
            file = stack.enter_context(DecisionFile(self._folder))
            before = read_decisions(self._folder, on_skip=skip)
            writer = GroupCommit[Decision]("decisions", file.append, patience=PATIENCE).start()
            stack.push_async_callback(asyncio.to_thread, writer.close)
            stack.enter_context(unhurried_collector())
            advance = stack.enter_context(show_judging(self._folder, summary.reviewers, shown=progress))
            owed = self._owed(before, skip, advance)
            await _together([self._work(owed, writer) for _ in range(at_once)])
        if self._roles and self._role not in self._roles:
            raise UserError(f"nobody speaks as {self._role!r}: give --role, one of {', '.join(self._roles)}")

    def _owed(self, before: Decisions, skip: Any, advance: Any) -> Iterator[_Owed]:
        for transcript in _completed(self._folder, skip):
            for turn in transcript.turns:
                self._roles[turn.role] += 1
                dialogue = under_review(transcript, turn) if turn.role == self._role else None
                if dialogue is not None:
                    yield from self._of_turn(transcript, turn, dialogue, before)
            advance()

    def _of_turn(self, transcript: Transcript, turn: Turn, dialogue: Dialogue, before: Decisions) -> Iterator[_Owed]:
        dialogue["seed"] = Occasion(dialogue=transcript.id, turn=0).seed(self._seed, "", 0)
        for judge, tally in self._judges:
            if not self._again and before.has(transcript.id, turn.index, judge.by):
                tally.known += 1
            else:
                yield _Owed(judge=judge, tally=tally, turn=turn, dialogue=dialogue)

    async def _work(self, owed: Iterator[_Owed], writer: GroupCommit[Decision]) -> None:
        for each in owed:
            opinion = await _opinion(each)
            if opinion is not None:
                await writer.put(_decision(each, opinion))
                _count(each, opinion)


async def _opinion(owed: _Owed) -> Opinion | None:
    with bound_contextvars(dialogue=owed.dialogue["id"]):
        try:
            opinion = await owed.judge.opinion(owed.dialogue)
        except _ENDS_IT:
            raise
        except Exception as error:  # a reviewer or a check of the user's own may raise anything
            reason = error.reason if isinstance(error, CallError) else f"error:{type(error).__name__}"
            unexpected = None if isinstance(error, TutelageError) else error
            log.warning("turn_not_judged", turn=owed.turn.index, by=owed.judge.by, reason=reason, exc_info=unexpected)
            owed.tally.failed[reason] += 1
            return None
    if opinion is None:
        owed.tally.nothing += 1
    return opinion


def _decision(owed: _Owed, opinion: Opinion) -> Decision:
    return Decision(
        id=owed.dialogue["id"],
        turn=owed.turn.index,
        by=owed.judge.by,
        decision="keep" if opinion.keep else "drop",
        reason=opinion.reason,
    )


def _count(owed: _Owed, opinion: Opinion) -> None:
    tally = owed.tally
    tally.kept += opinion.keep
    tally.dropped += not opinion.keep
    if not opinion.keep:
        tally.against.update({issue.dimension for issue in opinion.issues if issue.severity != "minor"})
    if opinion.prompts and (shown := _shown_in_run(owed)):
        tally.reviewed += 1
        tally.as_shown += bool(shown & opinion.prompts)


def _shown_in_run(owed: _Owed) -> set[str]:
    """The prompts of the role's reviews in the run; none where it was asked again for a reply that did not fit."""
    accepted, role = owed.turn.accepted, owed.judge.role
    if accepted is None or any(step.kind == "misfit" and step.role == role for step in owed.turn.steps):
        return set()
    return {review.call.prompt_sha256 for review in accepted.reviews if review.role == role and review.call}


async def _together(working: Sequence[Any]) -> None:
    """Waits for all; where one cannot go on, or at Ctrl-C, all end."""
    tasks = [asyncio.create_task(each) for each in working]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- what there is --------------------------------------------------------------------------------------------------


def _completed(run: Path | str, skip: Any = tell_skipped) -> Iterator[Transcript]:
    return (each for each in read_transcripts(run, on_skip=skip) if each.outcome.status == "completed")


def _agreements(folder: Path, role: str) -> list[Agreement]:
    """Of all who have decided about turns of a role, and of the run's own reviewers."""
    decisions, agreements = read_decisions(folder, on_skip=_ignore), Agreements()
    for transcript in _completed(folder, _ignore):
        about = decisions.about(transcript).decisions
        for turn in transcript.turns:
            if turn.role == role and (said := said_in(about.get(turn.index, ()))):
                by_run = said_by_run(turn)
                agreements.count(said if by_run is None else {**said, THE_RUN: by_run})
        agreements.count(said_in(about.get(None, ())))
    return agreements.found()


def _ignore(_: str) -> None:
    """Was said when it was read first."""
