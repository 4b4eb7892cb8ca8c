"""The tutor of a Socratic lesson: thinks in private what the student got wrong and what to do, and only then speaks."""

from typing import Literal

from tutelage import Agent, Utterance


class Plan(Utterance):
    """What the tutor thinks before it speaks."""

    student_claim: str
    """What the student claims, in the student's own sense."""
    first_wrong_step: str
    """The first step of it that does not hold, and why; empty if all of it does."""
    error_type: Literal["none", "misconception", "calculation", "misread", "guess", "incomplete"]
    strategy: Literal[
        "ask_for_reasons", "counterexample", "simpler_case", "hint", "point_at_step", "check_understanding", "confirm"
    ]
    reveals: bool
    """Whether the utterance gives the answer away."""
    ends: bool
    """Whether the lesson is over with this utterance."""


socratic_tutor = Agent(
    role="tutor",
    prompt="socratic_tutor",
    sees=frozenset({"answer", "misconception", "facts"}),
    reply=Plan,
    sampling={"temperature": 0.7, "max_tokens": 768},
)
