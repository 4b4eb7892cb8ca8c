"""The tools that claims are checked with: a search in the user's documents, and tools of the user's own."""

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tutelage.errors import ConfigError
from tutelage.evidence.documents import read_documents
from tutelage.evidence.passages import Passage, passages_of
from tutelage.evidence.search import PassageIndex
from tutelage.evidence.sources import query_parameter

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.tools import BaseTool

DOCUMENT_SEARCH: Final = "document_search"


async def evidence_tools(
    *,
    documents: Sequence[str] = (),
    tools: Sequence[str] = (),
    folder: Path,
    passages: int = 5,
    embeddings: "Embeddings | None" = None,
) -> "tuple[BaseTool, ...]":
    """What `evidence:` in a config comes to: the documents are read and indexed, and the tools imported.

    Args:
        documents: Files, folders or wildcards.
        tools: Tools of the user's own, each as `mytools.py:search`.
        folder: What both are relative to.
        passages: How many passages the search in the documents gives.
        embeddings: Searches the documents by meaning, too.

    Raises:
        ConfigError: A pattern matches nothing, a tool cannot be had, or the extra `evidence` is not installed.
        DocumentError: A document cannot be read.
        CallError: The embeddings could not be had.
    """
    given: list[BaseTool] = []
    if documents:
        cut = await asyncio.to_thread(_cut, documents, folder)
        given.append(document_search(await PassageIndex.of(cut, embeddings), passages))
    return (*given, *(load_tool(name, folder) for name in tools))


def _cut(documents: Sequence[str], folder: Path) -> list[Passage]:
    return [passage for document in read_documents(documents, folder) for passage in passages_of(document)]


def document_search(index: PassageIndex, passages: int = 5) -> "BaseTool":
    """A LangChain tool that answers a query with passages of documents, the best first."""
    from langchain_core.documents import Document
    from langchain_core.tools import StructuredTool

    async def search(query: str) -> tuple[str, list[Document]]:  # LangChain reads the annotations
        found = [
            Document(
                id=passage.id,
                page_content=passage.text,
                metadata={
                    "source": passage.document,
                    "heading": passage.heading,
                    "start": passage.start,
                    "end": passage.end,
                },
            )
            for passage in await index.search(query, passages)
        ]
        return "\n\n".join(document.page_content for document in found), found

    return StructuredTool.from_function(
        coroutine=search,
        name=DOCUMENT_SEARCH,
        description="Searches the documents for passages about a query.",
        response_format="content_and_artifact",
    )


def load_tool(name: str, folder: Path) -> "BaseTool":
    """Imports a tool: `mytools.py:search` from a file, or `package.module:search`.

    It is a LangChain tool, a LangChain retriever, or a plain function of one text with a docstring.

    Args:
        name: As the config has it.
        folder: What a file is relative to. The file's own folder comes first on `sys.path` from then on, so that it can
            import its neighbours.

    Raises:
        ConfigError: There is none, it does not import, or it does not take one text.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ConfigError(f"evidence.tools: {name!r} names no tool: write it as mytools.py:search")
    module = _module(name, place, folder)
    if not hasattr(module, attribute):
        raise ConfigError(f"evidence.tools: {name!r} is not there: {place} has no {attribute!r}")
    tool = _as_tool(name, getattr(module, attribute))
    if query_parameter(tool) is None:
        raise ConfigError(
            f"evidence.tools: {name!r} takes {', '.join(tool.args) or 'nothing'}; it must take one text, the query"
        )
    return tool


def _module(name: str, place: str, folder: Path) -> ModuleType:
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = (folder / Path(place).expanduser()).resolve()
        if not path.is_file():
            raise ConfigError(f"evidence.tools: {name!r} is not there: no file {path}")
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        spec = importlib.util.spec_from_file_location(f"tutelage_tools_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # pydantic and get_type_hints look a function's module up here
        spec.loader.exec_module(module)
        return module
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"evidence.tools: {name!r} does not import: {type(error).__name__}: {error}") from error


def _as_tool(name: str, given: Any) -> "BaseTool":
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import BaseTool, StructuredTool, create_retriever_tool

    if isinstance(given, BaseTool):
        return given
    if isinstance(given, BaseRetriever):
        called = name.rpartition(":")[2]
        return create_retriever_tool(given, called, f"Searches {called}.", response_format="content_and_artifact")
    if not callable(given):
        raise ConfigError(
            f"evidence.tools: {name!r} is no LangChain tool, no retriever and no function: it is {given!r}"
        )
    try:
        if inspect.iscoroutinefunction(given):
            return StructuredTool.from_function(coroutine=given)
        return StructuredTool.from_function(given)
    except Exception as error:  # LangChain and pydantic refuse a function in many ways
        raise ConfigError(f"evidence.tools: {name!r} cannot be made a tool: {error}") from error
