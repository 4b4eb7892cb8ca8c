"""Rewards in code for the rows of `grpo`: whether what a policy says gives the answer, or keeps it.

They have the signature that TRL's `GRPOTrainer` calls its reward functions with: the completions, and each column of the
rows as a list. No model is asked, so what a stored turn is worth comes out the same whenever it is computed.

    GRPOTrainer(model, reward_funcs=verified, train_dataset=load_dataset("path/to/grpo", split="train"))
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from tutelage.checks.answers import gives
from tutelage.checks.leaks import found, undecided
from tutelage.dialogue.brief import Brief, Misconception

Completion: TypeAlias = str | Sequence[Mapping[str, Any]]
"""What was said: a text, or messages, of which the last one counts."""
Verifier: TypeAlias = Callable[[str, Brief], float]
"""What a text is worth: 1.0 as it should be, 0.0 if not, 0.5 where only a judge could tell."""

GIVES_THE_ANSWER: Final = "gives_the_answer"
KEEPS_THE_ANSWER: Final = "keeps_the_answer"


def gives_the_answer(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """1.0 for each completion that gives the answer as its own, and not the misconception's beside it; else 0.0."""
    return verified(completions, **{**columns, "verifier": [GIVES_THE_ANSWER] * len(completions)})


def keeps_the_answer(completions: Sequence[Completion], **columns: Any) -> list[float]:
    """1.0 for each completion that says something and does not give the answer away; 0.0 for one that does.

    0.5 where code cannot tell: it works the answer out (`half of 7200`), comes close to it, or offers it beside another.
    """
    return verified(completions, **{**columns, "verifier": [KEEPS_THE_ANSWER] * len(completions)})


def verified(
    completions: Sequence[Completion],
    *,
    verifier: Sequence[str],
    question: Sequence[str],
    answer: Sequence[Sequence[str]],
    predicts: Sequence[str],
    giveaway: Sequence[Sequence[str]],
    language: Sequence[str],
    **_: Any,
) -> list[float]:
    """Each completion's reward by the verifier that its row names: 1.0, 0.5 or 0.0.

    Args:
        completions: What the policy said.
        verifier: `gives_the_answer` or `keeps_the_answer`, for each completion, as are the following.
        question: What was asked.
        answer: The accepted forms of the answer.
        predicts: The misconception's answer; empty if there is none.
        giveaway: The terms that would give the answer away, of those that were not said before.
        language: The language of the dialogue; empty for English.
        **_: What else the trainer knows.

    Raises:
        KeyError: A row names a verifier that there is not.
    """
    return [
        reward(name, text_of(completion), brief_to_verify(*about))
        for name, completion, *about in zip(
            verifier, completions, question, answer, predicts, giveaway, language, strict=True
        )
    ]


def reward(verifier: str, text: str, brief: Brief) -> float:
    """What one text is worth.

    Raises:
        KeyError: There is no such verifier.
    """
    return VERIFIERS[verifier](text, brief)


def text_of(completion: Completion) -> str:
    """The words of a completion."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def brief_to_verify(
    question: str, answer: Sequence[str], predicts: str, giveaway: Sequence[str], language: str
) -> Brief:
    """The part of a brief that the verifiers read."""
    return Brief(
        id="verified",
        question=question or None,
        answer=tuple(answer),
        # A belief must say something; no verifier reads it.
        misconception=Misconception(belief=predicts, predicts=predicts) if predicts else None,
        giveaway=tuple(giveaway),
        language=language or None,
    )


def _gives(text: str, brief: Brief) -> float:
    return float(gives(text, brief))


def _keeps(text: str, brief: Brief) -> float:
    # Who says nothing keeps the answer too, but a policy must not learn to be silent.
    if not text.strip() or found(text, brief) is not None:
        return 0.0
    return 0.5 if undecided(text, brief) else 1.0


VERIFIERS: Final[Mapping[str, Verifier]] = {GIVES_THE_ANSWER: _gives, KEEPS_THE_ANSWER: _keeps}
"""By name, what a text is worth."""
