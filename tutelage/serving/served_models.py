"""What endpoints say they serve, on `/models`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tutelage.errors import EndpointRefused, ModelNotServed


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model or adapter that an endpoint says it serves."""

    name: str
    endpoint: str
    max_model_len: int | None
    """Tokens of prompt and completion together; None where the endpoint does not say, as vLLM for adapters."""
    parent: str | None
    """The base model's name, for an adapter."""


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
    return ServedModel(name=entry["id"], endpoint=endpoint, max_model_len=context, parent=entry.get("parent"))
