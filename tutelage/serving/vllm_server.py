"""One vLLM server in processes of its own: started, found ready, supervised, drained.

It is ready when it has answered a request: a model that kills its engine at the first one is healthy until then. One that
crashes or hangs is started again, on its port, as often as need be; whoever calls it finds it again by itself.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import structlog
from pydantic import SecretStr

from tutelage.errors import LaunchError
from tutelage.serving import keeper
from tutelage.serving.engine_load import EngineLoad, parse_load
from tutelage.serving.vital_signs import Supervision, VitalSigns

TAIL: Final = 15
"""Lines of its log that are shown when a start fails."""
DRAIN_MARGIN: Final = 15.0
"""Seconds that a server may take beyond its grace to end: it frees the GPU's memory."""
REQUEST_SECONDS: Final = 600.0
"""For the first request, in which some models still compile their kernels."""

log = structlog.get_logger()

State = Literal["starting", "ready", "waiting", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a server is started."""

    name: str
    """The model's name in the config and the replica's number: `small-0`."""
    model: str
    """The name under which the base model is served."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    """All of it. It may hold keys."""
    folder: Path
    """The working directory."""
    url: str
    """Of its API, with `/v1`, as it is reached from here."""
    gpus: tuple[str, ...] = ()
    log: Path
    api_key: SecretStr | None = None
    start_timeout: float = 1800.0
    """Seconds until it must have answered a request."""
    grace: float = 30.0
    """Seconds for what it is answering when it is to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """How a server is doing."""

    name: str
    url: str
    state: State
    """`waiting`: it has ended, and will be started again."""
    since: datetime
    pid: int | None
    """Of the process that keeps vLLM's; None while there is none."""
    gpus: tuple[str, ...]
    restarts: int
    last_error: str | None
    """Why it ended last."""
    log: Path


class VLLMServer:
    """One vLLM server. Use it within one event loop.

    Args:
        launch: How it is started.
        supervision: How patient one is with it.
    """

    def __init__(self, launch: Launch, supervision: Supervision | None = None) -> None:
        self.launch = launch
        self._patience = supervision or Supervision()
        self._process: asyncio.subprocess.Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._log_start = 0
        self._state: State = "ended"
        self._since = datetime.now(UTC)
        self._restarts = 0
        self._last_error: str | None = None

    @property
    def state(self) -> ServerState:
        """How it is doing."""
        return ServerState(
            name=self.launch.name,
            url=self.launch.url,
            state=self._state,
            since=self._since,
            pid=self._process.pid if self._process else None,
            gpus=self.launch.gpus,
            restarts=self._restarts,
            last_error=self._last_error,
            log=self.launch.log,
        )

    async def start(self) -> None:
        """Starts it, and returns once it has answered a request.

        Raises:
            LaunchError: It ended before that, or took too long; the message ends with the last lines of its log.
        """
        self._enter("starting")
        began = time.monotonic()
        try:
            self._process = await self._spawn()
            log.info(
                "server_started",
                server=self.launch.name,
                url=self.launch.url,
                gpus=",".join(self.launch.gpus) or None,
                pid=self._process.pid,
                log=str(self.launch.log),
            )
            await self._come_up(self._process)
        except BaseException as error:
            self._last_error = str(error).partition("\n")[0] or type(error).__name__
            await self.kill()
            raise
        self._enter("ready")
        seconds = round(time.monotonic() - began, 1)
        log.info("server_ready", server=self.launch.name, url=self.launch.url, seconds=seconds)

    async def supervise(self) -> None:
        """Starts it again whenever it ends or hangs, for ever."""
        failures, began = 0, time.monotonic()
        while True:
            reason = await self._end_of_life()
            await self.kill()
            if time.monotonic() - began > self._patience.well_after:
                failures = 0
            while True:
                wait = min(self._patience.first_wait * 2**failures, self._patience.longest_wait)
                failures = min(failures + 1, 30)
                self._last_error = reason
                log.error(
                    "server_ended", server=self.launch.name, reason=reason, log=str(self.launch.log), again_in=wait
                )
                self._enter("waiting")
                await asyncio.sleep(wait)
                self._restarts += 1
                try:
                    await self.start()
                except LaunchError as error:
                    reason = str(error).partition("\n")[0]
                except OSError as error:  # no file handles, no room for its log: that passes, too
                    reason = f"it could not be started: {error}"
                else:
                    began = time.monotonic()
                    break

    async def stop(self) -> None:
        """Has it finish what it is answering, and end; one that has never answered is ended at once."""
        if self._process is None or self._state != "ready":
            await self.kill()
            return
        log.info("server_draining", server=self.launch.name, grace=self.launch.grace)
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            # The keeper ends what has not ended by itself.
            await self._process.wait()
        finally:
            await self.kill()

    async def kill(self) -> None:
        """Ends it and all of its processes at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):  # it has ended by itself
                self._process.send_signal(signal.SIGINT)
            if await self._process.wait() < 0:  # somebody has killed the keeper, and what it kept runs on without it
                _end_session(self._process.pid)
            self._process = None  # not before: a call that is cancelled here can be made again
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        self._enter("ended")

    def _enter(self, state: State) -> None:
        self._state, self._since = state, datetime.now(UTC)

    async def _spawn(self) -> asyncio.subprocess.Process:
        launch = self.launch
        patience = launch.grace + DRAIN_MARGIN
        try:
            launch.log.parent.mkdir(parents=True, exist_ok=True)
            with launch.log.open("ab") as output:
                self._log_start = output.tell()
                process = await asyncio.create_subprocess_exec(
                    # -I -S: it needs nothing but the standard library, whatever the environment that vLLM is given says.
                    *(sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), str(patience)),
                    *launch.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=dict(launch.environment),
                    cwd=launch.folder,
                    # Ctrl-C goes to the terminal's foreground process group, and the server is ours to stop, not its.
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(
                f"{launch.name}: vLLM cannot be started with its log in {str(launch.log)!r}: {error.strerror}"
            ) from error
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        return process

    async def _come_up(self, process: asyncio.subprocess.Process) -> None:
        """Returns once it has answered."""
        answer, end = asyncio.create_task(self._first_answer()), asyncio.create_task(process.wait())
        try:
            await asyncio.wait({answer, end}, timeout=self.launch.start_timeout, return_when=asyncio.FIRST_COMPLETED)
            if end.done():  # first: whoever answered then was not our server
                what = f"ended with exit code {end.result()} before it answered a request"
            elif answer.done():
                refused = answer.result()
                if refused is None:
                    return
                what = f"is healthy, but refused its first request: {refused}"
            else:
                what = f"answered nothing within {self.launch.start_timeout:g} s (`serve.start_timeout`)"
        finally:
            for task in (answer, end):
                task.cancel()
            await asyncio.gather(answer, end, return_exceptions=True)
        raise LaunchError(
            f"{self.launch.name}: vLLM {what}.{self._hint()} Its log, {str(self.launch.log)!r}, ends with:\n"
            + "\n".join(f"    {line}" for line in self._tail(TAIL))
        )

    async def _first_answer(self) -> str | None:
        """Waits until it is healthy, then asks the model for one token: None if that was answered, or what was said."""
        began = reported = time.monotonic()
        while await self._health() != 200:
            now = time.monotonic()
            if now - reported >= self._patience.report:
                reported = now
                last = next(iter(self._tail(1)), "")
                log.info("server_loading", server=self.launch.name, seconds=round(now - began), says=last[-200:])
            await asyncio.sleep(0.25)
        body = {"model": self.launch.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        status, text = await self._ask("POST", f"{self.launch.url}/chat/completions", REQUEST_SECONDS, body)
        return None if status == 200 else f"HTTP {status}: {text[:500]}" if status else text

    async def _end_of_life(self) -> str:
        """Waits until it has ended or hangs, and says which."""
        assert self._process
        end = asyncio.create_task(self._process.wait())
        signs = VitalSigns(self._patience, time.monotonic())
        try:
            while True:
                await asyncio.wait({end}, timeout=self._patience.look)
                if end.done():
                    return f"vLLM ended with exit code {end.result()}"
                health, load = await self._health(), await self._load()
                if verdict := signs.verdict(time.monotonic(), health, load):
                    return verdict
        finally:
            end.cancel()
            await asyncio.gather(end, return_exceptions=True)

    async def _health(self) -> int | None:
        status, _ = await self._ask("GET", f"{self._root}/health", self._patience.answer)
        return status

    async def _load(self) -> EngineLoad | None:
        status, metrics = await self._ask("GET", f"{self._root}/metrics", self._patience.answer)
        return parse_load(metrics.encode()) if status == HTTPStatus.OK else None

    @property
    def _root(self) -> str:
        return self.launch.url.removesuffix("/v1")

    async def _ask(self, method: str, url: str, seconds: float, body: Any = None) -> tuple[int | None, str]:
        """The status of the answer, None where there was none, and its text or what went wrong."""
        assert self._session
        key = self.launch.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, url, json=body, headers=headers, timeout=timeout) as reply:
                return reply.status, await reply.text(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return None, f"no answer ({type(error).__name__}: {error})"

    def _tail(self, lines: int) -> list[str]:
        """The last lines that this start has written."""
        with suppress(OSError), self.launch.log.open("rb") as file:
            file.seek(max(self._log_start, os.fstat(file.fileno()).st_size - 65_536))
            return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()][-lines:]
        return []

    def _hint(self) -> str:
        """What to do about the failures that have one remedy."""
        tail = "\n".join(self._tail(200))
        for sign, remedy in _REMEDIES.items():
            if sign in tail:
                return f" {remedy}"
        return ""


def _end_session(leader: int) -> None:
    """Ends all processes of a session whose leader has ended (on Linux: elsewhere they cannot be found)."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            if int(entry.read_text().rpartition(")")[2].split()[3]) == leader:
                os.kill(int(entry.parent.name), signal.SIGKILL)


_REMEDIES: Final = {
    "No module named 'vllm'": "Its interpreter has no vLLM: install it there (`pip install vllm`), or have"
    " `serve.python` name the interpreter of the environment that has it.",
    "No module named vllm": "Its interpreter has no vLLM: install it there (`pip install vllm`), or have"
    " `serve.python` name the interpreter of the environment that has it.",
    "unrecognized arguments": "This version of vLLM does not know a flag: correct `serve.args`, or install vLLM 0.32 or"
    " later.",
    "Address already in use": "Its port was taken meanwhile: start again, or name another one with `serve.port`.",
    "address already in use": "Its port was taken meanwhile: start again, or name another one with `serve.port`.",
    "less than desired GPU memory utilization": "Something else holds memory of its GPU (`nvidia-smi` shows what): end"
    " that, or give vLLM less with `--gpu-memory-utilization` in `serve.args`.",
    "CUDA out of memory": "The model does not fit its GPUs: give it more with `gpus_per_replica`, or a shorter context"
    " with `--max-model-len` in `serve.args`.",
}
"""By what the log says. The log is shown as well."""
