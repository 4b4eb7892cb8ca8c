"""What an endpoint's error reply means: a typed error for what it would refuse again, nothing for what can heal.

The wordings are those of vLLM 0.32 and of llama.cpp's server (November 2026); both send
`{"error": {"message", "type", "code"}}`, with few distinct types, so that the message has to be read.
"""

import re
from http import HTTPStatus

import orjson

from tutelage.errors import AuthRefused, ContextExceeded, EndpointRefused, ModelNotServed, SchemaRefused
from tutelage.serving.redaction import without_key

_SHOWN = 300
"""How many characters of an endpoint's own words an error shows."""
_HEALING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_FINAL = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})

# Phrases, not words: a validation error may repeat the prompt, and a prompt may well speak of grammar or of context.
_CONTEXT = re.compile(
    r"maximum context length|maximum model length|exceeds the available context|exceed_context_size|max_model_len",
    re.IGNORECASE,
)
_SCHEMA = re.compile(
    r"^grammar error|json schema|parse grammar|xgrammar|llguidance|response_format|structured.outputs?\b"
    r"|compil\w+ (the )?(grammar|regex)",
    re.IGNORECASE,
)
_MODEL = re.compile(r"(model|adapter|lora).{0,200}(does not exist|not found)", re.IGNORECASE)


def can_heal(status: int) -> bool:
    """Whether the same request may succeed later, or at another replica: overload, a restart, a drain."""
    return status in _HEALING or (status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _FINAL)


def refusal(
    status: int, body: bytes, url: str, *, location: str | None = None, secret: str | None = None
) -> EndpointRefused:
    """The error for a reply that would come again.

    Args:
        status: The reply's HTTP status; not one that can heal.
        body: Its body: JSON, HTML or anything.
        url: What was asked.
        location: Where a redirect leads.
        secret: The API key, which a server may repeat and an error must not.
    """
    said = words(body, secret)
    answer = f"{url} answered {status}" + (f": {said}" if said else "")
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        target = _one_line(location or "nowhere", secret)
        return EndpointRefused(
            f"{url} answered {status}, a redirect to {target!r}, which is not followed: a key must not go elsewhere. "
            "Give the endpoint's own URL."
        )
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        state = "was refused" if secret else "is missing"
        return AuthRefused(f"{answer}. The API key {state}: set `api_key` to the one that the server was started with.")
    if status == HTTPStatus.NOT_FOUND:
        return _not_found(answer, said)
    if _CONTEXT.search(said) or b"exceed_context_size" in body:
        return ContextExceeded(
            f"{answer}. Prompt and completion do not fit the model's context: ask for fewer tokens (`max_tokens`), "
            "keep dialogues shorter, or serve the model with a longer context (vLLM: --max-model-len)."
        )
    if _SCHEMA.search(said):
        return SchemaRefused(
            f"{answer}. The endpoint cannot follow that schema: simplify it, or serve another backend."
        )
    return EndpointRefused(f"{answer}. The request itself is refused: look at its sampling and its other options.")


def _not_found(answer: str, said: str) -> EndpointRefused:
    if _MODEL.search(said):
        return ModelNotServed(f"{answer} Name a model or an adapter that it serves; `tutelage doctor` lists them.")
    return EndpointRefused(
        f"{answer}. There is no such API at that URL: it should end as the server's does, often in /v1."
    )


def words(body: bytes, secret: str | None = None) -> str:
    """What an error reply says, in one line, without the key: its message, an HTML page's title, or its first line."""
    try:
        return _one_line(_message(orjson.loads(body)), secret)
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace").strip()
    title = re.search(r"<title[^>]*>(.*?)</title>", text[:10_000], re.IGNORECASE | re.DOTALL)
    return _one_line(title[1] if title else text.partition("\n")[0], secret)


def _message(reply: object) -> str:
    for key in ("error", "message", "detail"):
        if isinstance(reply, dict) and reply.get(key):
            reply = reply[key]
    return reply if isinstance(reply, str) else orjson.dumps(reply).decode()


def _one_line(text: str, secret: str | None) -> str:
    text = without_key(text, secret)
    # A terminal must not obey what a server says: no control characters.
    shown = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN]).split())
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
