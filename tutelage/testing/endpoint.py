"""A simulated vLLM endpoint: a real HTTP server that speaks the API of vLLM 0.32, without a model behind it.

    python -m tutelage.testing.endpoint --port 8000 --model tiny --latency '{"first_token": 0.05, "output_token": 0.02}'

It keeps the books of a prefix cache and of a batch, takes time if told to, answers by schema, fails on purpose, and
remembers what it was asked and what it answered. From Python, `tutelage.testing.SimulatedEndpoint` runs it in a process
of its own.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import orjson
from aiohttp import web
from pydantic import ValidationError

from tutelage.errors import TutelageError
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.simulated_server import Endpoint


@contextlib.asynccontextmanager
async def serving(config: EndpointConfig) -> AsyncIterator[int]:
    """Serves in this process while the context lasts; gives the port.

    Raises:
        OSError: the port is taken.
    """
    # A client that goes must free its request, as with vLLM.
    runner = web.AppRunner(Endpoint(config).app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=4096)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def parse(arguments: Sequence[str]) -> tuple[EndpointConfig, bool]:
    """The configuration that the command line gives, and whether to end when stdin does.

    Raises:
        ValidationError: a value that does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tutelage.testing.endpoint", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--config", help="a JSON object, or a file that holds one; the other flags go before it")
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="end when stdin does, as with the parent process"
    )
    for name in EndpointConfig.model_fields:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="JSON|TEXT", default=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    config, until_stdin_ends = given.pop("config"), given.pop("until_stdin_ends")
    values: dict[str, Any] = {}
    if config is not None:
        values = orjson.loads(config if config.lstrip().startswith("{") else Path(config).read_bytes())
    values.update({name: _flag_value(text) for name, text in given.items()})
    return EndpointConfig.model_validate(values), until_stdin_ends


def _flag_value(text: str) -> Any:
    # Lists and objects are JSON; pydantic reads numbers from text, and a model or a key may look like one.
    return orjson.loads(text) if text.startswith(("[", "{")) else text


async def _run(config: EndpointConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(config) as port:
        host = f"[{config.host}]" if ":" in config.host else config.host
        ready = {"url": f"http://{host}:{port}/v1", "port": port}
        sys.stdout.write(orjson.dumps(ready, option=orjson.OPT_APPEND_NEWLINE).decode())
        sys.stdout.flush()
        await stop.wait()


def _end_with_stdin() -> NoReturn:
    # Read past the buffer of `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; the first line on stdout gives the URL."""
    import uvloop

    try:
        config, until_stdin_ends = parse(sys.argv[1:] if arguments is None else arguments)
        if until_stdin_ends:
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        uvloop.run(_run(config))
    except (ValidationError, orjson.JSONDecodeError, TutelageError, OSError) as error:
        sys.stderr.write(f"the simulated endpoint cannot start: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
