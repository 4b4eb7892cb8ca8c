"""`tutelage serve`: launches the vLLM servers that a config names, and keeps them running until it is told to end.

While it runs, `generate` and `daemon` use its servers, and may come and go without loading a model again.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from tutelage.config import Config, load_config
from tutelage.errors import ConfigError
from tutelage.generation.generate import fast_loop
from tutelage.generation.notify import Notifier
from tutelage.serving.announcement import Announcement, ServedModel, announcing, settings_of
from tutelage.serving.fleet import Fleet, Fleets
from tutelage.serving.vllm_server import DRAIN_MARGIN

log = structlog.get_logger()

ENDINGS: Final = (signal.SIGTERM, signal.SIGINT)


def serve_models(config: Path | str, *, logs: Path | None = None) -> int:
    """Serves a config's models until SIGTERM or Ctrl-C, upon which the servers finish what they are answering.

    A second signal ends them at once. They end, too, when this process is killed.

    Args:
        config: The config file.
        logs: The folder for the servers' logs; `logs/` beside the config if not given.

    Returns:
        What the command exits with: 0, or 130 after a second signal.

    Raises:
        ConfigError: The config has no `serve:`, asks for more GPUs or other ports than there are, or is being served.
        LaunchError: A server did not start.
    """
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        return runner.run(_serve(load_config(config), logs))


async def _serve(config: Config, logs: Path | None) -> int:
    models = {name: model for name, model in config.models.items() if model.serve is not None}
    if not models:
        raise ConfigError("no model has a `serve:` in this config: there is nothing to launch")
    life = asyncio.current_task()
    assert life
    asked = _Asked(life)
    notifier = Notifier.from_environment()
    with announcing(config) as announcer, _signals_heard(asked.to_end):
        try:
            async with Fleets(config.folder, logs or config.folder / "logs") as fleets:
                launched = await fleets.launch(models)
                announcer.announce(_announcement(launched))
                sys.stdout.write("".join(_table(launched)))
                sys.stdout.flush()
                notifier.ready()
                log.info("servers_ready", servers=sum(len(fleet.urls) for fleet in launched.values()))
                try:
                    await asyncio.Event().wait()
                finally:
                    longest = max(fleet.model.serve.grace for fleet in launched.values() if fleet.model.serve)
                    notifier.stopping(longest + 2 * DRAIN_MARGIN)
        except asyncio.CancelledError:
            if not asked.signals:
                raise
    log.info("servers_ended")
    return 0 if asked.signals == 1 else 130


class _Asked:
    """The first signal ends what is waited for, and the way out drains; each further one cancels that."""

    def __init__(self, life: "asyncio.Task[int]") -> None:
        self.signals = 0
        self._life = life

    def to_end(self) -> None:
        self.signals += 1
        self._life.cancel()


@contextmanager
def _signals_heard(to_end: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in ENDINGS:
        loop.add_signal_handler(number, to_end)
    try:
        yield
    finally:
        for number in ENDINGS:
            loop.remove_signal_handler(number)


def _announcement(fleets: dict[str, Fleet]) -> Announcement:
    models = {
        name: ServedModel(settings=settings_of(fleet.model), urls=fleet.urls, adapters=dict(fleet.adapters))
        for name, fleet in fleets.items()
    }
    return Announcement(pid=os.getpid(), models=models)


def _table(fleets: dict[str, Fleet]) -> Iterator[str]:
    """One line for each server: its name, its URL, what it serves, where."""
    for fleet in fleets.values():
        for state in fleet.states():
            served = " ".join([fleet.model.name, *fleet.adapters])
            yield (
                "\t".join([state.name, state.url, served, f"GPU {','.join(state.gpus)}" if state.gpus else "CPU"])
                + "\n"
            )
