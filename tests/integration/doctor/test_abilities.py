"""What `tutelage doctor` finds out about an endpoint beyond that it answers: what the run at hand needs of it."""

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from tutelage.cli import run_command
from tutelage.generation.doctor import examine
from tutelage.generation.findings import Level, render
from tutelage.testing import SimulatedEndpoint

from .odd_endpoints import by_schema, chat_server, exit_code, said, server, write

KEY = "sk-very/secret+and=odd"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(adapters=("v2",)) as endpoint:
        yield endpoint


GRAPH = """
from langgraph.graph import START, StateGraph
from tutelage import Agent, Cast, Dialogue, speak
from tutelage.dialogue.shapes import Grammar, Matching, OneOf

yes = Agent(role="yes", prompt="student", reply=OneOf("yes", "no"))
number = Agent(role="number", prompt="student", reply=Matching("[0-9]+"))
rules = Agent(role="rules", prompt="student", reply=Grammar('root ::= "a" | "b"'))
first = Agent(role="first", prompt="student")

def shaped():
    return _chain(yes, number, rules)

def chosen():
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("first", speak(first, candidates=3, choose=lambda attempts: 0))
    graph.add_edge(START, "first")
    return graph

def _chain(*agents):
    graph = StateGraph(Dialogue, context_schema=Cast)
    before = START
    for agent in agents:
        graph.add_node(agent.role, speak(agent))
        graph.add_edge(before, agent.role)
        before = agent.role
    return graph
"""


def graph(folder: Path, function: str) -> str:
    (folder / "mine.py").write_text(GRAPH)
    return f"mine.py:{function}"


# --- shapes -------------------------------------------------------------------------------------------------------


def test_shapes_that_roles_need_are_tried(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, graph=graph(tmp_path, "shaped")))
    fine = said(findings, Level.FINE, "models.m")
    for kind, role in (("choice", "yes"), ("regex", "number"), ("grammar", "rules")):
        assert f"follows a {kind} ({role})" in fine, said(findings, Level.PROBLEM)
    unneeded = said(examine(write(tmp_path, endpoint.url)), Level.FINE)
    assert "choice" not in unneeded


def test_a_server_that_ignores_structured_outputs_in_silence_is_found_out(tmp_path: Path) -> None:
    """As llama.cpp does, which follows schemas."""
    with chat_server(by_schema) as url:
        findings = examine(write(tmp_path, url, graph=graph(tmp_path, "shaped")))
    problems = said(findings, Level.PROBLEM, "models.m")
    for kind, role in (("choice", "yes"), ("regex", "number"), ("grammar", "rules")):
        assert f"takes no notice of a {kind} (it said 'Well.'), which these roles need: {role}" in problems
    assert "follows a schema" in said(findings, Level.FINE)
    assert exit_code(findings) == 2


# --- candidates, logprobs, priority, salt -------------------------------------------------------------------------


def test_candidates_are_asked_for_where_a_graph_does(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    needed = write(tmp_path, endpoint.url, graph=graph(tmp_path, "chosen"))
    assert "gives several candidates at once (first)" in said(examine(needed), Level.FINE)
    with chat_server(by_schema) as url:
        config = write(tmp_path, url, graph=graph(tmp_path, "chosen"))
        assert "gives one candidate where several are asked for (`n`)" in said(examine(config), Level.WARNING)


def test_logprobs_and_token_ids_that_do_not_come_are_told(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    roles = {"tutor": {"logprobs": 2, "token_ids": True}}
    with chat_server(by_schema) as url:
        warnings = said(examine(write(tmp_path, url, roles=roles)), Level.WARNING)
    assert "roles.tutor.logprobs asks for what it does not give" in warnings
    assert "roles.tutor.token_ids asks for what it does not give" in warnings
    assert "does not give" not in said(examine(write(tmp_path, endpoint.url, roles=roles)), Level.WARNING)


@pytest.mark.parametrize(
    ("model", "fine", "refused", "unsure"),
    [
        ({"priority": True}, "takes a `priority`", "refuses a `priority`", "it may well ignore it"),
        ({"isolate": True}, "takes a `cache_salt`: as vLLM", "refuses a `cache_salt`", "may share its cache"),
    ],
)
def test_what_only_vllm_has_is_tried_where_the_config_wants_it(
    tmp_path: Path, endpoint: SimulatedEndpoint, model: dict[str, Any], fine: str, refused: str, unsure: str
) -> None:
    def strict(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"data": [{"id": "simulated", "max_model_len": 16_384}]})
        if "priority" in body or "cache_salt" in body:
            return web.json_response({"error": {"message": "unknown option"}}, status=400)
        return web.json_response({"choices": [{"message": {"content": "Well."}, "finish_reason": "stop"}]})

    assert fine in said(examine(write(tmp_path, endpoint.url, model=model)), Level.FINE)
    assert fine not in said(examine(write(tmp_path, endpoint.url)), Level.FINE)
    with server(strict) as url:
        assert refused in said(examine(write(tmp_path, url, model=model)), Level.PROBLEM)
    with chat_server(by_schema) as url:
        assert unsure in said(examine(write(tmp_path, url, model=model)), Level.WARNING)


# --- load and health ----------------------------------------------------------------------------------------------


def test_an_endpoint_that_does_not_tell_its_load(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    with chat_server(by_schema) as url:
        assert "does not tell its load" in said(examine(write(tmp_path, url)), Level.WARNING)
        pinned = examine(write(tmp_path, url, model={"in_flight": 8}))
    assert "its load" not in said(pinned, Level.WARNING), "where the config says how many calls it gets"
    assert "tells its load (0 running, 0 waiting)" in said(examine(write(tmp_path, endpoint.url)), Level.FINE)


def test_an_engine_that_is_dead_behind_a_server_that_answers(tmp_path: Path) -> None:
    with SimulatedEndpoint(engine_dead=True) as endpoint:
        findings = examine(write(tmp_path, endpoint.url))
    assert "says that it is not well (/health: 503)" in said(findings, Level.PROBLEM)


# --- adapters -----------------------------------------------------------------------------------------------------


def test_an_adapter_that_the_run_will_load_is_not_loaded_now(tmp_path: Path) -> None:
    model = {"adapters": {"v3": "/data/v3"}}
    with SimulatedEndpoint(allow_runtime_lora=True) as endpoint:
        findings = examine(write(tmp_path, endpoint.url, model=model, roles={"tutor": {"adapter": "v3"}}))
        assert {each["model"] for each in endpoint.requests()} == {"simulated"}
        again = examine(write(tmp_path, endpoint.url, roles={"tutor": {"adapter": "v3"}}))
    assert said(findings, Level.PROBLEM) == ""
    assert "the run will load 'v3' from '/data/v3'" in said(findings, Level.FINE)
    assert "tutor: its longest first prompt" in said(findings, Level.FINE), "its base model shows the rest"
    assert "does not serve the adapter 'v3'" in said(again, Level.PROBLEM), "it was not loaded"


def test_a_server_that_lets_no_adapters_be_loaded(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    model = {"adapters": {"v2": "/data/v2", "v3": "/data/v3"}}
    problems = said(examine(write(tmp_path, endpoint.url, model=model)), Level.PROBLEM)
    assert "lets no adapters be loaded while it runs ('v3' from '/data/v3')" in problems, "v2 is there"
    assert "--lora-modules v3=/data/v3" in problems


# --- replicas -----------------------------------------------------------------------------------------------------


def test_replicas_that_differ_are_set_beside_each_other(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    with SimulatedEndpoint(max_model_len=4096) as short:
        findings = examine(write(tmp_path, endpoint.url, short.url, roles={"student": {"adapter": "v2"}}))
        alike = examine(write(tmp_path, short.url, short.url.replace("127.0.0.1", "localhost")))
    warnings = said(findings, Level.WARNING, "models.m")
    assert f"differ in how long their contexts are (16384 at {endpoint.url}; 4096 at {short.url})" in warnings
    assert f"differ in the adapters that roles are played by (v2 at {endpoint.url}; none at {short.url})" in warnings
    assert "differ" not in said(alike, Level.WARNING)


def test_versions_that_differ(tmp_path: Path) -> None:
    def of(version: str) -> Any:
        def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            if request.path == "/version":
                return web.json_response({"version": version})
            if request.method == "GET":
                return web.json_response({"data": [{"id": "simulated", "max_model_len": 16_384}]})
            return web.json_response({"choices": [{"message": {"content": by_schema(body)}, "finish_reason": "stop"}]})

        return server(answer)

    with of("0.32.0") as old, of("0.33.0") as new:
        warnings = said(examine(write(tmp_path, old, new)), Level.WARNING)
    assert f"differ in their versions of vLLM (0.32.0 at {old}; 0.33.0 at {new})" in warnings


def test_each_address_of_a_name_is_examined(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, "dns+" + endpoint.url.replace("127.0.0.1", "localhost")))
    assert "'localhost' has 1 address" in said(findings, Level.FINE, "models.m")
    assert "follows a schema" in said(findings, Level.FINE, f"models.m, {endpoint.url} (localhost)")


def test_a_name_without_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def nothing(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    findings = examine(write(tmp_path, "dns+http://vllm.nowhere:8000/v1"))
    assert "the name 'vllm.nowhere' has no address here" in said(findings, Level.PROBLEM)
    assert exit_code(findings) == 3


# --- http and https -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate that nobody trusts."""
    openssl, folder = shutil.which("openssl"), tmp_path_factory.mktemp("tls")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2", *files]
    subprocess.run([openssl, *made], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_http_is_asked_of_a_server_that_speaks_https(tmp_path: Path, tls: ssl.SSLContext) -> None:
    with server(lambda request, body: web.Response(text="never"), tls) as url:
        problems = said(examine(write(tmp_path, url.replace("https", "http"))), Level.PROBLEM)
    assert f"speaks https: write {url}" in problems


def test_https_is_asked_of_a_server_that_speaks_http(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    problems = said(examine(write(tmp_path, endpoint.url.replace("http", "https"))), Level.PROBLEM)
    assert f"perhaps the server speaks plain http: write {endpoint.url.removesuffix('/v1')}" in problems


def test_a_certificate_that_nobody_trusts(tmp_path: Path, tls: ssl.SSLContext) -> None:
    with server(lambda request, body: web.Response(text="never"), tls) as url:
        problems = said(examine(write(tmp_path, url)), Level.PROBLEM)
    assert "is not one that this machine trusts" in problems


# --- keys ---------------------------------------------------------------------------------------------------------


def _in_html(request: web.Request) -> web.StreamResponse:
    given = request.headers.get("Authorization", "")
    return web.Response(text=f"<html><title>{given}</title>{given}</html>", content_type="text/html")


def _in_json(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": f"not {request.headers.get('Authorization')}"}}, status=401)


def _in_redirect(request: web.Request) -> web.StreamResponse:
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return web.Response(
        status=302, headers={"Location": f"http://elsewhere/login?key={key}&quoted={quote(key, safe='')}"}
    )


def _in_failure(request: web.Request) -> web.StreamResponse:
    return web.Response(text=f"who is {request.headers.get('Authorization')}?", status=500)


def _in_models(request: web.Request) -> web.StreamResponse:
    return web.json_response({"data": [{"id": request.headers.get("Authorization"), "max_model_len": 100}]})


@pytest.mark.parametrize("echo", [_in_html, _in_json, _in_redirect, _in_failure, _in_models])
def test_a_key_that_a_server_repeats_is_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], echo: Any
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    with server(lambda request, body: echo(request)) as url:
        config = write(tmp_path, url, model={"api_key": "${OUR_KEY}", "patience": 0})
        found = render(examine(config))
        assert run_command(["doctor", str(config)]) in (2, 3)
    printed = capfd.readouterr()
    for text in (found, printed.out, printed.err):
        assert KEY not in text
        assert quote(KEY, safe="") not in text
    assert "***" in found, "it was repeated, and taken out"


def test_a_key_that_an_answer_repeats_is_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    with chat_server(lambda body: KEY) as url:
        found = render(examine(write(tmp_path, url, model={"api_key": "${OUR_KEY}"})))
    assert "it said '***'" in found
    assert KEY not in found
    assert json.dumps(KEY) not in found
