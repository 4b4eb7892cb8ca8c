"""Where evidence for claims comes from: what the brief says, and LangChain tools that are given a claim.

A tool takes one text, the query, and answers with LangChain `Document`s or with text. All are asked at once. One that fails
fails the dialogue, which may be tried again: a claim must not count as found nowhere because nobody has looked.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from tutelage.dialogue.brief import Brief
from tutelage.errors import CheckerFailed

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.tools import BaseTool

    from tutelage.evidence.passages import Passage

OF_BRIEF: Final = "brief#"
"""What the ids of a brief's own sources begin with: `brief#fact-1`, `brief#answer`."""
TOOL_SECONDS: Final = 60.0
"""How long a tool may take for one query."""
LONGEST: Final = 3200
"""The most characters that are looked at of one answer of a tool: whatever has more should answer with passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A text that may be quoted as evidence."""

    id: str
    text: str
    heading: str = ""
    """What it is from, for whoever reads it alone."""


def brief_facts(brief: Brief, sees: frozenset[str]) -> list[Source]:
    """What a brief says itself, as far as a role may see it: its facts, and its answer to its question."""
    sources = []
    if "facts" in sees:
        sources += [Source(id=f"{OF_BRIEF}fact-{n}", text=fact) for n, fact in enumerate(brief.facts, start=1)]
    if "answer" in sees and brief.question and brief.answer:
        sources.append(Source(id=f"{OF_BRIEF}answer", text=f"{brief.question} {' or '.join(brief.answer)}"))
    return sources


def as_source(passage: "Passage") -> Source:
    """A passage of a document, as a source."""
    return Source(id=passage.id, text=passage.text, heading=passage.heading)


async def found_by(tools: "Sequence[BaseTool]", query: str, k: int) -> list[Source]:
    """What the tools find for a query: at most `k` sources of each, the best of each tool first.

    Raises:
        CheckerFailed: A tool failed, or did not answer in time; the message names it.
    """
    answers = await asyncio.gather(*(_asked(tool, query) for tool in tools))
    return in_turn([answer[:k] for answer in answers])


def within(found: Sequence[Sequence[Source]], characters: int) -> list[Source]:
    """The best of what was found for each claim, each source once, until they have so many characters together."""
    chosen: dict[str, Source] = {}
    for source in in_turn(found):
        if source.id not in chosen and len(source.text) <= characters:
            chosen[source.id] = source
            characters -= len(source.text)
    return list(chosen.values())


def in_turn(rankings: Sequence[Sequence[Source]]) -> list[Source]:
    """The first of each ranking, then the second of each, and so on."""
    return [source for source in chain.from_iterable(zip_longest(*rankings)) if source is not None]


def query_parameter(tool: "BaseTool") -> str | None:
    """The parameter of a tool that is given the query: the one that it needs. None if it needs another number, or no text."""
    needed = [(name, schema) for name, schema in tool.args.items() if "default" not in schema]
    if len(needed) != 1:
        return None
    ((name, schema),) = needed
    return str(name) if schema.get("type", "string") == "string" else None


async def _asked(tool: "BaseTool", query: str) -> list[Source]:
    if tool.handle_tool_error or tool.handle_validation_error:
        # The words of an error would be evidence.
        tool = tool.model_copy(update={"handle_tool_error": False, "handle_validation_error": False})
    asking: dict[str, Any] = {query_parameter(tool) or "query": query}
    try:
        async with asyncio.timeout(TOOL_SECONDS):
            if tool.response_format == "content_and_artifact":
                call = {"type": "tool_call", "id": uuid4().hex, "name": tool.name, "args": asking}
                return _sources(tool.name, (await tool.ainvoke(call)).artifact)
            return _sources(tool.name, await tool.ainvoke(asking))
    except TimeoutError as error:
        raise CheckerFailed(
            f"the evidence tool {tool.name!r} did not answer within {TOOL_SECONDS:g} seconds: mend it, or leave it out"
        ) from error
    except Exception as error:
        raise CheckerFailed(f"the evidence tool {tool.name!r} failed: {type(error).__name__}: {error}") from error


def _sources(tool: str, answer: Any) -> list[Source]:
    """An answer as sources.

    Raises:
        TypeError: It is neither text nor documents.
    """
    from langchain_core.documents import Document

    if isinstance(answer, str):
        answer = [Document(answer)]
    if not isinstance(answer, Sequence) or not all(isinstance(each, Document) for each in answer):
        raise TypeError(f"it answered with {type(answer).__name__}, and not with text or a list of Documents")
    return [_source(tool, document) for document in answer if document.page_content.strip()]


def _source(tool: str, document: "Document") -> Source:
    text = document.page_content[:LONGEST]
    place = document.metadata.get("source", tool)
    return Source(
        id=document.id or f"{place}@{hashlib.sha256(text.encode()).hexdigest()[:8]}",
        text=text,
        heading=str(document.metadata.get("heading", "")),
    )
