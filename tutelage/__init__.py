"""Models that teach each other, with critics and fact-checkers, saved as training data."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# LangGraph reads it when it is imported: checkpoints are read back with the types of a graph's state, and no others.
os.environ.setdefault("LANGGRAPH_STRICT_MSGPACK", "true")

if TYPE_CHECKING:
    from tutelage.config import Config
    from tutelage.dialogue.agent import Agent
    from tutelage.dialogue.brief import Brief, Misconception, Probe
    from tutelage.dialogue.candidates import ByScore, Choice
    from tutelage.dialogue.cast import Cast, Limits, Player
    from tutelage.dialogue.checking import Check
    from tutelage.dialogue.critique import add_critique_loop
    from tutelage.dialogue.graph import needs
    from tutelage.dialogue.nodes import Utterance, assess, draft, review, speak
    from tutelage.dialogue.shapes import Grammar, Matching, OneOf
    from tutelage.dialogue.state import Dialogue
    from tutelage.dialogue.stopping import (
        Reason,
        completed,
        discarded,
        max_messages,
        max_tokens,
        stop_or,
        unless_discarded,
    )
    from tutelage.dialogue.turn import Attempt, Call, Claim, Issue, Outcome, Review, Step, Turn, Verdict
    from tutelage.generation.generate import agenerate, generate
    from tutelage.transcripts.store import read_transcripts
    from tutelage.transcripts.transcript import Transcript

_PLACES = {
    "tutelage.config": ["Config"],
    "tutelage.dialogue.agent": ["Agent"],
    "tutelage.dialogue.brief": ["Brief", "Misconception", "Probe"],
    "tutelage.dialogue.candidates": ["ByScore", "Choice"],
    "tutelage.dialogue.checking": ["Check"],
    "tutelage.dialogue.cast": ["Cast", "Limits", "Player"],
    "tutelage.dialogue.critique": ["add_critique_loop"],
    "tutelage.dialogue.graph": ["needs"],
    "tutelage.dialogue.nodes": ["Utterance", "assess", "draft", "review", "speak"],
    "tutelage.dialogue.shapes": ["Grammar", "Matching", "OneOf"],
    "tutelage.dialogue.state": ["Dialogue"],
    "tutelage.dialogue.stopping": [
        "Reason",
        "completed",
        "discarded",
        "max_messages",
        "max_tokens",
        "stop_or",
        "unless_discarded",
    ],
    "tutelage.dialogue.turn": ["Attempt", "Call", "Claim", "Issue", "Outcome", "Review", "Step", "Turn", "Verdict"],
    "tutelage.generation.generate": ["agenerate", "generate"],
    "tutelage.transcripts.store": ["read_transcripts"],
    "tutelage.transcripts.transcript": ["Transcript"],
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "Agent",
    "Attempt",
    "Brief",
    "ByScore",
    "Call",
    "Cast",
    "Check",
    "Choice",
    "Claim",
    "Config",
    "Dialogue",
    "Grammar",
    "Issue",
    "Limits",
    "Matching",
    "Misconception",
    "OneOf",
    "Outcome",
    "Player",
    "Probe",
    "Reason",
    "Review",
    "Step",
    "Transcript",
    "Turn",
    "Utterance",
    "Verdict",
    "add_critique_loop",
    "agenerate",
    "assess",
    "completed",
    "discarded",
    "draft",
    "generate",
    "max_messages",
    "max_tokens",
    "needs",
    "read_transcripts",
    "review",
    "speak",
    "stop_or",
    "unless_discarded",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: `langgraph.graph` alone takes a second, and `tutelage --help` has none to spare.
    if name not in _PLACE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACE_OF[name]), name)
