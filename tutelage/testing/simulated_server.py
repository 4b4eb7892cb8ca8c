"""The simulated endpoint's server: vLLM's routes, and what happens to a request between its arrival and its answer."""

import asyncio
import hmac
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tutelage.testing import engine, tokenizer, vllm_replies, vllm_requests
from tutelage.testing.embeddings import embeddings_reply
from tutelage.testing.endpoint_config import EndpointConfig, is_loopback
from tutelage.testing.engine import Engine, QueueFull
from tutelage.testing.faults import Fault, FaultInjector
from tutelage.testing.json_replies import JSON, error_reply, json_reply
from tutelage.testing.metrics_page import MetricsPage
from tutelage.testing.replies import Replier
from tutelage.testing.request_ledger import RequestLedger, RequestRecord
from tutelage.testing.simulated_controls import Controls
from tutelage.testing.stream_events import StreamEvents
from tutelage.testing.vllm_replies import Choice
from tutelage.testing.vllm_requests import Api, Call, Refusal

VLLM_VERSION = "0.32.0"
"""The version of vLLM whose API is spoken."""
_LARGEST_BODY = 64 * 2**20


class _Unanswered(Exception):
    """A fault has cut the connection: no reply follows."""


@dataclass(frozen=True, slots=True)
class _Open:
    choices: list[Choice]
    sequences: list[engine.Sequence]
    moved: asyncio.Event


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
        self._metrics = MetricsPage(self.engine, config.model)
        self._open: dict[str, _Open] = {}
        """The requests under way, by the id of their answer."""

    def app(self) -> web.Application:
        """The application, ready to be served."""
        guards = [self._guard] if self.config.api_key is not None else []
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=guards)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completions),
                web.post("/v1/embeddings", self.embeddings),
                web.get("/v1/models", self.models),
                web.get("/health", self.health),
                web.get("/ping", self.health),
                web.get("/version", self.version),
                web.get("/load", self.load),
                web.get("/metrics", self.metrics),
                web.post("/tokenize", self.tokenize),
                web.post("/detokenize", self.detokenize),
                web.post("/reset_prefix_cache", self.reset_prefix_cache),
                web.post("/inference/v1/abort_requests", self.abort_requests),
                *Controls(self).routes(),
            ]
        )
        if self.config.allow_runtime_lora:
            app.router.add_post("/v1/load_lora_adapter", self.load_adapter)
            app.router.add_post("/v1/unload_lora_adapter", self.unload_adapter)
        return app

    def reconfigure(self, config: EndpointConfig) -> None:
        """Goes on with another config, of which what `CHANGEABLE` names may differ, and the adapters."""
        self.config = self.replier.config = config
        self.engine.latency = config.latency
        self.engine.max_num_seqs = config.max_num_seqs
        self.engine.max_num_queued_reqs = config.max_num_queued_reqs
        if config.engine_dead:
            for open_one in self._open.values():
                open_one.moved.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        guarded = request.path.startswith(("/v1", "/inference")) or (
            request.path.startswith("/simulated") and not is_loopback(self.config.host)
        )
        given = request.headers.get("Authorization", "")
        if guarded and not hmac.compare_digest(given.encode(), f"Bearer {self.config.api_key}".encode()):
            return json_reply({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        return await self._serve("chat", request)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/completions`."""
        return await self._serve("completions", request)

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/embeddings`."""
        return await self._serve("embeddings", request)

    async def _serve(self, api: Api, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
        record = self.ledger.open(api, raw, headers)
        try:
            response = await self._answer(api, request, raw, record)
            record.status = response.status
            return response
        except Refusal as refusal:
            record.outcome, record.status = "refused", refusal.status
            return error_reply(refusal)
        except _Unanswered:
            record.outcome = "broken"
            return web.Response()
        except (asyncio.CancelledError, ConnectionResetError):
            record.outcome = "broken" if record.fault == "stall" else "disconnected"
            raise
        finally:
            self.ledger.close(record)

    async def _answer(self, api: Api, request: web.Request, raw: bytes, record: RequestRecord) -> web.StreamResponse:
        body = vllm_requests.read_body(raw)
        record.model = str(body.get("model") or self.config.model)
        fault = self._strike(api, body, record)
        if fault is not None and fault.kind == "status":
            record.outcome = "refused"
            return _fault_status(fault)
        if fault is not None:
            await self._meet(fault, request, body)
        if api == "embeddings":
            return self._embedded(body, record)
        call = vllm_requests.read_call(api, body, request.headers, self.config)
        record.id = call.id
        if self.config.engine_dead:
            raise _dead()
        choices = self.replier.choices(call, fault)
        sequences = _sequences(call, choices)
        self._open[call.id] = _Open(choices, sequences, sequences[0].moved)
        try:
            await self.engine.submit(sequences)
            if call.stream:
                return await self._stream(request, call, choices, sequences, record)
            while not all(sequence.finished for sequence in sequences):
                sequences[0].moved.clear()
                await sequences[0].moved.wait()
                if self.config.engine_dead:
                    raise _dead()
            return await self._whole(request, call, choices, sequences, record)
        except QueueFull as error:
            raise Refusal(503, "ServiceUnavailableError", "The server is overloaded: its queue is full.") from error
        finally:
            self._open.pop(call.id, None)
            self.engine.abort(sequences)

    def _embedded(self, body: dict[str, Any], record: RequestRecord) -> web.Response:
        if self.config.engine_dead:
            raise _dead()
        reply = embeddings_reply(body, self.config)
        record.outcome, record.prompt_tokens = "answered", reply["usage"]["prompt_tokens"]
        return json_reply(reply)

    def _strike(self, api: Api, body: dict[str, Any], record: RequestRecord) -> Fault | None:
        if not self.injector.faults:
            return None
        fault = self.injector.strike(record.model or "", vllm_requests.kinds_of(api, body))
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
            raise vllm_requests.context_exceeded(self.config.max_model_len, asked if isinstance(asked, int) else 0)
        if fault.kind == "schema":
            raise vllm_requests.bad_request("Grammar error: this schema was refused by a fault")

    async def _whole(
        self,
        request: web.Request,
        call: Call,
        choices: list[Choice],
        sequences: list[engine.Sequence],
        record: RequestRecord,
    ) -> web.StreamResponse:
        cached = sequences[0].cached_tokens
        body = vllm_replies.reply_body(call, choices, cached)
        if record.fault == "truncated":
            response = web.StreamResponse(headers={"Content-Type": JSON, "Content-Length": str(len(body))})
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _close(request)
            raise _Unanswered
        if record.fault == "invalid_json":
            record.outcome = "broken"
            return web.Response(body=body[: len(body) // 2], content_type=JSON)
        self._book(call, choices, sequences, record)
        return web.Response(body=body, content_type=JSON, headers=_echoed(request))

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
        events = StreamEvents(call, choices, sequences)
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
            if self.config.engine_dead:
                record.outcome = "broken"
                await response.write(vllm_replies.error_chunk(_dead().body()) + vllm_replies.DONE)
                await response.write_eof()
                return response
        self._book(call, choices, sequences, record)
        tail = vllm_replies.usage_chunk(call, choices, sequences[0].cached_tokens) if call.include_usage else b""
        await response.write(tail + vllm_replies.DONE)
        await response.write_eof()
        return response

    def _book(self, call: Call, choices: list[Choice], sequences: list[engine.Sequence], record: RequestRecord) -> None:
        now, first, cached = time.perf_counter(), sequences[0].first_token_at, sequences[0].cached_tokens
        record.outcome = "answered"
        record.prompt_tokens, record.cached_tokens = len(call.prompt), cached
        record.completion_tokens = sum(len(choice.tokens) for choice in choices)
        self._metrics.book(
            cached=cached,
            reasons=[choice.finish_reason for choice in choices],
            first_token=(first or now) - record.started,
            seconds=now - record.started,
        )
        self.ledger.answer(call, choices, record.fault)

    async def models(self, request: web.Request) -> web.Response:
        """`GET /v1/models`."""
        base = {"object": "model", "created": self._started, "owned_by": "vllm", "permission": []}
        model, limit = self.config.model, self.config.max_model_len
        served = [{**base, "id": model, "root": model, "parent": None, "max_model_len": limit}]
        served += [
            {**base, "id": name, "root": name, "parent": model, "max_model_len": None} for name in self.config.adapters
        ]
        return json_reply({"object": "list", "data": served})

    async def health(self, request: web.Request) -> web.Response:
        """`GET /health` and `/ping`: 503 where the engine is dead."""
        return web.Response(status=503 if self.config.engine_dead else 200)

    async def version(self, request: web.Request) -> web.Response:
        """`GET /version`."""
        return json_reply({"version": VLLM_VERSION})

    async def load(self, request: web.Request) -> web.Response:
        """`GET /load`."""
        return json_reply({"server_load": len(self.engine.running) + len(self.engine.waiting)})

    async def tokenize(self, request: web.Request) -> web.Response:
        """`POST /tokenize`, of a `prompt` or of `messages`."""
        try:
            body = vllm_requests.read_body(await request.read())
            messages, prompt = body.get("messages"), body.get("prompt")
            if messages is None and not isinstance(prompt, str):
                raise vllm_requests.bad_request("send a prompt, or messages")
            tokens = tokenizer.tokenize(str(prompt)) if messages is None else vllm_requests.read_messages(body)
        except Refusal as refusal:
            return error_reply(refusal)
        return json_reply(
            {
                "count": len(tokens),
                "max_model_len": self.config.max_model_len,
                "tokens": tokenizer.token_ids(tokens),
                "token_strs": tokens if body.get("return_token_strs") else None,
            }
        )

    async def detokenize(self, request: web.Request) -> web.Response:
        """`POST /detokenize`, of `tokens`: their ids."""
        try:
            body = vllm_requests.read_body(await request.read())
            if not isinstance(ids := body.get("tokens"), list):
                raise vllm_requests.bad_request("send tokens, a list of ids")
        except Refusal as refusal:
            return error_reply(refusal)
        return json_reply({"prompt": "".join(tokenizer.tokens_of(ids))})

    async def metrics(self, request: web.Request) -> web.Response:
        """`GET /metrics`, in Prometheus's text format."""
        return web.Response(text=self._metrics.text(), content_type="text/plain")

    async def abort_requests(self, request: web.Request) -> web.Response:
        """`POST /inference/v1/abort_requests`, of `request_ids`: they are answered with what there is of them."""
        ids = vllm_requests.read_body(await request.read()).get("request_ids")
        if not isinstance(ids, list):
            return json_reply({"detail": "Missing 'request_ids' in request body"}, status=400)
        for open_one in [self._open[each] for each in ids if each in self._open]:
            for choice, sequence in zip(open_one.choices, open_one.sequences, strict=True):
                if not sequence.finished:
                    choice.cut(sequence.generated, "abort")
            self.engine.end(open_one.sequences)
        return web.Response()

    async def load_adapter(self, request: web.Request) -> web.Response:
        """`POST /v1/load_lora_adapter`, of a `lora_name` and a `lora_path`, which is not looked at."""
        body = vllm_requests.read_body(await request.read())
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return _invalid_adapter("Both 'lora_name' and 'lora_path' must be provided.")
        if name == self.config.model:
            return _invalid_adapter(f"The lora adapter '{name}' conflicts with a served base model.")
        if name in self.config.adapters and not body.get("load_inplace"):
            return _invalid_adapter(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set"
                " 'load_inplace' to True."
            )
        self._adapters(dict.fromkeys((*self.config.adapters, name)))
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        """`POST /v1/unload_lora_adapter`, of a `lora_name`."""
        name = vllm_requests.read_body(await request.read()).get("lora_name")
        if not name:
            return _invalid_adapter("'lora_name' needs to be provided to unload a LoRA adapter.")
        if name not in self.config.adapters:
            return error_reply(Refusal(404, "NotFoundError", f"The lora adapter '{name}' cannot be found."))
        self._adapters(each for each in self.config.adapters if each != name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    def _adapters(self, names: Iterable[str]) -> None:
        self.reconfigure(self.config.model_copy(update={"adapters": tuple(names)}))

    async def reset_prefix_cache(self, request: web.Request) -> web.Response:
        """`POST /reset_prefix_cache`."""
        self.engine.cache.clear()
        return web.Response()


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


def _fault_status(fault: Fault) -> web.Response:
    response = error_reply(
        Refusal(fault.status, "InjectedFault", f"This status {fault.status} was asked for by a fault.")
    )
    if fault.retry_after is not None:
        response.headers["Retry-After"] = f"{fault.retry_after:g}"
    return response


def _dead() -> Refusal:
    message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
    return Refusal(500, "InternalServerError", message)


def _invalid_adapter(message: str) -> web.Response:
    return error_reply(Refusal(400, "InvalidUserInput", message))


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
