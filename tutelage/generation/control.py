"""How a daemon is asked and told: HTTP on a Unix socket in the run folder, and on HOST:PORT where the config says so.

    GET   /livez /readyz        200, or 503 and why not
    GET   /status /metrics      JSON as in `tutelage.generation.status`; Prometheus text
    POST  /pause /resume /drain /reload /retry

Answers are JSON but for the metrics, and `{"error": …}` where something is refused. The socket is its owner's alone and
asks for nothing more. On a port, anything but the two probes asks for the token of `daemon.token`; only on loopback may
there be none, and then whatever a web page could send is refused.

Requests are answered in the daemon's own event loop, so that any answer at all shows that the loop turns: where it hangs,
a probe runs into its timeout.
"""

import asyncio
import hmac
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from tutelage.config import DaemonConfig
from tutelage.errors import ConfigError, UserError
from tutelage.generation import control_socket
from tutelage.generation.status import Status
from tutelage.telemetry.metrics import CONTENT_TYPE

PATIENCE: Final = 30.0
"""Seconds that a client has to send its request."""
FAREWELL: Final = 1.0
"""Seconds that requests under way have at the end."""
MOST_CONNECTIONS: Final = 64
"""At once, on a port: whoever opens more must not take the daemon's file handles."""

log = structlog.get_logger()


class Controlled(Protocol):
    """What is controlled: the daemon. All is called in the event loop's thread.

    Any of its commands may raise a UserError to refuse, with the reason.
    """

    def status(self) -> Status:
        """How it stands."""

    def pause(self) -> None:
        """Begins nothing new; what is under way goes on."""

    def resume(self) -> None:
        """Takes back a pause."""

    def drain(self) -> None:
        """Comes to its end, as on SIGTERM. Returns at once."""

    async def reload(self) -> list[str]:
        """Reads the config again. Returns the keys that changed; raises UserError where it cannot be changed so."""

    async def retry(self, ids: Sequence[str]) -> int:
        """Has dialogues that were set aside owed again; all of them if none is named. Returns how many."""

    def live(self) -> str | None:
        """None, or why it should be ended and started again."""

    def ready(self) -> str | None:
        """None, or why it begins no dialogues now."""

    def metrics(self) -> bytes:
        """Prometheus text."""


class RetryRequest(BaseModel):
    """The body of `POST /retry`."""

    model_config = ConfigDict(extra="forbid")

    ids: list[str] = []
    """Dialogues; none for all that are set aside."""


class ControlServer:
    """Answers for a daemon while the block lasts.

        async with ControlServer(daemon, folder.path, config.daemon) as server: ...

    Start it before the endpoints are looked for, so that probes are answered, and end it last.

    Args:
        daemon: What is controlled.
        folder: The run folder, whose lock this process holds.
        config: Where to listen besides, and the token.

    Raises:
        ConfigError: The port cannot be listened on, or others could reach it and there is no token.
        RunFolderError: There can be no socket in the run folder.
    """

    def __init__(self, daemon: Controlled, folder: Path, config: DaemonConfig) -> None:
        self._daemon = daemon
        self._folder = folder
        self._config = config
        self._stack = AsyncExitStack()
        self.url: str | None = None
        """Where it listens besides the socket."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._listen_on_socket(stack)
            if self._config.listen is not None:
                self.url = await self._listen_on_port(stack, self._config.listen)
            self._stack = stack.pop_all()
        log.info("control_started", socket=str(self._folder / control_socket.NAME), url=self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _listen_on_socket(self, stack: AsyncExitStack) -> None:
        sock = control_socket.listening_socket(self._folder)
        stack.callback((self._folder / control_socket.NAME).unlink, missing_ok=True)
        server = _Server(self._answer)
        stack.push_async_callback(server.end)
        listener = await asyncio.get_running_loop().create_unix_server(server, sock=sock)
        stack.callback(listener.close)

    async def _listen_on_port(self, stack: AsyncExitStack, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        guard = Guard(host.strip("[]"), self._config)
        server = _Server(guard.before(self._answer), most=MOST_CONNECTIONS)
        stack.push_async_callback(server.end)
        try:
            listener = await asyncio.get_running_loop().create_server(server, host.strip("[]"), int(port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"daemon.listen: {listen!r} cannot be listened on: {_reason(error)}; take another HOST:PORT, or end "
                "what listens there"
            ) from error
        stack.callback(listener.close)
        return f"http://{host}:{listener.sockets[0].getsockname()[1]}"

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The one way of every request, whichever way it came."""
        if request.path not in _COMMANDS:
            return _refusal(404, f"there is no {request.path}, but {', '.join(PATHS)}")
        method, command = _COMMANDS[request.path]
        if request.method != method:
            return _refusal(405, f"{request.path} wants {method}, not {request.method}", Allow=method)
        if method == "POST":
            log.info("control_requested", command=request.path.removeprefix("/"))
        try:
            return await command(self, await _body_of(request))
        except UserError as error:
            return _refusal(409, str(error))
        except web.HTTPException as error:
            return _refusal(error.status, error.text or error.reason)
        except ConnectionError:
            raise  # whoever asked is gone
        except Exception:
            log.exception("control_failed", path=request.path)
            return _refusal(500, "that failed; the daemon's log says why")

    async def _livez(self, _: bytes) -> web.Response:
        return _probe(self._daemon.live())

    async def _readyz(self, _: bytes) -> web.Response:
        return _probe(self._daemon.ready())

    async def _metrics(self, _: bytes) -> web.Response:
        return web.Response(body=self._daemon.metrics(), headers={**_HEADERS, "Content-Type": CONTENT_TYPE})

    async def _status(self, _: bytes) -> web.Response:
        return _json(self._daemon.status().model_dump(mode="json"))

    async def _pause(self, _: bytes) -> web.Response:
        self._daemon.pause()
        return self._state()

    async def _resume(self, _: bytes) -> web.Response:
        self._daemon.resume()
        return self._state()

    async def _drain(self, _: bytes) -> web.Response:
        self._daemon.drain()
        return self._state()

    async def _reload(self, _: bytes) -> web.Response:
        return _json({"changed": await self._daemon.reload()})

    async def _retry(self, body: bytes) -> web.Response:
        try:
            wanted = RetryRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            what = error.errors()[0]
            where = ".".join(map(str, what["loc"])) or "it"
            raise web.HTTPBadRequest(text=f"the body does not fit: {where}: {what['msg']}") from error
        return _json({"retried": await self._daemon.retry(wanted.ids)})

    def _state(self) -> web.Response:
        return _json({"state": self._daemon.status().state})


_COMMANDS: Final[dict[str, tuple[str, Callable[[ControlServer, bytes], Awaitable[web.Response]]]]] = {
    "/livez": ("GET", ControlServer._livez),
    "/readyz": ("GET", ControlServer._readyz),
    "/metrics": ("GET", ControlServer._metrics),
    "/status": ("GET", ControlServer._status),
    "/pause": ("POST", ControlServer._pause),
    "/resume": ("POST", ControlServer._resume),
    "/drain": ("POST", ControlServer._drain),
    "/reload": ("POST", ControlServer._reload),
    "/retry": ("POST", ControlServer._retry),
}

PATHS: Final = tuple(_COMMANDS)
"""All that can be asked."""

_Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Guard:
    """Who may ask what on a port.

    Args:
        host: What is listened on.
        config: Has the token.

    Raises:
        ConfigError: Others than this machine could reach it and there is no token, or the token is empty.
    """

    PROBES: Final = ("/livez", "/readyz")
    """Kubernetes' probes bring no token, and come from another machine."""

    def __init__(self, host: str, config: DaemonConfig) -> None:
        secret = config.secret()
        self._token = None if secret is None else secret.get_secret_value().encode()
        if self._token == b"":
            raise ConfigError(f"daemon.token: {config.token} is empty: put a token into the environment")
        if self._token is None and not _is_loopback(host):
            raise ConfigError(
                f"daemon.listen: other machines can reach {config.listen!r}: add `token: ${{NAME}}` under `daemon:`, or "
                "listen on 127.0.0.1"
            )

    def before(self, handler: _Handler) -> _Handler:
        """The handler, for those requests alone that may be answered."""

        async def guarded(request: web.BaseRequest) -> web.StreamResponse:
            refusal = self.refusal(request)
            return refusal if refusal is not None else await handler(request)

        return guarded

    def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """None, or what a request is answered that is not to go on."""
        headers = request.headers
        if "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return _refusal(403, "this is not for web pages: nothing is answered that has an Origin or is cross-site")
        if headers.get("Content-Type", "").split(";")[0].strip().lower() in _OF_FORMS:
            return _refusal(415, f"a body must be JSON: send it with `Content-Type: {_JSON}`")
        if self._token is None:
            # A page whose own name was made to point at this machine (DNS rebinding) still sends that name.
            host = headers.get("Host", "")
            told = f"{host!r} is no name of this machine's loopback: ask for localhost or 127.0.0.1"
            return None if _is_loopback(_name_in(host)) else _refusal(403, told)
        if request.path in self.PROBES or self._knows_token(request):
            return None
        return _refusal(401, "this needs the token: send `Authorization: Bearer …`", **{"WWW-Authenticate": "Bearer"})

    def _knows_token(self, request: web.BaseRequest) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token or b"")
        return right and scheme.lower() == "bearer"


class _Server(web.Server):
    """A server of HTTP that nobody can hold up: a connection is for one request, and that has to come soon."""

    def __init__(self, answer: _Handler, *, most: int | None = None) -> None:
        super().__init__(self._first, access_log=None, lingering_time=0)
        self._answer = answer
        self._most = most
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if self._most is not None and len(self.connections) > self._most:
            transport.abort()
        self._deadlines[handler] = asyncio.get_running_loop().call_later(PATIENCE, transport.abort)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._deadlines.pop(handler).cancel()

    async def _first(self, request: web.BaseRequest) -> web.StreamResponse:
        if deadline := self._deadlines.get(request.protocol):  # none: the connection is lost already
            deadline.cancel()
        response = await self._answer(request)
        response.force_close()
        return response

    async def end(self) -> None:
        """Ends idle connections at once, and those with a request under way soon."""
        self.pre_shutdown()
        await self.shutdown(FAREWELL)


async def _body_of(request: web.BaseRequest) -> bytes:
    try:
        async with asyncio.timeout(PATIENCE):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not come within {PATIENCE:.0f} s") from error


_JSON: Final = "application/json"
_OF_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form of any web page can send anywhere without being asked first (https://fetch.spec.whatwg.org, "safelisted")."""
_HEADERS: Final = {"Content-Type": _JSON, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def _json(data: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(data) + b"\n", headers=_HEADERS)


def _refusal(status: int, why: str, **headers: str) -> web.Response:
    response = _json({"error": why}, status)
    response.headers.update(headers)
    return response


def _probe(why_not: str | None) -> web.Response:
    return _json({"ok": True}) if why_not is None else _json({"ok": False, "reason": why_not}, 503)


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> str:
    """The name or address in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno).lower()  # asyncio's own text says the address once more
    return str(error)
