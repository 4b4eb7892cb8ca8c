"""`play`: one dialogue as a person sees it, while it is spoken."""

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console
from rich.text import Text

from tutelage.errors import BriefError, EndpointUnreachable
from tutelage.generation.live_words import LiveWords, Utterance
from tutelage.generation.play import play_one
from tutelage.testing.faults import Fault
from tutelage.testing.scripted import ScriptedModel
from tutelage.testing.simulated_endpoint import SimulatedEndpoint

ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
REVISE: dict[str, Any] = {
    "verdict": "revise",
    "issues": [
        {"dimension": "leak", "severity": "block", "span": "5/6", "evidence": "", "instruction": "Do not tell it."}
    ],
}


class Screen(io.StringIO):
    """What is printed, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        if text.strip():
            self.times.append((time.monotonic(), text))
        return super().write(text)


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def console(screen: Screen) -> Console:
    return Console(file=screen, width=70, highlight=False)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="base", latency={"output_token": 0.005}, accept_rate=0.6, seed=4) as running:
        yield running


def config_for(folder: Path, url: str = "http://127.0.0.1:9/v1", **more: Any) -> Path:
    briefs = [{"id": "fractions", "topic": "fractions"}, {"id": "heat", "topic": "heat"}, {"id": "hay", "topic": "hay"}]
    (folder / "briefs.jsonl").write_bytes(b"\n".join(map(orjson.dumps, briefs)))
    config = {
        "run": "shown",
        "graph": "lesson",
        "models": {"only": {"url": url, "model": "base", "patience": 1}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 3, "revisions": 1, "tokens": 4000},
        **more,
    }
    path = folder / "config.yaml"
    path.write_bytes(orjson.dumps(config))
    return path


def words(text: str) -> str:
    return " ".join(text.split())


def test_each_turn_is_shown_word_by_word_with_its_reviews_and_the_end(
    tmp_path: Path, endpoint: SimulatedEndpoint, screen: Screen, console: Console
) -> None:
    endpoint.forget()
    assert play_one(config_for(tmp_path, endpoint.url), console=console) == 0
    shown = screen.getvalue()
    assert re.findall(r"^(\d)  (\w+)$", shown, re.MULTILINE) == [("1", "Tutor"), ("2", "Student"), ("3", "Tutor")]
    spoken = [answer["texts"][0] for answer in endpoint.answers() if not answer["texts"][0].startswith("{")]
    assert len(spoken) >= 3
    for text in spoken:
        assert words(shown).count(words(text)) == 1, "what is said is shown once"
    assert shown.count("Critic: ") == shown.count("Fact checker: ") == len(spoken) - 1
    assert "✓ completed: out_of_turns" in shown
    assert "nothing of it is kept" in shown
    assert list(tmp_path.iterdir()) != []
    assert {path.name for path in tmp_path.iterdir()} == {"briefs.jsonl", "config.yaml"}


PROBED = """
from langgraph.graph import END, START, StateGraph
from tutelage import Cast, Dialogue, speak
from tutelage.agents import student
from tutelage.learners.probes import probe

def probed():
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("before", probe(student, when="before", samples=1))
    graph.add_node("student", speak(student))
    graph.add_node("after", probe(student, when="after", samples=3))
    graph.add_edge(START, "before")
    graph.add_edge("before", "student")
    graph.add_edge("student", "after")
    graph.add_edge("after", END)
    return graph
"""


def test_what_a_student_is_asked_beside_the_lesson_is_not_shown_as_its_words(
    tmp_path: Path, screen: Screen, console: Console
) -> None:
    (tmp_path / "probed.py").write_text(PROBED)
    config = config_for(tmp_path, graph="probed.py:probed")
    probe = {"question": "What is 1 + 1?", "choices": ["2", "two"], "answer": "2"}
    (tmp_path / "briefs.jsonl").write_bytes(orjson.dumps({"id": "b", "topic": "sums", "probes": [probe]}))
    replies: list[Any] = [{"choice": "A"}, "I say two.", {"choice": "A"}, {"choice": "A"}, {"choice": "B"}]
    assert play_one(config, console=console, models={"default": ScriptedModel({"student": replies})}) == 0
    shown = screen.getvalue()
    assert re.findall(r"^(\d)  (\w+)$", shown, re.MULTILINE) == [("1", "Student")]
    assert "choice" not in shown and "finds" not in shown
    right = re.findall(r"asked beside the lesson, (\w+) it: (\d) of (\d) right", shown)
    assert [(when, of_all) for when, _, of_all in right] == [("before", "1"), ("after", "3")]
    assert {int(right[1][1]), 3 - int(right[1][1])} == {1, 2}


def test_words_are_shown_while_they_come(tmp_path: Path, screen: Screen, console: Console) -> None:
    with SimulatedEndpoint(model="base", latency={"output_token": 0.02}, accept_rate=1.0) as slow:
        config = config_for(tmp_path, slow.url, limits={"messages": 1, "revisions": 0})
        play_one(config, console=console)
    moments = [moment for moment, _ in screen.times]
    heading = next(number for number, (_, text) in enumerate(screen.times) if text.strip() == "1  Tutor")
    said = moments[heading + 1 : heading + 20]
    assert len(said) == 19
    assert said[-1] - said[0] > 0.2


def test_no_line_is_wider_than_the_screen_nor_ends_in_spaces(
    tmp_path: Path, endpoint: SimulatedEndpoint, screen: Screen, console: Console
) -> None:
    play_one(config_for(tmp_path, endpoint.url), console=console)
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 70
    assert [line for line in lines if line != line.rstrip()] == []


def test_a_draft_that_is_sent_back_is_shown_with_what_the_reviewers_say(
    tmp_path: Path, screen: Screen, console: Console
) -> None:
    model = ScriptedModel(
        {
            "tutor": ["It is 5/6.", "What is a sixth?", "Well done."],
            "critic": [REVISE, ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["A piece."],
        }
    )
    assert play_one(config_for(tmp_path), "frac", console=console, models={"default": model}) == 0
    shown = words(screen.getvalue())
    order = [
        "1 Tutor It is 5/6.",
        "✗ Critic: revise",
        "block · leak, at “5/6”",
        "→ Do not tell it.",
        "sent back",
        "1 Tutor, draft 2 What is a sixth?",
        "2 Student A piece.",
        "3 Tutor Well done.",
        "✓ completed",
        "3 turns, 1 draft sent back",
    ]
    places = [shown.index(each) for each in order]
    assert places == sorted(places)


def test_a_draft_that_is_said_for_want_of_a_better_one_is_named(
    tmp_path: Path, screen: Screen, console: Console
) -> None:
    worse = {**REVISE, "issues": REVISE["issues"] * 2}
    model = ScriptedModel(
        {
            "tutor": ["First: 5/6.", "Second, 5/6, it is 5/6."],
            "critic": [REVISE, worse],
            "fact_checker": [ACCEPT],
            "student": ["Hm."],
        }
    )
    config = config_for(tmp_path, limits={"messages": 1, "revisions": 1})
    play_one(config, console=console, models={"default": model})
    assert "no revision was better: draft 1 is said all the same" in words(screen.getvalue())


def test_a_critique_that_sends_nothing_back_is_shown_for_what_it_is(
    tmp_path: Path, screen: Screen, console: Console
) -> None:
    vague = {**REVISE, "issues": [{**REVISE["issues"][0], "span": "not there"}]}
    script: dict[str, Any] = {"tutor": ["Hm."], "critic": [vague], "fact_checker": [ACCEPT], "student": ["Hm."]}
    config = config_for(tmp_path, limits={"messages": 1, "revisions": 1})
    play_one(config, console=console, models={"default": ScriptedModel(script)})
    shown = words(screen.getvalue())
    assert "✗ Critic: revise" in shown
    assert "none of this is serious and points at something: it is said" in shown
    assert "sent back" not in shown.replace("0 drafts sent back", "")


def test_what_a_terminal_would_obey_is_only_shown(tmp_path: Path, screen: Screen, console: Console) -> None:
    model = ScriptedModel(
        {
            "tutor": ["Look: \x1b[31mred\x1b[0m [bold]and[/bold] \x1b]0;title\x07"],
            "critic": [ACCEPT],
            "fact_checker": [ACCEPT],
            "student": ["\u202eback"],
        }
    )
    play_one(config_for(tmp_path), console=console, models={"default": model})
    shown = screen.getvalue()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "[bold]and[/bold]" in shown


def test_what_a_model_thinks_is_shown_before_what_it_says(tmp_path: Path, screen: Screen, console: Console) -> None:
    with SimulatedEndpoint(model="base", reasoning=True) as thinking:
        play_one(config_for(tmp_path, thinking.url, limits={"messages": 1, "revisions": 0}), console=console)
        said = thinking.answers()[0]["texts"][0]
    turn = words(screen.getvalue()).split("1 Tutor ")[1]
    assert turn.startswith("(thinks) ")
    assert words(said) in turn


def test_a_dialogue_that_fails_says_why(
    tmp_path: Path, endpoint: SimulatedEndpoint, screen: Screen, console: Console
) -> None:
    with SimulatedEndpoint(model="base", faults=(Fault(kind="empty", requests="plain"),)) as silent:
        assert play_one(config_for(tmp_path, silent.url), console=console) == 1
    assert "✗ failed: wrong_shape" in screen.getvalue()
    assert "empty" in screen.getvalue()
    assert "3 calls" in screen.getvalue()


def test_a_model_that_cannot_be_reached_is_an_error(tmp_path: Path, console: Console) -> None:
    with pytest.raises(EndpointUnreachable):
        play_one(config_for(tmp_path), console=console)


def test_a_brief_is_chosen_by_its_id_or_the_beginning_of_it(tmp_path: Path, screen: Screen, console: Console) -> None:
    model = ScriptedModel({"tutor": ["A"], "critic": [ACCEPT], "fact_checker": [ACCEPT], "student": ["B"]})
    config = config_for(tmp_path)
    play_one(config, "hea", console=console, models={"default": model})
    assert "brief heat" in screen.getvalue()
    with pytest.raises(BriefError, match=r"2 briefs begin with 'h'.*'heat', 'hay'"):
        play_one(config, "h", console=console, models={"default": model})
    with pytest.raises(BriefError, match=r"no brief 'x'.*'fractions'"):
        play_one(config, "x", console=console, models={"default": model})


def test_what_a_judge_of_the_dialogue_finds_is_shown(tmp_path: Path, screen: Screen, console: Console) -> None:
    found = {"proponent_answer": "2/5", "opponent_answer": "5/6", "agreed": True}
    model = ScriptedModel({"proponent": ["It is 2/5."], "opponent": ["No, 5/6."], "moderator": [found]})
    brief = {"id": "f", "question": "1/2+1/3?", "answer": "5/6", "misconception": {"belief": "b", "predicts": "2/5"}}
    config = config_for(tmp_path, graph="debate")
    (tmp_path / "briefs.jsonl").write_bytes(orjson.dumps(brief))
    play_one(config, console=console, models={"default": model})
    assert "│ Moderator finds │ proponent answer: 2/5 │ opponent answer: 5/6 │ agreed: True" in words(screen.getvalue())


def test_one_who_speaks_meanwhile_waits(screen: Screen, console: Console) -> None:
    """Two roles that speak at once are shown one after the other, each whole."""
    live = LiveWords(console)

    def say(role: str, content: str, whole: bool = False) -> None:
        live.hear(Utterance(role=role, key=role, content=content, whole=whole), lambda name: Text(f"- {name}"))

    say("one", "This is ")
    say("two", "And that ")
    say("one", "said by one.")
    say("two", "by two.", whole=True)
    say("one", "", whole=True)
    assert words(screen.getvalue()) == "- one This is said by one. - two And that by two."


def test_of_a_shaped_reply_only_the_words_are_shown(screen: Screen, console: Console) -> None:
    live = LiveWords(console)
    for piece in ('{"utter', 'ance": "Say \\"a', '\\" ', 'again", "plan', '": "hidden"}', ""):
        live.hear(
            Utterance(role="tutor", key="1", content=piece, shaped=True, whole=not piece), lambda name: Text(name)
        )
    assert words(screen.getvalue()) == 'tutor Say "a" again'
    assert live.was_heard("tutor", 'Say "a" again')


ASKING = """
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from tutelage import Agent, Cast, Dialogue, speak


def ask(state):
    return {"speaker": interrupt("Who begins?")}


def asking():
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("ask", ask)
    graph.add_node("tutor", speak(Agent(role="tutor")))
    graph.add_edge(START, "ask")
    graph.add_edge("ask", "tutor")
    return graph
"""


def test_a_graph_that_asks_is_told_that_nobody_answers(tmp_path: Path, screen: Screen, console: Console) -> None:
    (tmp_path / "mine.py").write_text(ASKING)
    config = config_for(tmp_path, graph="mine.py:asking")
    assert play_one(config, console=console, models={"default": ScriptedModel({"tutor": ["Hm."]})}) == 1
    assert "✗ failed: unanswered" in screen.getvalue()
    assert "Who begins?" in screen.getvalue()
