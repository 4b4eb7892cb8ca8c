"""`tutelage score`: a second pass over accepted turns, in which a teacher says how likely it finds each of their tokens.

    rows of sft ─▶ tokens, made by the teacher's endpoint ─▶ one prefill each ─▶ log-probabilities, packed in Parquet

Nothing is captured while dialogues are made: what was accepted may be a revision, a candidate or a person's words that
nobody sampled, and sampling parameters distort what an endpoint tells (DistillKit scores afterwards, too).
"""

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from tutelage.config import Config, load_config
from tutelage.errors import (
    AuthRefused,
    CallError,
    ConfigError,
    EndpointRefused,
    EndpointUnreachable,
    ExportError,
    ModelNotServed,
)
from tutelage.exports.formats.sft import SFT
from tutelage.exports.guard import refuse_late_generation, tell_generation
from tutelage.exports.logprob_set import LogprobSet, check_out
from tutelage.exports.logprobs import RAW, Mode, ScoredTurn
from tutelage.exports.manifest import Manifest
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut, Row
from tutelage.generation.generate import fast_loop
from tutelage.generation.run_folder import read_run_yaml
from tutelage.generation.score_summary import ScoreSummary, card, show_scoring
from tutelage.generation.session import raise_file_limit, unhurried_collector
from tutelage.generation.teacher import At, Fingerprint, Teacher, Unscorable
from tutelage.generation.teachers import reach_teacher
from tutelage.transcripts.decisions import FILE as DECISIONS
from tutelage.transcripts.decisions import Judged, read_decisions
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.terminal import tell_skipped
from tutelage.transcripts.transcript import Transcript

log = structlog.get_logger()

TOP_K: Final = 20
"""What vLLM gives by default at most (`--max-logprobs`)."""
_ENDS_IT: Final = (EndpointUnreachable, AuthRefused, ModelNotServed)
"""What is no turn's own matter."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def score(
    run: Path | str,
    *,
    out: Path | str,
    config: Path | str | Mapping[str, Any] | Config | None = None,
    teacher: str | None = None,
    adapter: str | None = None,
    role: str = "tutor",
    top_k: int | None = None,
    samples: int | None = None,
    any_generation: bool = False,
    force: bool = False,
    progress: bool = False,
) -> ScoreSummary:
    """Has a teacher say how likely it finds the accepted turns of a role, and writes that down as a data set.

    Args:
        run: The run's folder. A run may be under way: what is finished is scored.
        out: The data set's folder.
        config: Whose models there are; the run's own if not given.
        teacher: Which of them says it; the one that plays the role if not given. It must have the role's tokenizer.
        adapter: The adapter on it; the role's own if not given and the teacher plays the role.
        role: Whose turns.
        top_k: How many of the likeliest tokens are asked for in each place; `TOP_K` if not given.
        samples: Keep so many tokens that are drawn in each place by their probabilities, instead of the likeliest.
        any_generation: Score also what models of the fifth generation and later wrote.
        force: Replace an earlier export in `out`.
        progress: Whether to show progress on stderr.

    Raises:
        UserError: Something is in the way, the teacher cannot be asked, there is nothing to score, or it is of the fifth
            generation or later.
        EndpointUnreachable: No endpoint of it answers. What was scored is kept, and the same command goes on with it.
        KeyboardInterrupt: Ctrl-C. The same.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(
            ascore(
                run,
                out=out,
                config=config,
                teacher=teacher,
                adapter=adapter,
                role=role,
                top_k=top_k,
                samples=samples,
                any_generation=any_generation,
                force=force,
                progress=progress,
            )
        )


async def ascore(
    run: Path | str,
    *,
    out: Path | str,
    config: Path | str | Mapping[str, Any] | Config | None = None,
    teacher: str | None = None,
    adapter: str | None = None,
    role: str = "tutor",
    top_k: int | None = None,
    samples: int | None = None,
    any_generation: bool = False,
    force: bool = False,
    progress: bool = False,
) -> ScoreSummary:
    """`score` for code that is async itself; cancelled, it keeps what was scored."""
    for name, number in (("top-k", top_k), ("samples", samples)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}: it must be above 0")
    run, out = Path(run), Path(out)
    check_out(out, force=force)
    settings = load_config(read_run_yaml(run) if config is None else config)
    owed = _Owed(run, role, any_generation=any_generation)
    first = next(iter(owed), None)
    if first is None:
        raise ExportError(owed.why_empty())
    raise_file_limit()
    async with AsyncExitStack() as stack:
        reached = await reach_teacher(
            settings,
            role,
            teacher,
            adapter,
            owed.transcripts(),
            stack,
            k=top_k or TOP_K,
            samples=samples,
            rendering=first.rendering,
        )
        summary = ScoreSummary(run=run, out=out, role=role, teacher=reached.teacher, likeness=reached.likeness)
        stack.enter_context(unhurried_collector())
        await _Scoring(owed, reached.teacher, reached.fingerprint, summary).write(reached.at_once, progress)
    return summary


# --- what is owed ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """A reply that is to be scored."""

    row: Row
    """Of format sft."""
    rendering: Mapping[str, Any]
    """What its prompt was rendered with besides."""
    generation: int

    @property
    def text(self) -> str:
        return str(self.row["completion"][-1]["content"])


class _Owed:
    """A role's accepted turns: the rows that an export of format sft has of it, with what was decided about them."""

    def __init__(self, run: Path, role: str, *, any_generation: bool) -> None:
        self.run = run
        self.role = role
        self._request = Request(format="sft", role=role, any_generation=any_generation)
        self.left_out: Counter[LeftOut | Unscorable] = Counter()
        self.unreadable = 0
        self.runs: Counter[str] = Counter()
        self._speakers: dict[str, None] = {}

    def __iter__(self) -> Iterator[_Reply]:
        self.left_out.clear()
        self.runs.clear()
        self.unreadable = 0

        def skip(what: str) -> None:
            self.unreadable += 1
            tell_skipped(what)

        decisions = read_decisions(self.run, on_skip=skip)
        with Prompts(self.run) as prompts:
            for transcript in self.transcripts(skip):
                self.runs[transcript.run] += 1
                for row in self._rows_of(decisions.about(transcript), prompts):
                    if isinstance(row, LeftOut):
                        self.left_out[row] += 1
                    else:
                        rendering = _rendering(transcript, self.role)
                        yield _Reply(row=row, rendering=rendering, generation=transcript.lineage.generation)

    def _rows_of(self, judged: Judged, prompts: Prompts) -> Iterator[Row | LeftOut]:
        if judged.is_dropped:
            return iter([LeftOut.DROPPED])
        refuse_late_generation(judged.transcript, self._request)
        return SFT.rows(judged, prompts, self._request)

    def transcripts(self, skip: Callable[[str], None] = tell_skipped) -> Iterator[Transcript]:
        """Those of completed dialogues."""
        for transcript in read_transcripts(self.run, on_skip=skip):
            if transcript.outcome.status == "completed":
                self._speakers.update(dict.fromkeys(turn.role for turn in transcript.turns))
                yield transcript

    def why_empty(self) -> str:
        """Why there is nothing to score."""
        if not self.runs:
            return f"no dialogue of {str(self.run)!r} was completed yet: there is nothing to score"
        if self.left_out:
            return f"all turns of {self.role!r} in {str(self.run)!r} are left out: {reasons(self.left_out)}"
        there = ", ".join(self._speakers)
        return f"nobody speaks as {self.role!r} in {str(self.run)!r}: give --role, one of {there}"

    def decided(self) -> str:
        """The hash of what was decided: shards that were written before it changed are no good."""
        path = self.run / DECISIONS
        return hashlib.sha256(path.read_bytes() if path.exists() else b"").hexdigest()


def reasons(left_out: Mapping[LeftOut | Unscorable, int]) -> str:
    """Why turns are left out, with their numbers."""
    return "; ".join(f"{count:,} {reason} ({reason.about})" for reason, count in left_out.items())


def _rendering(transcript: Transcript, role: str) -> dict[str, Any]:
    """What changed how the role's prompts were rendered: whether it was to think, for one."""
    for turn in transcript.turns:
        calls = [attempt.call for attempt in turn.attempts if turn.role == role]
        calls += [each.call for attempt in turn.attempts for each in attempt.reviews if each.role == role and each.call]
        calls += [step.call for step in turn.steps if step.role == role]
        for call in calls:
            options = call.sampling.get("chat_template_kwargs")
            return {"chat_template_kwargs": options} if options else {}
    return {}


# --- scoring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Scoring:
    """Has a teacher score what is owed, and writes it down."""

    owed: _Owed
    teacher: Teacher
    fingerprint: Fingerprint
    summary: ScoreSummary
    generation: int = 0
    _begun: int = field(default=0, init=False)

    @property
    def mode(self) -> Mode:
        return "topk" if self.teacher.samples is None else "sampled"

    async def write(self, at_once: int, progress: bool) -> None:
        """Scores many turns at once, and writes them in the order of the transcripts.

        Raises:
            ExportError: None could be scored, or the disk is full.
            CallError: The teacher cannot be asked any more.
        """
        with LogprobSet(self.summary.out, self.mode, self._shared(), self._asked()) as scored:
            self.summary.resumed = len(scored.done)
            with show_scoring(self.summary, shown=progress) as advance:
                async with aclosing(in_order(self._score, self._new(scored.done), at_once)) as results:
                    async for result in results:
                        if isinstance(result, Unscorable):
                            self.summary.left_out[result] += 1
                        else:
                            scored.add(result)
                            self.summary.scored += 1
                            self.summary.tokens += len(result.places)
                        advance()
            self.summary.left_out.update(self.owed.left_out)
            self.summary.unreadable = self.owed.unreadable
            if not self.summary.rows:
                raise ExportError(f"none of the turns could be scored: {reasons(self.summary.left_out)}")
            if self.summary.unanswered:
                return  # the shards stay, and the same command asks for what is missing
            scored.finish(self._manifest(), card(self.summary, self.fingerprint, self.mode))
        tell_generation(self.generation)

    def _new(self, done: set[str]) -> Iterator[_Reply]:
        for reply in self.owed:
            self.generation = max(self.generation, reply.generation)
            if reply.row["id"] not in done:
                yield reply

    async def _score(self, reply: _Reply) -> ScoredTurn | Unscorable:
        row = reply.row
        self._begun += 1
        at = At(row["id"], f"{row['dialogue']}/{row['role']}", self._begun)
        try:
            tokens = await self.teacher.tokens(row["prompt"], reply.text, reply.rendering, at)
            places = tokens if isinstance(tokens, Unscorable) else await self.teacher.places(tokens, at)
        except _ENDS_IT:
            raise
        except CallError as error:
            log.warning("turn_not_scored", id=row["id"], reason=error.reason, error=str(error))
            return Unscorable.REFUSED if isinstance(error, EndpointRefused) else Unscorable.FAILED
        if isinstance(tokens, Unscorable):
            return tokens
        if isinstance(places, Unscorable):
            return places
        identity = {**row, "text": reply.text, "written_by": row["model"]}
        return ScoredTurn(identity=identity, input_ids=tokens.ids, begin=tokens.begin, places=places)

    def _shared(self) -> dict[str, str]:
        return {
            "tokenizer_sha": self.fingerprint.tokenizer,
            "chat_template_sha": self.fingerprint.chat_template,
            "model": self.teacher.model,
            "adapter": self.teacher.adapter or "",
            "logprobs_mode": RAW,
        }

    def _asked(self) -> dict[str, Any]:
        teacher = self.teacher
        return {
            **self._shared(),
            "run": str(self.owed.run.resolve()),
            "role": self.owed.role,
            "k": teacher.k,
            "samples": teacher.samples,
            "decisions": self.owed.decided(),
        }

    def _manifest(self) -> Manifest:
        return Manifest(
            format="distillation",
            tool="parquet",
            role=self.owed.role,
            runs=dict(self.owed.runs),
            splits={"train": self.summary.rows},
            generation=self.generation,
            real_share=0.0,
            files=[],
        )


async def in_order(
    work: Callable[[Item], Awaitable[Result]], items: Iterator[Item], at_once: int
) -> AsyncGenerator[Result, None]:
    """The results of some work on each item, in the items' order, where so much is under way at once.

    Left early, it ends what is under way.
    """
    under_way: deque[asyncio.Task[Result]] = deque()

    async def do(item: Item) -> Result:
        return await work(item)

    try:
        for item in items:
            under_way.append(asyncio.create_task(do(item)))
            if len(under_way) >= at_once:
                yield await under_way.popleft()
        while under_way:
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
