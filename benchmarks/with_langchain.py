"""The lesson on the usual stack: LangGraph, ChatOpenAI with structured output, AsyncSqliteSaver, all as documented."""

import asyncio
import operator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, cast

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Overwrite
from pydantic import SecretStr

from benchmarks.lesson import (
    MAX_TOKENS,
    Draft,
    Job,
    Messages,
    Review,
    Script,
    review_messages,
    student_messages,
    tutor_messages,
    what_is_said,
)
from tutelage.dialogue.turn import Verdict


class State(TypedDict, total=False):
    """What is checkpointed after each step."""

    turns: Annotated[list[tuple[str, str]], operator.add]
    draft: str
    reviews: Annotated[list[Review], operator.add]
    sent_back: list[Draft]


@dataclass(frozen=True)
class Context:
    """What a dialogue's nodes are given beside the state."""

    script: Script
    job: Job


async def play(job: Job) -> None:
    """Makes the job's dialogues, one thread of checkpoints each."""
    model = ChatOpenAI(
        model=job.model,
        base_url=job.url,
        api_key=SecretStr("none"),
        temperature=0.0,
        max_completion_tokens=MAX_TOKENS,
    )
    slots = asyncio.Semaphore(job.concurrency)
    async with AsyncSqliteSaver.from_conn_string(str(job.folder / "checkpoints.sqlite")) as saver:
        graph = lesson(model).compile(checkpointer=saver)

        async def one(script: Script) -> None:
            config: RunnableConfig = {"configurable": {"thread_id": script.id}, "recursion_limit": 1000}
            async with slots:
                await graph.ainvoke({"turns": []}, config, context=Context(script, job))

        await asyncio.gather(*map(one, job.scripts))


def lesson(model: ChatOpenAI) -> StateGraph[State, Context, State, State]:
    """The same nodes and edges as Tutelage's `lesson`."""
    judge = model.with_structured_output(Verdict, method="json_schema")

    async def say(messages: Messages) -> str:
        return str((await model.ainvoke(messages)).text).strip()

    async def tutor(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        script = runtime.context.script
        return {"draft": await say(tutor_messages(script, state["turns"], state.get("sent_back", [])))}

    async def review(role: str, state: State, script: Script) -> dict[str, Any]:
        reply = await judge.ainvoke(review_messages(script, state["turns"], state["draft"], role))
        verdict = cast(Verdict, reply)
        return {"reviews": [{"role": role, **verdict.model_dump()}]}

    async def critic(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        return await review("critic", state, runtime.context.script)

    async def fact_checker(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        return await review("fact_checker", state, runtime.context.script)

    async def gate(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        draft: Draft = {"text": state["draft"], "reviews": sorted(state["reviews"], key=operator.itemgetter("role"))}
        drafts = [*state.get("sent_back", []), draft]
        if (text := what_is_said(drafts, runtime.context.job.revisions)) is None:
            return {"sent_back": drafts, "reviews": Overwrite([])}
        return {"turns": [("tutor", text)], "sent_back": [], "reviews": Overwrite([])}

    async def student(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        return {"turns": [("student", await say(student_messages(runtime.context.script, state["turns"])))]}

    def after_gate(state: State) -> Literal["tutor", "student"]:
        return "tutor" if state["sent_back"] else "student"

    def after_student(state: State, runtime: Runtime[Context]) -> Literal["tutor", "__end__"]:
        return "__end__" if len(state["turns"]) >= runtime.context.job.messages else "tutor"

    graph = StateGraph(State, context_schema=Context)
    for node in (tutor, critic, fact_checker, gate, student):
        graph.add_node(node.__name__, node)
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "critic")
    graph.add_edge("tutor", "fact_checker")
    graph.add_edge(["critic", "fact_checker"], "gate")
    graph.add_conditional_edges("gate", after_gate)
    graph.add_conditional_edges("student", after_student)
    return graph
