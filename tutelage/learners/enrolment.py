"""Enrolment: who the student of a dialogue is, settled before anything is said."""

from dataclasses import dataclass
from typing import Any, Final

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.cast import Cast, Students
from tutelage.dialogue.nodes import Update, actions_of
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.view import brief_of
from tutelage.learners.personas import NOBODY, PERSONA, known_personas, persona_profile, traits_of, wanted_personas
from tutelage.learners.rotation import drawn, happens
from tutelage.learners.techniques import FINDING, TECHNIQUE, known_techniques, tactic

TACTIC: Final = "tactic"
"""In the student's profile: what it does to get at the answer."""


@dataclass(frozen=True, slots=True)
class Enrol:
    """A node that settles who the student is. It calls no model."""

    student: Agent

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Draws a persona and, in the share of dialogues that the run wants, a technique."""
        cast, brief, role = runtime.context, brief_of(state), self.student.role
        persona = drawn(state, f"persona of {role}", wanted_personas(cast.students.personas, cast.prompts))
        profile = {} if persona == NOBODY else persona_profile(persona, brief, cast.prompts)
        found = {}
        if happens(state, "adversarial", cast.students.adversarial):
            technique = drawn(state, "technique", known_techniques(cast.prompts))
            profile[TACTIC] = tactic(technique, brief, cast.prompts)
            found[FINDING] = technique
        return {
            **({"profiles": {role: profile}} if profile else {}),
            **({"findings": found} if found else {}),
        }


def enrol(student: Agent) -> Enrol:
    """A node for the start of a graph, in which the student of the dialogue gets a persona and maybe a technique.

    Both are drawn from the dialogue's seed, by what the run's `students` says. They are kept in the state under `profiles`,
    where the student's own templates find them as `profile`, and the technique's name under `findings`. No other role is
    shown either.
    """
    return Enrol(student)


def enrols(graph: StateGraph[Any, Any, Any, Any]) -> bool:
    """Whether a graph, or one within it, enrols a student."""
    return any(isinstance(action, Enrol) for action in actions_of(graph))


def check_students(students: Students, prompts: PromptLibrary) -> None:
    """Makes sure, before a run begins, that its students can be enrolled.

    Raises:
        ConfigError: There is no persona of some name.
        PromptError: The template of a persona or a technique is broken.
    """
    wanted_personas(students.personas, prompts)
    for name in known_personas(prompts):
        prompts.check(PERSONA + name, ["brief"])
        traits_of(name, prompts)
    for name in known_techniques(prompts):
        prompts.check(TECHNIQUE + name, ["brief"])
