"""The claim checker: holds each claim of a draft against evidence, and quotes it."""

from tutelage import Agent
from tutelage.evidence.fact_checking import Findings

claim_checker = Agent(
    role="claim_checker",
    prompt="review",
    task="claim_checker",
    sees=frozenset({"answer", "misconception", "facts", "documents"}),
    reply=Findings,
    sampling={"temperature": 0.0, "max_tokens": 1024},
)
