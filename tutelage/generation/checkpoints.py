"""A LangGraph checkpoint saver for thousands of dialogues at once, on SQLite.

LangGraph's own commits each write by itself. This one commits for all dialogues together, in a thread of its own, and
keeps of each dialogue what resuming needs: its latest checkpoint. With durability "sync" a dialogue goes on to its next
step only when its checkpoint is on disk, which costs it a few milliseconds beside a model's answer.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_id,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.base import SerializerProtocol

from tutelage.generation.checkpoint_store import (
    CheckpointStore,
    Copy,
    Forget,
    Keep,
    Order,
    Prune,
    Put,
    PutReply,
    PutWrites,
    Stored,
)
from tutelage.generation.group_commit import GroupCommit

NOTHING: Final = Forget(threads=())
GATHER: Final = 0.01
"""Seconds that a commit waits for more dialogues to join it."""


class CheckpointSaver(BaseCheckpointSaver[int], AbstractContextManager["CheckpointSaver"]):
    """Saves the checkpoints of LangGraph threads in one SQLite file, many in one commit.

        with CheckpointSaver("checkpoints.db") as saver:
            graph = builder.compile(checkpointer=saver)
            await graph.ainvoke(state, {"configurable": {"thread_id": "1"}}, durability="sync")

    Args:
        path: The file; made if it is not there.
        keep: The `latest` checkpoint of each thread, or `all` of them, for going back in time (and for graphs with a
            `DeltaChannel`, whose value is spread over many checkpoints).
        serde: How values become bytes; LangGraph's own if not given.
        patience: Seconds for which a commit is tried again where the disk is full or another process locks the file.
        before_commit: Called in the writer's thread before each commit, to have on disk what checkpoints refer to.
        on_commit: Called after each commit with the seconds it took and how many writes it had.

    Raises:
        RunFolderError: The file cannot be opened. Later: it cannot be written.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        keep: Keep = "latest",
        serde: SerializerProtocol | None = None,
        patience: float = 0.0,
        before_commit: Callable[[], None] | None = None,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        super().__init__(serde=serde)
        self.store: Final = CheckpointStore(Path(path), self.serde, keep)
        self._before_commit = before_commit
        self.writer: Final = GroupCommit[Order](
            "checkpoints", self._write, gather=GATHER, patience=patience, on_commit=on_commit
        )
        self.writer.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is still to be written, and closes the file."""
        self.writer.close()
        self.store.close()

    @property
    def threads(self) -> set[str]:
        """The threads that have a checkpoint."""
        return self.store.threads

    def forget(self, *threads: str) -> None:
        """Lets go of threads that are over. Nobody waits for that: what is still there after a crash is known to be over."""
        self.writer.hand_in(Forget(threads=threads))

    async def keep_reply(self, thread: str, key: str, reply: bytes) -> None:
        """Journals a reply that a node goes on from before its step is over, and returns once it is on disk."""
        await self.writer.put(PutReply(thread=thread, key=key, reply=reply))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint, by the id in the config, or the latest one."""
        if config["configurable"]["thread_id"] not in self.threads:
            return None  # nearly always so when a dialogue begins: it need not wait for the disk
        return await asyncio.to_thread(self.get_tuple, config)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint, by the id in the config, or the latest one."""
        self.writer.put_and_wait(NOTHING)  # what was handed in before is seen
        thread, ns = _thread(config)
        stored = self.store.latest(thread, ns, get_checkpoint_id(config), self.serde)
        return None if stored is None else _as_tuple(stored)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; `filter` is on their metadata."""
        for found in await asyncio.to_thread(lambda: [*self.list(config, filter=filter, before=before, limit=limit)]):
            yield found

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; `filter` is on their metadata."""
        self.writer.put_and_wait(NOTHING)
        asked = config["configurable"] if config else {}
        wanted = (filter or {}).items()
        for stored in self.store.find(
            thread=asked.get("thread_id"),
            ns=asked.get("checkpoint_ns"),
            id_=asked.get("checkpoint_id"),
            before=get_checkpoint_id(before) if before else None,
            serde=self.serde,
        ):
            if limit is not None and limit <= 0:
                return
            if all(stored.metadata.get(key) == value for key, value in wanted):
                limit = None if limit is None else limit - 1
                yield _as_tuple(stored)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Saves a checkpoint, and returns once it is on disk."""
        put = _put(config, checkpoint, metadata, new_versions)
        await self.writer.put(put)
        return _config(put.thread, put.ns, checkpoint["id"])

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Saves a checkpoint, and returns once it is on disk."""
        put = _put(config, checkpoint, metadata, new_versions)
        self.writer.put_and_wait(put)
        return _config(put.thread, put.ns, checkpoint["id"])

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Saves what a task has written while others of its step still work.

        It comes to disk with the next commit, before any checkpoint that follows; only what ends a graph for now, as an
        interrupt or an error does, is waited for.
        """
        order = _put_writes(config, writes, task_id, task_path)
        if any(channel in WRITES_IDX_MAP for channel, _ in writes):
            await self.writer.put(order)
        else:
            self.writer.hand_in(order)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Saves what a task has written while others of its step still work."""
        self.writer.put_and_wait(_put_writes(config, writes, task_id, task_path))

    async def adelete_thread(self, thread_id: str) -> None:
        """Deletes all that is stored of a thread."""
        await self.writer.put(Forget(threads=[thread_id]))

    def delete_thread(self, thread_id: str) -> None:
        """Deletes all that is stored of a thread."""
        self.delete_threads([thread_id])

    def delete_threads(self, thread_ids: Iterable[str]) -> None:
        """Deletes all that is stored of threads, and returns once that is on disk."""
        self.writer.put_and_wait(Forget(threads=[*thread_ids]))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints of LangGraph runs, by the `run_id` in their metadata."""
        await self.writer.put(Prune(runs=run_ids))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints of LangGraph runs, by the `run_id` in their metadata."""
        self.writer.put_and_wait(Prune(runs=run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies all that is stored of a thread to another."""
        await self.writer.put(Copy(source=source_thread_id, target=target_thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies all that is stored of a thread to another."""
        self.writer.put_and_wait(Copy(source=source_thread_id, target=target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes all checkpoints of threads but the latest, or with the strategy `delete` all."""
        await self.writer.put(_prune(thread_ids, strategy))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Deletes all checkpoints of threads but the latest, or with the strategy `delete` all."""
        self.writer.put_and_wait(_prune(thread_ids, strategy))

    def _write(self, orders: Sequence[Order]) -> None:
        if self._before_commit is not None:
            self._before_commit()
        self.store.write(orders)


def _thread(config: RunnableConfig) -> tuple[str, str]:
    configurable = config["configurable"]
    return str(configurable["thread_id"]), configurable.get("checkpoint_ns", "")


def _config(thread: str, ns: str, id_: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "checkpoint_ns": ns, "checkpoint_id": id_}}


def _put(config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, changed: ChannelVersions) -> Put:
    thread, ns = _thread(config)
    return Put(
        thread=thread,
        ns=ns,
        parent=get_checkpoint_id(config),
        checkpoint=checkpoint,
        metadata=get_checkpoint_metadata(config, metadata),
        changed=dict(changed),
    )


def _put_writes(config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, task_path: str) -> PutWrites:
    thread, ns = _thread(config)
    id_ = config["configurable"]["checkpoint_id"]
    return PutWrites(thread=thread, ns=ns, id=id_, task=task, task_path=task_path, writes=writes)


def _prune(threads: Sequence[str], strategy: str) -> Order:
    return Forget(threads=threads) if strategy == "delete" else Prune(threads=threads)


def _as_tuple(stored: Stored) -> CheckpointTuple:
    return CheckpointTuple(
        config=_config(stored.thread, stored.ns, stored.id),
        checkpoint=stored.checkpoint,
        metadata=stored.metadata,
        parent_config=_config(stored.thread, stored.ns, stored.parent) if stored.parent else None,
        pending_writes=stored.writes,
    )
