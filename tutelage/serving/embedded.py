"""The embedded model: a small real model on this machine's CPU, where the config names no `models:`.

llama.cpp's server runs in a process of its own and speaks the same HTTP as vLLM, so that nothing else in Tutelage knows
the difference. As a program (`python -m tutelage.serving.embedded`) this module is that process.
"""

import asyncio
import http.client
import importlib.util
import json
import os
import select
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import urlsplit

from tutelage.errors import EmbeddedError
from tutelage.serving.weights import SMOLLM2, fetch_weights

START_SECONDS = 120.0
"""How long a server may take to answer its first request; SmolLM2 takes one to three."""

STOP_SECONDS = 5.0
"""How long a server that was told to end may take."""


_PATIENT: Final = {"OMP_WAIT_POLICY": "PASSIVE"}
"""llama.cpp's threads wait for each other at every layer. Left to themselves they spin, and where the CPUs have other
work, too, one that waits for its turn then holds up all: 5 to 10 times slower on a busy machine with two CPUs."""


class EmbeddedServer:
    """llama.cpp's OpenAI-compatible server on a free loopback port, as an async context manager.

    It ends with this process, however this process ends, and not on the terminal's Ctrl-C, so that calls in flight can
    be finished first. Use it within one event loop.

    SmolLM2-135M-Instruct was trained on up to 8,192 tokens and is given 4,096 for each slot. Each slot's context takes
    94 MB of memory whether it is used or not, the weights and the work space 150 MB: 0.9 GB with 8 slots.

    A call that is cancelled frees its slot one to three seconds later: llama.cpp looks for the lost connection when
    it has had no result for a second, so that whoever asks for `/slots` or `/metrics` more often than that delays it.
    A model name that it does not know is answered by the model that it has.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        slots: int = 8,
        context: int = 4096,
        threads: int | None = None,
        log: str | Path | None = None,
        progress: bool | None = None,
    ) -> None:
        """Nothing is fetched or started yet.

        Args:
            path: A GGUF file. By default what `TUTELAGE_EMBEDDED_MODEL` names, else SmolLM2, fetched on the first start.
            slots: How many requests are answered at once; more wait their turn.
            context: Tokens of prompt and completion that each slot holds; a longer prompt is refused with 400.
            threads: CPU threads; by default one for each CPU that this process may use.
            log: Where the server's log goes. By default a temporary file, kept only if the start fails.
            progress: See `fetch_weights`.
        """
        self.slots = slots
        self.context = context
        self.threads = threads or _cpus()
        self.model = ""
        """What the model is called at the endpoint; known once started."""
        self.url = ""
        """Of the OpenAI-compatible API, with `/v1`; known once started."""
        self.log = Path(log) if log else None
        self._keep_log = log is not None
        self._path = path
        self._progress = progress
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Fetches the weights if need be, starts the server, and waits until it has answered a first request.

        Raises:
            EmbeddedError: xllamacpp is not installed, the weights cannot be had, or the server did not start; the
                message ends with the last lines of its log.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise EmbeddedError(
                "the embedded model needs xllamacpp, which is not installed. Run `pip install 'tutelage[embedded]'`,"
                " or name your own endpoints under `models:` in the config."
            )
        path = await fetch_weights(self._path, progress=self._progress)
        self.model = SMOLLM2.name if path.name == SMOLLM2.file else path.stem
        settings = _Settings(
            path=str(path),
            model=self.model,
            slots=self.slots,
            context=self.context,
            threads=self.threads,
            parent=os.getpid(),
        )
        self._process = await self._spawn(settings)
        try:
            self.url = await self._first_answer(self._process)
        except BaseException:
            await self._end()
            raise

    async def stop(self) -> None:
        """Ends the server: SIGTERM, and SIGKILL if that takes more than 5 s. Calls in flight there are cut off."""
        await self._end()
        if self.log and not self._keep_log:
            self.log.unlink(missing_ok=True)
            self.log = None

    async def _spawn(self, settings: "_Settings") -> asyncio.subprocess.Process:
        if self.log is None:
            descriptor, name = tempfile.mkstemp(prefix="tutelage-embedded-", suffix=".log")
            os.close(descriptor)
            self.log = Path(name)
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                # -P: a file in the current folder that is called like a module of Python's must not be imported.
                *(sys.executable, "-P", "-m", __name__, json.dumps(asdict(settings))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={
                    **_PATIENT,
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path),
                },
                # Ctrl-C goes to the terminal's foreground process group, and the server is ours to stop, not its.
                start_new_session=True,
            )

    async def _first_answer(self, process: asyncio.subprocess.Process) -> str:
        """The URL, which the server writes once it has answered a request."""
        assert process.stdout
        assert self.log
        try:
            url = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            what = f"did not answer within {START_SECONDS:.0f} s"
        else:
            if url:
                return url.decode().strip()
            what = f"ended with exit code {await process.wait()} before it answered"
        raise EmbeddedError(
            f"the embedded model's server {what}. Its log, {str(self.log)!r}, ends with:\n{_tail(self.log)}"
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):  # it has ended by itself
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _cpus() -> int:
    """Of this process, which `taskset` or a container may have given fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tail(log: Path, lines: int = 12) -> str:
    return "\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])


# --- in the server's process --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    path: str
    model: str
    slots: int
    context: int
    threads: int
    parent: int
    """The process id of whoever started us, and without whom we have no reason to be."""


def _serve(settings: _Settings) -> NoReturn:
    """Writes the server's URL to stdout once it answers, and serves until the parent is gone or sends a signal."""
    threading.Thread(target=_end_with, args=(settings.parent,), daemon=True).start()
    announce = os.dup(1)
    os.dup2(2, 1)  # whatever llama.cpp prints belongs in the log: nobody reads the pipe after its first line

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings.path
    params.model_alias = {settings.model}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = settings.slots
    params.n_ctx = settings.slots * settings.context
    params.fit_params = False  # does not trade the context for memory behind our back
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads
    params.cache_ram_mib = 512  # prompts of dialogues that have no slot just now; 8 GiB otherwise
    params.endpoint_metrics = True
    params.ui = False
    params.cors_origins = ""  # no web page may speak to it
    params.verbosity = 1  # errors: nobody rotates this log, and one line a request is much in a week
    server = xllamacpp.Server(params)

    _answer_once(server.listening_address, settings.model)
    os.write(announce, f"{server.listening_address}/v1\n".encode())
    os.close(announce)
    threading.Event().wait()
    raise AssertionError("nothing sets that event")


def _answer_once(address: str, model: str) -> None:
    """Raises unless the server completes a prompt: being healthy is not yet being able to answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=START_SECONDS)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read().decode(errors="replace")
    if reply.status != http.HTTPStatus.OK:
        raise SystemExit(f"the first request was answered with {reply.status}: {text}")


def _end_with(parent: int) -> NoReturn:
    """Ends this process when its parent is gone.

    The end of stdin says so at once, but not if another child that the parent forked still holds the pipe; a parent id
    that is no longer the parent's says so within a second. (Linux's parent-death signal comes when the *thread* that
    started us ends, which may be long before the parent.)
    """
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 1):
            break
    os._exit(0)  # it keeps nothing on disk, and there is nobody left to answer


if __name__ == "__main__":
    _serve(_Settings(**json.loads(sys.argv[1])))
