"""What is left to chance for a student: drawn from the dialogue's seed, so that a dialogue always draws the same.

Over many dialogues everything that can be drawn comes up about equally often, and one draw says nothing about another. Only
`Random.random` is used, whose numbers Python promises to keep from version to version.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from tutelage.dialogue.state import Dialogue

Item = TypeVar("Item")


def drawn(dialogue: Dialogue, about: str, among: Sequence[Item]) -> Item:
    """One of several."""
    return among[int(chance(dialogue, about).random() * len(among))]


def happens(dialogue: Dialogue, about: str, share: float) -> bool:
    """Whether it does, in so large a share of all dialogues."""
    return chance(dialogue, about).random() < share


def shuffled(dialogue: Dialogue, about: str, items: Sequence[Item]) -> list[Item]:
    """All of them, in an order of this dialogue's own."""
    draw = chance(dialogue, about)
    return sorted(items, key=lambda _: draw.random())


def chance(dialogue: Dialogue, about: str) -> Random:
    """Where the draws about one thing come from."""
    # Outside of a run, in LangGraph's Studio, a dialogue has no seed: its id tells it from others.
    return Random(f"{dialogue.get('seed', dialogue.get('id', ''))}/{about}")
