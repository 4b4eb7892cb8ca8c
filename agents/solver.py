"""The solver: works out a brief's question by a program of its own, and is not shown the answer."""

from tutelage import Agent
from tutelage.evidence.solving import Solution

solver = Agent(
    role="solver",
    task="solver_task",
    reply=Solution,
    sampling={"temperature": 0.7, "max_tokens": 1024},
)
