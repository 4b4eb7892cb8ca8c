"""An independent solution, before a lesson begins: is the brief's answer what the question comes to?

A role that is not shown the answer writes programs for the question, several at once. Each is run in the sandbox, and
what most of them print is held against the accepted forms of the answer. A lesson on a wrong answer teaches what is
wrong, however well the tutor and its critics do: none of them doubts the answer that they are given.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from langchain_core.tools import BaseTool, StructuredTool
from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict

from tutelage.checks.equivalence import same_value
from tutelage.checks.sandbox import Execution, run_python
from tutelage.checks.values import is_value
from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import occasion_of
from tutelage.dialogue.outgrown import ask_within_limit
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import Reason, discarded
from tutelage.dialogue.turn import Step
from tutelage.dialogue.view import brief_of, judge_prompt
from tutelage.errors import CheckerFailed, GraphError

FINDING: Final = "solution"
"""Under which key of a dialogue's `findings` the result stands, and the kind of the steps."""

Verdict = Literal["confirmed", "refuted", "no_majority", "skipped"]


class Solution(BaseModel):
    """The schema of a solver's reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning: str = ""
    code: str
    """A Python program that prints the answer on its last line."""


@dataclass(frozen=True, slots=True)
class Solve:
    """A node in which a role solves the brief's question by programs, unaware of the answer."""

    agent: Agent
    candidates: int
    seconds: float

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> dict[str, Any]:
        """Asks for the programs, runs them, and holds what most of them print against the brief's answer."""
        brief, cast = brief_of(state), runtime.context
        if not brief.question or not any(map(is_value, brief.answer)):
            return {
                "findings": {FINDING: _finding("skipped", why="the brief has no question with a value as its answer")}
            }
        replies, shown = await self._replies(state, cast)
        steps = [*shown.steps, *replies[0].misfits]
        try:
            executions = await asyncio.gather(*(run_python(each.value.code, seconds=self.seconds) for each in replies))
            finding = await judge_answers([answer_of(each) for each in executions], brief.answer)
        except CheckerFailed as error:
            error.replies = [*steps, *(_step(each, self.agent) for each in replies)]
            raise
        steps += [_step(reply, self.agent, execution) for reply, execution in zip(replies, executions, strict=True)]
        update = {"findings": {FINDING: finding}, "steps": steps, **shown.update}
        if finding["verdict"] == "refuted" and cast.evidence.policy == "mark":
            finding["marked"] = True
        if finding["verdict"] == "refuted" and cast.evidence.policy == "strict":
            detail = f"{finding['agreed']} of {len(replies)} programs gave {finding['answer']!r}"
            update["outcome"] = discarded(Reason.ANSWER_REFUTED, detail)
        return update

    async def _replies(self, state: Dialogue, cast: Cast) -> tuple[list[Reply[Solution]], Any]:
        occasion = replace(occasion_of(state), purpose=FINDING)
        return await ask_within_limit(
            self.agent,
            state,
            cast,
            occasion,
            lambda dialogue: judge_prompt(self.agent, dialogue, cast.prompts),
            lambda prompt: ask_for_several(self.candidates, Solution, self.agent, prompt, cast, occasion, journal=True),
        )


def solve(agent: Agent, *, candidates: int = 3, seconds: float = 5.0) -> Solve:
    """A node for the start of a graph: is the brief's answer what an independent solution gives?

    It writes `findings["solution"]`: the `verdict` (confirmed, refuted, no_majority, skipped), the `answer` that most
    programs gave, how many `agreed` on it, and the `votes`, what each of them gave. Where the run's evidence policy is
    strict, a refuted answer discards the dialogue; under mark, the finding is `marked`. So the way on from it is
    `graph.add_conditional_edges("solve", unless_discarded("tutor"))`.

    Args:
        agent: Who solves. It needs a `task`, its `reply` is `Solution`, and it must not see the answer.
        candidates: How many programs it is asked for.
        seconds: How long each of them may run.
    """
    if agent.task is None or agent.reply is not Solution:
        raise GraphError(f"the agent {agent.role!r} solves, so it needs a `task`, and its `reply` must be Solution")
    if seen := agent.sees & {"answer", "giveaway", "misconception", "probes", "facts", "documents"}:
        raise GraphError(
            f"the agent {agent.role!r} solves unaided, so it must not see the brief's {', '.join(sorted(seen))}"
        )
    return Solve(agent, candidates, seconds)


def answer_of(execution: Execution) -> str | None:
    """What a program gave as its answer: the last line that it printed; nothing if it failed."""
    lines = [line.strip() for line in execution.stdout.splitlines() if line.strip()]
    return lines[-1] if lines and execution.error is None else None


async def judge_answers(votes: Sequence[str | None], accepted: Sequence[str]) -> dict[str, Any]:
    """Holds what most candidates gave against the accepted forms of the answer.

    Args:
        votes: What each candidate gave; None for one that gave nothing.
        accepted: The accepted forms of the answer.

    Returns:
        The finding: plain data.
    """
    answer, agreed = await _majority(votes)
    if 2 * agreed <= len(votes) or answer is None:
        return _finding("no_majority", votes=votes, agreed=agreed)
    same = await same_value(accepted, answer)
    if same is None:
        return _finding("skipped", answer=answer, agreed=agreed, votes=votes, why="the two cannot be compared")
    return _finding("confirmed" if same else "refuted", answer=answer, agreed=agreed, votes=votes)


async def _majority(votes: Sequence[str | None]) -> tuple[str | None, int]:
    """The answer that most gave, in the words of the first who gave it, and how many they were."""
    groups: list[list[str]] = []
    for vote in votes:
        if vote is None:
            continue
        for group in groups:
            if await same_value(group[0], vote):
                group.append(vote)
                break
        else:
            groups.append([vote])
    largest = max(groups, key=len, default=[])
    return (largest[0], len(largest)) if largest else (None, 0)


def _finding(
    verdict: Verdict,
    *,
    answer: str | None = None,
    agreed: int = 0,
    votes: Sequence[str | None] = (),
    why: str | None = None,
) -> dict[str, Any]:
    finding = {"verdict": verdict, "answer": answer, "agreed": agreed, "votes": list(votes)}
    return finding if why is None else {**finding, "why": why}


def _step(reply: Reply[Solution], agent: Agent, execution: Execution | None = None) -> Step:
    data: dict[str, Any] = {}
    if execution is not None:
        data = {"answer": answer_of(execution), "seconds": execution.seconds}
        if execution.error is not None:
            data |= {"error": execution.error, "killed_by": execution.killed_by}
    return Step(kind=FINDING, role=agent.role, text=reply.text, data=data, call=reply.call)


def python_tool(*, seconds: float = 5.0) -> BaseTool:
    """A LangChain tool that runs a Python program in the sandbox and gives what it printed, or why it failed.

    Args:
        seconds: How long a program may run.
    """

    async def python(code: str) -> str:
        execution = await run_python(code, seconds=seconds)
        return execution.stdout if execution.error is None else f"{execution.stdout}{execution.error}"

    return StructuredTool.from_function(
        coroutine=python,
        name="python",
        description="Runs a Python program, without files or network, and gives what it prints.",
    )
