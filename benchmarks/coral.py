"""Dialogues like those of Coral, as call lengths: what two agents that discuss until they agree ask of a GPU.

Coral (collaborative reasoning, facebookresearch/collaborative-reasoner) is the workload with which Matrix (arXiv
2511.21686, facebookresearch/matrix) has published its throughput. From the code of both: teacher and student speak in
turns, each sees the other as the user; after each turn an extractor reads the answer out of it; they end when both have
the same answer, or after 20 turns; an utterance has at most 1,024 tokens, an extraction 32; one model of 8B plays all.
From the paper: 2,002 tokens a trajectory on MMLU-Pro. Not published, and assumed here: how many turns that makes, how
long prompts are, and that those tokens are what was generated.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from benchmarks.view_cache import Call

TOKENS: Final = 2002
"""Generated tokens of a dialogue, on the average."""
MESSAGE: Final = 5
"""Tokens that Llama's chat template puts around a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How long everything is, in tokens."""

    turns: float = 6.0
    """On the average: 2, since both must have answered, and then as often again as chance has it."""
    most_turns: int = 20
    system: int = 176
    """The instructions; the same in every dialogue."""
    question: float = 200.0
    """With its ten options; the spread is log-normal, sigma 0.5, like that of the utterances."""
    longest: int = 1024
    verdict: int = 8
    """What the extractor says."""
    spread: float = 0.5

    @property
    def utterance(self) -> float:
        """The mean length of a turn that makes a dialogue of 2,002 tokens."""
        return TOKENS / self._turns_in_the_mean() - self.verdict

    def again(self) -> float:
        """The chance that another turn follows."""
        return 1 - 1 / (self.turns - 1)

    def _turns_in_the_mean(self) -> float:
        more, chance = self.most_turns - 2, self.again()
        return 2 + chance * (1 - chance**more) / (1 - chance)


def calls(number: int, shape: Shape, seed: int) -> Iterator[Call]:
    """The calls of a dialogue, one after the other; the same number, shape and seed give the same ones.

    Args:
        number: Of the dialogue.
        shape: How long everything is.
        seed: Of all dialogues.
    """
    rng = Random(f"{seed}/{number}")
    question = _length(rng, shape.question, shape.spread, shape.longest)
    said = shape.system + question + 2 * MESSAGE
    seen = {"teacher": 0, "student": 0, "extractor": 0}
    for turn in range(_turns(rng, shape)):
        role = "student" if turn % 2 else "teacher"
        words = _length(rng, shape.utterance, shape.spread, shape.longest)
        prompt = said + (MESSAGE if role == "student" else 0)  # the student's view begins with a greeting
        yield Call(view=(number, role), prompt=prompt, known=seen[role], output=words)
        seen[role] = prompt + words
        said += words + MESSAGE
        asked = shape.system + question + MESSAGE
        yield Call(view=(number, "extractor"), prompt=asked + words, known=seen["extractor"], output=shape.verdict)
        seen["extractor"] = asked


def calls_left(number: int, shape: Shape, seed: int) -> list[Call]:
    """What is left of a dialogue that one finds under way: a long one rather than a short one, anywhere in it."""
    rng = Random(f"left/{seed}/{number}")
    found = [list(calls(_FOUND * (number + 1) + each, shape, -seed)) for each in range(_FOUND)]
    (script,) = rng.choices(found, [sum(call.output for call in each) for each in found])
    (start,) = rng.choices(range(len(script)), [call.output for call in script])
    for call in script[start:]:
        call.view = (number, call.view[1])
    return script[start:]


_FOUND: Final = 8
"""Dialogues among which one is found."""


def _turns(rng: Random, shape: Shape) -> int:
    turns = 2
    while turns < shape.most_turns and rng.random() < shape.again():
        turns += 1
    return turns


def _length(rng: Random, mean: float, spread: float, longest: int) -> int:
    """Log-normal with that mean, but for what is cut off."""
    return max(1, min(longest, round(rng.lognormvariate(math.log(mean) - spread**2 / 2, spread))))
