"""A graph drawn: what a person sees in the Mermaid text and in the PNG."""

import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.drawing import mermaid, write_png
from tutelage.dialogue.nodes import speak
from tutelage.dialogue.state import Dialogue
from tutelage.errors import UserError
from tutelage.graphs.debate import debate
from tutelage.graphs.lesson import lesson


def shown(text: str) -> set[str]:
    """The lines of a Mermaid text, without indentation."""
    return {line.strip() for line in text.splitlines()}


def test_solid_arrows_are_always_taken_and_dotted_ones_are_a_choice() -> None:
    lines = shown(mermaid(lesson()))
    assert {"tutor --> critic", "tutor --> fact_checker", "critic --> tutor_gate"} <= lines
    assert {"tutor_gate -.-> tutor", "tutor_gate -.-> student", "student -.-> __end__"} <= lines


def test_speakers_judges_and_gates_look_different() -> None:
    lines = shown(mermaid(lesson()))
    assert {'tutor("tutor"):::speaker', 'critic("critic"):::judge', 'tutor_gate{{"tutor_gate"}}:::gate'} <= lines
    assert 'moderator("moderator"):::judge' in shown(mermaid(debate()))


def test_every_kind_of_node_that_is_used_has_a_style_and_no_other() -> None:
    assert not any(line.startswith("classDef gate") for line in shown(mermaid(debate())))
    assert any(line.startswith("classDef gate") for line in shown(mermaid(lesson())))


def odd_graph() -> StateGraph[Any, Any]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("end", speak(Agent(role="end")))
    graph.add_node('a "quoted" <b>name</b> & #35;', lambda state: {})
    graph.add_edge(START, "end")
    graph.add_edge("end", 'a "quoted" <b>name</b> & #35;')
    graph.add_edge('a "quoted" <b>name</b> & #35;', END)
    return graph


def test_a_name_that_mermaid_would_read_as_its_own_is_only_a_label() -> None:
    lines = shown(mermaid(odd_graph()))
    assert 'node-1("end"):::speaker' in lines
    assert 'node-2("a #quot;quoted#quot; #lt;b#gt;name#lt;/b#gt; #amp; #35;35;"):::step' in lines
    assert {"__start__ --> node-1", "node-1 --> node-2", "node-2 --> __end__"} <= lines


@pytest.mark.parametrize("graph", [lesson(), debate(), odd_graph()], ids=["lesson", "debate", "odd"])
def test_a_png_is_drawn_without_the_network(
    graph: StateGraph[Any, Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mmdr", reason="the extra `draw` is not installed")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it went to the network"))
    write_png(graph, tmp_path / "graph.png")
    picture = (tmp_path / "graph.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 300
    assert height > width, "a flowchart from top to bottom"


def test_reviewers_who_work_in_parallel_stand_side_by_side() -> None:
    mmdr = pytest.importorskip("mmdr", reason="the extra `draw` is not installed")
    svg = mmdr.render(mermaid(lesson())).svg()
    places = {name: _place(svg, name) for name in ("tutor", "critic", "fact_checker", "student")}
    assert places["critic"][1] == places["fact_checker"][1]
    assert places["critic"][0] != places["fact_checker"][0]
    assert places["tutor"][1] < places["critic"][1] < places["student"][1]


def _place(svg: str, label: str) -> tuple[float, float]:
    before, _, _ = svg.rpartition(f">{label}</text>")
    text = before[before.rindex("<text") :]
    x, y = (float(text.split(f' {axis}="')[1].split('"')[0]) for axis in "xy")
    return x, y


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmdr", None)
    with pytest.raises(UserError, match=r"pip install 'tutelage\[draw\]'"):
        write_png(lesson(), tmp_path / "graph.png")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    pytest.importorskip("mmdr", reason="the extra `draw` is not installed")
    with pytest.raises(UserError, match="cannot be written: No such file or directory"):
        write_png(lesson(), tmp_path / "no" / "graph.png")
