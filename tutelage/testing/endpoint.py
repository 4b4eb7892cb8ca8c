"""A simulated vLLM endpoint: a real HTTP server that speaks the API of vLLM 0.32, without a model behind it.

    python -m tutelage.testing.endpoint --port 8000 --model tiny --latency '{"first_token": 0.05, "output_token": 0.02}'

It keeps the books of a prefix cache and of a batch, takes time if told to, answers by schema, fails on purpose, and
remembers what it was asked and what it answered. From Python, `tutelage.testing.SimulatedEndpoint` runs it in a process
of its own.
"""

import argparse
import asyncio
import contextlib
import hmac
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import TypeAdapter, ValidationError

from tutelage.errors import TutelageError
from tutelage.testing import engine, tokenizer, vllm_protocol
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.engine import Engine, QueueFull
from tutelage.testing.faults import Fault, FaultInjector
from tutelage.testing.replies import Replier
from tutelage.testing.request_ledger import RequestLedger, RequestRecord
from tutelage.testing.vllm_protocol import Api, Call, Choice, Refusal

VLLM_VERSION = "0.32.0"
"""The version of vLLM whose API is spoken."""
CHANGEABLE = frozenset(
    {"latency", "accept_rate", "completion_tokens", "completion_spread", "max_num_seqs", "max_num_queued_reqs"}
)
"""What `PATCH /simulated/config` may change in a running endpoint; faults have a route of their own."""
_FAULTS = TypeAdapter(list[Fault])
_LARGEST_BODY = 64 * 2**20
_JSON = "application/json"


class _Unanswered(Exception):
    """A fault has cut the connection: no reply follows."""


class Endpoint:
    """The server's state and its routes.

    Args:
        config: what it pretends to be.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.engine = Engine(config)
        self.ledger = RequestLedger(config)
        self.injector = FaultInjector(config.faults, config.seed)
        self.replier = Replier(config)
        self._started = int(time.time())
        self._tokens: Counter[str] = Counter()
        self._finished: Counter[str] = Counter()

    def app(self) -> web.Application:
        """The application, ready to be served."""
        guards = [self._guard] if self.config.api_key is not None else []
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=guards)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.get("/v1/models", self.models),
                web.get("/health", self.health),
                web.get("/ping", self.health),
                web.get("/version", self.version),
                web.get("/load", self.load),
                web.get("/metrics", self.metrics),
                web.post("/tokenize", self.tokenize),
                web.post("/reset_prefix_cache", self.reset_prefix_cache),
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
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = request.path.startswith("/v1") or (
            request.path.startswith("/simulated") and self.config.host not in ("127.0.0.1", "::1", "localhost")
        )
        given = request.headers.get("Authorization", "")
        if guarded and not hmac.compare_digest(given.encode(), f"Bearer {self.config.api_key}".encode()):
            return _json({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._serve("chat", request)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._serve("completions", request)

    async def _serve(self, api: Api, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        record = self.ledger.open(api, raw, headers)
        started = time.perf_counter()
        try:
            response = await self._answer(api, request, raw, record)
            record.status = response.status
            return response
        except Refusal as refusal:
            record.outcome, record.status = "refused", refusal.status
            return _error(refusal)
        except _Unanswered:
            record.outcome = "broken"
            return web.Response()
        except (asyncio.CancelledError, ConnectionResetError):
            record.outcome = "broken" if record.fault == "stall" else "disconnected"
            raise
        finally:
            self.ledger.close(record, time.perf_counter() - started)

    async def _answer(self, api: Api, request: web.Request, raw: bytes, record: RequestRecord) -> web.StreamResponse:
        body = vllm_protocol.read_body(raw)
        record.model = str(body.get("model") or self.config.model)
        fault = self._strike(api, body, record)
        if fault is not None and fault.kind == "status":
            record.outcome = "refused"
            return _fault_status(fault)
        if fault is not None:
            await self._meet(fault, request, body)
        call = vllm_protocol.read_call(api, body, request.headers, self.config)
        record.id = call.id
        choices = self.replier.choices(call, fault)
        sequences = _sequences(call, choices)
        try:
            await self.engine.submit(sequences)
            if call.stream:
                return await self._stream(request, call, choices, sequences, record)
            while not all(sequence.finished for sequence in sequences):
                sequences[0].moved.clear()
                await sequences[0].moved.wait()
            return await self._whole(request, call, choices, sequences, record)
        except QueueFull as error:
            raise Refusal(503, "ServiceUnavailableError", "The server is overloaded: its queue is full.") from error
        finally:
            self.engine.abort(sequences)

    def _strike(self, api: Api, body: dict[str, Any], record: RequestRecord) -> Fault | None:
        if not self.injector.faults:
            return None
        fault = self.injector.strike(record.model or "", vllm_protocol.kinds_of(api, body))
        record.fault = fault.kind if fault else None
        return fault

    async def _meet(self, fault: Fault, request: web.Request, body: dict[str, Any]) -> None:
        if fault.kind == "reset":
            _reset(request)
            raise _Unanswered
        if fault.kind == "stall":
            await asyncio.Event().wait()
        if fault.kind == "slow":
            await asyncio.sleep(fault.delay)
        if fault.kind == "context":
            asked = body.get("max_tokens")
            raise vllm_protocol.context_exceeded(self.config.max_model_len, asked if isinstance(asked, int) else 0)
        if fault.kind == "schema":
            raise vllm_protocol.bad_request("Grammar error: this schema was refused by a fault")

    async def _whole(
        self,
        request: web.Request,
        call: Call,
        choices: list[Choice],
        sequences: list[engine.Sequence],
        record: RequestRecord,
    ) -> web.StreamResponse:
        cached = sequences[0].cached_tokens
        body = vllm_protocol.reply_body(call, choices, cached)
        if record.fault == "truncated":
            response = web.StreamResponse(headers={"Content-Type": _JSON, "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _close(request)
            raise _Unanswered
        if record.fault == "invalid_json":
            record.outcome = "broken"
            return web.Response(body=body[: len(body) // 2], content_type=_JSON)
        self._book(call, choices, cached, record)
        return web.Response(body=body, content_type=_JSON, headers=_echoed(request))

    async def _stream(
        self,
        request: web.Request,
        call: Call,
        choices: list[Choice],
        sequences: list[engine.Sequence],
        record: RequestRecord,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", **_echoed(request)})
        await response.prepare(request)
        breaks_after = sum(len(choice.tokens) for choice in choices) // 2
        breaks = record.fault in ("truncated", "invalid_json")
        events = _Events(call, choices, sequences)
        while not events.ended:
            sequences[0].moved.clear()
            for event in events.new():
                if breaks and events.tokens > breaks_after:
                    if record.fault == "invalid_json":
                        await response.write(event[: len(event) // 2] + b"\n\n")
                    _close(request)
                    raise _Unanswered
                await response.write(event)
            if not events.ended:
                await sequences[0].moved.wait()
        cached = sequences[0].cached_tokens
        self._book(call, choices, cached, record)
        tail = vllm_protocol.usage_chunk(call, choices, cached) if call.include_usage else b""
        await response.write(tail + vllm_protocol.DONE)
        await response.write_eof()
        return response

    def _book(self, call: Call, choices: list[Choice], cached: int, record: RequestRecord) -> None:
        completion = sum(len(choice.tokens) for choice in choices)
        record.outcome = "answered"
        record.prompt_tokens, record.cached_tokens, record.completion_tokens = len(call.prompt), cached, completion
        self._tokens.update(prompt=len(call.prompt), cached=cached, generation=completion)
        self._finished.update(choice.finish_reason for choice in choices)
        self.ledger.answer(call, choices, record.fault)

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        base = {"object": "model", "created": self._started, "owned_by": "vllm", "permission": []}
        model, limit = self.config.model, self.config.max_model_len
        served = [{**base, "id": model, "root": model, "parent": None, "max_model_len": limit}]
        served += [
            {**base, "id": name, "root": name, "parent": model, "max_model_len": None} for name in self.config.adapters
        ]
        return _json({"object": "list", "data": served})

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health` and `/ping`."""
        return web.Response()

    async def version(self, request: web.Request) -> web.Response:
        """`GET /version`."""
        return _json({"version": VLLM_VERSION})

    async def load(self, request: web.Request) -> web.Response:
        """`GET /load`."""
        return _json({"server_load": len(self.engine.running) + len(self.engine.waiting)})

    async def tokenize(self, request: web.Request) -> web.Response:
        """`POST /tokenize`, of a `prompt` or of `messages`."""
        try:
            body = vllm_protocol.read_body(await request.read())
            messages, prompt = body.get("messages"), body.get("prompt")
            if messages is None and not isinstance(prompt, str):
                raise vllm_protocol.bad_request("send a prompt, or messages")
            tokens = tokenizer.tokenize(str(prompt)) if messages is None else tokenizer.chat_tokens(messages)
        except Refusal as refusal:
            return _error(refusal)
        return _json(
            {
                "count": len(tokens),
                "max_model_len": self.config.max_model_len,
                "tokens": tokenizer.token_ids(tokens),
                "token_strs": tokens if body.get("return_token_strs") else None,
            }
        )

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`, in Prometheus's text format."""
        return web.Response(text="".join(self._metric_lines()), content_type="text/plain")

    def _metric_lines(self) -> Iterator[str]:
        cache, label = self.engine.cache, f'engine="0",model_name="{self.config.model}"'
        values: list[tuple[str, str, float]] = [
            ("gauge", "num_requests_running", len(self.engine.running)),
            ("gauge", "num_requests_waiting", len(self.engine.waiting)),
            ("gauge", "kv_cache_usage_perc", cache.usage),
            ("counter", "prefix_cache_queries_total", cache.queries),
            ("counter", "prefix_cache_hits_total", cache.hits),
            ("counter", "num_preemptions_total", self.engine.preemptions),
            ("counter", "prompt_tokens_total", self._tokens["prompt"]),
            ("counter", "prompt_tokens_cached_total", self._tokens["cached"]),
            ("counter", "generation_tokens_total", self._tokens["generation"]),
        ]
        for kind, name, value in values:
            yield f"# TYPE vllm:{name} {kind}\nvllm:{name}{{{label}}} {float(value)}\n"
        yield "# TYPE vllm:request_success_total counter\n"
        for reason in ("stop", "length", "abort"):
            count = float(self._finished[reason])
            yield f'vllm:request_success_total{{{label},finished_reason="{reason}"}} {count}\n'
        yield "# TYPE vllm:admission_rejections_total counter\n"
        yield f'vllm:admission_rejections_total{{{label},reason="queue_full"}} {float(self.engine.rejections)}\n'
        yield "# TYPE vllm:cache_config_info gauge\n"
        sizes = f'block_size="{cache.block_size}",num_gpu_blocks="{cache.capacity}"'
        yield f'vllm:cache_config_info{{{sizes},engine="0"}} 1.0\n'

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        """`POST /reset_prefix_cache`."""
        self.engine.cache.clear()
        return web.Response()

    async def read_config(self, request: web.Request) -> web.Response:
        """`GET /simulated/config`."""
        return _json(self.config.model_dump(mode="json", exclude={"api_key", "faults"}))

    async def change_config(self, request: web.Request) -> web.Response:
        """`PATCH /simulated/config`: some of `CHANGEABLE`; holds from the next step on."""
        changes = orjson.loads(await request.read())
        if fixed := set(changes) - CHANGEABLE:
            names = ", ".join(sorted(fixed))
            return _json({"error": f"{names} cannot be changed in a running endpoint; start another one"}, status=400)
        try:
            config = EndpointConfig.model_validate({**self.config.model_dump(), **changes})
        except ValidationError as error:
            return _json({"error": str(error)}, status=400)
        self.config = self.replier.config = config
        self.engine.latency = config.latency
        self.engine.max_num_seqs = config.max_num_seqs
        self.engine.max_num_queued_reqs = config.max_num_queued_reqs
        return await self.read_config(request)

    async def read_faults(self, request: web.Request) -> web.Response:
        """`GET /simulated/faults`: each with the number of requests that it `struck`."""
        pairs = zip(self.injector.faults, self.injector.struck, strict=True)
        return _json([{**fault.model_dump(), "struck": struck} for fault, struck in pairs])

    async def add_faults(self, request: web.Request) -> web.Response:
        """`POST /simulated/faults`: a list of faults, which join those that are there."""
        try:
            self.injector.add(_FAULTS.validate_json(await request.read()))
        except ValidationError as error:
            return _json({"error": str(error)}, status=400)
        return await self.read_faults(request)

    async def clear_faults(self, request: web.Request) -> web.Response:
        """`DELETE /simulated/faults`: for requests that come from here on."""
        self.injector.clear()
        return web.Response()

    async def read_requests(self, request: web.Request) -> web.StreamResponse:
        """`GET /simulated/requests`: JSON lines, in order of arrival."""
        return await _lines(request, self.ledger.requests())

    async def read_answers(self, request: web.Request) -> web.StreamResponse:
        """`GET /simulated/answers`: JSON lines, in the order given."""
        return await _lines(request, self.ledger.answers())

    async def clear_requests(self, request: web.Request) -> web.Response:
        """`DELETE /simulated/requests`: forgets requests and answers; the journal stays."""
        self.ledger.clear()
        return web.Response()

    async def stats(self, request: web.Request) -> web.Response:
        """`GET /simulated/stats`: counts since the start, and the CPU that this process has used."""
        return _json(
            {
                "requests": self.ledger.received,
                "answers": self.ledger.answered,
                "under_way": self.ledger.under_way,
                "running": len(self.engine.running),
                "waiting": len(self.engine.waiting),
                "preemptions": self.engine.preemptions,
                "prefix_cache_queries": self.engine.cache.queries,
                "prefix_cache_hits": self.engine.cache.hits,
                "cpu_seconds": time.process_time(),
            }
        )


class _Events:
    """The server-sent events of a stream's choices, as far as their sequences have come."""

    def __init__(self, call: Call, choices: list[Choice], sequences: list[engine.Sequence]) -> None:
        self._call = call
        self._choices = choices
        self._sequences = sequences
        self._sent = [-1 if call.api == "chat" else 0] * len(choices)
        self._open = len(choices)
        self.tokens = 0
        """Tokens in the events that were given out."""

    @property
    def ended(self) -> bool:
        return not self._open

    def new(self) -> Iterator[bytes]:
        for index, sequence in enumerate(self._sequences):
            yield from self._of(index, sequence)

    def _of(self, index: int, sequence: engine.Sequence) -> Iterator[bytes]:
        choice, sent = self._choices[index], self._sent[index]
        if sent == -1 and sequence.cached_tokens >= 0:
            yield vllm_protocol.chunk(self._call, index, None)
            sent = 0
        for token in choice.tokens[max(sent, 0) : sequence.generated]:
            self.tokens += 1
            yield vllm_protocol.chunk(self._call, index, token, tokens=(token,))
        if sequence.finished and sent < len(choice.tokens):
            yield vllm_protocol.chunk(self._call, index, "", choice)
            self._open -= 1
        self._sent[index] = max(sent, sequence.generated) if sent >= 0 else sent


def _sequences(call: Call, choices: list[Choice]) -> list[engine.Sequence]:
    root, moved = (call.model, call.cache_salt), asyncio.Event()
    return [
        engine.Sequence(
            prompt=call.prompt,
            completion=choice.tokens,
            root=root,
            priority=call.priority,
            streams=call.stream,
            moved=moved,
        )
        for choice in choices
    ]


def _json(value: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=_JSON)


def _error(refusal: Refusal) -> web.Response:
    return web.Response(body=refusal.body(), status=refusal.status, content_type=_JSON)


def _fault_status(fault: Fault) -> web.Response:
    response = _error(Refusal(fault.status, "InjectedFault", f"This status {fault.status} was asked for by a fault."))
    if fault.retry_after is not None:
        response.headers["Retry-After"] = f"{fault.retry_after:g}"
    return response


def _echoed(request: web.Request) -> dict[str, str]:
    request_id = request.headers.get("X-Request-Id")
    return {"X-Request-Id": request_id} if request_id else {}


def _reset(request: web.Request) -> None:
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    # Lingering for zero seconds makes the close a reset, not an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


async def _lines(request: web.Request, lines: Iterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for line in lines:
        await response.write(line)
    await response.write_eof()
    return response


@contextlib.asynccontextmanager
async def serving(config: EndpointConfig) -> AsyncIterator[int]:
    """Serves in this process while the context lasts; gives the port.

    Raises:
        OSError: the port is taken.
    """
    # A client that goes must free its request, as with vLLM.
    runner = web.AppRunner(Endpoint(config).app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=4096)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def parse(arguments: Sequence[str]) -> tuple[EndpointConfig, bool]:
    """The configuration that the command line gives, and whether to end when stdin does.

    Raises:
        ValidationError: a value that does not fit.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tutelage.testing.endpoint", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--config", help="a JSON object, or a file that holds one; the other flags go before it")
    parser.add_argument(
        "--until-stdin-ends", action="store_true", help="end when stdin does, as with the parent process"
    )
    for name in EndpointConfig.model_fields:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="JSON|TEXT", default=argparse.SUPPRESS)
    given = vars(parser.parse_args(arguments))
    config, until_stdin_ends = given.pop("config"), given.pop("until_stdin_ends")
    values: dict[str, Any] = {}
    if config is not None:
        values = orjson.loads(config if config.lstrip().startswith("{") else Path(config).read_bytes())
    values.update({name: _flag_value(text) for name, text in given.items()})
    return EndpointConfig.model_validate(values), until_stdin_ends


def _flag_value(text: str) -> Any:
    # Lists and objects are JSON; pydantic reads numbers from text, and a model or a key may look like one.
    return orjson.loads(text) if text.startswith(("[", "{")) else text


async def _run(config: EndpointConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(config) as port:
        host = f"[{config.host}]" if ":" in config.host else config.host
        ready = {"url": f"http://{host}:{port}/v1", "port": port}
        sys.stdout.write(orjson.dumps(ready, option=orjson.OPT_APPEND_NEWLINE).decode())
        sys.stdout.flush()
        await stop.wait()


def _end_with_stdin() -> NoReturn:
    # Read past the buffer of `sys.stdin`, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; the first line on stdout gives the URL."""
    import uvloop

    try:
        config, until_stdin_ends = parse(sys.argv[1:] if arguments is None else arguments)
        if until_stdin_ends:
            threading.Thread(target=_end_with_stdin, daemon=True).start()
        uvloop.run(_run(config))
    except (ValidationError, orjson.JSONDecodeError, TutelageError, OSError) as error:
        sys.stderr.write(f"the simulated endpoint cannot start: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
