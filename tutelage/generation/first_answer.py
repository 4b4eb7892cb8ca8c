"""The first answer of an endpoint, for `tutelage doctor`: whether there is an API at all, and what is there instead."""

import asyncio
import ssl
import time
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import SecretStr

from tutelage.errors import EndpointUnreachable
from tutelage.serving.refusals import can_heal, refusal, words

TLS_SECONDS: Final = 3.0


async def first_answer(url: str, secret: SecretStr | None) -> float:
    """Seconds that the endpoint takes to say what it serves.

    Not asked through the pool, which tries again and words its errors for the middle of a run.

    Raises:
        EndpointUnreachable: There is no answer, or none of an API's.
        EndpointRefused: It refuses to say: another key, a redirect, no such path.
    """
    key = secret.get_secret_value() if secret else None
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    started = time.monotonic()
    try:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{url}/models", allow_redirects=False) as response,
        ):
            body = await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise EndpointUnreachable(no_answer(await _plainly(error, url, key))) from None
    seconds = time.monotonic() - started
    if url.startswith("http://") and response.status == HTTPStatus.BAD_REQUEST and b"HTTPS" in body.upper():
        raise EndpointUnreachable(no_answer(f"it speaks https ({words(body, key)}): write https:// in its URL"))
    if can_heal(response.status):
        raise EndpointUnreachable(
            f"answers {response.status} ({words(body, key) or response.reason}): it is starting, overloaded or broken; "
            "its log says more"
        )
    if response.status != HTTPStatus.OK:
        raise refusal(response.status, body, f"{url}/models", location=response.headers.get("Location"), secret=key)
    if not _is_list_of_models(body):
        kind = "a web page" if "html" in response.headers.get("Content-Type", "") else "something"
        raise EndpointUnreachable(
            f"answers with {kind} ({words(body, key)!r}) that is no list of models: give the URL of an OpenAI-compatible "
            "API; it often ends in /v1"
        )
    return seconds


def _is_list_of_models(body: bytes) -> bool:
    try:
        reply = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(reply, dict) and isinstance(reply.get("data"), list)


async def _plainly(error: Exception, url: str, key: str | None) -> str:
    parts, said = urlsplit(url), words(str(error).encode(), key)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the host {parts.hostname!r} is not known here"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return (
            f"the certificate of {parts.netloc} is not one that this machine trusts ({said}): give the name that it is made "
            "out to, or have SSL_CERT_FILE name the authority's"
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return (
            f"TLS with {parts.netloc} fails ({said}): perhaps the server speaks plain http: write http://{parts.netloc}"
        )
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError):
        return f"nothing listens at {parts.netloc}"
    if parts.scheme == "http" and await _speaks_tls(parts.hostname or "", parts.port or 80):
        return f"{parts.netloc} speaks https: write https://{parts.netloc}{parts.path}"
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return "it closes the connection without an answer"
    return said or type(error).__name__


async def _speaks_tls(host: str, port: int) -> bool:
    """Whether a server that makes nothing of plain HTTP would take TLS. Nothing is sent to it, the key least of all."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port, ssl=context), TLS_SECONDS)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def no_answer(what: str) -> str:
    """What is said of an endpoint that cannot be reached."""
    return f"cannot be reached: {what}. Check the URL, and that the server runs and can be reached from here"
