"""What the simulated endpoint was asked and what it answered, kept to be read back as proof."""

import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.vllm_replies import Choice
from tutelage.testing.vllm_requests import Call

Outcome = Literal["open", "answered", "refused", "broken", "disconnected"]


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request, as it went."""

    number: int
    api: str
    body: bytes
    headers: dict[str, str]
    received: float
    """Seconds since the epoch."""
    id: str | None = None
    model: str | None = None
    outcome: Outcome = "open"
    """`answered`: a whole reply was written, right or spoilt in its text. `refused`: an error status was. `broken`: a fault
    kept the reply back or broke its transport. `disconnected`: the client went first."""
    status: int | None = None
    fault: str | None = None
    """The kind of the fault that struck it."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """From arrival to the end."""
    started: float = field(default_factory=time.perf_counter)
    """On a clock that only goes forward."""

    def row(self) -> dict[str, Any]:
        """The record as JSON, with the body read."""
        row = {name: getattr(self, name) for name in self.__slots__ if name not in ("body", "started")}
        # aiohttp's header names are a subclass of str, which orjson refuses as keys.
        row["headers"] = {str(name): value for name, value in self.headers.items()}
        try:
            return {**row, "body": orjson.loads(self.body)}
        except orjson.JSONDecodeError:
            return {**row, "body": self.body.decode(errors="replace")}


class RequestLedger:
    """The latest requests and answers in memory, and all answers in the journal, if there is one.

    Args:
        config: `keep_requests` and `journal`.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self._requests: deque[RequestRecord] = deque(maxlen=config.keep_requests)
        self._answers: deque[bytes] = deque(maxlen=config.keep_requests)
        # Unbuffered appends: each answer is with the kernel before it is with the client, whatever kills this process.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._journal = os.open(config.journal, flags, 0o644) if config.journal else None
        self.received = 0
        self.answered = 0
        self.under_way = 0
        """Requests that have come and did not end yet, in whichever way."""

    def open(self, api: str, body: bytes, headers: dict[str, str]) -> RequestRecord:
        """Enters a request."""
        self.received += 1
        self.under_way += 1
        record = RequestRecord(number=self.received, api=api, body=body, headers=headers, received=time.time())
        self._requests.append(record)
        return record

    def close(self, record: RequestRecord) -> None:
        """Notes that a request has ended, and how long it took."""
        self.under_way -= 1
        record.seconds = time.perf_counter() - record.started

    def answer(self, call: Call, choices: list[Choice], fault: str | None) -> None:
        """Enters an answer, about to be sent."""
        self.answered += 1
        line = orjson.dumps(
            {
                "id": call.id,
                "model": call.model,
                "seed": call.seed,
                "messages_sha256": hashlib.sha256(call.messages).hexdigest(),
                "texts": [choice.text for choice in choices],
                "fault": fault,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        self._answers.append(line)
        if self._journal is not None:
            os.write(self._journal, line)

    def clear(self) -> None:
        """Forgets what is in memory; the journal stays."""
        self._requests.clear()
        self._answers.clear()
        self.received = self.answered = 0

    def requests(self) -> Iterator[bytes]:
        """The requests in order of arrival, one JSON object a line."""
        for record in tuple(self._requests):
            yield orjson.dumps(record.row(), option=orjson.OPT_APPEND_NEWLINE)

    def answers(self) -> Iterator[bytes]:
        """The answers in the order in which they were given, one JSON object a line."""
        yield from tuple(self._answers)
