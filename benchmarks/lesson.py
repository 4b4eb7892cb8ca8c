"""The lesson that every competitor plays, as one without Tutelage would write it: what to do, and who is told what.

What the templates of the roles make of a brief is rendered beforehand and handed over, so competitors have it for
nothing. The layout of the messages is that of `tutelage.dialogue.view`; a run checks that all were sent the same.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

import jinja2
from pydantic import BaseModel, ConfigDict

from tutelage.agents import critic, fact_checker, student, tutor
from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.view import judge_prompt, speaker_prompt

MAX_TOKENS = 1024
"""Of every reply: enough for each verdict."""

Messages = list[tuple[str, str]]
"""Role and text of each message."""


class Value(BaseModel):
    """A value that goes from the benchmark's process to a competitor's."""

    model_config = ConfigDict(frozen=True)


class Script(Value):
    """What the roles of one dialogue are told."""

    id: str
    tutor: str
    opening: str
    student: str
    reviewers: str
    lesson_so_far: str
    tasks: dict[str, str]
    """By reviewer."""
    revision: str
    """The template of the note to a tutor whose drafts were sent back."""


class Job(Value):
    """Dialogues to make."""

    url: str
    model: str
    folder: Path
    """For whatever a competitor saves; its own, and empty but for the briefs."""
    briefs: Path
    scripts: list[Script]
    """One for each brief."""
    messages: int
    """Public turns of a dialogue, the tutor's and the student's in turn."""
    revisions: int
    concurrency: int
    """Dialogues under way at once."""


class Review(TypedDict):
    """What a reviewer said of a draft."""

    role: str
    verdict: str
    issues: list[dict[str, Any]]


class Draft(TypedDict):
    """A draft of the tutor's that was reviewed."""

    text: str
    reviews: list[Review]


Turns = Sequence[tuple[str, str]]
"""Role and text of what has been said."""


def tutor_messages(script: Script, turns: Turns, drafts: Sequence[Draft]) -> Messages:
    """What the tutor is sent: drafts that were sent back stand at the end of the last message."""
    heard = [(_OTHER["tutor"][role], text) for role, text in turns]
    messages = [("system", script.tutor), ("user", script.opening), *heard]
    if drafts:
        role, text = messages[-1]
        note = _template(script.revision).render(attempts=drafts).strip()
        messages[-1] = (role, f"{text}\n\n{note}")
    return messages


def student_messages(script: Script, turns: Turns) -> Messages:
    """What the student is sent."""
    return [("system", script.student), *((_OTHER["student"][role], text) for role, text in turns)]


def review_messages(script: Script, turns: Turns, draft: str, reviewer: str) -> Messages:
    """What a reviewer is sent."""
    said = [part for role, text in turns for part in (f"{role.capitalize()}:", text)]
    parts = [script.lesson_so_far, *said, "Tutor, draft of the next turn:", draft, script.tasks[reviewer]]
    return [("system", script.reviewers), ("user", "\n\n".join(parts))]


def what_is_said(drafts: Sequence[Draft], revisions: int) -> str | None:
    """What is said once the last draft has been reviewed, or None if it goes back, as the gate of `lesson` has it.

    The simulated reviewers' issues all point at words of the draft, so all of them count.
    """
    *before, last = drafts
    if not _weight(last)[1]:
        return last["text"]
    if before and not _weight(last) < _weight(before[-1]):
        return before[-1]["text"]
    return last["text"] if len(drafts) > revisions else None


def _weight(draft: Draft) -> tuple[int, int]:
    """How many issues block it, and how many block it or are major."""
    reviews = (review for review in draft["reviews"] if review["verdict"] == "revise")
    severities = [issue["severity"] for review in reviews for issue in review["issues"]]
    block = severities.count("block")
    return block, block + severities.count("major")


def write_briefs(path: Path, first: int, count: int) -> list[Brief]:
    """Writes that many briefs, all different, and gives them back; the answer is one that no simulated student gives."""
    briefs = [_brief(number) for number in range(first, first + count)]
    path.write_text("".join(brief.model_dump_json(exclude_none=True) + "\n" for brief in briefs), encoding="utf-8")
    return briefs


def script_of(brief: Brief) -> Script:
    """What the roles are told before anything is said, as `agents/` and `prompts/` have it."""
    prompts = _prompts()
    dialogue: Dialogue = {"id": brief.id, "brief": brief, "turns": [], "speaker": "tutor"}
    system, opening = speaker_prompt(tutor, dialogue, prompts).messages
    reviews = {agent.role: judge_prompt(agent, dialogue, prompts).messages for agent in (critic, fact_checker)}
    reviewers, review = reviews["critic"]
    return Script(
        id=brief.id,
        tutor=system.content,
        opening=opening.content,
        student=speaker_prompt(student, dialogue, prompts).messages[0].content,
        reviewers=reviewers.content,
        lesson_so_far=review.parts[0],
        tasks={role: messages[-1].parts[-1] for role, messages in reviews.items()},
        revision=_body("revision"),
    )


_OTHER = {"tutor": {"tutor": "assistant", "student": "user"}, "student": {"tutor": "user", "student": "assistant"}}


def _brief(number: int) -> Brief:
    first, second = number + 2, number + 3
    return Brief(
        id=f"fractions-{number}",
        topic="Adding fractions with different denominators",
        domain="mathematics",
        question=f"What is 1/{first} + 1/{second}?",
        answer=(f"{first + second}/{first * second}",),
        misconception=Misconception(
            belief="To add fractions, add the tops and add the bottoms.", predicts=f"2/{first + second}"
        ),
        facts=(
            "Fractions can be added once they have a common denominator.",
            f"{first * second} is a common denominator of 1/{first} and 1/{second}.",
            f"1/{first} is {second}/{first * second}, and 1/{second} is {first}/{first * second}.",
        ),
        level="lower secondary",
    )


@lru_cache(maxsize=1)
def _prompts() -> PromptLibrary:
    return PromptLibrary()


def _body(name: str) -> str:
    text = (resources.files("tutelage.prompts") / f"{name}.md").read_text(encoding="utf-8")
    return text.removeprefix("---\n").partition("\n---\n")[2]


@lru_cache(maxsize=8)
def _template(source: str) -> jinja2.Template:
    return jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False).from_string(source)
