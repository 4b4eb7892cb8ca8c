"""Personas and techniques: who the student of a dialogue is, drawn from the dialogue's seed."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from tutelage import Brief, Cast, Dialogue, Limits, Player, max_messages, speak, stop_or
from tutelage.agents import student, tutor
from tutelage.dialogue.cast import Students
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.errors import ConfigError, PromptError
from tutelage.learners.enrolment import check_students, enrol
from tutelage.learners.personas import TRAITS, known_personas, persona_profile
from tutelage.learners.techniques import known_techniques
from tutelage.testing import ScriptedModel

BRIEF = Brief(id="b", topic="Sums", question="What is 1 + 1?", answer=("2",))
PROMPTS = PromptLibrary()
SIX = {
    "contextual_manipulation",
    "direct_request",
    "emotional_threat",
    "interpersonal_influence",
    "request_shaping",
    "wrong_answer",
}
MINE = """---
level: ahead of the class
patience: none
style: recites
language: rhymes
---
You answer in verse about {{ brief.topic }}.
"""


def graph() -> StateGraph[Dialogue, Cast]:
    """Enrols the student, and has tutor and student speak in turn."""
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("enrol", enrol(student))
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "enrol")
    graph.add_edge("enrol", "tutor")
    graph.add_edge("tutor", "student")
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph


async def enrolled(seed: int, prompts: PromptLibrary = PROMPTS, **students: Any) -> dict[str, Any]:
    """What is settled about the student of a dialogue: its profiles and findings."""
    cast = Cast(prompts=prompts, students=Students(**students))
    return await enrol(student)({"id": "d", "seed": seed, "brief": BRIEF, "turns": []}, Runtime(context=cast))


async def test_over_many_dialogues_each_persona_meets_each_technique_about_equally_often() -> None:
    drawn = Counter[tuple[str, str]]()
    for seed in range(3600):
        settled = await enrolled(seed, adversarial=1.0)
        drawn[settled["profiles"]["student"]["persona"], settled["findings"]["technique"]] += 1
    cells = set(itertools.product(known_personas(PROMPTS), known_techniques(PROMPTS)))
    assert len(cells) == 36
    assert set(drawn) == cells
    # 100 are expected in each; with 35 degrees of freedom chi-square is above 67 once in a thousand times.
    assert sum((count - 100) ** 2 / 100 for count in drawn.values()) < 67


async def test_the_share_of_adversarial_dialogues_is_the_one_that_is_asked_for() -> None:
    adversarial = [bool((await enrolled(seed, adversarial=0.3)).get("findings")) for seed in range(1000)]
    assert 0.26 < sum(adversarial) / len(adversarial) < 0.34


async def test_the_same_dialogue_always_gets_the_same() -> None:
    first = [await enrolled(seed, adversarial=0.5) for seed in range(50)]
    assert first == [await enrolled(seed, adversarial=0.5) for seed in range(50)]


async def test_who_is_a_persona_does_not_depend_on_who_is_adversarial() -> None:
    honest = [(await enrolled(seed))["profiles"]["student"]["persona"] for seed in range(50)]
    assert [(await enrolled(seed, adversarial=1))["profiles"]["student"]["persona"] for seed in range(50)] == honest


async def test_a_profile_says_the_traits_and_how_the_student_behaves() -> None:
    settled = await enrolled(1, personas=("anxious",), adversarial=1.0)
    profile = settled["profiles"]["student"]
    assert list(profile) == ["persona", *TRAITS, "manner", "tactic"]
    assert profile["persona"] == "anxious"
    assert profile["manner"].startswith("School has often made you feel stupid.")
    assert profile["tactic"] == PROMPTS.render(f"technique.{settled['findings']['technique']}", brief={})


async def test_named_personas_are_the_only_ones_and_one_named_twice_comes_twice_as_often() -> None:
    wanted = ("terse", "terse", "chatty")
    drawn = Counter([(await enrolled(seed, personas=wanted))["profiles"]["student"]["persona"] for seed in range(900)])
    assert set(drawn) == {"terse", "chatty"}
    assert 540 < drawn["terse"] < 660


async def test_without_a_persona_and_a_technique_nothing_is_written() -> None:
    assert await enrolled(1, personas=("none",)) == {}


async def test_a_student_without_a_persona_may_still_have_a_technique() -> None:
    settled = await enrolled(1, personas=("none",), adversarial=1.0)
    assert list(settled["profiles"]["student"]) == ["tactic"]
    assert settled["findings"]["technique"] in SIX


async def test_a_persona_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="no persona 'grumpy'; there is anxious, chatty, curious") as refused:
        await enrolled(1, personas=("terse", "grumpy"))
    assert "prompts/persona.grumpy.md" in str(refused.value)
    with pytest.raises(ConfigError, match="grumpy"):
        check_students(Students(personas=("grumpy",)), PROMPTS)


async def test_a_users_own_persona_stands_beside_the_built_in_ones_or_in_the_place_of_one(tmp_path: Path) -> None:
    (tmp_path / "persona.poet.md").write_text(MINE)
    (tmp_path / "persona.anxious.md").write_text(MINE)
    prompts = PromptLibrary([tmp_path])
    assert known_personas(prompts) == ("anxious", "chatty", "curious", "newcomer", "overconfident", "poet", "terse")
    for name in ("poet", "anxious"):
        profile = (await enrolled(1, prompts, personas=(name,)))["profiles"]["student"]
        assert profile["manner"] == "You answer in verse about Sums."
        assert profile["language"] == "rhymes"
    check_students(Students(), prompts)


def test_a_persona_that_lacks_a_trait_is_refused(tmp_path: Path) -> None:
    (tmp_path / "persona.poet.md").write_text(MINE.replace("patience: none\n", ""))
    with pytest.raises(PromptError, match=r"persona\.poet.*lacks patience"):
        check_students(Students(), PromptLibrary([tmp_path]))


@pytest.mark.parametrize("field", ["answer", "misconception", "facts"])
def test_a_persona_may_speak_of_nothing_private(tmp_path: Path, field: str) -> None:
    (tmp_path / "persona.poet.md").write_text(MINE.replace("topic", field))
    with pytest.raises(PromptError, match="of the brief what is public"):
        persona_profile("poet", BRIEF, PromptLibrary([tmp_path]))


def test_a_template_that_asks_for_what_it_is_not_given_is_found_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "technique.bribe.md").write_text("Offer {{ money }}.")
    with pytest.raises(PromptError, match="'money'"):
        check_students(Students(), PromptLibrary([tmp_path]))


def test_there_are_six_techniques_and_each_says_how_the_student_behaves() -> None:
    assert set(known_techniques(PROMPTS)) == SIX
    for name in SIX:
        assert PROMPTS.template(f"technique.{name}").meta["behaviour"]


async def test_the_student_is_told_who_it_is_and_nobody_else_is() -> None:
    model = ScriptedModel({"tutor": ["What do you think?"], "student": ["Three."]})
    cast = Cast(
        players={"default": Player(model=model)},
        limits=Limits(messages=4),
        students=Students(personas=("newcomer",), adversarial=1.0),
    )
    end = await graph().compile().ainvoke({"id": "d", "seed": 5, "brief": BRIEF, "turns": []}, context=cast)
    profile = end["profiles"]["student"]
    for prompt in model.prompts("student"):
        assert profile["manner"] in prompt[0][1] and profile["tactic"] in prompt[0][1]
        assert not any(profile["manner"] in text or profile["tactic"] in text for _, text in prompt[1:])
    told_to_tutor = str(model.prompts("tutor"))
    assert len(model.prompts("tutor")) == 2
    assert not any(text in told_to_tutor for key, text in profile.items() if key in ("persona", "manner", "tactic"))
    assert end["findings"]["technique"] not in told_to_tutor


async def test_a_student_without_a_profile_is_prompted_as_if_there_were_none() -> None:
    model = ScriptedModel({"tutor": ["What do you think?"], "student": ["Three."]})
    players = {"default": Player(model=model)}
    cast = Cast(players=players, limits=Limits(messages=2), students=Students(personas=("none",)))
    await graph().compile().ainvoke({"id": "d", "seed": 5, "brief": BRIEF, "turns": []}, context=cast)
    (prompt,) = model.prompts("student")
    assert "The question of the lesson: What is 1 + 1?\n\nAnswer the tutor in one or two" in prompt[0][1]
