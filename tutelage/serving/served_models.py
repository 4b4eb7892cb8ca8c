"""What endpoints say they serve, on `/models`."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt

from tutelage.errors import EndpointRefused, ModelNotServed
from tutelage.serving.exchange import Exchange
from tutelage.serving.replica import Fault, Replica
from tutelage.serving.request import Request, unreachable
from tutelage.serving.retrying import backoff, log_retry

RETRIES: Final = 1
"""How often it is asked again: whoever starts a run with a wrong URL should hear of it soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model or adapter that an endpoint says it serves."""

    name: str
    endpoint: str
    max_model_len: int | None
    """Tokens of prompt and completion together; None where the endpoint does not say, as vLLM for adapters."""
    parent: str | None
    """The base model's name, for an adapter."""
    owner: str | None = None
    """What the endpoint calls whoever owns it: `vllm`, `llamacpp`."""


async def models_of(replica: Replica, exchange: Exchange, within: aiohttp.ClientTimeout) -> list[ServedModel]:
    """What a replica serves.

    Raises:
        EndpointRefused: It refused to say, or what it said is no list of models.
        EndpointUnreachable: It did not answer.
    """
    request = Request("GET", "/models", within)

    async def ask() -> dict[str, Any]:
        try:
            return await exchange.send(request, replica)
        except Fault as fault:
            request.add(fault, replica)
            raise

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Fault),
        stop=stop_after_attempt(1 + RETRIES),
        wait=lambda state: backoff(request, state.attempt_number - 1),
        before_sleep=partial(log_retry, request),
        reraise=True,
    )
    reply: dict[str, Any] | None = None
    with suppress(Fault):
        reply = await retrying(ask)
    if reply is None:
        raise unreachable(request)
    return served_models(reply, replica.url)


def served_models(reply: dict[str, Any], endpoint: str) -> list[ServedModel]:
    """What stands in an endpoint's list of models.

    Raises:
        EndpointRefused: It is no such list.
    """
    try:
        return [_served(entry, endpoint) for entry in reply["data"]]
    except (KeyError, TypeError, AttributeError):
        raise EndpointRefused(
            f"{endpoint}/models answered with something other than a list of models: is that an OpenAI-compatible API?"
        ) from None


def entries_of(model: str, served: Iterable[ServedModel]) -> tuple[ServedModel, ...]:
    """The entries of a model or adapter at each endpoint.

    Raises:
        ModelNotServed: An endpoint does not serve it; the message says what it serves.
    """
    by_endpoint: dict[str, list[ServedModel]] = {}
    for entry in served:
        by_endpoint.setdefault(entry.endpoint, []).append(entry)
    for endpoint, entries in by_endpoint.items():
        names = [entry.name for entry in entries]
        if model not in names:
            raise ModelNotServed(
                f"{endpoint} does not serve {model!r}, but {', '.join(map(repr, names)) or 'nothing'}: "
                "correct `model` or `adapter`, or the endpoint's URL"
            )
    return tuple(entry for entries in by_endpoint.values() for entry in entries if entry.name == model)


def _served(entry: dict[str, Any], endpoint: str) -> ServedModel:
    # llama.cpp gives the context of one slot as `meta.n_ctx`.
    context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    return ServedModel(
        name=entry["id"],
        endpoint=endpoint,
        max_model_len=context,
        parent=entry.get("parent"),
        owner=entry.get("owned_by"),
    )
