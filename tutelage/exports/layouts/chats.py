"""What the tools for chats have in common: which messages of a row are learnt, and what not every tool can hold."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from tutelage.exports.layouts.layout import Columns
from tutelage.exports.rows import Column, Kind, LeftOut, Messages, Row

NEIGHBOURS: Final = (
    "The trainer takes neighbouring rows for mismatched pairs, and the drafts of one turn are neighbours with one prompt: "
    "shuffle the rows before."
)
"""What a card says of KTO."""
MESSAGE: Final[Kind] = {"role": "text", "content": "text"}
CHAT: Final = frozenset({"prompt", "completion", "messages", "train"})
"""The columns that `learnt` reads: layouts put others in their place."""


def learnt(row: Row) -> tuple[Messages, list[bool]]:
    """The messages of a row of sft or kto, and of each whether it is to be learnt.

    Of prompt and completion only the completion is; a whole dialogue says it itself.
    """
    if "messages" in row:
        return row["messages"], row["train"]
    prompt, completion = row["prompt"], row["completion"]
    return [*prompt, *completion], [False] * len(prompt) + [True] * len(completion)


def learns_too_much(row: Row) -> LeftOut | None:
    """Why a tool that learns every assistant message of a row cannot have this one; None if it can."""
    messages, train = learnt(row)
    if all(flag or message["role"] != "assistant" for message, flag in zip(messages, train, strict=True)):
        return None
    return LeftOut.MASKED if "messages" in row else LeftOut.HISTORY


def out_of_turn(messages: Messages, *, ends: str) -> LeftOut | None:
    """Why a tool cannot have messages that wants one system message at most, then user and assistant by turns.

    Args:
        messages: Those of a row.
        ends: Who must have the last word, "user" or "assistant".
    """
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return LeftOut.SYSTEM_LATER
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    by_turns = all(role == ("user", "assistant")[place % 2] for place, role in enumerate(spoken))
    return None if by_turns and spoken and spoken[-1] == ends else LeftOut.NO_ALTERNATION


def columns_with(
    new: Mapping[str, Column], *, without: Collection[str] = CHAT
) -> Callable[[Columns], dict[str, Column]]:
    """A layout's columns: new ones in the place of some of the format's, and the rest of these as they are."""
    return lambda columns: {**new, **{name: each for name, each in columns.items() if name not in without}}


def row_with(new: Row, row: Row, *, without: Collection[str] = CHAT) -> Row:
    """A layout's row, as `columns_with` has its columns."""
    return {**new, **{name: each for name, each in row.items() if name not in without}}
