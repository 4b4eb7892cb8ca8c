"""The expert: answers from the facts of the brief, which the reporter does not see."""

from tutelage import Agent

expert = Agent(
    role="expert",
    sees=frozenset({"facts"}),
    sampling={"temperature": 0.7, "max_tokens": 160},
)
