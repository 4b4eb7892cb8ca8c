"""Words at a terminal as a model says them: wrapped at the width of the screen, one speaker after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.utils.json import parse_partial_json
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from tutelage.transcripts.terminal import clean

_NARROWEST = 20
_THOUGHT = "dim italic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """A piece of what a role says."""

    role: str
    key: str
    """What its pieces have in common."""
    content: str
    reasoning: str = ""
    shaped: bool = False
    """Whether the content is JSON, of which `utterance` alone is said aloud."""
    whole: bool = False
    """Whether nothing follows."""

    @classmethod
    def of(cls, message: BaseMessage, role: str, *, shaped: bool) -> Self:
        """What a message of LangGraph's stream brings."""
        return cls(
            role=role,
            shaped=shaped,
            key=str(message.id),
            content=str(message.text),
            reasoning=str(message.additional_kwargs.get("reasoning_content", "")),
            whole=not isinstance(message, AIMessageChunk) or message.chunk_position == "last",
        )


class LiveWords:
    """Shows pieces of speech in the order in which they come; who speaks at the same time as another waits.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._speech: _Speech | None = None
        self._waiting: dict[str, list[tuple[Utterance, Callable[[str], Text]]]] = {}
        self._last: dict[str, str] = {}

    def hear(self, piece: Utterance, heading: Callable[[str], Text]) -> None:
        """Shows a piece, under a heading where it is the first of its speech."""
        if self._speech is not None and self._speech.key != piece.key:
            self._waiting.setdefault(piece.key, []).append((piece, heading))
            return
        if self._speech is None:
            self._console.print()
            self._console.print(heading(piece.role))
            self._speech = _Speech(self._console, piece.key)
        self._speech.add(piece)
        if piece.whole:
            self._last[piece.role] = self._speech.text.strip()
            self.end()

    def was_heard(self, role: str, text: str) -> bool:
        """Whether that is what the role was heard to say just now."""
        return self._last.pop(role, None) == text.strip()

    def end(self) -> None:
        """Ends the speech under way; whoever waited goes on."""
        if self._speech is not None:
            self._speech.end()
            self._speech = None
        if self._waiting:
            for piece, heading in self._waiting.pop(next(iter(self._waiting))):
                self.hear(piece, heading)


class _Speech:
    """One utterance under way: its words are written out as soon as it is clear on which line they stand."""

    def __init__(self, console: Console, key: str) -> None:
        self.key = key
        self.text = ""
        """What was said so far, without what a shaped reply has besides."""
        self._console = console
        self._raw = ""
        self._word = ""
        self._column = 0
        self._style = ""
        self._has_begun = False

    def add(self, piece: Utterance) -> None:
        if piece.reasoning:
            if not self._has_begun:
                self._write("(thinks) ", _THOUGHT)
            self._write(piece.reasoning, _THOUGHT)
        if piece.content:
            if self._style == _THOUGHT:
                self._write("\n\n", "")
            before = self.text
            self._raw += piece.content
            self.text = _spoken(self._raw) if piece.shaped else self._raw
            self._write(self.text[len(before) :], "")

    def end(self) -> None:
        self._flush()
        if self._column:
            self._console.print()
        self._column = 0

    def _write(self, text: str, style: str) -> None:
        if style != self._style:
            self._flush()
            self._style = style
        for char in clean(text):
            if char.isspace() and not self._has_begun:
                continue
            if char == "\n":
                self._flush()
                self._console.print()
                self._column = 0
            elif char in " \t":
                self._flush()
                self._word = " " if self._column else ""
            else:
                self._has_begun = True
                self._word += char
                if cell_len(self._word) >= self._width:
                    self._flush()

    def _flush(self) -> None:
        """Writes the word that has come, on the next line if it does not fit on this one."""
        word, self._word = self._word, ""
        if not word.strip():
            return
        if self._column and self._column + cell_len(word) > self._width:
            self._console.print()
            self._column, word = 0, word.lstrip()
        self._console.print(Text(word, style=self._style), end="", soft_wrap=True)
        self._column += cell_len(word)

    @property
    def _width(self) -> int:
        return max(_NARROWEST, self._console.width)


def _spoken(raw: str) -> str:
    """What is said aloud of a shaped reply, as far as it has come."""
    try:
        value: Any = parse_partial_json(raw)
    except ValueError:
        return ""
    return str(value["utterance"]) if isinstance(value, dict) and isinstance(value.get("utterance"), str) else ""
