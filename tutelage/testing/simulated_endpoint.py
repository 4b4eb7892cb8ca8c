"""Runs a simulated vLLM endpoint in a process of its own, from a test, a benchmark or a user's own CI."""

import asyncio
import http.client
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from tutelage.errors import TutelageError
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.faults import Fault

_START_SECONDS = 60.0
_STOP_SECONDS = 5.0


class SimulatedEndpoint:
    """A simulated vLLM endpoint, up while the context lasts.

        with SimulatedEndpoint(model="tiny", faults=[Fault(kind="reset", times=2)]) as endpoint:
            ...                                   # endpoint.url is http://127.0.0.1:PORT/v1

    `async with` does the same. Its process ends with the one that started it, however that ends. All methods block, for
    about a millisecond; only starting and stopping take longer.

    Args:
        config: how it is set up.
        **options: fields of `EndpointConfig`, which go before those of `config`.

    Raises:
        pydantic.ValidationError: a field that does not fit.
    """

    def __init__(self, config: EndpointConfig | None = None, **options: Any) -> None:
        # `model_dump` instead of `model_copy`, so that the options are checked.
        self.config = EndpointConfig.model_validate({**(config or EndpointConfig()).model_dump(), **options})
        self._process: subprocess.Popen[bytes] | None = None
        self._port = self.config.port
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL of its API, with the `/v1`.

        Raises:
            TutelageError: it was never started.
        """
        if not self._url:
            raise TutelageError("the simulated endpoint has no URL yet: start it with `with` or start()")
        return self._url

    @property
    def pid(self) -> int | None:
        """The id of its process; None while it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Starts it and waits until it listens; after a stop, on the same port again.

        Raises:
            TutelageError: it did not come up.
        """
        config = {**self.config.model_dump(mode="json"), "port": self._port}
        command = [sys.executable, "-m", "tutelage.testing.endpoint", "--until-stdin-ends"]
        # The child finds what the parent finds: this package in a bare checkout, and a test's own replies hook.
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            [*command, "--config", orjson.dumps(config).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        ready = orjson.loads(self._first_line() or b"null")
        if ready is None:
            code = self.kill()
            raise TutelageError(
                f"the simulated endpoint did not start (exit code {code}): its own message stands on stderr;"
                f" a port in use is the usual cause (port {self._port}; 0 takes a free one)"
            )
        self._url, self._port = ready["url"], ready["port"]
        return self

    def _first_line(self) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _START_SECONDS)
        return self._process.stdout.readline() if readable else b""

    def stop(self) -> None:
        """Ends it, and with it all requests under way; does nothing where it is not running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            self.kill()

    def kill(self) -> int | None:
        """Ends it with SIGKILL, as a crash would; gives the exit code, or None where it was not running."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def inject(self, *faults: Fault) -> None:
        """Adds faults, for requests that come from here on."""
        self._call("POST", "/simulated/faults", [fault.model_dump() for fault in faults])

    def clear_faults(self) -> None:
        """Takes all faults away; requests that are stalled stay so."""
        self._call("DELETE", "/simulated/faults")

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, each with the number of requests that it `struck`."""
        return list(orjson.loads(self._call("GET", "/simulated/faults")))

    def configure(self, **changes: Any) -> None:
        """Changes latency, accept rate, tool rate, length of replies, reasoning, batch or queue, or has the engine die.

        Raises:
            TutelageError: a field that cannot be changed, or a value that does not fit.
        """
        plain = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in changes.items()}
        self._call("PATCH", "/simulated/config", plain)

    def requests(self) -> list[dict[str, Any]]:
        """The latest requests in order of arrival, with body, headers, outcome, status, fault, token counts, seconds."""
        return _rows(self._call("GET", "/simulated/requests"))

    def answers(self) -> list[dict[str, Any]]:
        """The latest answers as given: `id`, `model`, `seed`, `messages_sha256`, `texts`, `fault`.

        `messages_sha256` is that of the messages (or the prompt) as compact JSON with sorted keys, in UTF-8.
        """
        return _rows(self._call("GET", "/simulated/answers"))

    def forget(self) -> None:
        """Empties both records; the journal stays."""
        self._call("DELETE", "/simulated/requests")

    def clear_prefix_cache(self) -> None:
        """Forgets all cached blocks that no running request holds."""
        self._call("POST", "/reset_prefix_cache")

    def stats(self) -> dict[str, Any]:
        """What it has done so far.

        `requests`, `answers`, `preemptions`; `prefix_cache_queries` and `prefix_cache_hits` in tokens; the requests that
        are `under_way` and the sequences that are `running` and `waiting` now; and `cpu_seconds`, the CPU time of its
        process.
        """
        return dict(orjson.loads(self._call("GET", "/simulated/stats")))

    def metrics(self) -> dict[str, float]:
        """The values of `/metrics` by name, those of several label sets added up."""
        values: dict[str, float] = {}
        for line in self._call("GET", "/metrics").decode().splitlines():
            if not line.startswith("#"):
                name, value = line.split("{")[0], float(line.rpartition(" ")[2])
                values[name] = values.get(name, 0.0) + value
        return values

    def _call(self, method: str, path: str, body: Any = None) -> bytes:
        host = "127.0.0.1" if self.config.host in ("0.0.0.0", "localhost") else self.config.host
        connection = http.client.HTTPConnection(host, self._port, timeout=30)
        headers = {"Authorization": f"Bearer {self.config.api_key}"} if self.config.api_key else {}
        try:
            connection.request(method, path, None if body is None else orjson.dumps(body), headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise TutelageError(f"the simulated endpoint at {host}:{self._port} does not answer ({error})") from error
        finally:
            connection.close()
        if response.status != 200:
            raise TutelageError(f"the simulated endpoint refused {method} {path}: {content.decode(errors='replace')}")
        return content


def _rows(lines: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines.splitlines()]
