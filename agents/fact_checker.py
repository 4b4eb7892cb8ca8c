"""The fact-checker: sends a tutor's draft back when it says what is not so."""

from tutelage import Agent
from tutelage.dialogue.turn import Verdict

fact_checker = Agent(
    role="fact_checker",
    prompt="review",
    task="fact_checker",
    sees=frozenset({"answer", "misconception", "facts"}),
    reply=Verdict,
    sampling={"temperature": 0.0, "max_tokens": 768},
)
