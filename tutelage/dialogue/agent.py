"""Who takes part in a dialogue."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tutelage.dialogue.shapes import Shape
from tutelage.dialogue.state import Dialogue


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A role: what it is told, what it may see, and the shape of its replies.

    What a role is shown is rendered for it alone: a system message from `prompt`, then the dialogue as that role saw
    it (its own turns as `assistant`, the others' as `user`). A role that judges, and does not take part, has a `task`:
    it is shown the dialogue as a script, with its task at the very end.
    """

    role: str
    """Its name in the config's `roles:`, in transcripts and in exports."""
    prompt: str = ""
    """The template of the system message, by name; the role's own name if empty."""
    task: str | None = None
    """The template of a judging role's last message. Agents with the same `prompt` and `sees` then share one view:
    all but their task, and so the endpoint's prefix cache."""
    sees: frozenset[str] = frozenset()
    """The brief's private fields that this role may see: answer, giveaway, misconception, probes, facts, documents,
    extra."""
    reply: Shape | None = None
    """The shape of its replies: a schema, `OneOf`, `Matching` or `Grammar`; none for plain text."""
    mind: Callable[[Dialogue], Mapping[str, Any]] | None = None
    """What is in this role's mind now: a pure function of the dialogue, for its `note` and its `task`. It gives plain data,
    which is kept with each draft, and joins what is private in the turn."""
    note: str | None = None
    """The template of a note to a speaker, by name: it stands at the end of the role's last message, each time anew."""
    names_others: bool = False
    """Whether the others' turns are shown with their role's name: for dialogues of three and more."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Temperature and the like, unless the config says otherwise for this role."""

    @property
    def template(self) -> str:
        """The name of the system message's template."""
        return self.prompt or self.role

    @property
    def view(self) -> str:
        """The name of the view: calls of one view of a dialogue share all of their prompt but its end."""
        return self.template if self.task else self.role
