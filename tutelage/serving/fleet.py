"""The vLLM servers that a config's `serve:` entries ask for: launched together, kept running, ended with us.

A `Fleet` is the replicas of one model. `Fleets` are all of a process: what a reload of the config leaves as it was runs on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog

from tutelage.config import ModelConfig, ServeConfig
from tutelage.errors import ConfigError
from tutelage.serving.adapters import Adapter, read_adapter
from tutelage.serving.gpus import Shares, divide_gpus, gpus_here
from tutelage.serving.vital_signs import Supervision
from tutelage.serving.vllm_command import find_ports, launch_of
from tutelage.serving.vllm_server import Launch, ServerState, VLLMServer

log = structlog.get_logger()


class Fleet:
    """The replicas of one model, as an async context manager. Use it within one event loop.

    Args:
        name: The model's name in the config.
        model: The model, which has a `serve:`.
        launches: How each replica is started.
        adapters: What is served beside the base model.
        supervision: How patient one is with the servers.
    """

    def __init__(
        self,
        name: str,
        model: ModelConfig,
        launches: Sequence[Launch],
        adapters: Iterable[Adapter] = (),
        supervision: Supervision | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.urls = tuple(launch.url for launch in launches)
        """Of each replica's API, with `/v1`. They stay what they are when a replica is started again."""
        self.adapters: Mapping[str, str] = {each.name: each.sha256 for each in adapters}
        """By name, the hash of the weights."""
        self._servers = [VLLMServer(launch, supervision) for launch in launches]
        self._supervisors: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs of all replicas."""
        return tuple(gpu for server in self._servers for gpu in server.launch.gpus)

    def states(self) -> tuple[ServerState, ...]:
        """How each server is doing."""
        return tuple(server.state for server in self._servers)

    async def start(self) -> None:
        """Starts all replicas at once, and returns when each has answered a request.

        Raises:
            LaunchError: One did not, and none runs any more.
        """
        await together([server.start() for server in self._servers], undo=self.kill)
        self._supervisors = [asyncio.create_task(server.supervise()) for server in self._servers]

    async def stop(self) -> None:
        """Has all replicas finish what they are answering, and end. Cancelled, it ends them at once."""
        await self._leave_alone()
        await together([server.stop() for server in self._servers], undo=self.kill)

    async def kill(self) -> None:
        """Ends all replicas at once."""
        await self._leave_alone()
        await asyncio.gather(*[server.kill() for server in self._servers])

    async def _leave_alone(self) -> None:
        supervisors, self._supervisors = self._supervisors, []
        for supervisor in supervisors:
            supervisor.cancel()
        await asyncio.gather(*supervisors, return_exceptions=True)


class Fleets:
    """The fleets of this process; those that still run when the context is left are ended.

    Args:
        folder: Where the config is.
        logs: The folder for the servers' logs.
        supervision: How patient one is with the servers.
    """

    def __init__(self, folder: Path, logs: Path, supervision: Supervision | None = None) -> None:
        self._folder = folder.absolute()
        self._logs = logs.absolute()
        self._supervision = supervision
        self._running: list[Fleet] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.end(self._running)

    def running(self) -> tuple[Fleet, ...]:
        """All that run."""
        return tuple(self._running)

    async def launch(self, models: Mapping[str, ModelConfig]) -> dict[str, Fleet]:
        """The fleets of models that have a `serve:`. Those that run already as they are asked for are taken as they are.

        Returns:
            By the model's name, its fleet, which has answered requests.

        Raises:
            ConfigError: Something about the config does not hold: GPUs, ports, adapters, the interpreter. Nothing was
                started.
            LaunchError: A server did not start; all others that were started for this call were ended.
        """
        fleets = {name: fleet for name, model in models.items() if (fleet := self._find(name, model))}
        new = {name: model for name, model in models.items() if name not in fleets}
        made = await asyncio.to_thread(self._plan, new)
        if made:
            launched = sum(len(fleet.urls) for fleet in made)
            log.info(
                "servers_starting", servers=launched, models=list(new), logs=str(self._logs), note="may take minutes"
            )
        self._running += made

        async def undo() -> None:
            await self.end(made)

        await together([fleet.start() for fleet in made], undo=undo)
        return fleets | {fleet.name: fleet for fleet in made}

    async def end(self, fleets: Iterable[Fleet]) -> None:
        """Ends fleets in good order; cancelled, at once."""
        ending = list(fleets)
        self._running = [fleet for fleet in self._running if fleet not in ending]

        async def kill() -> None:
            await asyncio.gather(*[fleet.kill() for fleet in ending])

        await together([fleet.stop() for fleet in ending], undo=kill)

    def _find(self, name: str, model: ModelConfig) -> Fleet | None:
        def what_counts(model: ModelConfig) -> tuple[Any, ...]:
            return model.serve, model.name, model.api_key

        same = (
            fleet for fleet in self._running if fleet.name == name and what_counts(fleet.model) == what_counts(model)
        )
        return next(same, None)

    def _plan(self, models: Mapping[str, ModelConfig]) -> list[Fleet]:
        """Decides all that can be before anything is started."""
        serves = {name: model.serve for name, model in models.items() if model.serve is not None}
        held = {gpu for fleet in self._running for gpu in fleet.gpus}
        wants_gpus = any(serve.gpus is None and serve.gpus_per_replica for serve in serves.values())
        shares = divide_gpus(serves, gpus_here() if wants_gpus else (), held)
        ports: set[int] = set()
        return [
            self._fleet(name, models[name], serve, shares[name], find_ports(name, serve, ports))
            for name, serve in serves.items()
        ]

    def _fleet(self, name: str, model: ModelConfig, serve: ServeConfig, shares: Shares, ports: Sequence[int]) -> Fleet:
        try:
            adapters = {
                adapter: read_adapter(adapter, path, folder=self._folder) for adapter, path in serve.adapters.items()
            }
        except ConfigError as error:
            raise ConfigError(f"models.{name}.serve.{error}") from error
        launches = [
            launch_of(
                *(name, model, serve, replica),
                adapters=adapters,
                gpus=gpus,
                port=port,
                folder=self._folder,
                logs=self._logs,
            )
            for replica, (gpus, port) in enumerate(zip(shares, ports, strict=True))
        ]
        return Fleet(name, model, launches, adapters.values(), self._supervision)


async def together(works: Sequence[Coroutine[Any, Any, None]], *, undo: Callable[[], Awaitable[None]]) -> None:
    """Does all at once; if one fails, or all are cancelled, the others are cancelled, and then it is undone."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await undo()
        raise
