"""A lesson on a document: before each turn of a reader, the passages of the brief's documents that the turn is about.

`read` is a node that makes no call. It searches the brief's `documents` (files, relative to the config, or texts) for what
was last said, and puts the passages into the state's `passages`; a graph that has it carries `Reading` as its state.
`passages_shown` is the `mind` of an agent whose `note` shows them, `Cited` its reply:

    tutor = Agent(role="tutor", prompt="reader", note="passages", mind=passages_shown, reply=Cited)

    graph = StateGraph(Reading, context_schema=Cast)
    graph.add_node("reading", read())
    add_critique_loop(graph, tutor, reviewers=[fact_check(claim_checker)], checks=[cites_what_was_shown], then=…)
    graph.add_edge(START, "reading")
    graph.add_edge("reading", "tutor")
    graph.add_conditional_edges("student", stop_or("reading", mastered, max_messages()))

In the transcript, each of the reader's turns has under `private` the `passages` that it was shown, with id and text, and
under `sources` the numbers, from 1, of those that it rests on; `cited` gives their ids.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from langgraph.runtime import Runtime
from pydantic import Field

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import Check
from tutelage.dialogue.nodes import Update, Utterance
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Issue, Turn
from tutelage.dialogue.view import brief_of
from tutelage.errors import CheckerFailed, UserError
from tutelage.evidence.documents import SourceDocument, files_named, is_path, read_document
from tutelage.evidence.passages import Passage, passages_of
from tutelage.evidence.search import DEPTH, PassageIndex, WordIndex, fused

PASSAGES: Final = 3
"""How many passages a reader is shown for a turn: each of its drafts keeps them."""
_KEPT: Final = 256
"""So many sets of documents are kept in memory, read and indexed."""
_reading = threading.Lock()


class Reading(Dialogue, total=False):
    """The state of a dialogue on documents."""

    passages: list[dict[str, str]]
    """What the next speaker is shown: `id`, `heading` and `text` of each passage, the best first."""


class Cited(Utterance):
    """The schema of a speaker that says which passages its turn rests on.

    It gives their numbers, which a schema can hold it to; an id it would have to copy.
    """

    sources: list[int] = Field(max_length=PASSAGES)
    """From 1; empty where the turn rests on none."""


@dataclass(frozen=True, slots=True)
class Read:
    """A node that finds the passages for the turn that follows. It calls no model."""

    passages: int

    async def __call__(self, state: Reading, runtime: Runtime[Cast]) -> Update:
        """Searches the brief's documents for what was last said, or at the start for the question or the topic.

        It is searched for alone, and together with what it answers ("And on a mountain?"). If it shares no word with the
        document ("Why?"), the reader keeps the pages that it has open, or begins with the first.
        """
        brief, turns = brief_of(state), state.get("turns", [])
        index = await documents_of(brief, runtime.context.evidence.folder)
        about = [turn.text for turn in turns[-2:]] or [brief.question or brief.topic or ""]
        rankings = [await index.search(query, DEPTH * self.passages) for query in (about[-1], "\n".join(about))]
        found = fused(rankings, self.passages)
        if not found and state.get("passages"):
            return {}
        return {"passages": [_shown(passage) for passage in found or index.passages[: self.passages]]}


def read(passages: int = PASSAGES) -> Read:
    """A node that finds passages of the brief's documents for the next turn, for a graph whose state is a `Reading`."""
    return Read(passages)


def passages_shown(dialogue: Dialogue) -> Mapping[str, Any]:
    """What is in a reader's mind: the `passages` for its turn, each with `id`, `heading` and `text`."""
    return {"passages": dialogue.get("passages", [])}


def cited(turn: Turn) -> list[str]:
    """The ids of the passages that a reader's turn rests on, as it says."""
    shown = turn.private.get("passages", [])
    return [shown[number - 1]["id"] for number in turn.private.get("sources", []) if 1 <= number <= len(shown)]


def _not_shown(dialogue: Dialogue, draft: Attempt) -> Sequence[Issue]:
    shown = len(draft.mind.get("passages", []))
    wrong = sorted({number for number in draft.private.get("sources", []) if not 1 <= number <= shown})
    if not wrong:
        return []
    said = ", ".join(map(str, wrong))
    return [
        Issue(
            dimension="citation",
            severity="block",
            evidence=f"the passages have the numbers 1 to {shown}",
            instruction=f"No passage has the number {said}: give only numbers of passages that you were shown.",
        )
    ]


cites_what_was_shown: Final = Check(name="citation", look=_not_shown)
"""Forbids a draft that rests on a passage which its speaker was not shown."""


async def documents_of(brief: Brief, folder: Path) -> PassageIndex:
    """A brief's documents, read and indexed: once, for all dialogues that are about them.

    Args:
        brief: Its `documents` are files, folders, wildcards or texts.
        folder: What files are relative to.

    Raises:
        CheckerFailed: One cannot be read.
    """
    try:
        return await asyncio.to_thread(_indexed_once, brief.documents, folder)
    except UserError as error:
        raise CheckerFailed(f"a document of the brief {brief.id!r}: {error}") from error


def _indexed_once(documents: tuple[str, ...], folder: Path) -> PassageIndex:
    with _reading:  # hundreds of dialogues on one document begin at once
        return _indexed(documents, folder)


@lru_cache(maxsize=_KEPT)
def _indexed(documents: tuple[str, ...], folder: Path) -> PassageIndex:
    named = files_named([entry for entry in documents if is_path(entry)], folder)
    files = [read_document(path, name) for name, path in named.items()]
    texts = [entry for entry in documents if not is_path(entry)]
    if texts:
        files.append(SourceDocument(path="brief", kind="markdown", text="\n\n".join(texts)))
    return PassageIndex(WordIndex([passage for file in files for passage in passages_of(file)]))


def _shown(passage: Passage) -> dict[str, str]:
    return {"id": passage.id, "heading": passage.heading, "text": passage.text}
