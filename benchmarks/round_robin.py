"""A load balancer that knows nothing of conversations: each request goes to the next replica in turn.

Stands in front of replicas as any HTTP balancer would, so that a run has one endpoint and no say in where it goes.
"""

import asyncio
import threading
from collections.abc import Sequence
from itertools import cycle
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web


class RoundRobin:
    """The balancer, in a thread of its own while the context lasts.

    Args:
        urls: The replicas', with the `/v1`.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.url = ""
        """Its own; known once it is entered."""
        self._turns = cycle(url.removesuffix("/v1") for url in urls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.url = self._do(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> str:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        app = web.Application(client_max_size=2**26)
        # /metrics is not passed on: what one replica says of its load is not what the next request will meet.
        app.add_routes([web.post("/v1/{path:.*}", self._pass_on), web.get("/v1/{path:.*}", self._pass_on)])
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=4096).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        where = next(self._turns) + request.path
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Content-Length")}
        body = await request.read()
        async with self._session.request(request.method, where, data=body or None, headers=headers) as reply:
            return web.Response(body=await reply.read(), status=reply.status, content_type=reply.content_type)
