"""JSON as a reply of the simulated endpoint."""

from typing import Any

import orjson
from aiohttp import web

from tutelage.testing.vllm_requests import Refusal

JSON = "application/json"


def json_reply(value: Any, *, status: int = 200) -> web.Response:
    """A reply that has a value as its body."""
    return web.Response(body=orjson.dumps(value), status=status, content_type=JSON)


def error_reply(refusal: Refusal) -> web.Response:
    """The reply of a request that is refused."""
    return web.Response(body=refusal.body(), status=refusal.status, content_type=JSON)
