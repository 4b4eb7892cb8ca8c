"""Two peers who work on one question: one begins with the misconception, the other with nothing but the question."""

from tutelage import Agent

student = Agent(
    role="student",
    prompt="peer",
    sees=frozenset({"misconception"}),
    sampling={"temperature": 0.9, "max_tokens": 320},
)
classmate = Agent(role="classmate", prompt="peer", sampling={"temperature": 0.9, "max_tokens": 320})
