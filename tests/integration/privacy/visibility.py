"""Who may see which canary: the rules that the engine is held to, said once more and independently of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tutelage import Agent, Brief, Dialogue
from tutelage.dialogue.turn import Attempt, Turn
from tutelage.learners.acting import mind
from tutelage.learners.probes import Answer

from .canaries import Kind, found_in
from .fuzzing_model import Asked, FuzzingModel

LEARNERS = ("student", "opponent", "classmate")
NEVER: Mapping[str, frozenset[str]] = dict.fromkeys(
    LEARNERS, frozenset({"answer", "giveaway", "facts", "probes", "extra"})
)
"""What a role may not see whatever its agent declares: who is to learn something does not read it in the brief."""


@dataclass
class Fuzzed:
    """A dialogue that was played, and what its models were shown."""

    id: str
    brief: Brief
    dialogue: Dialogue
    """As it stood at its end."""
    model: FuzzingModel
    agents: Sequence[Agent]
    kinds: Mapping[str, Kind]
    public: set[str] = field(default_factory=set)
    """The canaries that were said aloud, in an accepted turn."""
    reviewed: dict[str, set[str]] = field(default_factory=dict)
    """By role, the canaries in the reviews of its drafts."""

    def __post_init__(self) -> None:
        for turn in self.turns:
            self.public |= found_in(turn.text) & self.model.spoken
            self._note_reviews(turn.role, turn.attempts)
        under_review = [each.model_copy(update={"reviews": []}) for each in self.dialogue.get("attempts", [])[-1:]]
        under_review = [each.model_copy(update={"reviews": self.dialogue.get("reviews", [])}) for each in under_review]
        self._note_reviews(self.dialogue.get("speaker", ""), [*self.dialogue.get("attempts", []), *under_review])

    @property
    def turns(self) -> list[Turn]:
        return self.dialogue.get("turns", [])

    def may_be_shown(self, asked: Asked, word: str) -> bool:
        """Whether a canary may stand in the prompt of a call."""
        agents = [agent for agent in self.agents if (agent.role, agent.view) == (asked.role, asked.view)]
        kind = self.kinds[word]
        if asked.shape == Answer.__name__ and kind == Kind("brief", "probes"):
            return True  # the probe that is asked, beside the dialogue
        if word in self.reviewed.get(asked.role, ()) and kind.whose not in NEVER.get(asked.role, ()):
            return True  # what its draft was sent back for
        return self._may_know(agents, asked.role, word, self._turn_of.get(asked.prompt, len(self.turns)))

    def may_be_learnt(self, role: str, turn: int, word: str) -> bool:
        """Whether a canary may stand in a row of training data for a role, made of its part in that turn."""
        agents = [agent for agent in self.agents if agent.role == role]
        return self._may_know(agents, role, word, turn)

    def _may_know(self, agents: Iterable[Agent], role: str, word: str, turn: int) -> bool:
        kind = self.kinds[word]
        if word in self.public or word in self.model.spoken_by(role):
            return True
        if word in self.model.spoken and any(agent.task for agent in agents):
            return True  # a draft, which is judged
        if kind.what != "brief":
            return kind.whose == role
        if kind.whose == "answer" and any(agent.mind is mind for agent in agents) and self._has_understood(turn):
            return True
        return any(kind.whose in agent.sees - NEVER.get(role, frozenset()) for agent in agents)

    def _has_understood(self, turn: int) -> bool:
        """Whether a student's belief has fallen before a turn: by as many hits as it takes, none of which tells."""
        assert self.brief.misconception is not None
        answers = found_in(" ".join(self.brief.answer))
        judged = (each for each in self.turns[:turn] if not found_in(each.text) & answers)
        hits = sum(each.private.get("feedback_judge", {}).get("feedback") == "targeted" for each in judged)
        return bool(hits >= self.brief.misconception.robustness)

    @cached_property
    def _turn_of(self) -> dict[str, int]:
        """By its prompt's hash, before which turn a call was made."""
        made = {}
        for turn in self.turns:
            for attempt in turn.attempts:
                made[attempt.call.prompt_sha256] = turn.index
            for step in turn.steps:
                made[step.call.prompt_sha256] = turn.index + (step.kind == "probe_after")
        return made

    def _note_reviews(self, role: str, attempts: Iterable[Attempt]) -> None:
        for attempt in attempts:
            for review in attempt.reviews:
                # Its reply as it came is for training the reviewer, and is shown to nobody.
                told = review.model_dump_json(exclude={"reply"})
                self.reviewed.setdefault(role, set()).update(found_in(told))
