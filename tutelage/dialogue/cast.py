"""Who plays which role: the runtime context of a dialogue's graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from langchain_core.language_models import BaseChatModel

from tutelage.dialogue.prompt import Prompt, PromptLibrary
from tutelage.dialogue.turn import Call
from tutelage.errors import ConfigError

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

DEFAULT_PLAYER = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far a dialogue may go."""

    messages: int = 16
    """Public turns of a dialogue."""
    revisions: int = 2
    """Drafts sent back for one turn."""
    tokens: int = 8192
    """Prompt and completion of one call together."""
    outgrown: Literal["end", "drop", "summarise"] = "end"
    """What happens to a dialogue whose next call would not fit `tokens`."""
    turn_tokens: int | None = None
    """Prompts and completions of one turn together, its drafts' and its judges': no draft is sent back that would need
    more. None: eight times `tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """A model in a role."""

    model: BaseChatModel
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Temperature and the like for this role; what is not here is the agent's own choice."""
    priority: bool = False
    """Whether its calls say how old their dialogue is, for an endpoint that answers the oldest first."""
    adapter_sha256: str | None = None
    """The hash of its adapter's weights, where they are known."""
    panel: "tuple[Player, ...]" = ()
    """Further models that judge in this role beside it: what most of them say counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What claims are checked against, besides each brief's own facts."""

    policy: Literal["strict", "mark", "open"] = "mark"
    """What sends a draft back: also what is not found, only what is contradicted, or nothing."""
    tools: "tuple[BaseTool, ...]" = ()
    """LangChain tools that are given a claim and answer with passages."""
    passages: int = 5
    """How many passages of each tool are looked at for a claim."""
    folder: Path = field(default_factory=Path)
    """What the paths of the briefs' documents are relative to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Students:
    """Who the students of a run are, where its graph has students of many kinds."""

    personas: tuple[str, ...] = ()
    """Their names; all that there are if empty."""
    adversarial: float = 0.0
    """The share of dialogues whose student tries to get the answer out of the tutor."""


class Journal(Protocol):
    """Keeps the replies that a node could not use and goes on from: a repair is not asked for again after a crash."""

    def recall(self, dialogue: str, key: str) -> tuple[str, Call] | None:
        """A reply that was kept, if it was."""

    async def keep(self, dialogue: str, key: str, text: str, call: Call) -> None:
        """Keeps a reply, and returns once it is on disk."""


class NoJournal:
    """Keeps nothing: for a graph that is played without a run."""

    def recall(self, dialogue: str, key: str) -> tuple[str, Call] | None:
        return None

    async def keep(self, dialogue: str, key: str, text: str, call: Call) -> None:
        pass


class CallWatch:
    """Is told of every call, for progress and metrics; this one listens to nothing."""

    def call_answered(
        self, *, role: str, seconds: float, prompt_tokens: int, cached_tokens: int, completion_tokens: int
    ) -> None:
        """A model answered, so long after it was first asked."""

    def call_failed(self, *, role: str, reason: str) -> None:
        """A call failed for good."""

    def reply_misfit(self, *, role: str) -> None:
        """A reply was empty or did not fit its schema."""


def _ignore(*_: Any) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Which model plays which role, and what holds for every dialogue of a run.

    It is the `context_schema` of every dialogue's graph: a node gets it as `runtime.context`.
    """

    players: Mapping[str, Player] = field(default_factory=dict)
    """By role; the one called `default` plays the roles that are not named."""
    prompts: PromptLibrary = field(default_factory=PromptLibrary)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    evidence: Evidence = Evidence()
    students: Students = Students()
    on_prompt: Callable[[str, Prompt], None] = _ignore
    """Called with the dialogue's id and the prompt, before each call."""
    journal: Journal = field(default_factory=NoJournal)
    watch: CallWatch = field(default_factory=CallWatch)

    @classmethod
    def of(cls, model: BaseChatModel, **roles: BaseChatModel) -> Self:
        """A cast in which `model` plays every role but those named: `Cast.of(large, student=small)`."""
        everyone = {DEFAULT_PLAYER: model, **roles}
        return cls(players={role: Player(model=each) for role, each in everyone.items()})

    def player(self, role: str) -> Player:
        """Who plays the role.

        Raises:
            ConfigError: Nobody does.
        """
        player = self.players.get(role) or self.players.get(DEFAULT_PLAYER)
        if player is None:
            raise ConfigError(
                f"nobody plays the role {role!r}: name its model under `roles:`, or call a model `default`"
            )
        return player
