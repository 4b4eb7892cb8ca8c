"""Who a student is: a persona, with its level, patience, style and language.

Personas are data: templates `persona.NAME.md`, whose front matter has the traits and whose body tells the student how it
behaves. A file of that name in a user's `prompts/` overrides a built-in one or adds another.
"""

from collections.abc import Sequence
from typing import Final

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.errors import ConfigError, PromptError

PERSONA: Final = "persona."
"""What the name of a persona's template begins with."""
TRAITS: Final = ("level", "patience", "style", "language")
"""What a persona's front matter says, in a few words each."""
NOBODY: Final = "none"
"""The persona of a student that has none, for a run that wants such students, too."""


def known_personas(prompts: PromptLibrary) -> tuple[str, ...]:
    """The personas that there are: the built-in ones and the user's own."""
    return prompts.names(PERSONA)


def wanted_personas(names: Sequence[str], prompts: PromptLibrary) -> tuple[str, ...]:
    """The personas of a run: those that are named, one that is named twice twice as often; all that there are if none is.

    Raises:
        ConfigError: There is no persona of some name.
    """
    known = known_personas(prompts)
    for name in names:
        if name not in (*known, NOBODY):
            raise ConfigError(
                f"students.personas: there is no persona {name!r}; there is {', '.join(known)}, and {NOBODY} for a student "
                f"without one. To make it, write prompts/{PERSONA}{name}.md"
            )
    return tuple(names) or known


def persona_profile(name: str, brief: Brief, prompts: PromptLibrary) -> dict[str, str]:
    """What a student of some persona is, as its template is shown it: the name, the traits, and its manner.

    It is written down with the dialogue for everyone to read, so it is told of the brief what is public, and no more.

    Raises:
        PromptError: The template is missing or broken, or lacks a trait.
    """
    manner = prompts.render(PERSONA + name, brief=brief.seen_by(frozenset()))
    return {"persona": name, **traits_of(name, prompts), "manner": manner}


def traits_of(name: str, prompts: PromptLibrary) -> dict[str, str]:
    """What a persona's front matter says of it.

    Raises:
        PromptError: The template is missing or broken, or lacks a trait.
    """
    template = prompts.template(PERSONA + name)
    if missing := [trait for trait in TRAITS if not template.meta.get(trait)]:
        raise PromptError(
            f"prompt {template.name!r} ({template.source}) lacks {' and '.join(missing)} in its front matter: say it there "
            "in a few words"
        )
    return {trait: str(template.meta[trait]) for trait in TRAITS}
