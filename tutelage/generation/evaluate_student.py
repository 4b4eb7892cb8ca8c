"""`tutelage evaluate student`: what a student gives way to, beside a student that is only told what it believes.

The students are those of graphs, found by the role `student`: that of the config's own graph, and the one of `lesson`, which
is plainly prompted. Where the student has a state of knowledge (an agent with a `mind`), the graph's feedback judge judges
what it is told. Its words are checked as they are in its graph.

Both are read with one instrument: the reply to the question after the last feedback. Its words are read first, by code; where
they say neither answer or both, the student is asked beside the dialogue to choose one.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, cast

from langchain_core.language_models import BaseChatModel

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.checks.leaks import STUDENT
from tutelage.config import Config, load_config
from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import ask_for
from tutelage.dialogue.brief import Brief, Probe
from tutelage.dialogue.calling import Occasion
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import Check, vetoes
from tutelage.dialogue.cycles import CYCLE
from tutelage.dialogue.nodes import Draft, actions_of
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.turn import Attempt, Issue, Review
from tutelage.dialogue.view import check_prompts
from tutelage.errors import AuthRefused, BriefError, CallError, ConfigError, EndpointUnreachable, ModelNotServed
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.casting import cast_of, check_roles, prompt_library
from tutelage.generation.generate import fast_loop
from tutelage.generation.registry import DialogueGraph, LoadedGraph, load_graph
from tutelage.generation.student_display import render, show_trials
from tutelage.learners.feedback import FEEDBACK_JUDGE, Kind, feedback_in
from tutelage.learners.probes import lettered, probe_prompt, shape_of
from tutelage.learners.saying import given_away, says_right, says_wrong
from tutelage.learners.trials import Lesson, Trial, can_be_tried, lesson_on, trial_graph
from tutelage.quality.selectivity import Said, StudentFigures, StudentReport, Tried

__all__ = ["StudentReport", "aevaluate_student", "evaluate_student", "render"]

PLAIN: Final = "lesson"
"""The registered graph whose student is only told what it believes."""
LOOKED_AT: Final = 200
"""So many briefs at most are read, spread evenly over all: to choose from, and for feedback that is about something else."""


def evaluate_student(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    briefs: int | None = None,
    samples: int = 4,
    perfect_judge: bool = False,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> StudentReport:
    """Tries a config's student, and the plainly prompted one, with three kinds of feedback. Nothing of it is kept.

    Args:
        config: The path of a config file, or a mapping with the same keys.
        briefs: How many briefs to try them on, spread evenly over those of the run that can be tried; all of them if not
            given, up to `LOOKED_AT`.
        samples: How often each student is tried with each kind of feedback of a brief.
        perfect_judge: Whether code, which knows what kind each feedback is, takes the judge's place: what is left is how
            well the model puts a state into words.
        models: Models by role, instead of the config's.
        progress: Whether to show progress on stderr.

    Raises:
        UserError: The config, a brief, a prompt or the graph does not hold, or no brief can be tried.
        EndpointUnreachable: A model cannot be reached.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(
            aevaluate_student(
                config, briefs=briefs, samples=samples, perfect_judge=perfect_judge, models=models, progress=progress
            )
        )


async def aevaluate_student(
    config: Path | str | Mapping[str, Any] | Config,
    *,
    briefs: int | None = None,
    samples: int = 4,
    perfect_judge: bool = False,
    models: Mapping[str, BaseChatModel] | None = None,
    progress: bool = False,
) -> StudentReport:
    """`evaluate_student` for code that is async itself."""
    config = load_config(config)
    for name, number in (("briefs", briefs), ("samples", samples)):
        if number is not None and number < 1:
            raise ConfigError(f"--{name} is {number}: it must be above 0")
    graph = load_graph(config.graph, config.folder)
    check_roles(config, graph)
    students, prompts = _students(graph, perfect_judge=perfect_judge), prompt_library(config, graph)
    index = read_briefs(config.briefs, config.folder, graph.make, brief_check(graph, config.folder))
    lessons = _lessons(index, briefs)
    _check_prompts(students, lessons, prompts)
    stage = load_graph(students[0].make_graph, config.folder)
    async with cast_of(config, stage, prompts, models=models) as casting:
        planned = [
            _Planned(student=student, lesson=lesson, kind=kind, sample=sample)
            for lesson in lessons
            for sample in range(samples)
            for kind in lesson.feedback
            for student in students
        ]
        with show_trials(len(planned), shown=progress) as advance:
            at_once = min(config.concurrency, casting.at_once or config.concurrency)
            tried = await _play_all(planned, casting.cast, at_once, advance)
    return StudentReport(
        run=config.run,
        graph=graph.name,
        briefs=len(lessons),
        samples=samples,
        perfect_judge=perfect_judge,
        embedded=casting.embedded,
        students=[
            StudentFigures.of(each.name, [trial for trial in tried if trial.student == each.name]) for each in students
        ],
        trials=tried,
    )


# --- who is tried, and on what --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Student:
    """Who is tried."""

    name: str
    agent: Agent
    judge: Agent | Literal["perfect"] | None = None
    """Where it has a state of knowledge, whoever judges what it is told."""
    checks: tuple[Check, ...] = ()
    """What its words must pass."""

    def make_graph(self) -> DialogueGraph:
        return trial_graph(self.agent, self.judge, self.checks)

    @cached_property
    def graph(self) -> Any:
        return self.make_graph().compile()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """A trial that is to be played."""

    student: _Student
    lesson: Lesson
    kind: Kind
    sample: int

    @property
    def id(self) -> str:
        return f"{self.lesson.brief.id}/{self.student.name}/{self.kind}/{self.sample}"


def _students(graph: LoadedGraph, *, perfect_judge: bool) -> list[_Student]:
    """The graph's own student and the plainly prompted one, which may be the same."""
    roles = {agent.role: agent for agent in reversed(graph.agents)}
    own, judge = roles.get(STUDENT), roles.get(FEEDBACK_JUDGE)
    plain = next(agent for agent in load_graph(PLAIN, Path()).agents if agent.role == STUDENT)
    students = [_Student(name="plainly prompted", agent=plain)]
    if own is None or own == plain:
        return students
    if own.mind is not None and judge is None:
        raise ConfigError(
            f"graph: the student of {graph.name!r} has a mind, and nobody judges what it is told: add a node "
            f"assess(agent) with an agent whose role is {FEEDBACK_JUDGE!r}"
        )
    name = graph.name if own.mind is None else "state machine"
    tried = _Student(name=name, agent=own, judge="perfect" if perfect_judge else judge, checks=_checks(graph, own))
    return [tried if own.mind else replace(tried, judge=None), *students]


def _checks(graph: LoadedGraph, agent: Agent) -> tuple[Check, ...]:
    """What an agent's words must pass in its graph, without what a critique loop adds by itself."""
    drafting = next(
        (action for action in actions_of(graph.graph) if isinstance(action, Draft) and action.agent == agent), None
    )
    return tuple(check for check in drafting.checks if check != CYCLE) if drafting else ()


def _lessons(index: BriefIndex, wanted: int | None) -> list[Lesson]:
    """What the students are told, of briefs that are spread evenly over those that can be tried.

    Raises:
        BriefError: There are none.
    """
    looked_at = [index.brief(position) for position in _spread(len(index), LOOKED_AT)]
    fitting = [brief for brief in looked_at if can_be_tried(brief)]
    if not fitting:
        raise BriefError(
            f"none of {len(looked_at)} briefs can be tried: a student is tried with a brief's `question`, `answer` and "
            "`misconception` with what it `predicts`"
        )
    return [lesson_on(fitting[position], fitting) for position in _spread(len(fitting), wanted or len(fitting))]


def _spread(length: int, wanted: int) -> Iterator[int]:
    """At most so many positions, evenly over a length."""
    count = min(length, wanted)
    return (number * length // count for number in range(count))


def _check_prompts(students: Sequence[_Student], lessons: Sequence[Lesson], prompts: PromptLibrary) -> None:
    """Renders every prompt once, before a model is reached.

    Raises:
        PromptError: One does not render.
    """
    for lesson in lessons:
        for student in students:
            for agent in (student.agent, student.judge):
                if isinstance(agent, Agent):
                    check_prompts(agent, {"brief": lesson.brief, "turns": []}, prompts)


# --- the trials -----------------------------------------------------------------------------------------------------


async def _play_all(planned: Sequence[_Planned], cast: Cast, at_once: int, advance: Callable[[], None]) -> list[Tried]:
    places = asyncio.Semaphore(at_once)

    async def play(trial: _Planned) -> Tried:
        async with places:
            tried = await _play(trial, cast)
        advance()
        return tried

    tasks = [asyncio.create_task(play(trial)) for trial in planned]
    try:
        return await asyncio.gather(*tasks)
    finally:  # one that cannot go on, or Ctrl-C, ends all
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _play(planned: _Planned, cast_: Cast) -> Tried:
    trial = planned.lesson.trial(planned.kind, planned.id)
    tried = Tried(student=planned.student.name, brief=trial["brief"].id, kind=planned.kind, sample=planned.sample)
    try:
        # Each turn of feedback is said, judged and answered, in as many drafts as it takes.
        steps = {"recursion_limit": 10 + 20 * len(trial["feedback"])}
        trial = cast(Trial, await planned.student.graph.ainvoke(trial, steps, context=cast_))
        seen = _seen(tried, planned, trial)
        if not seen.rendered:
            return seen
        flipped, read_from = await _read(planned, trial, cast_)
    except (EndpointUnreachable, AuthRefused, ModelNotServed):
        raise
    except CallError as error:
        return tried.model_copy(update={"failed": error.reason})
    return seen.model_copy(update={"flipped": flipped, "read_from": read_from})


def _seen(tried: Tried, planned: _Planned, trial: Trial) -> Tried:
    """What there is to see in a trial that was played."""
    answered = [turn for turn in trial["turns"] if turn.role == STUDENT and turn.attempts]
    unsaid = trial.get("attempts", [])
    turns = [turn.attempts for turn in answered] + ([unsaid] if unsaid else [])
    watched = [attempts for attempts in turns if _would_leak(attempts[0], planned)]
    drafts = [attempt for attempts in watched for attempt in attempts]
    said = [attempt for attempt in drafts if attempt.status == "accepted"]
    brief = planned.lesson.brief
    return tried.model_copy(
        update={
            "turns": [Said(role=turn.role, text=turn.text) for turn in trial["turns"]],
            "judged": [kind for turn in trial["turns"] if (kind := feedback_in(turn))],
            "tries": [len(turn.attempts) for turn in answered],
            "rendered": not unsaid,
            "unsaid": [attempt.text for attempt in unsaid],
            "vetoes": [f"{review.role}: {issue.dimension}" for review, issue in _vetoes(turns)],
            "watched": len(said),
            "leaks": sum(bool(given_away(attempt.text, brief)) for attempt in said),
            "drafts": len(drafts),
            "leaks_drafted": sum(bool(given_away(attempt.text, brief)) for attempt in drafts),
        }
    )


def _vetoes(turns: Sequence[Sequence[Attempt]]) -> Iterator[tuple[Review, Issue]]:
    for attempts in turns:
        for attempt in attempts:
            for review in filter(vetoes, attempt.reviews):
                yield from ((review, issue) for issue in review.issues)


def _would_leak(draft: Attempt, planned: _Planned) -> bool:
    """Whether the right answer would be a leak in this turn."""
    knowledge = draft.mind.get("knowledge")
    return planned.kind != "targeted" if knowledge is None else bool(knowledge["holds"])


async def _read(planned: _Planned, trial: Trial, cast_: Cast) -> tuple[bool, Literal["words", "choice"]]:
    """Whether the student's answer is the right one at the end, and what that is read from."""
    brief, words = planned.lesson.brief, trial["turns"][-1].text
    right, wrong = says_right(words, brief), says_wrong(words, brief)
    if right != wrong:
        return right, "words"
    return await _chosen(planned, trial, cast_) == brief.answer[0], "choice"


async def _chosen(planned: _Planned, trial: Trial, cast_: Cast) -> str:
    """The answer that the student chooses, asked beside the dialogue as a learning probe is."""
    brief, agent = planned.lesson.brief, planned.student.agent
    probe = Probe(question=brief.question or "", choices=(brief.answer[0], _old(brief)), answer=brief.answer[0])
    choices = lettered(probe, 0, trial)
    prompt = probe_prompt(agent, trial, probe, choices, cast_.prompts)
    occasion = Occasion(dialogue=trial["id"], turn=len(trial["turns"]), attempt=0, purpose="choice")
    return choices[(await ask_for(shape_of(len(choices)), agent, prompt, cast_, occasion)).value.choice]


def _old(brief: Brief) -> str:
    """The misconception's answer, which a brief that can be tried has."""
    assert brief.misconception is not None
    assert brief.misconception.predicts is not None
    return brief.misconception.predicts
