"""Logs: each line says whose it is, and holds neither keys nor what was said."""

import ast
import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
import structlog
from langgraph.graph import START, StateGraph
from pydantic import BaseModel, ValidationError
from structlog.contextvars import bound_contextvars
from typing_extensions import TypedDict

from tutelage.telemetry.logs import bound, configure_logs

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error", "exception")
KEY = "sk-proj-0123456789abcdef"
TEXT = "It is five sixths"


class Stderr:
    """What was written to stderr since the test began."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._captured.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[Stderr]:
    """Puts back what `configure_logs` changes for the whole interpreter."""
    root, own = logging.getLogger(), logging.getLogger("tutelage")
    before = (list(root.handlers), root.level, own.level)
    yield Stderr(capsys)
    logging.captureWarnings(False)
    root.handlers[:], root.level, own.level = before


def lines(stderr: Stderr) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in stderr.getvalue().splitlines()]


async def test_each_line_says_of_which_dialogue_and_role_it_is(stderr: Stderr) -> None:
    """Of many dialogues at once, whose nodes run in parallel, other libraries' lines included."""
    configure_logs()

    class State(TypedDict, total=False):
        id: str

    async def node(role: str, state: State) -> State:
        with bound_contextvars(role=role):
            await asyncio.sleep(0.001)
            assert (bound("dialogue"), bound("role")) == (state["id"], role)
            structlog.get_logger().info("asked", expected=[state["id"], role])
            logging.getLogger("elsewhere").info("seen", extra={"expected": [state["id"], role]})
        structlog.get_logger().info("between", expected=[state["id"], None])
        return {}

    async def critic(state: State) -> State:
        return await node("critic", state)

    async def checker(state: State) -> State:
        return await node("fact_checker", state)

    graph = StateGraph(State)
    for name, action in (("critic", critic), ("fact_checker", checker)):
        graph.add_node(name, action)
        graph.add_edge(START, name)
    compiled = graph.compile()

    async def dialogue(id_: str) -> None:
        with bound_contextvars(dialogue=id_):
            await compiled.ainvoke({"id": id_})

    await asyncio.gather(*(dialogue(f"d{number}") for number in range(10)))
    said = lines(stderr)
    assert len(said) == 10 * 2 * 3
    assert all([line["dialogue"], line.get("role")] == line["expected"] for line in said)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Basic {KEY}",
        f"authorization='Basic {KEY}'",
        f"authorization=Bearer%20{KEY}",
        f"Incorrect API key provided: {KEY}. You can find",
        f"GET http://gpu-1/v1?token={KEY}&n=1",
        f"password={KEY}",
        f"a whole sentence, and {KEY} in it",
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_key_is_found_wherever_it_stands(stderr: Stderr, text: str, as_json: bool) -> None:
    configure_logs(json=as_json)
    structlog.get_logger().warning("refused", said=text, nested={"deep": [text]})
    structlog.get_logger().warning(text)
    assert KEY not in stderr.getvalue()
    assert "[hidden]" in stderr.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_what_a_model_wrote_is_not_quoted_by_way_of_pydantic(stderr: Stderr, as_json: bool) -> None:
    """A pydantic error quotes the input that did not fit: the reply of a model, or a brief."""

    class Verdict(BaseModel):
        verdict: Literal["accept", "revise"]

    configure_logs(json=as_json)
    for reply in (f"{{{TEXT}", f'{{"verdict": "{TEXT}, input_type= \\"x"}}'):
        try:
            Verdict.model_validate_json(reply)
        except ValidationError as error:
            structlog.get_logger().warning("dialogue_failed", error=str(error), exc_info=error)
    assert TEXT not in stderr.getvalue()
    assert "input_type=str" in stderr.getvalue()


def test_local_variables_are_not_in_tracebacks(stderr: Stderr) -> None:
    configure_logs(json=True)

    def fails(prompt: str) -> None:
        raise RuntimeError(f"failed upon {len(prompt)} characters")

    try:
        fails(TEXT)
    except RuntimeError:
        structlog.get_logger().exception("crashed")
    (line,) = lines(stderr)
    assert TEXT not in stderr.getvalue().replace("fails(TEXT)", "")
    assert line["exception"][0]["exc_value"] == "failed upon 17 characters"


@pytest.mark.parametrize("word", ["the basic facts", "sk-learn", "risk-averse-investors-and", "completion_tokens=12"])
def test_words_that_only_look_like_keys_are_left_alone(stderr: Stderr, word: str) -> None:
    configure_logs(json=True)
    structlog.get_logger().info("noted", text=word)
    assert lines(stderr)[0]["text"] == word


def events() -> Iterator[tuple[str, ast.expr]]:
    """What the engine logs: where, and the event."""
    for path in sorted((ROOT / "tutelage").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            logger = node.func.value
            if isinstance(logger, ast.Name) and logger.id in ("log", "_log") and node.func.attr in LEVELS:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0]


def test_events_have_stable_names_that_are_documented() -> None:
    documented = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
    named = {place: str(event.value) for place, event in events() if isinstance(event, ast.Constant)}
    assert len(named) > 15
    assert [place for place, _ in events() if place not in named] == [], "an event is a name, its data goes into keys"
    assert {place: name for place, name in named.items() if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)} == {}
    assert {place: name for place, name in named.items() if f"`{name}`" not in documented} == {}
