"""The checkpoint saver: LangGraph's own conformance suite, resuming, and what is left on disk."""

import asyncio
import itertools
import json
import operator
import random
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from langgraph.checkpoint.base import id as checkpoint_id
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from tutelage import Brief, Cast
from tutelage.errors import RunFolderError
from tutelage.generation import group_commit
from tutelage.generation.checkpoint_store import CheckpointStore, Forget, Order, Put, PutReply, PutWrites
from tutelage.generation.checkpoints import CheckpointSaver
from tutelage.graphs.lesson import lesson
from tutelage.testing import ScriptedModel

Keep = Literal["latest", "all"]
LARGE = "x" * 500

NEED_HISTORY = {
    "put": {
        "test_put_multiple_checkpoints_same_thread": "reads each of three checkpoints",
        "test_put_incremental_channel_update": "reads the first of two checkpoints",
    },
    "get_tuple": {"test_get_tuple_specific_checkpoint_id": "reads the first of two checkpoints"},
    "list": {
        "test_list_all": "lists all checkpoints of a thread",
        "test_list_by_thread": "lists all checkpoints of a thread",
        "test_list_ordering": "lists all checkpoints of a thread",
        "test_list_metadata_filter_single_key": "looks for old checkpoints by their metadata",
        "test_list_metadata_filter_step": "looks for old checkpoints by their metadata",
        "test_list_metadata_custom_keys": "looks for old checkpoints by their metadata",
        "test_list_before": "looks for checkpoints before another",
        "test_list_limit": "lists two of many checkpoints",
        "test_list_limit_plus_before": "looks for checkpoints before another",
        "test_list_combined_thread_and_filter": "looks for old checkpoints by their metadata",
    },
    "delete_for_runs": {
        "test_delete_for_runs_single": "has two runs in one thread, and deletes the earlier one's checkpoints",
        "test_delete_for_runs_multiple": "has three runs in one thread, and deletes the earlier ones' checkpoints",
        "test_delete_for_runs_preserves_other_runs": "has two runs in one thread",
    },
    "copy_thread": {
        "test_copy_thread_basic": "counts three checkpoints in the copy",
    },
}
"""What of the suite makes no sense where only the latest checkpoint is kept, and why."""


async def conformance(folder: Path, keep: Keep) -> Any:
    numbers = itertools.count()

    @checkpointer_test(name="CheckpointSaver")
    async def saver() -> AsyncIterator[CheckpointSaver]:
        with CheckpointSaver(folder / f"{next(numbers)}.db", keep=keep) as saver:
            yield saver

    return await validate(saver)


async def test_it_passes_langgraphs_conformance_suite_whole(tmp_path: Path) -> None:
    report = await conformance(tmp_path, "all")
    failures = [failure for result in report.results.values() for failure in result.failures or ()]
    assert failures == []
    assert all(result.passed for result in report.results.values())
    assert sum(result.tests_passed for result in report.results.values()) > 80


async def test_keeping_the_latest_it_passes_all_of_it_but_what_asks_for_history(tmp_path: Path) -> None:
    report = await conformance(tmp_path, "latest")
    failed = {
        name: {failure.partition(":")[0] for failure in result.failures}
        for name, result in report.results.items()
        if result.failures
    }
    assert failed == {name: set(points) for name, points in NEED_HISTORY.items()}


# Graphs


class Counting(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]
    large: str
    small: int


def counting(steps: int = 4, nodes: int = 2) -> Any:
    """A loop whose every step is made by parallel nodes and changes one large and one small channel."""
    graph = StateGraph(Counting)

    def begin(state: Counting) -> Counting:
        number = len(state.get("steps", [])) // nodes
        return {"large": f"{number} {LARGE}", "small": number}

    def step(name: str) -> Any:
        return lambda state: {"steps": [f"{name} {LARGE}"]}

    graph.add_node("begin", begin)
    graph.add_edge(START, "begin")
    names = [f"node{n}" for n in range(nodes)]
    for name in names:
        graph.add_node(name, step(name))
        graph.add_edge("begin", name)
    graph.add_node("end", lambda state: {})
    graph.add_edge(names, "end")
    graph.add_conditional_edges("end", lambda state: "begin" if len(state["steps"]) < steps * nodes else END)
    return graph


def thread(name: str) -> Any:
    return {"configurable": {"thread_id": name}}


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def sizes(path: Path) -> dict[str, int]:
    tables = ("checkpoints", "channels", "writes", "replies")
    return {table: rows(path, f"SELECT count(*) FROM {table}")[0][0] for table in tables}


async def test_of_each_dialogue_one_checkpoint_and_its_live_channels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with CheckpointSaver(path) as saver:
        graph = counting().compile(checkpointer=saver)
        for name in ("a", "b"):
            await graph.ainvoke({}, thread(name), durability="sync")
        assert rows(path, "SELECT thread, ns, count(*) FROM checkpoints GROUP BY 1, 2") == [("a", "", 1), ("b", "", 1)]
        assert rows(path, "SELECT DISTINCT thread, channel FROM channels ORDER BY 1, 2") == [
            *[("a", "large"), ("a", "steps")],
            *[("b", "large"), ("b", "steps")],
        ]
        assert sizes(path) == {"checkpoints": 2, "channels": 4, "writes": 0, "replies": 0}
        for name in ("a", "b"):
            found = await saver.aget_tuple(thread(name))
            assert found is not None
            assert found.checkpoint["channel_values"]["large"] == f"3 {LARGE}"
            assert len(found.checkpoint["channel_values"]["steps"]) == 8


async def test_every_step_is_on_disk_before_the_next_one_begins(tmp_path: Path) -> None:
    """As a second connection sees it: this process's memory is not asked."""
    path = tmp_path / "c.db"
    seen: list[tuple[int, int]] = []

    def look(state: Counting) -> Counting:
        with CheckpointSaver(path) as other:
            found = other.get_tuple(thread("a"))
        assert found is not None
        stored = found.checkpoint["channel_values"]
        seen.append((len(stored.get("steps", [])), len(state.get("steps", []))))
        return {"steps": [LARGE]}

    graph = StateGraph(Counting)
    graph.add_node("look", look)
    graph.add_edge(START, "look")
    graph.add_conditional_edges("look", lambda state: "look" if len(state["steps"]) < 10 else END)
    with CheckpointSaver(path) as saver:
        await graph.compile(checkpointer=saver).ainvoke({}, thread("a"), durability="sync")
    assert seen == [(n, n) for n in range(10)]


class Inner(TypedDict, total=False):
    heard: Annotated[list[str], operator.add]


def nesting(*, ask: bool) -> Any:
    """A subgraph of two steps, of which the second may ask, beside a node that writes; then a last step that asks."""

    def second(state: Inner) -> Inner:
        said = interrupt("inner?") if ask else LARGE
        return {"heard": [said]}

    inner = StateGraph(Inner)
    inner.add_node("first", lambda state: {"heard": [LARGE]})
    inner.add_node("second", second)
    inner.add_edge(START, "first")
    inner.add_edge("first", "second")
    inner.add_edge("second", END)
    graph = StateGraph(Inner)
    graph.add_node("inner", inner.compile())
    graph.add_node("beside", lambda state: {"heard": [interrupt("beside?")] if ask else []})
    graph.add_node("last", lambda state: {"heard": [interrupt("last?")]})
    graph.add_edge(START, "inner")
    graph.add_edge(START, "beside")
    graph.add_edge(["inner", "beside"], "last")
    return graph


def namespaces(path: Path) -> set[str]:
    query = " UNION ".join(f"SELECT ns FROM {table}" for table in ("checkpoints", "channels", "writes"))
    return {ns.partition(":")[0] for (ns,) in rows(path, query)}


async def test_subgraphs_are_dropped_when_the_step_that_played_them_is_over(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with CheckpointSaver(path) as saver:
        state = await nesting(ask=False).compile(checkpointer=saver).ainvoke({}, thread("a"), durability="sync")
        assert state["__interrupt__"][0].value == "last?"
        assert namespaces(path) == {""}


async def test_they_are_dropped_too_if_another_process_played_them(tmp_path: Path) -> None:
    """The subgraph's step was over at the stop, and what was beside it was not: only that is played again."""
    path = tmp_path / "c.db"
    answers = {"inner?": "in", "beside?": "by"}
    for asked in (["beside?", "inner?"], ["beside?"], ["last?"]):
        with CheckpointSaver(path) as saver:
            graph = nesting(ask=True).compile(checkpointer=saver)
            before = await saver.aget_tuple(thread("a"))
            given: Any = {}
            if before is not None:
                waiting = (await graph.aget_state(thread("a"))).interrupts
                one = max(waiting, key=lambda each: each.value)
                given = Command(resume={one.id: answers[one.value]})
            state = await graph.ainvoke(given, thread("a"), durability="sync")
            assert sorted(each.value for each in state["__interrupt__"]) == asked
    assert namespaces(path) == {""}


async def test_of_a_forgotten_thread_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with CheckpointSaver(path) as saver:
        graph = nesting(ask=True).compile(checkpointer=saver)
        for name in ("a", "b"):
            await graph.ainvoke({}, thread(name), durability="sync")
            await saver.keep_reply(name, "key", b"reply")
        assert all(count > 0 for count in sizes(path).values())
        saver.forget("a", "b")
        await saver.adelete_thread("nobody")  # returns when what was before it is written
        assert sizes(path) == dict.fromkeys(sizes(path), 0)
        assert saver.threads == set()
        assert await saver.aget_tuple(thread("a")) is None


class Hanging(ScriptedModel):
    """Never answers a student's third turn."""

    def __init__(self, script: dict[str, Any]) -> None:
        super().__init__(script)

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        if run_manager.metadata["role"] == "student" and sum(message.type == "ai" for message in messages) == 2:
            await asyncio.Event().wait()
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


async def test_the_file_holds_at_most_thrice_the_dialogues_under_way_and_nothing_of_others(tmp_path: Path) -> None:
    said = "What do you get when you multiply the top and the bottom of one half by three? " * 4
    accept = {"verdict": "accept", "issues": []}
    model = Hanging({"tutor": [said], "student": [said], "critic": [accept], "fact_checker": [accept]})
    with CheckpointSaver(tmp_path / "c.db") as saver:
        empty = saver.store.used_bytes()
        graph = lesson().compile(checkpointer=saver)
        brief = Brief(id="b", topic="Fractions", question="What is 1/2 + 1/3?", answer=("5/6",))
        names = [f"d{n}" for n in range(50)]
        playing = [
            asyncio.create_task(
                graph.ainvoke(
                    {"id": name, "brief": brief, "turns": []}, thread(name), context=Cast.of(model), durability="sync"
                )
            )
            for name in names
        ]
        for _ in range(600):
            await asyncio.sleep(0.05)
            states = [(await graph.aget_state(thread(name))).values for name in names]
            if all(len(state.get("turns", [])) == 5 for state in states):
                break
        else:
            pytest.fail("the dialogues do not come to their fifth turn")
        used = saver.store.used_bytes()
        as_json = sum(
            len(
                json.dumps(
                    {
                        key: [each.model_dump(mode="json") for each in value] if key == "turns" else str(value)
                        for key, value in state.items()
                    }
                )
            )
            for state in states
        )
        assert used <= 3 * as_json
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        for name in names:
            await saver.adelete_thread(name)
        assert saver.store.used_bytes() <= empty + 4096


async def test_with_the_clock_set_back_the_latest_is_still_what_was_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(500_000, -1)

    class Clock:
        @staticmethod
        def time_ns() -> int:
            checkpoint_id._last_v6_timestamp = None
            return next(hours) * 3600 * 10**9

    monkeypatch.setattr(checkpoint_id, "time", Clock)
    for keep in ("latest", "all"):
        with CheckpointSaver(tmp_path / f"{keep}.db", keep=keep) as saver:
            graph = nesting(ask=False).compile(checkpointer=saver)
            asked = await graph.ainvoke({}, thread("a"), durability="sync")
            assert asked["__interrupt__"][0].value == "last?"
        with CheckpointSaver(tmp_path / f"{keep}.db", keep=keep) as saver:
            graph = nesting(ask=False).compile(checkpointer=saver)
            state = await graph.ainvoke(Command(resume="yes"), thread("a"), durability="sync")
            assert state["heard"][-1] == "yes"
            found = await saver.aget_tuple(thread("a"))
            assert found is not None
            assert found.checkpoint["channel_values"]["heard"][-1] == "yes"


# Writes that fail, and batches


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CheckpointStore]:
    with CheckpointSaver(tmp_path / "unused.db") as saver:
        store = CheckpointStore(tmp_path / "c.db", saver.serde)
        yield store
        store.close()


def put(
    name: str, number: int, values: dict[str, Any], changed: list[str], *, ns: str = "", versions: Any = None
) -> Put:
    checkpoint: Any = {
        "v": 4,
        "id": f"{number:08}",
        "ts": "",
        "versions_seen": {},
        "channel_values": dict(values),
        "channel_versions": dict(versions or {}),
    }
    return Put(
        thread=name,
        ns=ns,
        parent=None,
        checkpoint=checkpoint,
        metadata={"step": number},
        changed={channel: checkpoint["channel_versions"][channel] for channel in changed},
    )


def random_orders(chance: random.Random, count: int) -> list[Order]:
    """What threads hand in as they go: checkpoints whose channels come, change and go, writes, replies, ends."""
    orders: list[Order] = []
    states: dict[tuple[str, str], tuple[dict[str, Any], dict[str, int], str]] = {}
    for number in range(count):
        name, ns = chance.choice("abc"), chance.choice(["", "", "sub"])
        values, versions, last = states.setdefault((name, ns), ({}, {}, ""))
        kind = chance.random()
        if kind < 0.7:
            changed = chance.sample(["p", "q", "r"], chance.randint(0, 3))
            for channel in changed:
                versions[channel] = number
                if chance.random() < 0.2:
                    values.pop(channel, None)
                else:
                    values[channel] = f"{number} " + chance.choice(["", LARGE])
            orders.append(put(name, number, values, changed, ns=ns, versions=versions))
            states[name, ns] = values, versions, f"{number:08}"
        elif kind < 0.85 and last:
            writes = [("p", number), ("q", LARGE)]
            orders.append(PutWrites(thread=name, ns=ns, id=last, task=f"t{number}", task_path="", writes=writes))
        elif kind < 0.95:
            orders.append(PutReply(thread=name, key=str(number), reply=b"reply"))
        else:
            orders.append(Forget(threads=[name]))
            for each in [key for key in states if key[0] == name]:
                del states[each]
    return orders


def content(store: CheckpointStore) -> Any:
    serde = store._serde
    found = {
        (each.thread, each.ns): (each.id, each.checkpoint, each.metadata, each.writes)
        for each in store.find(thread=None, ns=None, id_=None, serde=serde)
    }
    return found, {name: store.replies(name) for name in "abc"}, sizes(store.path)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_leaves_what_its_orders_one_by_one_would(tmp_path: Path, store: CheckpointStore, seed: int) -> None:
    """Checkpoints that a later one of the same batch replaces are never written, but their changes are."""
    chance = random.Random(seed)
    one_by_one = CheckpointStore(tmp_path / "one.db", store._serde)
    for _ in range(4):
        batch = random_orders(random.Random(chance.random()), chance.randint(1, 40))
        batch[:0] = [Forget(threads=["a", "b", "c"])] if chance.random() < 0.5 or not store.threads else []
        again = batch if batch[0] == Forget(threads=["a", "b", "c"]) else [Forget(threads=["a", "b", "c"]), *batch]
        for order in again:
            one_by_one.write([order])
        store.write(again)
        assert content(store) == content(one_by_one)
    one_by_one.close()


def full(store: CheckpointStore, pages: int | None) -> None:
    store._writer.execute(f"PRAGMA max_page_count = {pages or 10**6}")


@pytest.mark.parametrize("number", [1, 9])
def test_what_an_earlier_start_left_is_replaced_whatever_the_clock_says(store: CheckpointStore, number: int) -> None:
    store.write([put("a", 5, {"p": LARGE, "q": LARGE}, ["p", "q"], versions={"p": 1, "q": 1})])
    again = CheckpointStore(store.path, store._serde)
    again.write([put("a", number, {"p": LARGE, "q": LARGE}, ["p"], versions={"p": 2, "q": 1})])
    again.close()
    assert rows(store.path, "SELECT id FROM checkpoints") == [(f"{number:08}",)]
    assert rows(store.path, "SELECT channel, version FROM channels") == [("p", 2), ("q", 1)]


def test_a_batch_that_is_tried_again_still_replaces_what_was_there(store: CheckpointStore) -> None:
    store.write([put("a", 1, {"p": LARGE, "q": LARGE}, ["p", "q"], versions={"p": 1, "q": 1})])
    large = 100 * LARGE
    later = [
        put("a", 2, {"p": LARGE, "q": LARGE}, ["p"], versions={"p": 2, "q": 1}),  # this one fits, the next does not
        put("b", 3, {"p": large}, ["p"], versions={"p": 3}),
    ]
    full(store, 1)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.write(later)
    full(store, None)
    store.write(later)
    assert rows(store.path, "SELECT thread, id FROM checkpoints") == [("a", "00000002"), ("b", "00000003")]
    assert rows(store.path, "SELECT thread, channel, version FROM channels") == [
        *[("a", "p", 2), ("a", "q", 1)],
        ("b", "p", 3),
    ]


async def test_a_full_disk_leaves_nothing_of_a_batch_and_the_next_try_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "TRY_AGAIN", 0.02)
    path = tmp_path / "c.db"
    with CheckpointSaver(path, patience=20) as saver:
        graph = counting(steps=3).compile(checkpointer=saver)
        await graph.ainvoke({}, thread("before"), durability="sync")
        before = sizes(path)
        full(saver.store, 1)
        tasks = [asyncio.create_task(graph.ainvoke({}, thread(f"{n}"), durability="sync")) for n in range(20)]
        for _ in range(500):
            await asyncio.sleep(0.01)
            if saver.writer.trouble:
                break
        assert "full" in (saver.writer.trouble or "")
        assert not any(task.done() for task in tasks)
        assert sizes(path) == before
        full(saver.store, None)
        states = await asyncio.gather(*tasks)
        assert saver.writer.trouble is None
        assert [len(state["steps"]) for state in states] == [6] * 20
        assert sizes(path) == {table: count * 21 for table, count in before.items()}


async def test_a_file_that_another_process_locks_is_waited_for_and_given_up_when_patience_is_over(
    tmp_path: Path,
) -> None:
    path = tmp_path / "c.db"
    with CheckpointSaver(path) as saver:
        saver.store._writer.execute("PRAGMA busy_timeout = 20")
        graph = counting(steps=1).compile(checkpointer=saver)
        await graph.ainvoke({}, thread("a"), durability="sync")
        before = sizes(path)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(RunFolderError, match="locked"):
                await graph.ainvoke({}, thread("b"), durability="sync")
        assert sizes(path) == before
        with pytest.raises(RunFolderError):  # what comes later must not be there without what came before
            await graph.ainvoke({}, thread("c"), durability="sync")


async def test_a_checkpoint_is_read_whole_while_it_is_replaced(tmp_path: Path) -> None:
    with CheckpointSaver(tmp_path / "c.db") as saver:
        graph = counting(steps=60).compile(checkpointer=saver)
        playing = asyncio.create_task(graph.ainvoke({}, {**thread("a"), "recursion_limit": 500}, durability="sync"))
        reads = 0
        while not playing.done():
            await asyncio.sleep(0)
            found = await saver.aget_tuple(thread("a"))
            if found is not None and "large" in found.checkpoint["channel_versions"]:
                reads += 1
                assert "large" in found.checkpoint["channel_values"]
        await playing
        assert reads > 20


# Interrupts, going back, types


async def test_what_a_graph_asked_is_answered_in_another_process(tmp_path: Path) -> None:
    for keep in ("latest", "all"):
        path = tmp_path / f"{keep}.db"
        with CheckpointSaver(path, keep=keep) as saver:
            asked = await nesting(ask=False).compile(checkpointer=saver).ainvoke({}, thread("a"), durability="sync")
            assert [each.value for each in asked["__interrupt__"]] == ["last?"]
        with CheckpointSaver(path, keep=keep) as saver:
            graph = nesting(ask=False).compile(checkpointer=saver)
            again = await graph.ainvoke(None, thread("a"), durability="sync")
            assert [each.id for each in again["__interrupt__"]] == [each.id for each in asked["__interrupt__"]]
            state = await graph.ainvoke(Command(resume="yes"), thread("a"), durability="sync")
            assert state["heard"][-1] == "yes"


async def test_keeping_all_one_may_go_back_and_on_from_there(tmp_path: Path) -> None:
    with CheckpointSaver(tmp_path / "c.db", keep="all") as saver:
        graph = counting(steps=3).compile(checkpointer=saver)
        await graph.ainvoke({}, thread("a"), durability="sync")
        history = [state async for state in graph.aget_state_history(thread("a"))]
        assert len(history[0].values["steps"]) == 6
        back = next(state for state in history if len(state.values.get("steps", [])) == 2)
        assert back.values["large"] == f"1 {LARGE}"
        assert [state.values["large"][0] for state in history if state.next == ("node0", "node1")] == ["2", "1", "0"]
        fork = await graph.aupdate_state(back.config, {"steps": ["mine", "mine"]}, as_node="end")
        state = await graph.ainvoke(None, fork, durability="sync")
        assert [step.split()[0] for step in state["steps"]] == ["node0", "node1", "mine", "mine", "node0", "node1"]


TYPES = """
import sys
import tutelage
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict
from tutelage.generation.checkpoints import CheckpointSaver

class Named(BaseModel):
    n: int

class Other(BaseModel):
    n: int

class State(TypedDict, total=False):
    named: Named
    anything: object

graph = StateGraph(State)
graph.add_node("a", lambda state: {"named": Named(n=1), "anything": Other(n=2)})
graph.add_edge(START, "a")
graph.add_edge("a", END)
config = {"configurable": {"thread_id": "1"}}
with CheckpointSaver(sys.argv[1]) as saver:
    compiled = graph.compile(checkpointer=saver)
    if sys.argv[2] == "write":
        compiled.invoke({}, config, durability="sync")
    values = compiled.get_state(config).values
    print(type(values["named"]).__name__, type(values["anything"]).__name__)
"""


def test_types_that_the_state_names_come_back_and_no_others(tmp_path: Path) -> None:
    for mode in ("write", "read"):
        done = subprocess.run(
            [sys.executable, "-c", TYPES, str(tmp_path / "c.db"), mode], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["Named", "dict"], done.stderr
