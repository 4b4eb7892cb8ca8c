"""The routes under `/simulated`: what the endpoint is told while it runs, and what it says of what it was asked."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.faults import Fault
from tutelage.testing.json_replies import json_reply

if TYPE_CHECKING:
    from tutelage.testing.simulated_server import Endpoint

CHANGEABLE = frozenset(
    {
        *("latency", "accept_rate", "completion_tokens", "completion_spread", "max_num_seqs", "max_num_queued_reqs"),
        *("tool_rate", "reasoning", "engine_dead"),
    }
)
"""What `PATCH /simulated/config` may change in a running endpoint; faults have a route of their own."""
_FAULTS = TypeAdapter(list[Fault])


class Controls:
    """The routes by which a test steers an endpoint.

    Args:
        endpoint: The endpoint.
    """

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/simulated/config", self.read_config),
            web.patch("/simulated/config", self.change_config),
            web.get("/simulated/faults", self.read_faults),
            web.post("/simulated/faults", self.add_faults),
            web.delete("/simulated/faults", self.clear_faults),
            web.get("/simulated/requests", self.read_requests),
            web.get("/simulated/answers", self.read_answers),
            web.delete("/simulated/requests", self.clear_requests),
            web.get("/simulated/stats", self.stats),
        ]

    async def read_config(self, request: web.Request) -> web.Response:
        """`GET /simulated/config`."""
        return json_reply(self._endpoint.config.model_dump(mode="json", exclude={"api_key", "faults"}))

    async def change_config(self, request: web.Request) -> web.Response:
        """`PATCH /simulated/config`: some of `CHANGEABLE`; holds from the next step on."""
        changes = orjson.loads(await request.read())
        if fixed := set(changes) - CHANGEABLE:
            names = ", ".join(sorted(fixed))
            return json_reply(
                {"error": f"{names} cannot be changed in a running endpoint; start another one"}, status=400
            )
        try:
            config = EndpointConfig.model_validate({**self._endpoint.config.model_dump(), **changes})
        except ValidationError as error:
            return json_reply({"error": str(error)}, status=400)
        self._endpoint.reconfigure(config)
        return await self.read_config(request)

    async def read_faults(self, request: web.Request) -> web.Response:
        """`GET /simulated/faults`: each with the number of requests that it `struck`."""
        injector = self._endpoint.injector
        pairs = zip(injector.faults, injector.struck, strict=True)
        return json_reply([{**fault.model_dump(), "struck": struck} for fault, struck in pairs])

    async def add_faults(self, request: web.Request) -> web.Response:
        """`POST /simulated/faults`: a list of faults, which join those that are there."""
        try:
            self._endpoint.injector.add(_FAULTS.validate_json(await request.read()))
        except ValidationError as error:
            return json_reply({"error": str(error)}, status=400)
        return await self.read_faults(request)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """`DELETE /simulated/faults`: for requests that come from here on."""
        self._endpoint.injector.clear()
        return web.Response()

    async def read_requests(self, request: web.Request) -> web.StreamResponse:
        """`GET /simulated/requests`: JSON lines, in order of arrival."""
        return await _lines(request, self._endpoint.ledger.requests())

    async def read_answers(self, request: web.Request) -> web.StreamResponse:
        """`GET /simulated/answers`: JSON lines, in the order given."""
        return await _lines(request, self._endpoint.ledger.answers())

    async def clear_requests(self, request: web.Request) -> web.Response:
        """`DELETE /simulated/requests`: forgets requests and answers; the journal stays."""
        self._endpoint.ledger.clear()
        return web.Response()

    async def stats(self, request: web.Request) -> web.Response:
        """`GET /simulated/stats`: counts since the start, and the CPU that this process has used."""
        engine, ledger = self._endpoint.engine, self._endpoint.ledger
        return json_reply(
            {
                "requests": ledger.received,
                "answers": ledger.answered,
                "under_way": ledger.under_way,
                "running": len(engine.running),
                "waiting": len(engine.waiting),
                "preemptions": engine.preemptions,
                "prefix_cache_queries": engine.cache.queries,
                "prefix_cache_hits": engine.cache.hits,
                "cpu_seconds": time.process_time(),
            }
        )


async def _lines(request: web.Request, lines: Iterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for line in lines:
        await response.write(line)
    await response.write_eof()
    return response
