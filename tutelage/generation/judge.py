"""`tutelage judge`: another reviewer judges stored transcripts, and nothing is generated anew.

    transcripts ─▶ each turn as it stood under review ─▶ reviewer ─▶ decisions.jsonl, appended and synced

A reviewer is shown what it would have been shown in the run, and its verdict counts by the rule of the run's gate: what
would have sent the draft back drops the turn. The transcripts never change. What an author has judged is not judged twice,
so a judging that was interrupted goes on where it was.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from tutelage.config import Config, EvidenceConfig, StudentsConfig, load_config
from tutelage.errors import GraphError, UserError
from tutelage.evidence.fact_checking import FactCheck
from tutelage.generation.casting import cast_of, check_roles, prompt_library
from tutelage.generation.generate import fast_loop
from tutelage.generation.judge_bench import Bench, completed
from tutelage.generation.judge_summary import JudgeSummary
from tutelage.generation.peoples_decisions import take_over
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.generation.reviewers import (
    FoundReviewer,
    Judge,
    ModelJudge,
    check_at,
    cold,
    reviewer_at,
    reviewer_in,
    reviewers_of,
)
from tutelage.generation.run_folder import read_run_yaml
from tutelage.generation.session import raise_file_limit
from tutelage.quality.agreement import Agreement, Agreements
from tutelage.quality.doubt import Doubt, uncertain_first
from tutelage.transcripts.decisions import read_decisions


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
    if by is None and not checks and decisions is not None and (config is not None or again):
        raise UserError("`config` and `again` are about who judges anew: say who (`by`, `checks`), or leave them out")
    summary = JudgeSummary(folder=folder, role=role)
    if by is not None or checks or decisions is None:
        settings = _Settings.of(folder, config)
        async with _judges(by, checks, settings, models) as (judges, at_once):
            bench = Bench(folder, role, judges, settings.seed, again=again)
            await bench.judge_all(summary, at_once, progress)
    if decisions is not None:
        summary.taken_over = take_over(folder, Path(decisions))
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
    return uncertain_first((decisions.about(each) for each in completed(run)), role, most)


# --- who judges -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """Whose config judges, and on which graph."""

    config: Config
    graph: str
    seed: int
    """The run's: what is drawn by chance in a dialogue comes from it."""
    given: bool
    """Whether the config was given, and is not the run's own."""

    @classmethod
    def of(cls, folder: Path, config: Path | str | Mapping[str, Any] | Config | None) -> "_Settings":
        written = load_config(read_run_yaml(folder))
        if config is None:
            # The config's own folder is not written down: a run lies in runs/ beside where it was started, mostly.
            project = folder.resolve().parent.parent if folder.resolve().parent.name == "runs" else Path.cwd()
            own = written.model_copy(update={"folder": project})
            return cls(config=own, graph=own.graph, seed=written.seed, given=False)
        given = load_config(config)
        graph = given.graph if "graph" in given.model_fields_set else written.graph
        return cls(config=given, graph=graph, seed=written.seed, given=True)

    def load_graph(self) -> LoadedGraph:
        """The graph whose roles judge."""
        try:
            return load_graph(self.graph, self.config.folder)
        except GraphError as error:
            if self.given:
                raise
            raise GraphError(f"{error}; say beside which config it is (--config CONFIG)") from error


def _reviewer(by: str, settings: _Settings) -> FoundReviewer:
    config = settings.config
    if ":" not in by and not by.endswith(".py"):
        graph = settings.load_graph()
        check_roles(config, graph)
        return reviewer_in(graph, by)
    found = reviewer_at(by, config.folder)
    if others := {role: each for role, each in config.roles.items() if role != found.node.agent.role}:
        check_roles(config.model_copy(update={"roles": others}), settings.load_graph())
    return found


def _who_there_is(settings: _Settings) -> str:
    there = ", ".join(reviewers_of(settings.load_graph())) or "none"
    return (
        f"say who judges: --by ROLE (the graph {settings.graph!r} has {there}), --by agents/mine.py:my_critic, "
        "--check package.module:check, or --decisions FILE for what people decided"
    )


@asynccontextmanager
async def _judges(
    by: str | None, checks: Sequence[str], settings: _Settings, models: Mapping[str, BaseChatModel] | None
) -> AsyncIterator[tuple[list[Judge], int]]:
    """All who judge, with their models reached, and how many dialogues are judged at once.

    Raises:
        UserError: There is nobody, or not whom it names.
    """
    config = settings.config
    if by is None and not checks:
        raise UserError(_who_there_is(settings))
    found = None if by is None else _reviewer(by, settings)
    in_code: list[Judge] = [check_at(place, config.folder) for place in checks]
    if found is None:
        yield in_code, config.concurrency  # so many decisions share one sync of the disk
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
        yield [judging, *in_code], min(config.concurrency, casting.at_once or config.concurrency)


# --- what there is --------------------------------------------------------------------------------------------------


def _agreements(folder: Path, role: str) -> list[Agreement]:
    """Of all who have decided about turns of a role, and of the run's own reviewers."""
    decisions, agreements = read_decisions(folder, on_skip=_ignore), Agreements()
    for transcript in completed(folder, _ignore):
        agreements.count_dialogue(decisions.about(transcript), role)
    return agreements.found()


def _ignore(_: str) -> None:
    """Was said when it was read first."""
