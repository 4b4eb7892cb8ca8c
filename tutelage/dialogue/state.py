"""The state of a LangGraph graph that is a dialogue."""

import operator
from typing import Annotated, Any

from typing_extensions import TypedDict  # LangGraph's dev server reads its schema, which before 3.12 needs this one

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.turn import Attempt, Outcome, Review, Shortening, Step, Turn


class Dialogue(TypedDict, total=False):
    """What LangGraph carries from node to node, and what a checkpoint of a dialogue holds.

    Subclass it to carry more. `turns` is what has been said; the channels after it hold the turn under way and
    the lists are empty between turns.
    """

    id: str
    """Derived from run, brief and repetition."""
    retry: int
    """How often it was begun anew after it had failed; 0 if it is not there."""
    begun: float
    """When it was begun, in seconds since 1970; calls of what began first go first."""
    seed: int
    """What is left to chance in it is drawn from here: a hash of the run's seed and the dialogue's id."""
    brief: Brief
    profiles: Annotated[dict[str, dict[str, str]], operator.or_]
    """By role, what it is in this dialogue beyond the brief: a persona. Settled at the start, shown to that role alone."""
    findings: Annotated[dict[str, Any], operator.or_]
    """What was found out about the dialogue as a whole, by the name of what found it out; no role is shown it."""
    turns: Annotated[list[Turn], operator.add]
    speaker: str
    """The role whose turn is under way."""
    attempts: Annotated[list[Attempt], operator.add]
    """Drafts of the turn under way, oldest first; the last one is under review. Candidates that were not chosen stand
    before the one that was."""
    reviews: Annotated[list[Review], operator.add]
    """Of the draft under review, one for each reviewer."""
    steps: Annotated[list[Step], operator.add]
    """Other calls made for the turn under way."""
    shortened: Annotated[list[Shortening], operator.add]
    """How often its beginning was cut off because it had outgrown `limits.tokens`; the last one counts."""
    outcome: Outcome
    """Set by a node that ends the dialogue itself; otherwise the stop rules say how it ended."""
