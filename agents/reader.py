"""The two of a lesson on a document: one has it open and answers from it, the other asks and has never seen it."""

from tutelage import Agent
from tutelage.evidence.reading import Cited, passages_shown

reader = Agent(
    role="tutor",
    prompt="reader",
    sees=frozenset({"documents"}),  # through its mind
    note="passages",
    mind=passages_shown,
    reply=Cited,
    sampling={"temperature": 0.7, "max_tokens": 640},
)
asker = Agent(role="student", prompt="asker", sampling={"temperature": 0.9, "max_tokens": 192})
