"""What every call was sent: `messages.jsonl`, the parts of all prompts of a run, each once, by their hash.

Two kinds of lines: a text, `{"sha256", "text"}`, and a link of a prompt's hash chain, `{"sha256", "parent", "role",
"opens", "text_sha256"}`. A prompt is known by the hash of its last link; going from parent to parent rebuilds it, byte
for byte. Prompts that begin alike share their first links, so a dialogue takes about as much room here as its text.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from tutelage.dialogue.prompt import JOINT, Prompt
from tutelage.errors import RunFolderError

FILE = "messages.jsonl"
_SHARED = 4096


class MessageLog:
    """Gathers the lines of `messages.jsonl` that are not written yet.

    Of the texts and links of a dialogue under way all are remembered; of those that dialogues share (system prompts,
    tasks) the last few thousand. One that was forgotten is written again, which costs room and nothing else.
    """

    def __init__(self) -> None:
        self._known: dict[str, set[str]] = {}
        self._shared: OrderedDict[str, None] = OrderedDict()
        self._lines: list[bytes] = []

    def keep(self, dialogue: str, prompt: Prompt) -> None:
        """Notes a prompt of a dialogue."""
        known = self._known.setdefault(dialogue, set())
        for link in prompt.links():
            if link.sha256 in known:
                continue
            known.add(link.sha256)
            if self._is_shared(link.sha256):
                continue
            text_sha256 = hashlib.sha256(link.text.encode()).hexdigest()
            if text_sha256 not in known and not self._is_shared(text_sha256):
                self._lines.append(orjson.dumps({"sha256": text_sha256, "text": link.text}) + b"\n")
            known.add(text_sha256)
            record = {"sha256": link.sha256, "parent": link.parent, "role": link.role, "opens": link.opens}
            self._lines.append(orjson.dumps({**record, "text_sha256": text_sha256}) + b"\n")

    def forget(self, dialogue: str) -> None:
        """Lets go of a dialogue that is over."""
        self._known.pop(dialogue, None)

    def take(self) -> bytes:
        """The lines that are to be written now."""
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def put_back(self, lines: bytes) -> None:
        """Takes lines back that could not be written."""
        self._lines.insert(0, lines)

    def _is_shared(self, sha256: str) -> bool:
        if sha256 in self._shared:
            self._shared.move_to_end(sha256)
            return True
        self._shared[sha256] = None
        if len(self._shared) > _SHARED:
            self._shared.popitem(last=False)
        return False


class Prompts:
    """Rebuilds the prompts of a run from its `messages.jsonl`.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Path | str) -> None:
        self._path = Path(run) / FILE
        if not self._path.is_file():
            raise RunFolderError(f"{str(run)!r} has no {FILE}: its prompts cannot be rebuilt")
        self._texts: dict[str, str] = {}
        self._links: dict[str, dict[str, Any]] = {}
        for record in self._records():
            if "text" in record:
                self._texts[record["sha256"]] = record["text"]
            else:
                self._links[record["sha256"]] = record

    def messages(self, prompt_sha256: str) -> list[dict[str, str]]:
        """The messages of a call, `{role, content}`, as they were sent.

        Raises:
            KeyError: The run has no such prompt.
        """
        parts: list[list[str]] = []
        roles: list[str] = []
        for link in reversed(list(self._chain(prompt_sha256))):
            if link["opens"]:
                roles.append(link["role"])
                parts.append([])
            parts[-1].append(self._texts[link["text_sha256"]])
        return [{"role": role, "content": JOINT.join(texts)} for role, texts in zip(roles, parts, strict=True)]

    def _chain(self, sha256: str | None) -> Iterator[dict[str, Any]]:
        while sha256 is not None:
            link = self._links[sha256]
            yield link
            sha256 = link["parent"]

    def _records(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            for line in file:
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue  # torn by a crash; what it held was written again when the dialogue was done again
