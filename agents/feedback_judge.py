"""The feedback judge: says whether what the tutor said speaks against what the student believes.

It is shown the belief, what would change it, and what was said aloud: not the tutor's plan, nor the answer and the facts,
for whoever knows them judges whether the tutor is right, and not whether the student was hit.
"""

from tutelage import Agent
from tutelage.learners.feedback import FEEDBACK_JUDGE, Feedback

feedback_judge = Agent(
    role=FEEDBACK_JUDGE,
    task="feedback_judge_task",
    sees=frozenset({"misconception"}),
    reply=Feedback,
    sampling={"temperature": 0.0, "max_tokens": 256},
)
