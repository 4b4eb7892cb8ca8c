"""The tutor: leads the student to the answer and does not tell it."""

from tutelage import Agent

tutor = Agent(
    role="tutor",
    sees=frozenset({"answer", "misconception", "facts"}),
    sampling={"temperature": 0.7, "max_tokens": 512},
)
