"""The verifier of peers: says which answer each of them holds now. Whether it is right, code decides."""

from pydantic import BaseModel, ConfigDict

from tutelage import Agent


class Standing(BaseModel):
    """Which answers two peers hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    student_answer: str
    """As short as it can be said; empty while the student has none."""
    classmate_answer: str
    same: bool
    """Whether both hold an answer, and it is the same."""


verifier = Agent(
    role="verifier",
    task="verifier_task",
    reply=Standing,
    sampling={"temperature": 0.0, "max_tokens": 256},
)
