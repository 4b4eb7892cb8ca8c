"""Canaries: words that occur nowhere else, one for each private thing of a dialogue, and where each of them may stand."""

import re
from dataclasses import dataclass, field
from random import Random

from tutelage import Brief
from tutelage.dialogue.brief import Misconception, Probe
from tutelage.testing import prose

WORD = re.compile(r"xq[a-z]{5}qx")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a canary stands for."""

    what: str
    """`brief`: a private field of the brief. `profile`: what a role is in this dialogue. `draft`: something drafted to be
    said. `reply`: anything else in a role's reply."""
    whose: str
    """The field's name, or the role's."""


@dataclass(slots=True)
class Canaries:
    """All canaries of some dialogues."""

    kinds: dict[str, Kind] = field(default_factory=dict)

    def new(self, what: str, whose: str) -> str:
        """A word that was never used before."""
        number, letters = len(self.kinds), ""
        for _ in range(5):
            number, letter = divmod(number, 26)
            letters += chr(ord("a") + letter)
        word = f"xq{letters}qx"
        self.kinds[word] = Kind(what, whose)
        return word


def found_in(text: str) -> set[str]:
    """The canaries in a text, whatever became of their case."""
    return set(WORD.findall(text.casefold()))


def canary_brief(rng: Random, canaries: Canaries, id_: str) -> Brief:
    """A brief with a canary in every private field, and none in what is public."""

    def word(field_: str) -> str:
        return canaries.new("brief", field_)

    def sentence(field_: str) -> str:
        return f"{prose.write(rng, 8)} {word(field_)}"

    right, wrong, other = (word("probes") for _ in range(3))
    probe = Probe(question=sentence("probes"), choices=(other, right, wrong), answer=right, misconception=wrong)
    return Brief(
        id=id_,
        topic=prose.write(rng, 4),
        domain=rng.choice(["mathematics", "programming", "science", "history", "language"]),
        question=f"{prose.write(rng, 8)}?",
        level="primary",
        language="en",
        answer=(word("answer"), f"the {word('answer')}"),
        giveaway=(word("giveaway"),),
        misconception=Misconception(
            belief=sentence("misconception"),
            predicts=word("misconception"),
            changes_when=(sentence("misconception"),),
            robustness=rng.randint(1, 2),
        ),
        probes=(probe,) * 1,
        facts=(sentence("facts"), sentence("facts")),
        documents=(f"{sentence('documents')}. {sentence('documents')}.",),
        extra={"note": sentence("extra")},
    )
