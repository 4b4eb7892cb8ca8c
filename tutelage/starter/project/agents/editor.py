"""The editor: reads each answer of the expert before it is given, and sends it back if it will not do.

An agent with a `task` judges and does not speak; a reviewer replies with a `Verdict`, unless you subclass that.
"""

from tutelage import Agent

editor = Agent(
    role="editor",
    task="editor_task",
    sees=frozenset({"facts"}),
    sampling={"temperature": 0.0, "max_tokens": 384},
)
