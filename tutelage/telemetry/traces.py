"""OpenTelemetry spans of dialogues, roles and model calls, by the conventions for generative AI.

    invoke_workflow lesson          a dialogue, the root of its trace
    ├── invoke_agent tutor            a role is asked, and asked again where its reply does not fit
    │   └── chat Qwen/Qwen3-32B         one call of its model, with the client's retries
    └── …

The conventions are still in development (https://github.com/open-telemetry/semantic-conventions-genai), and the constants
of OpenTelemetry's Python package are marked as moved, so the names stand here, as they were in November 2026.

Spans hold no prompt and no reply unless `configure_traces(content=True)` was asked for. Without `configure_traces` a span
costs a fifth of a microsecond, and OpenTelemetry is not even imported.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import urlsplit

import orjson

from tutelage.errors import CallError, ConfigError

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
CONVERSATION: Final = "gen_ai.conversation.id"
WORKFLOW: Final = "gen_ai.workflow.name"
AGENT: Final = "gen_ai.agent.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
EVALUATION: Final = "gen_ai.evaluation.name"
EVALUATION_LABEL: Final = "gen_ai.evaluation.score.label"
SYSTEM_INSTRUCTIONS: Final = "gen_ai.system_instructions"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
ERROR: Final = "error.type"
SERVER: Final = "server.address"
PORT: Final = "server.port"
_REQUEST_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
}

RUN: Final = "tutelage.run"
OUTCOME: Final = "tutelage.outcome.status"
OUTCOME_REASON: Final = "tutelage.outcome.reason"
PROMPT_SHA256: Final = "tutelage.prompt.sha256"
"""By it, `messages.jsonl` gives the prompt: a trace leads to what was said without holding it."""

MISSING: Final = (
    "`telemetry.traces` is on, but OpenTelemetry is not installed: pip install 'tutelage[traces]', or turn it off"
)


class Said(Protocol):
    """A message of a prompt."""

    @property
    def role(self) -> str:
        """One of system, user and assistant."""

    @property
    def content(self) -> str:
        """Its text."""


class Span:
    """A span that nobody records. A context manager: what is begun within it is its child."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the span; with an error, as one that failed for that reason."""

    def ended(self, *, status: str, reason: str) -> None:
        """Of a dialogue: its outcome."""

    def judged(self, verdict: str) -> None:
        """Of a role that reviews: its verdict."""

    def answered(
        self,
        *,
        model: str,
        endpoint: str | None,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        finish_reason: str | None,
        text: str,
        response_id: str | None = None,
    ) -> None:
        """Of a call: what came of it. `text` is left out unless content was asked for."""


_NOT_RECORDED: Final = Span()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tracing:
    """What recording needs."""

    tracer: "Tracer"
    content: bool

    def span(
        self,
        operation: str,
        what: str | None,
        attributes: dict[str, Any],
        *,
        root: bool = False,
        to_server: bool = False,
    ) -> "_Recorded":
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        attributes[OPERATION] = operation
        span = self.tracer.start_span(
            f"{operation} {what}" if what else operation,
            context=Context() if root else None,
            kind=SpanKind.CLIENT if to_server else SpanKind.INTERNAL,
            attributes={name: value for name, value in attributes.items() if value is not None},
        )
        return _Recorded(span, self.content)


_tracing: _Tracing | None = None


def configure_traces(*, content: bool = False) -> Callable[[], None]:
    """Records spans from now on, and sends them by OTLP over HTTP to where the OTEL_… variables say.

    Those are OpenTelemetry's own (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/):
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME and so on. A program
    that has set a tracer provider of its own gets the spans there instead.

    Spans wait in a bounded queue (OTEL_BSP_MAX_QUEUE_SIZE), and a thread sends them: where that is too slow or nobody
    listens, spans are lost, and never a dialogue held up.

    Args:
        content: Whether spans hold prompts and replies.

    Returns:
        What ends it: sends what is still waiting, for which it may take some seconds.

    Raises:
        ConfigError: OpenTelemetry is not installed, or is told to send in another way.
    """
    global _tracing
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace import get_tracer_provider
    except ImportError as error:
        raise ConfigError(MISSING) from error

    provider = get_tracer_provider()
    shared = isinstance(provider, TracerProvider)
    own = provider if isinstance(provider, TracerProvider) else _provider()
    _tracing = _Tracing(tracer=own.get_tracer("tutelage", version("tutelage")), content=content)

    def shut_down() -> None:
        global _tracing
        _tracing = None
        if shared:
            own.force_flush()
        else:
            own.shutdown()

    return shut_down


def dialogue_span(dialogue: str, *, run: str, graph: str) -> Span:
    """A dialogue, from when it is begun or taken up again until it ends or is put down."""
    if _tracing is None:
        return _NOT_RECORDED
    return _tracing.span("invoke_workflow", graph, {WORKFLOW: graph, CONVERSATION: dialogue, RUN: run}, root=True)


def agent_span(role: str, *, dialogue: str) -> Span:
    """A role is asked for something, its repairs included."""
    if _tracing is None:
        return _NOT_RECORDED
    return _tracing.span("invoke_agent", role, {AGENT: role, CONVERSATION: dialogue})


def chat_span(
    *,
    role: str,
    dialogue: str,
    provider: str,
    model: str | None,
    options: Mapping[str, Any],
    prompt: Iterable[Said],
    prompt_sha256: str,
) -> Span:
    """One call of a model.

    Args:
        role: Who is asked.
        dialogue: Its id.
        provider: What serves the model: `vllm`.
        model: The model or adapter that is asked for, if that is known before.
        options: What goes into the request: temperature, seed, response_format and so on.
        prompt: Its messages, looked at only where content was asked for.
        prompt_sha256: By which the transcript finds them.
    """
    if _tracing is None:
        return _NOT_RECORDED
    attributes = {
        AGENT: role,
        CONVERSATION: dialogue,
        PROVIDER: provider,
        REQUEST_MODEL: model,
        PROMPT_SHA256: prompt_sha256,
        "gen_ai.output.type": "json" if "response_format" in options else "text",
        **{name: options[option] for option, name in _REQUEST_OPTIONS.items() if option in options},
    }
    if _tracing.content:
        attributes.update(_prompt_content(prompt))
    return _tracing.span("chat", model, attributes, to_server=True)


class _Recorded(Span):
    __slots__ = ("_content", "_span", "_token")

    def __init__(self, span: "OtelSpan", content: bool) -> None:
        self._span = span
        self._content = content
        self._token: Token[Context]

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from opentelemetry import context

        # Neither an error's message nor its traceback: both may quote what a model or a user wrote.
        if isinstance(error, Exception):
            self._failed(error.reason if isinstance(error, CallError) else type(error).__qualname__)
        elif error is not None:  # whoever cancels a call has no fault to find with it
            self._span.set_attribute(ERROR, type(error).__qualname__)
        context.detach(self._token)
        self._span.end()

    def _failed(self, reason: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_attribute(ERROR, reason)
        self._span.set_status(StatusCode.ERROR)

    def ended(self, *, status: str, reason: str) -> None:
        self._span.set_attributes({OUTCOME: status, OUTCOME_REASON: reason})
        if status == "failed":
            self._failed(reason)

    def judged(self, verdict: str) -> None:
        self._span.set_attributes({EVALUATION: "review", EVALUATION_LABEL: verdict})

    def answered(
        self,
        *,
        model: str,
        endpoint: str | None,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        finish_reason: str | None,
        text: str,
        response_id: str | None = None,
    ) -> None:
        server = urlsplit(endpoint or "")
        attributes = {
            RESPONSE_MODEL: model,
            RESPONSE_ID: response_id,
            FINISH_REASONS: [finish_reason] if finish_reason else None,
            INPUT_TOKENS: prompt_tokens,
            CACHED_TOKENS: cached_tokens,
            OUTPUT_TOKENS: completion_tokens,
            SERVER: server.hostname,
            PORT: server.port,
        }
        if self._content:
            said = {"role": "assistant", "parts": _parts(text), "finish_reason": finish_reason or "stop"}
            attributes[OUTPUT_MESSAGES] = orjson.dumps([said]).decode()
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})


def _prompt_content(prompt: Iterable[Said]) -> Iterable[tuple[str, str]]:
    """A prompt as the conventions have it: JSON, with the system's message apart."""
    system: list[dict[str, str]] = []
    others: list[dict[str, Any]] = []
    for message in prompt:
        if message.role == "system":
            system += _parts(message.content)
        else:
            others.append({"role": message.role, "parts": _parts(message.content)})
    if system:
        yield SYSTEM_INSTRUCTIONS, orjson.dumps(system).decode()
    yield INPUT_MESSAGES, orjson.dumps(others).decode()


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": text}]


def _provider() -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(MISSING) from error

    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if (protocol := os.environ.get(name, "http/protobuf")) != "http/protobuf":
            raise ConfigError(
                f"{name} is {protocol!r}, and Tutelage sends traces by 'http/protobuf' only: set it so, and the endpoint's "
                "port to the collector's for HTTP, mostly 4318"
            )
    ours = Resource({"service.name": "tutelage", "service.version": version("tutelage")})
    provider = TracerProvider(resource=Resource.create(dict(ours.merge(OTELResourceDetector().detect()).attributes)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
