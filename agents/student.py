"""The student: believes something wrong, and answers as someone who does."""

from tutelage import Agent

student = Agent(
    role="student",
    sees=frozenset({"misconception"}),
    sampling={"temperature": 0.9, "max_tokens": 256},
)
