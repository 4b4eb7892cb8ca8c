"""The moderator of a debate: says after each round whether the two have come to one answer."""

from pydantic import BaseModel, ConfigDict

from tutelage import Agent


class Ruling(BaseModel):
    """Where a debate stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    proponent_answer: str
    opponent_answer: str
    agreed: bool
    """Whether both now hold the same answer."""


moderator = Agent(
    role="moderator",
    task="moderator_task",
    reply=Ruling,
    sampling={"temperature": 0.0, "max_tokens": 256},
)
