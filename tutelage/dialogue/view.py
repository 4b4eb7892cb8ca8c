"""What a role is shown of a dialogue.

Prompts are laid out for the endpoint's prefix cache: what is stable comes first, what changes comes last, and nothing
volatile stands in front. For one view, each prompt without its last message is a prefix of the next prompt: a note to
a speaker (drafts that were sent back) and a judge's task therefore stand at the end of the last message.
"""

from functools import lru_cache

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.prompt import Message, Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue

OPENING = "Begin."
"""What a role that speaks first is told, unless its prompt's front matter has an `opening`."""
GO_ON = "Go on."
"""What a role that speaks twice in a row is told in between."""
SCRIPT = "The dialogue so far:"
"""What stands before the dialogue where a judge is shown it, unless its prompt's front matter has a `script`."""


def speaker_prompt(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Prompt:
    """The prompt for a role's next turn: its own turns as `assistant`, the others' as `user`.

    Drafts of this turn that were sent back, and why, stand at the end of the last message.
    """
    turns = dialogue.get("turns", [])
    messages = [_system(agent, dialogue, prompts)]
    heard: list[str] = []
    if not turns or turns[0].role == agent.role:
        heard.append(_opening(prompts, agent.template, brief_of(dialogue), agent.sees) or OPENING)
    for turn in turns:
        if turn.role == agent.role:
            messages.append(Message("user", tuple(heard or (GO_ON,))))
            messages.append(Message("assistant", (turn.text,)))
            heard = []
        else:
            heard += [label(turn.role), turn.text] if agent.names_others else [turn.text]
    heard = heard or [GO_ON]
    if sent_back := dialogue.get("attempts"):
        heard.append(prompts.render("revision", attempts=sent_back))
    messages.append(Message("user", tuple(heard)))
    return Prompt(tuple(messages))


def judge_prompt(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Prompt:
    """The prompt for a role that judges: the dialogue as a script, the draft under review, and its task last.

    Agents with the same `prompt` and `sees` are shown the same up to their task.
    """
    parts = [str(prompts.template(agent.template).meta.get("script", SCRIPT))]
    for turn in dialogue.get("turns", []):
        parts += [label(turn.role), turn.text]
    speaker = dialogue.get("speaker", "")
    if attempts := dialogue.get("attempts"):
        parts += [f"{name(speaker)}, draft of the next turn:", attempts[-1].text]
    if agent.task is not None:
        parts.append(_rendered(prompts, agent.task, brief_of(dialogue), agent.sees, name(speaker)))
    return Prompt((_system(agent, dialogue, prompts), Message("user", tuple(parts))))


def brief_of(dialogue: Dialogue) -> Brief:
    """The dialogue's brief; one that came in as plain JSON (from LangGraph's Studio) is read first."""
    return Brief.model_validate(dialogue["brief"])


def name(role: str) -> str:
    """A role's name as prose: `fact_checker` as `Fact checker`."""
    return role.replace("_", " ").capitalize()


def label(role: str) -> str:
    """What stands before a turn where several speakers are shown."""
    return f"{name(role)}:"


def _system(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Message:
    return Message("system", (_rendered(prompts, agent.template, brief_of(dialogue), agent.sees),))


# What comes from the brief stays the same over a whole dialogue: it is rendered once, not for each call.
@lru_cache(maxsize=16_384)
def _rendered(
    prompts: PromptLibrary, template: str, brief: Brief, sees: frozenset[str], speaker: str | None = None
) -> str:
    speaking = {} if speaker is None else {"speaker": speaker}
    return prompts.render(template, brief=brief.seen_by(sees), **speaking)


@lru_cache(maxsize=16_384)
def _opening(prompts: PromptLibrary, template: str, brief: Brief, sees: frozenset[str]) -> str:
    return prompts.opening(template, brief.seen_by(sees))


def check_prompts(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> None:
    """Makes sure that all prompts of a role exist and render for a dialogue.

    Raises:
        PromptError: One does not; the message names it.
    """
    prompts.check(agent.template, ["brief"])
    prompts.check("repair", ["error"])
    if agent.task is None:
        prompts.check("revision", ["attempts"])
        speaker_prompt(agent, dialogue, prompts)
    else:
        prompts.check(agent.task, ["brief", "speaker"])
        judge_prompt(agent, dialogue, prompts)
