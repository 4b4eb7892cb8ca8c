"""Takes over what people decided elsewhere: decisions as JSONL, or the tasks with annotations that Label Studio exports.

What is taken over stands in the run's `decisions.jsonl` afterwards, each decision once, however often its file is read.
How a task for Label Studio looks, `exports/layouts/label_studio.py` says.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import orjson
from pydantic import ValidationError

from tutelage.errors import UserError
from tutelage.transcripts.decisions import Decision, append_decisions, read_decisions, why_not
from tutelage.transcripts.store import read_transcripts
from tutelage.transcripts.transcript import Transcript

LABEL_STUDIO: Final = "label-studio"
"""The author of annotations whose annotator the file does not name by e-mail, with the annotator's number behind it."""

Read: TypeAlias = tuple[str, Decision]
"""Where a decision stands, to be named in messages, and the decision."""
Refuse: TypeAlias = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class TakenOver:
    """What became of a file of decisions."""

    source: Path
    new: int = 0
    known: int = 0
    """Those that the run had already."""
    authors: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    """By place in the file, why a decision was not taken over."""

    def __str__(self) -> str:
        refused = f", {len(self.refused)} refused" if self.refused else ""
        return f"{self.new} decisions taken over from {self.source}, {self.known} known before{refused}"


def take_over(run: Path, source: Path) -> TakenOver:
    """Puts the decisions of a file into a run's `decisions.jsonl`, those that are new and about one of its turns.

    Args:
        run: The run's folder.
        source: JSONL of decisions, or Label Studio's export as JSON.

    Raises:
        UserError: The file cannot be read, or nothing in it is about this run.
        RunFolderError: It is no run folder, or the decisions cannot be written.
    """
    taken = TakenOver(source=source)
    last = {(each.id, each.turn, each.by): (place, each) for place, each in _decisions_in(source, taken.refused.append)}
    holding = list(_about(run, last.values(), taken.refused.append))
    before = read_decisions(run, on_skip=_ignore)
    new = [each for each in holding if each not in before]
    append_decisions(run, new)
    taken.authors = {each.by for each in holding}
    taken.new, taken.known = len(new), len(holding) - len(new)
    if not holding:
        why = f": {taken.refused[0]}" if taken.refused else ", for it has none"
        raise UserError(f"no decision of {str(source)!r} was taken over{why}")
    return taken


def _ignore(_: str) -> None:
    """What is foreign in the run's own file is said by those who read it for its own sake."""


def _about(run: Path, decisions: Iterable[Read], refuse: Refuse) -> Iterator[Decision]:
    """Those that are about a turn of the run."""
    wanted: dict[str, list[Read]] = defaultdict(list)
    for place, decision in decisions:
        wanted[decision.id].append((place, decision))
    for transcript in read_transcripts(run, on_skip=_ignore):
        for place, decision in wanted.pop(transcript.id, ()):
            if reason := _why_not(decision, transcript):
                refuse(f"{place}: {reason}")
            else:
                yield decision
    for left in wanted.values():
        for place, decision in left:
            refuse(f"{place}: the run has no dialogue {decision.id!r}")


def _why_not(decision: Decision, transcript: Transcript) -> str | None:
    turns = transcript.turns
    if decision.turn is None:
        if decision.decision in ("edit", "prefer"):
            return f"{decision.decision!r} is about one turn: say which"
        return None
    if not 0 <= decision.turn < len(turns):
        return f"the dialogue {decision.id!r} has the turns 0 to {len(turns) - 1}, and no turn {decision.turn}"
    texts = [attempt.text.strip() for attempt in turns[decision.turn].attempts]
    if decision.decision == "prefer" and (decision.text or "").strip() not in texts:
        return "what is preferred is none of the turn's drafts and candidates: words of one's own are an 'edit'"
    return None


# --- reading --------------------------------------------------------------------------------------------------------


def _decisions_in(source: Path, refuse: Refuse) -> Iterator[Read]:
    try:
        data = source.read_bytes()
    except OSError as error:
        raise UserError(f"{str(source)!r} cannot be read: {error.strerror}") from error
    if not data.lstrip().startswith(b"["):
        yield from _in_lines(data, refuse)
        return
    try:
        tasks = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{str(source)!r} is neither JSONL of decisions nor JSON from Label Studio: {error}") from error
    for number, task in enumerate(tasks, start=1):
        yield from _in_task(f"task {number}", task, refuse)


def _in_lines(data: bytes, refuse: Refuse) -> Iterator[Read]:
    for number, line in enumerate(data.splitlines(), start=1):
        if line.strip():
            yield from _valid(f"line {number}", _as_data(line), refuse)


def _as_data(line: bytes) -> Any:
    """A line as plain data; itself where it is no JSON."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return line


def _valid(place: str, given: Any, refuse: Refuse) -> Iterator[Read]:
    try:
        yield place, Decision.model_validate(given)
    except ValidationError as error:
        refuse(f"{place}: {'no JSON' if isinstance(given, bytes) else why_not(error)}")


def _in_task(place: str, task: Any, refuse: Refuse) -> Iterator[Read]:
    try:
        data, annotations = task["data"], task["annotations"]
        dialogue, turns = data["dialogue"], [turn["turn"] for turn in data["turns"]]
        for annotation in sorted(annotations, key=lambda each: each.get("updated_at") or ""):
            if annotation.get("was_cancelled"):
                continue
            by = _annotator(annotation.get("completed_by"))
            for said in _regions(annotation.get("result") or (), turns):
                yield from _valid(place, {"id": dialogue, "by": by, **said}, refuse)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        refuse(f"{place}: no task of ours: {error!r}")


def _annotator(given: Any) -> str:
    if isinstance(given, Mapping):
        return str(given.get("email") or f"{LABEL_STUDIO}:{given.get('id', '?')}")
    return LABEL_STUDIO if given is None else f"{LABEL_STUDIO}:{given}"


def _regions(results: Iterable[Mapping[str, Any]], turns: list[int]) -> Iterator[dict[str, Any]]:
    """What one annotation says, as the fields of decisions; what belongs together has one id."""
    regions: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    of_dialogue: dict[str, Mapping[str, Any]] = {}
    for result in results:
        value, name = result.get("value") or {}, result.get("from_name", "")
        (of_dialogue if name.startswith("dialogue_") else regions[result["id"]])[name] = value
    for region in regions.values():
        marked = region.get("turn_decision")
        if marked is None or not marked.get("paragraphlabels"):
            continue
        said = {"decision": marked["paragraphlabels"][0], "reason": _text(region.get("reason"))}
        if words := _text(region.get("edit")):
            said["text"] = words
        for place in range(int(marked["start"]), int(marked["end"]) + 1):
            yield {**said, "turn": turns[place]}
    if choices := (of_dialogue.get("dialogue_decision") or {}).get("choices"):
        yield {"turn": None, "decision": choices[0], "reason": _text(of_dialogue.get("dialogue_reason"))}


def _text(value: Mapping[str, Any] | None) -> str:
    """A text area's words; Label Studio gives a list of them, or one text."""
    given = (value or {}).get("text") or ""
    return given.strip() if isinstance(given, str) else "\n".join(map(str, given)).strip()
