"""What a role is shown of a dialogue.

Prompts are laid out for the endpoint's prefix cache: what is stable comes first, what changes comes last, and nothing
volatile stands in front. For one view, each prompt without its last message is a prefix of the next prompt: a note to
a speaker (drafts that were sent back) and a judge's task therefore stand at the end of the last message. Only where a
dialogue has outgrown its limit does its beginning change, and then for many turns at once.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.judging import as_judged
from tutelage.dialogue.prompt import Message, Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Attempt, Shortening

OPENING = "Begin."
"""What a role that speaks first is told, unless its prompt's front matter has an `opening`."""
GO_ON = "Go on."
"""What a role that speaks twice in a row is told in between."""
SCRIPT = "The dialogue so far:"
"""What stands before the dialogue where a judge is shown it, unless its prompt's front matter has a `script`."""
DRAFT = "draft of the next turn:"
"""What stands before a draft where a judge is shown it, after its speaker's name."""
NOT_SHOWN = "(What was said before is no longer shown.)"
"""What stands in place of the turns of a dialogue that has outgrown its limit."""
IN_SHORT = "What was said before, in short:"
"""What stands before the summary of such turns, where there is one."""


def speaker_prompt(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Prompt:
    """The prompt for a role's next turn: its own turns as `assistant`, the others' as `user`.

    Drafts of this turn that were sent back, and why, stand at the end of the last message.
    """
    turns = dialogue.get("turns", [])
    shortened = shortening(dialogue)
    messages = [_system(agent, dialogue, prompts)]
    heard: list[str] = []
    if not turns or turns[0].role == agent.role:
        heard.append(_opening(prompts, agent.template, brief_of(dialogue), agent.sees) or OPENING)
    heard += _in_place(shortened)
    for turn in turns[shortened.turns if shortened else 0 :]:
        if turn.role == agent.role:
            messages.append(Message("user", tuple(heard or (GO_ON,))))
            messages.append(Message("assistant", (turn.text,)))
            heard = []
        else:
            heard += [label(turn.role), turn.text] if agent.names_others else [turn.text]
    heard = heard or [GO_ON]
    if agent.note is not None:
        heard.append(_with_mind(agent.note, agent, dialogue, prompts))
    if sent_back := drafts(dialogue.get("attempts", ())):
        heard.append(prompts.render("revision", attempts=sent_back))
    messages.append(Message("user", tuple(heard)))
    return Prompt(tuple(messages))


def judge_prompt(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Prompt:
    """The prompt for a role that judges: the dialogue as a script, the draft under review, and its task last.

    Agents with the same `prompt` and `sees` are shown the same up to their task.
    """
    parts = _judged_script(agent, dialogue, prompts)
    speaker = dialogue.get("speaker", "")
    if attempts := dialogue.get("attempts"):
        parts += [f"{name(speaker)}, {DRAFT}", as_judged(attempts[-1].text)]
    parts += _task(agent, dialogue, speaker, prompts)
    return Prompt((_system(agent, dialogue, prompts), Message("user", tuple(parts))))


def choice_prompt(
    agent: Agent, dialogue: Dialogue, speaker: str, candidates: Sequence[Attempt], prompts: PromptLibrary
) -> Prompt:
    """The prompt for a role that chooses between candidates for `speaker`'s next turn, which have numbers from 1."""
    parts = _judged_script(agent, dialogue, prompts)
    for number, candidate in enumerate(candidates, start=1):
        parts += [f"{name(speaker)}, candidate {number} for the next turn:", as_judged(candidate.text)]
    parts += _task(agent, dialogue, speaker, prompts)
    return Prompt((_system(agent, dialogue, prompts), Message("user", tuple(parts))))


def summary_prompt(dialogue: Dialogue, turns: int, words: int, prompts: PromptLibrary) -> Prompt:
    """The prompt for a summary of a dialogue's first `turns` turns, which goes on from the summary that there is.

    It holds nothing of the brief: what one role may see of it, the summary would tell the others.
    """
    shown: Dialogue = {**dialogue, "turns": dialogue["turns"][:turns]}
    return Prompt((Message("user", (*_script(SCRIPT, shown), prompts.render("summary", words=words))),))


def shortening(dialogue: Dialogue) -> Shortening | None:
    """How a dialogue that has outgrown its limit is shown; None for one that is shown whole."""
    # Two judges of one draft may both have shortened it.
    return max(dialogue.get("shortened", ()), key=lambda each: each.turns, default=None)


def drafts(attempts: Sequence[Attempt]) -> list[Attempt]:
    """The attempts at a turn without the candidates that were not chosen."""
    return [attempt for attempt in attempts if attempt.status != "superseded"]


def _judged_script(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> list[str]:
    """The dialogue as a judge is shown it: without what only decorates."""
    heading = str(prompts.template(agent.template).meta.get("script", SCRIPT))
    return _script(heading, dialogue, shown=as_judged)


def _script(heading: str, dialogue: Dialogue, *, shown: Callable[[str], str] = str) -> list[str]:
    shortened = shortening(dialogue)
    parts = [heading, *_in_place(shortened)]
    for turn in dialogue.get("turns", [])[shortened.turns if shortened else 0 :]:
        parts += [label(turn.role), shown(turn.text)]
    return parts


def _in_place(shortened: Shortening | None) -> list[str]:
    """What stands in place of turns that are no longer shown."""
    if shortened is None:
        return []
    return [NOT_SHOWN] if shortened.summary is None else [IN_SHORT, shortened.summary]


def brief_of(dialogue: Dialogue) -> Brief:
    """The dialogue's brief; one that came in as plain JSON (from LangGraph's Studio) is read first."""
    return Brief.model_validate(dialogue["brief"])


def name(role: str) -> str:
    """A role's name as prose: `fact_checker` as `Fact checker`."""
    return role.replace("_", " ").capitalize()


def label(role: str) -> str:
    """What stands before a turn where several speakers are shown."""
    return f"{name(role)}:"


def profile_of(role: str, dialogue: Dialogue) -> Mapping[str, str]:
    """What a role is in this dialogue beyond the brief; nothing, for most."""
    return dialogue.get("profiles", {}).get(role, {})


def _system(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> Message:
    profile = tuple(profile_of(agent.role, dialogue).items())
    return Message("system", (_rendered(prompts, agent.template, brief_of(dialogue), agent.sees, profile=profile),))


def _task(agent: Agent, dialogue: Dialogue, speaker: str, prompts: PromptLibrary) -> list[str]:
    """A judge's task; nothing for an agent that has none."""
    if agent.task is None:
        return []
    if agent.mind is not None:
        return [_with_mind(agent.task, agent, dialogue, prompts, speaker=name(speaker))]
    return [_rendered(prompts, agent.task, brief_of(dialogue), agent.sees, speaker=name(speaker))]


def _with_mind(template: str, agent: Agent, dialogue: Dialogue, prompts: PromptLibrary, **more: str) -> str:
    brief, profile = brief_of(dialogue).seen_by(agent.sees), profile_of(agent.role, dialogue)
    return prompts.render(template, brief=brief, profile=profile, mind=mind_of(agent, dialogue), **more)


def mind_of(agent: Agent, dialogue: Dialogue) -> Mapping[str, Any]:
    """What is in a role's mind now."""
    return agent.mind(dialogue) if agent.mind is not None else {}


# What comes from the brief stays the same over a whole dialogue: it is rendered once, not for each call.
@lru_cache(maxsize=16_384)
def _rendered(
    prompts: PromptLibrary,
    template: str,
    brief: Brief,
    sees: frozenset[str],
    *,
    speaker: str | None = None,
    profile: tuple[tuple[str, str], ...] = (),
) -> str:
    speaking = {} if speaker is None else {"speaker": speaker}
    return prompts.render(template, brief=brief.seen_by(sees), profile=dict(profile), **speaking)


@lru_cache(maxsize=16_384)
def _opening(prompts: PromptLibrary, template: str, brief: Brief, sees: frozenset[str]) -> str:
    return prompts.opening(template, brief.seen_by(sees))


def check_prompts(agent: Agent, dialogue: Dialogue, prompts: PromptLibrary) -> None:
    """Makes sure that all prompts of a role exist and render for a dialogue.

    Raises:
        PromptError: One does not; the message names it.
    """
    prompts.check(agent.template, ["brief", "profile"])
    prompts.check("repair", ["error"])
    prompts.check("summary", ["words"])
    if agent.task is None:
        prompts.check("revision", ["attempts"])
        if agent.note is not None:
            prompts.check(agent.note, ["brief", "profile", "mind"])
        speaker_prompt(agent, dialogue, prompts)
    else:
        prompts.check(agent.task, ["brief", "speaker", "profile", *(["mind"] if agent.mind else [])])
        judge_prompt(agent, dialogue, prompts)
