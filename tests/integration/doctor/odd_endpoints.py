"""What the tests of `tutelage doctor` share: configs, findings as text, and endpoints that are not as they should be."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tutelage.generation.findings import Finding, Level

BRIEF = {"id": "a", "topic": "Fractions", "question": "1/2 + 1/3?", "answer": "5/6"}
NOWHERE = "http://127.0.0.1:9/v1"


def write(folder: Path, *urls: str, model: dict[str, Any] | None = None, **config: Any) -> Path:
    """A config of one model and one brief in a folder; its keys may be given otherwise."""
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n")
    everything = {
        "run": "r",
        "models": {"m": {"url": list(urls or (NOWHERE,)), "model": "simulated", **(model or {})}},
        "briefs": [{"from": "briefs.jsonl"}],
        **config,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(everything))
    return path


def said(findings: list[Finding], level: Level, group: str = "") -> str:
    """What was found at one level, a line each."""
    return "\n".join(each.text for each in findings if each.level is level and each.group.startswith(group))


def exit_code(findings: list[Finding]) -> int:
    return max(finding.exit_code for finding in findings)


@contextmanager
def server(
    answer: Callable[[web.Request, dict[str, Any]], web.StreamResponse], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """An odd endpoint in a thread of its own: it answers each request with `answer(request, its body)`; gives its URL."""
    loop = asyncio.new_event_loop()

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request, await request.json() if request.can_read_body else {})

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        return runner, runner.addresses[0][1]

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def chat_server(reply: Callable[[dict[str, Any]], str | dict[str, Any]], **usage: Any) -> Any:
    """An endpoint that serves `simulated` and says what `reply` makes of a request's body."""

    def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "simulated", "max_model_len": 16_384}]})
        text = reply(body)
        message = text if isinstance(text, dict) else {"content": text}
        finish = "length" if body.get("max_tokens") == 1 else "stop"
        return web.json_response({"choices": [{"message": message, "finish_reason": finish}], **usage})

    return server(answer)


def by_schema(body: dict[str, Any]) -> str:
    return '{"bird": "heron"}' if "response_format" in body else "Well."


def talk(folder: Path) -> str:
    """A graph of one role, which needs no schema."""
    (folder / "talk.py").write_text(
        """
from langgraph.graph import START, StateGraph
from tutelage import Cast, Dialogue, speak
from tutelage.agents.student import student

def talk():
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("student", speak(student))
    graph.add_edge(START, "student")
    return graph
"""
    )
    return "talk.py:talk"
