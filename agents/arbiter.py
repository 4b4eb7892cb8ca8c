"""The arbiter: says which of two drafts of a tutor's teaches better, where their reviews do not."""

from tutelage import Agent
from tutelage.dialogue.arbiter import Preference

arbiter = Agent(
    role="arbiter",
    prompt="review",
    task="arbiter",
    sees=frozenset({"answer", "misconception", "facts"}),
    reply=Preference,
    sampling={"temperature": 0.0, "max_tokens": 256},
)
