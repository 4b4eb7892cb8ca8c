"""The pupil: a student whose knowledge is a state in code, and who puts it into words."""

from tutelage import Agent
from tutelage.learners.acting import mind

pupil = Agent(
    role="student",
    prompt="pupil",
    # The answer it does not see: that reaches it through its mind, once the misconception has fallen.
    sees=frozenset({"misconception"}),
    mind=mind,
    note="pupil_note",
    sampling={"temperature": 0.9, "max_tokens": 256},
)
