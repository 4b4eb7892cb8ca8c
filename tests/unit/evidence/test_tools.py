"""Evidence tools: ours, and those of users, who write what LangChain calls a tool."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.tools import BaseTool, StructuredTool, ToolException

from tutelage.errors import CheckerFailed, ConfigError
from tutelage.evidence import passages, sources, words
from tutelage.evidence.search import PassageIndex
from tutelage.evidence.sources import Source, found_by, within
from tutelage.evidence.tools import document_search, evidence_tools, load_tool

TOOLS = '''
"""Tools of a user's own."""
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool

import neighbour


@tool
def search(query: str) -> str:
    """Searches."""
    return neighbour.PREFIX + query


@tool(response_format="content_and_artifact")
def with_documents(claim: str):
    """Searches."""
    return "two", [Document("a", id="doc-a"), Document("b", metadata={"source": "b.txt", "heading": "B"})]


async def plain(question: str) -> list[Document]:
    """A plain function."""
    return [Document(question.upper(), id="up")]


def two(query: str, language: str) -> str:
    """Takes two."""
    return query


def number(count: int) -> str:
    """Takes a number."""
    return str(count)


def undescribed(query: str) -> str:
    return query


class Library(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(f"about {query}", id="r")]


library = Library()
shelf = 42
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mytools.py").write_text(TOOLS)
    (tmp_path / "neighbour.py").write_text('PREFIX = "found: "')
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    return tmp_path


async def test_tools_of_the_user_s_own_are_loaded_by_path(folder: Path) -> None:
    def ids(found: list[Source]) -> list[tuple[str, str]]:
        return [(source.id.partition("@")[0], source.text) for source in found]

    names = ["search", "with_documents", "plain", "library"]
    tools = await evidence_tools(tools=[f"mytools.py:{name}" for name in names], folder=folder)
    assert ids(await found_by(tools[:1], "ice", 5)) == [("search", "found: ice")]
    assert ids(await found_by(tools[1:2], "ice", 5)) == [("doc-a", "a"), ("b.txt", "b")]
    assert ids(await found_by(tools[2:3], "ice", 5)) == [("up", "ICE")]
    assert ids(await found_by(tools[3:], "ice", 5)) == [("r", "about ice")]
    assert (await found_by(tools[1:2], "ice", 5))[1].heading == "B"


def test_a_tool_is_loaded_from_a_package() -> None:
    assert load_tool("html:escape", Path()).name == "escape"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("search", "names no tool: write it as mytools.py:search"),
        ("nowhere.py:search", "no file"),
        ("mytools.py:nothing", "has no 'nothing'"),
        ("broken.py:search", "does not import: ModuleNotFoundError"),
        ("no.such.package:search", "does not import"),
        ("mytools.py:two", "takes query, language; it must take one text"),
        ("mytools.py:number", "takes count; it must take one text"),
        ("mytools.py:undescribed", "cannot be made a tool"),
        ("mytools.py:shelf", "is no LangChain tool, no retriever and no function: it is 42"),
    ],
)
def test_what_is_no_tool_is_an_error_that_names_it(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_tool(name, folder)
    assert said in str(raised.value)
    assert name in str(raised.value)


async def test_the_search_in_documents_gives_passages_with_their_places(index: PassageIndex) -> None:
    tool = document_search(index, 3)
    message: Any = await tool.ainvoke(
        {"type": "tool_call", "id": "1", "name": tool.name, "args": {"query": "water boils"}}
    )
    assert len(message.artifact) == 3
    first = message.artifact[0]
    assert first.id.startswith("water.md#boiling/1@")
    passage = next(each for each in index.passages if each.id == first.id)
    assert first.metadata == {
        "source": "water.md",
        "heading": "Water > Boiling",
        "start": passage.start,
        "end": passage.end,
    }
    assert first.page_content in message.content


async def test_the_config_s_documents_become_one_tool(library: Path) -> None:
    (tool,) = await evidence_tools(documents=["library"], folder=library.parent, passages=2)
    assert [source.id.partition("#")[0] for source in await found_by([tool], "the phases of the Moon", 9)] == [
        "library/moon.md"
    ] * 2


@pytest.mark.parametrize("missing", ["bm25s", "langchain_text_splitters", "pypdf", "Stemmer"])
async def test_without_the_extra_documents_are_refused_with_what_to_install(
    library: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for cached in (passages._splitter, words._stemmer):
        cached.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'tutelage\[evidence\]'"):
        await evidence_tools(documents=["light.pdf", "water.md"], folder=library)


async def test_no_evidence_is_no_tool() -> None:
    assert await evidence_tools(folder=Path()) == ()
    assert await found_by((), "x", 5) == []


def tool_of(function: Any, **options: Any) -> BaseTool:
    return StructuredTool.from_function(function, name="search", description="x", **options)


async def test_a_tool_that_hides_its_errors_fails_nevertheless() -> None:
    def search(query: str) -> str:
        raise ToolException("no such index")

    with pytest.raises(CheckerFailed, match="'search' failed: ToolException: no such index"):
        await found_by([tool_of(search, handle_tool_error=True)], "x", 5)


async def test_a_tool_that_answers_with_something_else_fails() -> None:
    with pytest.raises(CheckerFailed, match="'search' failed: TypeError: it answered with dict"):
        await found_by([tool_of(lambda query: {"hits": []})], "x", 5)


async def test_a_tool_that_does_not_answer_in_time_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TOOL_SECONDS", 0.01)

    async def search(query: str) -> str:
        await asyncio.sleep(30)
        return ""

    tool = StructuredTool.from_function(coroutine=search, name="search", description="x")
    with pytest.raises(CheckerFailed, match="'search' did not answer within"):
        await found_by([tool], "x", 5)


async def test_tools_are_asked_at_once_and_the_best_of_each_come_first() -> None:
    gate = asyncio.Barrier(2)

    def search(name: str) -> BaseTool:
        async def answer(query: str) -> list[Document]:
            async with asyncio.timeout(5):
                await gate.wait()
            return [Document(f"{name}{n}", id=f"{name}{n}") for n in range(3)]

        return StructuredTool.from_function(coroutine=answer, name=name, description="x")

    assert [source.id for source in await found_by([search("a"), search("b")], "x", 2)] == ["a0", "b0", "a1", "b1"]


def test_of_what_was_found_the_best_for_each_claim_is_taken_until_there_is_no_room() -> None:
    def source(name: str, length: int = 10) -> Source:
        return Source(id=name, text="x" * length)

    found = [[source("a"), source("b")], [source("c", 1000), source("d")], [source("a"), source("e")]]
    assert [each.id for each in within(found, 40)] == ["a", "b", "d", "e"]
    assert [each.id for each in within(found, 20)] == ["a", "b"]
    assert within(found, 5) == []


async def test_blank_and_overlong_answers() -> None:
    assert await found_by([tool_of(lambda query: "  ")], "x", 5) == []
    (found,) = await found_by([tool_of(lambda query: "x" * 10_000)], "x", 5)
    assert len(found.text) == sources.LONGEST
