"""Learning probes: what the student believes before and after, asked beside the dialogue.

A probe is asked in a fork: the student's own prompt as it stands, with the question in place of its next turn. Nothing of
it goes into the dialogue, whose prompts and seeds are the same with and without probes. Each question is asked some times
over, as in arXiv 2505.15607, for one reply says little about what a model believes.

Choices are shown in an order of the dialogue's own, so that over many dialogues a liking for the first letter cancels out;
before and after the order is the same, so that within a dialogue it does, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from string import ascii_uppercase
from typing import Any, Literal, TypeAlias

from langgraph.runtime import Runtime
from langgraph.types import Overwrite
from pydantic import BaseModel, ConfigDict, create_model

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.brief import Probe
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import Update, occasion_of
from tutelage.dialogue.outgrown import Shown, ask_within_limit
from tutelage.dialogue.prompt import Message, Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.turn import Step
from tutelage.dialogue.view import brief_of, mind_of, profile_of, speaker_prompt
from tutelage.errors import CallError, ContextExceeded, GraphError
from tutelage.learners.rotation import shuffled

When: TypeAlias = Literal["before", "after"]


class Answer(BaseModel):
    """The schema of a reply to a probe; `shape_of` has the letters that there are."""

    # A schema, and not `OneOf`, for llama.cpp follows schemas only.
    model_config = ConfigDict(frozen=True, extra="forbid")

    choice: str


@dataclass(frozen=True, slots=True)
class AskProbes:
    """A node that asks a student all of its brief's probes. Where the brief has none, it makes no call."""

    student: Agent
    when: When
    samples: int

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Keeps the replies as steps: of the turn under way before, of the last turn after."""
        steps: list[Step] = []
        dialogue = state
        for number, probe in enumerate(brief_of(state).probes):
            try:
                replies, shown = await self._ask(number, probe, dialogue, runtime.context)
            except CallError as error:
                if isinstance(error, ContextExceeded) and self.when == "after":
                    break  # a long dialogue has ended as it has: that a question does not fit behind it changes nothing
                error.replies = [*steps, *error.replies]
                raise
            steps += [*shown.steps, *replies]
            dialogue = shown.dialogue  # how it was shortened for a probe is for probes alone
        if self.when == "before" or not steps:
            return {"steps": steps} if steps else {}
        *earlier, last = state["turns"]
        probed = last.model_copy(update={"steps": [*last.steps, *steps]})
        return {"turns": Overwrite([*earlier, probed])}

    async def _ask(self, number: int, probe: Probe, dialogue: Dialogue, cast: Cast) -> tuple[list[Step], Shown]:
        """The student's replies to one probe, those that did not fit before them."""
        kind, choices = f"probe_{self.when}", lettered(probe, number, dialogue)
        occasion = replace(occasion_of(dialogue), purpose=f"{kind} {number}")
        replies, shown = await ask_within_limit(
            self.student,
            dialogue,
            cast,
            occasion,
            lambda shown: probe_prompt(self.student, shown, probe, choices, cast.prompts),
            # Kept in the journal, for the node has more calls to make: none of them is made again after a crash.
            lambda prompt: ask_for_several(
                self.samples, shape_of(len(choices)), self.student, prompt, cast, occasion, journal=True
            ),
        )
        kept = [_step(kind, number, probe, choices, reply, self.student) for reply in replies]
        return [*replies[0].misfits, *kept], shown


def probe(student: Agent, *, when: When, samples: int = 4) -> AskProbes:
    """A node that asks a student its brief's probes, in forks that leave the dialogue as it is.

    Args:
        student: Who is asked, as the role that it is in the dialogue.
        when: `before` at the start of a graph, `after` at its end: `stop_or(…, end="probe_after")`.
        samples: How often each probe is asked, in one request where the student's model knows `n`.

    Raises:
        GraphError: There are no samples, or the agent is a judge.
    """
    if samples < 1:
        raise GraphError(f"probe() needs at least one sample, not {samples}")
    if student.task is not None:
        raise GraphError(f"the agent {student.role!r} judges: a probe is for a role that takes part in the dialogue")
    return AskProbes(student, when, samples)


def probe_prompt(
    student: Agent, dialogue: Dialogue, probe: Probe, choices: Mapping[str, str], prompts: PromptLibrary
) -> Prompt:
    """The fork: the student's view of the dialogue, and the probe where its next turn would be asked for.

    What is in the student's mind comes with it; its note, which is about speaking, does not.
    """
    *before, last = speaker_prompt(replace(student, note=None), {**dialogue, "attempts": []}, prompts).messages
    turns = dialogue.get("turns", [])
    unanswered = last.parts if turns and turns[-1].role != student.role else ()
    question = prompts.render(
        "probe",
        brief=brief_of(dialogue).seen_by(student.sees),
        profile=profile_of(student.role, dialogue),
        mind=mind_of(student, dialogue),
        question=probe.question,
        choices=choices,
    )
    return Prompt((*before, Message("user", (*unanswered, question))))


def lettered(probe: Probe, number: int, dialogue: Dialogue) -> dict[str, str]:
    """A probe's choices by letter, in the order in which this dialogue shows them."""
    return dict(zip(ascii_uppercase, shuffled(dialogue, f"probe {number}", probe.choices), strict=False))


@lru_cache(maxsize=16)
def shape_of(choices: int) -> type[Answer]:
    """The schema of a reply: one of so many letters."""
    letters: Any = Literal.__getitem__(tuple(ascii_uppercase[:choices]))
    return create_model("Answer", __base__=Answer, choice=(letters, ...))


def _step(kind: str, number: int, probe: Probe, choices: Mapping[str, str], reply: Reply[Any], student: Agent) -> Step:
    chosen = choices[reply.value.choice]
    data = {
        "probe": number,
        "choice": chosen,
        "correct": chosen == probe.answer,
        "misconception": chosen == probe.misconception,
        "choices": dict(choices),
    }
    return Step(kind=kind, role=student.role, text=reply.text, data=data, call=reply.call)
