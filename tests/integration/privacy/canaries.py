"""Canaries: words that occur nowhere else, one for each private thing of a dialogue, and where each of them may stand."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tutelage import Brief
from tutelage.dialogue.brief import Misconception, Probe
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.learners.personas import PERSONA, TRAITS
from tutelage.learners.techniques import TECHNIQUE
from tutelage.testing import prose

WORD = re.compile(r"xq[a-z]{5}qx")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a canary stands for."""

    def __str__(self) -> str:
        return f"{self.what} of {self.whose}"

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
    in_sight = rng.random() < 0.1
    question, answer, predicts = (
        f"{prose.write(rng, 8)}?",
        (word("answer"), f"the {word('answer')}"),
        word("misconception"),
    )
    if in_sight:  # then it is no secret, and leaks are for a judge
        question, answer, predicts = "Does the pointer turn left or right?", ("left", word("answer")), "right"
    return Brief(
        id=id_,
        topic=prose.write(rng, 4),
        domain=rng.choice(["mathematics", "programming", "science", "history", "language"]),
        question=question,
        level="primary",
        language="en",
        answer=answer,
        giveaway=(word("giveaway"),),
        misconception=Misconception(
            belief=sentence("misconception"),
            predicts=predicts,
            changes_when=(sentence("misconception"),),
            robustness=rng.randint(1, 2),
        ),
        probes=(probe,),
        facts=(sentence("facts"), sentence("facts")),
        documents=(f"{sentence('documents')}. {sentence('documents')}.",),
        extra={"note": sentence("extra")},
    )


def write_canary_prompts(folder: Path, canaries: Canaries) -> Path:
    """Writes a persona and techniques with canaries in all that they say of a student, in place of the built-in ones."""

    def word() -> str:
        return canaries.new("profile", "student")

    folder.mkdir(parents=True, exist_ok=True)
    for name in PromptLibrary().names(PERSONA):
        traits = "".join(f"{trait}: {word()}\n" for trait in TRAITS)
        (folder / f"{PERSONA}{name}.md").write_text(f"---\nname: {PERSONA}{name}\n{traits}---\n{word()}\n")
    for name in PromptLibrary().names(TECHNIQUE):
        (folder / f"{TECHNIQUE}{name}.md").write_text(f"---\nbehaviour: {word()}\n---\n{word()}\n")
    return folder
