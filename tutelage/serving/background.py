"""Tasks that work for a pool as a whole, in whichever of its event loops there is."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from contextvars import Context
from typing import Any


class Background:
    """Keeps one task of each kind running, also when the event loop of the last one has ended."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, Hashable], asyncio.Task[None]] = {}
        self._left: list[asyncio.Task[None]] = []
        """Tasks of event loops that stood still when another went on in their stead."""

    def keep(self, name: str, work: Callable[[], Coroutine[Any, Any, None]], *, of: Hashable = None) -> bool:
        """Starts a task in this event loop, unless it is under way in one that runs.

        Args:
            name: Of the task.
            work: What it does.
            of: What it does that for; there is one for each.

        Returns:
            Whether it is in this event loop.
        """
        task, loop = self._tasks.get((name, of)), asyncio.get_running_loop()
        if task is None or task.done() or not task.get_loop().is_running():
            if task is not None and not task.done():
                self._left.append(task)
            # What is done was for one that may be gone for good, as replicas whose addresses come and go are.
            self._tasks = {kind: task for kind, task in self._tasks.items() if not task.done()}
            # A context of its own: it works for all calls, not for the dialogue whose call came first.
            task = self._tasks[name, of] = loop.create_task(work(), name=name, context=Context())
        return task.get_loop() is loop

    async def aclose(self) -> None:
        """Ends the tasks of this event loop, and forgets those that are done."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in [*self._tasks.values(), *self._left] if task.get_loop() is loop]
        for task in tasks:
            task.cancel()
        self._tasks = {kind: task for kind, task in self._tasks.items() if task not in tasks and not task.done()}
        self._left = [task for task in self._left if task not in tasks and not task.get_loop().is_closed()]
        await asyncio.gather(*tasks, return_exceptions=True)
