"""What a brief must pass before a run begins with it, besides what its graph declares: else it could only be discarded."""

from collections.abc import Callable
from pathlib import Path

from tutelage.checks.forms import quantity, same
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.graph import missing
from tutelage.dialogue.nodes import actions_of
from tutelage.errors import UserError
from tutelage.evidence.documents import files_named, is_path, read_document
from tutelage.evidence.fact_checking import FactCheck
from tutelage.evidence.reading import Read
from tutelage.generation.registry import LoadedGraph


def brief_check(graph: LoadedGraph, folder: Path) -> Callable[[Brief], None]:
    """What the briefs of a run must pass; it raises a ValueError that says why one does not.

    A document is read once, however many briefs are about it.

    Args:
        graph: The run's graph: documents are looked at if it reads them.
        folder: Where the config is.
    """
    reads, known = _reads_documents(graph), dict[Path, tuple[int, int]]()

    def check(brief: Brief) -> None:
        _check_prediction(brief)
        if reads:
            _check_documents(brief, folder, known)

    return check


def _check_prediction(brief: Brief) -> None:
    """Refuses a misconception whose answer has the value of the right one: who says it has given the answer."""
    predicted = brief.misconception.predicts if brief.misconception else None
    if predicted is None or (wrong := quantity(predicted, brief.language)) is None:
        return
    for form in brief.answer:
        right = quantity(form, brief.language)
        if right is not None and same(right, wrong):
            raise ValueError(
                f"misconception.predicts: {predicted!r} has the value of the answer {form!r}: say what wrong answer the "
                "belief gives"
            )


def _check_documents(brief: Brief, folder: Path, known: dict[Path, tuple[int, int]]) -> None:
    for entry in filter(is_path, brief.documents):
        try:
            for name, path in files_named([entry], folder).items():
                stamp = _stamp(path)
                if stamp is None or known.get(path) != stamp:
                    read_document(path, name)
                if stamp is not None:
                    known[path] = stamp
        except UserError as error:
            raise ValueError(
                f"documents: {error} (the entry {entry!r} names files; text has several words, or ends like a sentence)"
            ) from error


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # reading it says so
        return None
    return status.st_mtime_ns, status.st_size


def _reads_documents(graph: LoadedGraph) -> bool:
    """Whether something in the graph reads a brief's documents, or it declares that it needs them."""
    reading = (
        isinstance(action, Read) or (isinstance(action, FactCheck) and "documents" in action.agent.sees)
        for action in actions_of(graph.graph)
    )
    return any(reading) or any("documents" in fields.split(" or ") for fields in missing(graph.make, Brief()))
