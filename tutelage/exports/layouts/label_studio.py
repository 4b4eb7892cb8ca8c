"""Label Studio: dialogues as tasks that people judge turn by turn, in the community edition.

`data/*.json` is what the import takes, `labels.xml` the labelling config (its `Paragraphs` tag; the `Chat` tag is for
paying customers). A task says whose dialogue it is, so that what people decide is found again, however often it is read:

    {"data": {"dialogue": "<the transcript's id>", "run": "fractions", "brief": "halves", "title": "What is 1/2 + 1/3?",
              "turns": [{"turn": 0, "role": "tutor", "text": "..."}, {"turn": 1, "role": "student", "text": "..."}]},
     "predictions": [{"model_version": "judge:critic", "result": [...]}]}

`predictions` are decisions that were made before, one entry for each author, as Label Studio shows them to begin with.
What Label Studio exports ("JSON") is the same tasks with `annotations`, whose `result` holds:

    {"id": "r1", "from_name": "turn_decision", "to_name": "dialogue", "type": "paragraphlabels",
     "value": {"start": "0", "end": "0", "startOffset": 0, "endOffset": 12, "paragraphlabels": ["drop"]}}
    {"id": "r1", "from_name": "edit", "to_name": "dialogue", "type": "textarea", "value": {"text": ["Better words."]}}
    {"id": "r1", "from_name": "reason", "to_name": "dialogue", "type": "textarea", "value": {"text": ["It tells."]}}
    {"id": "d1", "from_name": "dialogue_decision", "to_name": "dialogue", "type": "choices", "value": {"choices": ["keep"]}}
    {"id": "d2", "from_name": "dialogue_reason", "to_name": "dialogue", "type": "textarea", "value": {"text": ["Fine."]}}

`start` and `end` are places in `turns`, so the turn's index is `turns[int(start)]["turn"]`; a region over several
paragraphs is about each of them. What belongs to one region has one `id`. The labels of a turn are `keep`, `drop` and
`edit` (with the new words under `edit`), the choices for the dialogue `keep` and `drop`: those of `decisions.jsonl`.
https://labelstud.io/guide/tasks, https://labelstud.io/tags/paragraphs
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import orjson

from tutelage.exports.layouts.layout import Columns, Layout
from tutelage.exports.request import FileKind
from tutelage.exports.rows import Column, Kind, Row

if TYPE_CHECKING:
    from tutelage.exports.summary import ExportSummary

CONFIG_FILE: Final = "labels.xml"
FILE_BYTES: Final = 50 * 1024 * 1024
"""Label Studio reads an imported file as a whole, and advises against larger ones."""

TURN_LABELS: Final = ("keep", "drop", "edit")
DIALOGUE_LABELS: Final = ("keep", "drop")
"""That one of several drafts is preferred has no place here: a task shows what was said."""

CONFIG: Final = """\
<View>
  <Header value="$title"/>
  <ParagraphLabels name="turn_decision" toName="dialogue" choice="single">
    <Label value="keep" background="#2e7d32"/>
    <Label value="drop" background="#c62828"/>
    <Label value="edit" background="#1565c0"/>
  </ParagraphLabels>
  <Paragraphs name="dialogue" value="$turns" layout="dialogue" nameKey="role" textKey="text" granularity="paragraph"/>
  <View visibleWhen="region-selected">
    <Header value="What should be said instead (for edit)"/>
    <TextArea name="edit" toName="dialogue" perRegion="true" rows="4" maxSubmissions="1" editable="true"/>
    <Header value="Why"/>
    <TextArea name="reason" toName="dialogue" perRegion="true" rows="1" maxSubmissions="1" editable="true"/>
  </View>
  <Header value="The dialogue as a whole"/>
  <Choices name="dialogue_decision" toName="dialogue" choice="single" showInline="true">
    <Choice value="keep"/>
    <Choice value="drop"/>
  </Choices>
  <TextArea name="dialogue_reason" toName="dialogue" rows="1" maxSubmissions="1" editable="true" placeholder="Why"/>
</View>
"""


class TaskFiles:
    """Writes tasks as lists in JSON, the one kind of file that Label Studio imports them from. A context manager."""

    def __init__(self, folder: Path, _: FileKind, __: Columns) -> None:
        self._folder = folder / "data"
        self._files: dict[str, BinaryIO] = {}
        self._shards: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for split in list(self._files):
            self._close(split)

    def write(self, split: str, row: Row) -> None:
        """Writes a task."""
        file = self._files.get(split)
        if file is None:
            shard = self._shards[split] = self._shards.get(split, -1) + 1
            file = self._files[split] = (self._folder / f"{split}-{shard:05d}.json").open("wb")
            file.write(b"[\n")
        else:
            file.write(b",\n")
        file.write(orjson.dumps(row))
        if file.tell() >= FILE_BYTES:
            self._close(split)

    def _close(self, split: str) -> None:
        with self._files.pop(split) as file:
            file.write(b"\n]\n")


def _task(row: Row) -> Row:
    said = zip(row["turns"], row["speakers"], row["messages"], strict=True)
    turns = [{"turn": turn, "role": speaker, "text": message["content"]} for turn, speaker, message in said]
    data = {**{name: row[name] for name in ("dialogue", "run", "brief", "title")}, "turns": turns}
    return {"data": data, "predictions": _predictions(row["decisions"], turns)}


def _predictions(decisions: list[Row], turns: list[Row]) -> list[Row]:
    """Earlier decisions, by author, as Label Studio has them."""
    places = {turn["turn"]: place for place, turn in enumerate(turns)}
    by_author: dict[str, list[Row]] = {}
    for number, decision in enumerate(decisions):
        if _has_place(decision, places):
            results = _results(f"d{number}", decision, places.get(decision["turn"]), turns)
            by_author.setdefault(decision["by"], []).extend(results)
    return [{"model_version": author, "result": results} for author, results in by_author.items()]


def _has_place(decision: Row, places: Mapping[int, int]) -> bool:
    """Whether the labelling config has a label for a decision, and the task its turn."""
    if decision["turn"] is None:
        return decision["decision"] in DIALOGUE_LABELS
    return decision["turn"] in places and decision["decision"] in TURN_LABELS


def _results(id_: str, decision: Row, place: int | None, turns: list[Row]) -> list[Row]:
    def result(from_name: str, type_: str, value: dict[str, Any]) -> Row:
        return {"id": id_, "from_name": from_name, "to_name": "dialogue", "type": type_, "value": value}

    def text(from_name: str, words: str) -> list[Row]:
        return [result(from_name, "textarea", {**region, "text": [words]})] if words else []

    if place is None:
        region: dict[str, Any] = {}
        choice = result("dialogue_decision", "choices", {"choices": [decision["decision"]]})
        return [choice, *text("dialogue_reason", decision["reason"])]
    region = {"start": str(place), "end": str(place), "startOffset": 0, "endOffset": len(turns[place]["text"])}
    label = result("turn_decision", "paragraphlabels", {**region, "paragraphlabels": [decision["decision"]]})
    return [label, *text("edit", decision["text"]), *text("reason", decision["reason"])]


def _columns(_: Columns) -> dict[str, Column]:
    turns: Kind = [{"turn": "integer", "role": "text", "text": "text"}]
    data: Kind = {**dict.fromkeys(("dialogue", "run", "brief", "title"), "text"), "turns": turns}
    return {
        "data": Column(data, "which dialogue it is, and each turn with its index"),
        "predictions": Column(
            [{"model_version": "text"}], "what was decided before, by author, as Label Studio shows it"
        ),
    }


def _config(_: "ExportSummary") -> Mapping[str, str]:
    return {CONFIG_FILE: CONFIG}


LABEL_STUDIO: Final = Layout(
    tool="Label Studio",
    columns=_columns,
    row=_task,
    kinds=("jsonl",),
    open=TaskFiles,
    rows_at=None,
    beside=_config,
    usage=f"""\
Make a project with `{CONFIG_FILE}` as its labelling config (the community edition has all of it), and import the files in
`data/`. What people decided comes back with *Export*, *JSON*:

```sh
tutelage judge RUN --decisions path/to/that/export.json
```""",
)
