"""The conversations of a run, as a prefix cache sees them: a dialogue is one for each view that roles have of it."""

from collections.abc import Iterable

from tutelage import Transcript
from tutelage.dialogue.turn import Call

VIEWS = {"critic": "review", "fact_checker": "review"}
"""The built-in reviewers have one view of a dialogue; any other role has one of its own, by its name."""

Conversation = tuple[str, str]
"""A dialogue's id, and a view."""


def conversations(transcripts: Iterable[Transcript]) -> dict[Conversation, list[Call]]:
    """The calls of each conversation, in the order in which they were made.

    What came of a reply that was not of the shape asked for stands before the draft or review that followed it.
    """
    found: dict[Conversation, list[Call]] = {}
    for transcript in transcripts:
        for turn in transcript.turns:
            calls = [(step.role, step.call) for step in turn.steps]
            for attempt in turn.attempts:
                calls.append((turn.role, attempt.call))
                calls += [(review.role, review.call) for review in attempt.reviews if review.call]
            for role, call in calls:
                found.setdefault((transcript.id, VIEWS.get(role, role)), []).append(call)
    return found
