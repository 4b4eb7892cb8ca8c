"""The opponent of a debate: argues from the misconception, until convinced."""

from tutelage import Agent

opponent = Agent(
    role="opponent",
    sees=frozenset({"misconception"}),
    sampling={"temperature": 0.9, "max_tokens": 384},
)
