"""The critic: sends a tutor's draft back when it does not teach."""

from tutelage import Agent
from tutelage.dialogue.turn import Verdict

critic = Agent(
    role="critic",
    prompt="review",
    task="critic",
    sees=frozenset({"answer", "misconception", "facts"}),
    reply=Verdict,
    sampling={"temperature": 0.0, "max_tokens": 768},
)
