"""What two rows are compared by: the words that are learnt, and the last thing that was said before them.

The rest of a prompt (who one is, what the brief says, earlier turns) does not count: it is the same in many rows, and
would make any two turns of one dialogue alike. A reviewer is shown the whole dialogue in one message, so of that only the
draft counts, which is what it answers; and for near-duplicates not even the task behind the draft, which is as long as
the draft and the same in all rows.
"""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tutelage.dialogue.prompt import JOINT
from tutelage.dialogue.view import DRAFT
from tutelage.exports.rows import IDENTITY, SCRUBBED, Row
from tutelage.quality.contamination import texts_of

_MOST_TASKS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Compared:
    """What a row is compared by."""

    learnt: str
    """The words that are learnt; of a pair both texts; of a row that is only a prompt its last message."""
    answered: str
    """What they answer: the last message of the prompt; of a reviewer's, from the draft on; of a row that is only a prompt,
    all before its last message."""
    label: str = ""
    """What else is learnt: rows that say the same with other labels, or ask another question, are no duplicates."""

    @property
    def digest(self) -> int:
        """64 bits that are the same for rows that say the same: letter case and white space do not count."""
        text = "\0".join((_normalised(self.learnt), _normalised(self.answered), self.label))
        return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def compared(row: Row) -> Compared:
    """What a row is compared by, whatever its format."""
    if "messages" in row:
        learnt, others = _by_message(row)
        return Compared(JOINT.join(learnt), JOINT.join(others))
    if "chosen" in row:
        return Compared(_text(row["chosen"] + row["rejected"]), _last(row["prompt"]))
    if "completion" in row:
        return Compared(_text(row["completion"]), _last(row["prompt"]), str(row.get("label", "")))
    if "completions" in row:
        return Compared(JOINT.join(row["completions"]), _last(row["prompt"]), str(row["labels"]))
    if "prompt" in row:
        return Compared(_last(row["prompt"]), _text(row["prompt"][:-1]), JOINT.join([row["question"], *row["answer"]]))
    return Compared(
        JOINT.join(texts_of({name: row[name] for name in row if name not in IDENTITY and name != SCRUBBED})), ""
    )


def imitated(row: Row) -> list[str]:
    """The texts that are learnt as they stand: not the rejected one of a pair, no draft that is labelled as bad."""
    if "messages" in row:
        return _by_message(row)[0]
    if "chosen" in row:
        return [_text(row["chosen"])]
    if "completion" in row:
        return [_text(row["completion"])] if row.get("label", True) else []
    if "completions" in row:
        return [text for text, right in zip(row["completions"], row["labels"], strict=True) if right]
    return []


class Tasks:
    """What stands behind the draft in the prompts of reviewers, the same in all of them: their task.

    It is told by comparing prompts that end with the same paragraph: what all of them end with is the task.
    """

    def __init__(self) -> None:
        self._endings: dict[str, list[str]] = {}
        """By last paragraph, the paragraphs that all such prompts end with."""
        self._of_several: set[str] = set()

    def notice(self, answered: str) -> None:
        """Takes what a row answers into account; must be done of all rows before any of them is asked for."""
        if DRAFT not in answered:
            return
        paragraphs = answered.split(JOINT)
        known = self._endings.get(paragraphs[-1])
        if known is None:
            if len(self._endings) < _MOST_TASKS:
                self._endings[paragraphs[-1]] = paragraphs
        elif known != paragraphs:
            self._endings[paragraphs[-1]] = _common_ending(known, paragraphs)
            self._of_several.add(paragraphs[-1])

    def without(self, answered: str) -> str:
        """What a row answers, without the task."""
        if DRAFT not in answered:
            return answered
        paragraphs = answered.split(JOINT)
        if paragraphs[-1] not in self._of_several:
            return answered
        return JOINT.join(paragraphs[: -len(self._endings[paragraphs[-1]])])


def _common_ending(one: list[str], other: list[str]) -> list[str]:
    length = 0
    for first, second in zip(reversed(one), reversed(other), strict=False):
        if first != second:
            break
        length += 1
    return one[len(one) - length :]


def _by_message(row: Row) -> tuple[list[str], list[str]]:
    """Of a whole dialogue, the texts that are learnt, and the others but for the instructions."""
    messages = row["messages"]
    flags = row.get("train") or [message["role"] == "assistant" for message in messages]
    learnt = [message["content"] for message, is_learnt in zip(messages, flags, strict=True) if is_learnt]
    others = [
        message["content"]
        for message, is_learnt in zip(messages, flags, strict=True)
        if not is_learnt and message["role"] != "system"
    ]
    return learnt, others


def _last(prompt: list[dict[str, str]] | str) -> str:
    """The last thing that was said in a prompt; of a reviewer's prompt, from the draft on."""
    if isinstance(prompt, str):
        return prompt.rstrip().rpartition(JOINT)[2]
    if not prompt:
        return ""
    text = prompt[-1]["content"]
    return text[start:] if (start := text.rfind(DRAFT)) >= 0 else text


def _text(messages: Iterable[dict[str, str]]) -> str:
    return JOINT.join([message["content"] for message in messages])


def _normalised(text: str) -> str:
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())
