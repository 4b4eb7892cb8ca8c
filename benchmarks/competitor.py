"""The process of one competitor in one round: plays a job to warm up, then another that is measured.

Two lines of JSON come in on stdin, each a `Job`; the second one is the signal to start. Two go out: an empty object
when it is warm, and the `Effort` that the second job took.
"""

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Final

from benchmarks.lesson import Job, Value

COMPETITORS: Final = {
    "tutelage": "benchmarks.with_tutelage:play",
    "undurable": "benchmarks.with_tutelage:play_without_checkpoints",
    "graph": "benchmarks.with_tutelage:play_graph_only",
    "loop": "benchmarks.with_asyncio:play",
    "usual": "benchmarks.with_langchain:play",
}


class Effort(Value):
    """What a job took of its process."""

    cpu: float
    """Seconds, user and system, of all threads."""
    wall: float
    """Seconds."""


def main(name: str, event_loop: str) -> None:
    """Plays two jobs."""
    # Results have the real stdout to themselves: what a competitor prints goes to stderr.
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, function = COMPETITORS[name].partition(":")
    play: Callable[[Job], Awaitable[None]] = getattr(import_module(module), function)
    with asyncio.Runner(loop_factory=_loop_factory(event_loop)) as runner:
        runner.run(_coroutine(play, _read_job()))
        print("{}", file=results, flush=True)
        job = _read_job()
        started, before = time.perf_counter(), _cpu()
        runner.run(_coroutine(play, job))
        effort = Effort(cpu=_cpu() - before, wall=time.perf_counter() - started)
    print(effort.model_dump_json(), file=results, flush=True)


async def _coroutine(play: Callable[[Job], Awaitable[None]], job: Job) -> None:
    await play(job)


def _read_job() -> Job:
    return Job.model_validate_json(sys.stdin.readline())


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main(*sys.argv[1:])
