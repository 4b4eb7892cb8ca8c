"""Where log lines go: stderr, for a person at a terminal and as JSON lines otherwise. Keys never get there.

A library only logs (`structlog.get_logger()`); the command says where to, by calling `configure_logs` once.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from structlog.typing import EventDict, Processor

HIDDEN: Final = "[hidden]"
"""What is written in place of a secret."""

_SECRET_KEY: Final = re.compile(r"(?i)(api.?key|authorization|password|secret)|(^|[_-])token$")
_SECRET_TEXT: Final = re.compile(
    r"""(?ix)
      (?<= bearer [ ]) [^\s"',;]+                                                     # Authorization: Bearer sk-…
    | (?<= bearer %20) [^\s"',;]+                                                     # … as OTEL_EXPORTER_OTLP_HEADERS has it
    | (?<= ://) [^/\s:@]+ : [^/\s@]+ (?= @)                                           # http://name:password@host
    | (?P<key> (?: api[_-]?key | authorization | password | (?<! [a-z]) token ) ["']? \s* [:=] \s* ["']? (?: basic \s+ )? )
      (?! bearer\b) [^\s"',;&)}\]]+                                                  # api_key='sk-…', Authorization: Basic …
    | \b (?: sk | pk | hf | gsk | nvapi | lsv2 ) [_-] [a-z0-9_-]{12,}                 # a key by its looks
    """
)
_QUOTED_INPUT: Final = re.compile(r"(?<=input_value=).*(?=, input_type=)")
"""Of a pydantic error: what did not fit, and so what a model or a user wrote."""
_CONTROL: Final = {code: None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if code not in (0x09, 0x0A)}


def configure_logs(*, verbose: bool = False, json: bool | None = None) -> None:
    """Sends all log lines to stderr: Tutelage's own, those of other libraries, and warnings.

    Args:
        verbose: Whether to say also what Tutelage does in detail (level DEBUG).
        json: Whether to write JSON lines; if not given, unless stderr is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if as_json else "%H:%M:%S", utc=as_json),
    ]
    handler = _ToStderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *(_JSON if as_json else _CONSOLE)],
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("tutelage").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
    )


def bound(name: str) -> str | None:
    """What the task that runs has bound for its log lines: its `dialogue`, its `role`."""
    value = structlog.contextvars.get_contextvars().get(name)
    return None if value is None else str(value)


def hide_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A processor that lets no key, password or bearer token through: by its name, or by how it looks in a text."""
    return {key: HIDDEN if _SECRET_KEY.search(key) else _without_secrets(value) for key, value in event.items()}


def _without_secrets(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return hide_secrets(None, "", {str(key): each for key, each in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_secrets(each) for each in value]
    text = value if isinstance(value, str) else repr(value)
    text = _QUOTED_INPUT.sub(HIDDEN, text) if "input_value=" in text else text
    return _SECRET_TEXT.sub(lambda match: f"{match['key'] or ''}{HIDDEN}", text)


def _without_control(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Texts of servers and models may be quoted in a line: they do not steer the terminal."""
    return {key: value.translate(_CONTROL) if isinstance(value, str) else value for key, value in event.items()}


def _as_json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()


class _ToStderr(logging.StreamHandler[Any]):
    """Writes to what `sys.stderr` is at that moment: a live display that stands there takes the line above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        raise AttributeError("the stream is always sys.stderr")


# Local variables stay out of tracebacks: they hold prompts, and may hold keys.
_JSON: Final[list[Processor]] = [
    structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
    hide_secrets,
    structlog.processors.JSONRenderer(serializer=_as_json),
]
_CONSOLE: Final[list[Processor]] = [
    structlog.processors.format_exc_info,
    hide_secrets,
    _without_control,
    structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback),
]
