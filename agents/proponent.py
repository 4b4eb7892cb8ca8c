"""The proponent of a debate: argues for the answer."""

from tutelage import Agent

proponent = Agent(
    role="proponent",
    sees=frozenset({"answer", "facts"}),
    sampling={"temperature": 0.7, "max_tokens": 384},
)
