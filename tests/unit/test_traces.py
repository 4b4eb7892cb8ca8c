"""Traces: what a collector gets by OTLP, whose child is whose, and that nothing said leaves unless asked for."""

import asyncio
import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from typing_extensions import TypedDict

from tutelage.errors import ConfigError, ContextExceeded
from tutelage.telemetry import traces
from tutelage.telemetry.traces import agent_span, chat_span, configure_traces, dialogue_span

SECRET_PROMPT = "What is one half and one third?"
SECRET_REPLY = "It is five sixths."


@dataclass(frozen=True)
class Message:
    role: str
    content: str


class Collector:
    """An OTLP receiver on this machine."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.raw = b""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.raw += body
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[Span]:
        scopes = (scope for r in self.requests for resource in r.resource_spans for scope in resource.scope_spans)
        return [span for scope in scopes for span in scope.spans]

    def named(self, name: str) -> Span:
        (span,) = [span for span in self.spans() if span.name == name]
        return span

    def resource(self) -> dict[str, Any]:
        return values(self.requests[0].resource_spans[0].resource.attributes)


def values(attributes: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        return [plain(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {attribute.key: plain(attribute.value) for attribute in attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.close()


def say(text: str = SECRET_REPLY, error: BaseException | None = None) -> None:
    """One role is asked once."""
    with (
        agent_span("tutor", dialogue="d1") as agent,
        chat_span(
            role="tutor",
            dialogue="d1",
            provider="vllm",
            model="Qwen/Qwen3-32B",
            options={"temperature": 0.7, "seed": 5, "stop": ["END"], "response_format": {"secret": "schema"}},
            prompt=[Message("system", "You teach."), Message("user", SECRET_PROMPT)],
            prompt_sha256="ab12",
        ) as chat,
    ):
        if error is not None:
            raise error
        chat.answered(
            model="Qwen/Qwen3-32B",
            endpoint="http://gpu-1:8000/v1",
            prompt_tokens=100,
            cached_tokens=80,
            completion_tokens=20,
            finish_reason="stop",
            text=text,
            response_id="chatcmpl-1",
        )
        agent.judged("revise")


def test_a_collector_gets_a_dialogue_its_roles_and_its_calls(collector: Collector) -> None:
    shut_down = configure_traces()
    with dialogue_span("d1", run="fractions", graph="lesson") as span:
        say()
        span.ended(status="completed", reason="mastered")
    shut_down()

    dialogue = collector.named("invoke_workflow lesson")
    agent = collector.named("invoke_agent tutor")
    chat = collector.named("chat Qwen/Qwen3-32B")
    assert dialogue.parent_span_id == b""
    assert agent.parent_span_id == dialogue.span_id
    assert chat.parent_span_id == agent.span_id
    assert {dialogue.kind, agent.kind} == {Span.SPAN_KIND_INTERNAL}
    assert chat.kind == Span.SPAN_KIND_CLIENT
    assert values(dialogue.attributes) == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "lesson",
        "gen_ai.conversation.id": "d1",
        "tutelage.run": "fractions",
        "tutelage.outcome.status": "completed",
        "tutelage.outcome.reason": "mastered",
    }
    assert values(agent.attributes) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "tutor",
        "gen_ai.conversation.id": "d1",
        "gen_ai.evaluation.name": "review",
        "gen_ai.evaluation.score.label": "revise",
    }
    assert values(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.agent.name": "tutor",
        "gen_ai.conversation.id": "d1",
        "gen_ai.request.model": "Qwen/Qwen3-32B",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.seed": 5,
        "gen_ai.request.stop_sequences": ["END"],
        "gen_ai.output.type": "json",
        "gen_ai.response.model": "Qwen/Qwen3-32B",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 80,
        "gen_ai.usage.output_tokens": 20,
        "server.address": "gpu-1",
        "server.port": 8000,
        "tutelage.prompt.sha256": "ab12",
    }


def test_nothing_said_leaves_without_being_asked_for(collector: Collector) -> None:
    """Not even by way of an error that quotes it."""
    shut_down = configure_traces()
    say()
    with pytest.raises(ValueError, match="half"):
        say(error=ValueError(SECRET_PROMPT))
    with pytest.raises(ContextExceeded):
        say(error=ContextExceeded(SECRET_PROMPT))
    shut_down()
    assert len(collector.spans()) == 6
    for text in (SECRET_PROMPT, SECRET_REPLY, "You teach.", "schema"):
        assert text.encode() not in collector.raw


def test_prompts_and_replies_are_sent_when_asked_for(collector: Collector) -> None:
    shut_down = configure_traces(content=True)
    say()
    shut_down()
    attributes = values(collector.named("chat Qwen/Qwen3-32B").attributes)
    assert json.loads(attributes["gen_ai.system_instructions"]) == [{"type": "text", "content": "You teach."}]
    assert json.loads(attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET_PROMPT}]}
    ]
    assert json.loads(attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": SECRET_REPLY}], "finish_reason": "stop"}
    ]


def test_a_failure_is_marked_with_its_reason(collector: Collector) -> None:
    shut_down = configure_traces()
    with pytest.raises(ContextExceeded), dialogue_span("d1", run="fractions", graph="lesson"):
        say(error=ContextExceeded("too long"))
    with dialogue_span("d2", run="fractions", graph="debate") as span:
        span.ended(status="failed", reason="endless")
    shut_down()
    for name in ("invoke_workflow lesson", "invoke_agent tutor", "chat Qwen/Qwen3-32B"):
        span_ = collector.named(name)
        assert span_.status.code == Status.STATUS_CODE_ERROR
        assert values(span_.attributes)["error.type"] == "context_exceeded"
    assert values(collector.named("invoke_workflow debate").attributes)["error.type"] == "endless"


async def test_what_is_cancelled_is_no_failure(collector: Collector) -> None:
    async def never_ends() -> None:
        with agent_span("tutor", dialogue="d1"):
            await asyncio.sleep(60)

    shut_down = configure_traces()
    task = asyncio.create_task(never_ends())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(shut_down)
    span = collector.named("invoke_agent tutor")
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert values(span.attributes)["error.type"] == "CancelledError"


async def test_dialogues_at_once_and_nodes_in_parallel_keep_to_their_own_traces(collector: Collector) -> None:
    """LangGraph runs nodes in tasks of their own, dialogues are tasks of the run: contexts must not mix."""

    class State(TypedDict, total=False):
        id: str

    async def node(role: str, state: State) -> State:
        with agent_span(role, dialogue=state["id"]):
            await asyncio.sleep(0.001)
        return {}

    async def critic(state: State) -> State:
        return await node("critic", state)

    async def checker(state: State) -> State:
        return await node("fact_checker", state)

    graph = StateGraph(State)
    graph.add_node("critic", critic)
    graph.add_node("fact_checker", checker)
    graph.add_edge(START, "critic")
    graph.add_edge(START, "fact_checker")
    compiled = graph.compile()

    async def dialogue(id_: str) -> None:
        with dialogue_span(id_, run="fractions", graph="lesson"):
            async for _ in compiled.astream({"id": id_}, stream_mode=["values", "updates"]):
                pass

    shut_down = configure_traces()
    with agent_span("whoever called us", dialogue=""):
        await asyncio.gather(*(dialogue(f"d{number}") for number in range(20)))
    await asyncio.to_thread(shut_down)

    spans = {span.span_id: span for span in collector.spans()}
    roots = [span for span in spans.values() if span.name == "invoke_workflow lesson"]
    agents = [span for span in spans.values() if span.name in ("invoke_agent critic", "invoke_agent fact_checker")]
    assert len({span.trace_id for span in roots}) == len(roots) == 20
    assert len(agents) == 40
    for span in agents:
        parent = spans[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        ids = {values(each.attributes)["gen_ai.conversation.id"] for each in (span, parent)}
        assert len(ids) == 1


def test_what_opentelemetry_s_own_variables_say_is_heeded(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
    configure_traces_and_say()
    assert collector.resource()["service.name"] == "tutelage"
    assert collector.resource()["deployment.environment.name"] == "lab"
    collector.requests.clear()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    configure_traces_and_say()
    assert collector.resource()["service.name"] == "nightly"
    collector.requests.clear()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    configure_traces_and_say()
    assert collector.requests == []


def configure_traces_and_say() -> None:
    shut_down = configure_traces()
    say()
    shut_down()


def test_a_protocol_that_is_not_spoken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"):
        configure_traces()


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_a_missing_extra_is_told_with_the_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"pip install 'tutelage\[traces\]'"):
        configure_traces()


def test_a_collector_that_is_gone_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    shut_down = configure_traces()
    started = time.monotonic()
    for _ in range(3000):  # more than the queue takes
        say()
    assert time.monotonic() - started < 10
    started = time.monotonic()
    shut_down()
    assert time.monotonic() - started < 10


def test_without_traces_nothing_is_recorded_and_opentelemetry_is_not_imported(collector: Collector) -> None:
    assert dialogue_span("d1", run="r", graph="g") is traces._NOT_RECORDED
    say()
    assert collector.requests == []
    program = (
        "import sys; from tutelage.telemetry.traces import *;"
        "dialogue_span('d', run='r', graph='g').__enter__(); agent_span('tutor', dialogue='d').__enter__();"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_after_the_end_nothing_is_recorded(collector: Collector) -> None:
    configure_traces()()
    say()
    assert collector.requests == []
