"""A lesson on a document: what the reader is shown before each turn, what it may cite, and what is kept of it."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from tutelage import Agent, Brief, Cast, add_critique_loop, max_messages, speak, stop_or
from tutelage.agents import student
from tutelage.dialogue.cast import Evidence
from tutelage.evidence import reading
from tutelage.evidence.documents import read_document, read_documents
from tutelage.evidence.reading import Cited, Reading, cited, cites_what_was_shown, passages_shown, read
from tutelage.testing import ScriptedModel

READER = Agent(
    role="tutor", prompt="student", sees=frozenset({"misconception"}), note="passages", mind=passages_shown, reply=Cited
)
BRIEF = Brief(id="b", question="Why does the Moon have phases?", documents=("moon.md",))


async def play(
    library: Path, said: Sequence[Any], answers: Sequence[str], brief: Brief = BRIEF, messages: int = 4
) -> tuple[Reading, ScriptedModel]:
    model = ScriptedModel({"tutor": said, "student": answers})
    graph = StateGraph(Reading, context_schema=Cast)
    graph.add_node("reading", read(passages=2))
    add_critique_loop(
        graph, READER, reviewers=[], checks=[cites_what_was_shown], then=stop_or("student", max_messages(messages))
    )
    graph.add_node("student", speak(student))
    graph.add_edge(START, "reading")
    graph.add_edge("reading", "tutor")
    graph.add_conditional_edges("student", stop_or("reading", max_messages(messages)))
    cast = Cast(players=Cast.of(model).players, evidence=Evidence(folder=library))
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    return dialogue, model


def says(*sources: int, utterance: str = "Look at its sunlit half.") -> dict[str, Any]:
    return {"sources": list(sources), "utterance": utterance}


async def test_the_reader_is_shown_what_was_asked_about_and_nobody_else_is(library: Path) -> None:
    _, model = await play(library, [says(1)], ["But what about the high tides on coasts?", "Oh."])
    first, second = (prompt[-1][1] for prompt in model.prompts("tutor"))
    assert "The phases of the Moon come from the angle" in first
    assert "two high tides" not in first
    assert "two high tides" in second
    assert not any("two bulges" in str(prompt) for prompt in model.prompts("student"))


async def test_a_short_question_is_searched_for_together_with_what_it_is_about(library: Path) -> None:
    said = says(1, utterance="Water boils at 100 °C at sea level, and at less where the air presses less.")
    brief = Brief(id="b", question="At what temperature does water boil?", documents=("water.md", "glaciers.md"))
    _, model = await play(library, [said], ["And on a high mountain?"], brief)
    assert "at the top of Mont Blanc" in model.prompts("tutor")[1][-1][1]


async def test_each_turn_has_the_passages_it_was_shown_and_those_it_cites(library: Path) -> None:
    dialogue, _ = await play(library, [says(1)], ["Why?"])
    turn = dialogue["turns"][0]
    assert turn.private["passages"][0]["id"].startswith("moon.md#phases/1@")
    assert all(passage["text"] in (library / "moon.md").read_text() for passage in turn.private["passages"])
    assert cited(turn) == [turn.private["passages"][0]["id"]]


async def test_a_number_that_was_not_shown_is_never_cited(library: Path) -> None:
    dialogue, model = await play(library, [says(3), says(0), says(2)], ["Why?"], messages=1)
    turn = dialogue["turns"][0]
    assert [attempt.status for attempt in turn.attempts] == ["rejected", "rejected", "accepted"]
    assert "No passage has the number 3" in model.prompts("tutor")[1][-1][1]
    assert cited(turn) == [turn.private["passages"][1]["id"]]


async def test_what_shares_no_word_with_the_document_leaves_it_open_where_it_is(library: Path) -> None:
    brief = Brief(id="b", topic="Zzyzx", documents=("moon.md",))
    dialogue, _ = await play(library, [says(1, utterance="Hm?")], ["Mhm."], brief)
    first, _, third, _ = dialogue["turns"]
    assert [passage["id"].partition("@")[0] for passage in first.private["passages"]] == [
        "moon.md#phases/1",
        "moon.md#eclipses/1",
    ]
    assert first.private["passages"] == third.private["passages"]


async def test_a_document_is_read_once_for_all_dialogues(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_, lock = [], threading.Lock()

    def counted(path: Path, name: str) -> Any:
        time.sleep(0.01)
        with lock:
            read_.append(name)
        return read_document(path, name)

    monkeypatch.setattr(reading, "read_document", counted)
    brief = Brief(id="b", question="Why do tides come?", documents=("moon.md", "water.md"))
    await asyncio.gather(*(reading.documents_of(brief, library) for _ in range(50)))
    assert read_ == ["moon.md", "water.md"]


async def test_folders_and_wildcards_of_a_brief_name_their_files_in_its_order(library: Path) -> None:
    brief = Brief(id="b", documents=("water.md", "physics", "*.txt", "physics/sound.md", "Ice floats on water."))
    index = await reading.documents_of(brief, library)
    documents = list(dict.fromkeys(passage.document for passage in index.passages))
    physics = [f"physics/{document.path}" for document in read_documents(["."], library / "physics")]
    texts = [document.path for document in read_documents(["*.txt"], library)]
    assert documents == ["water.md", *physics, *texts, "brief"]
