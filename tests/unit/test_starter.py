"""`tutelage init`: the project that it writes is whole, runs at once, and never overwrites."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast as cast_to

import pytest

from tutelage import Cast, Dialogue, Player
from tutelage.briefs.sources import read_briefs
from tutelage.config import load_config
from tutelage.dialogue.nodes import agents_of
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.view import check_prompts
from tutelage.errors import ConfigError
from tutelage.generation.registry import LoadedGraph, load_graph
from tutelage.starter import start_project
from tutelage.testing.scripted import ScriptedModel

VERDICT = {"verdict": "accept", "issues": []}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    start_project(tmp_path / "mine")
    return tmp_path / "mine"


@pytest.fixture
def graph(project: Path) -> Iterator[LoadedGraph]:
    """The project's graph; what loading it has put into the interpreter is taken out again."""
    path, modules = list(sys.path), set(sys.modules)
    yield load_graph(load_config(project / "config.yaml").graph, project)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("agents", "graphs"):
            del sys.modules[name]


def test_the_project_has_the_three_folders_and_what_goes_with_them(tmp_path: Path) -> None:
    written = start_project(tmp_path / "mine")
    names = {str(path.relative_to(tmp_path / "mine")) for path in written}
    assert {"agents/__init__.py", "graphs/interview.py", "prompts/expert.md", "briefs/topics.jsonl"} <= names
    assert {"config.yaml", "README.md", ".gitignore"} <= names
    assert all(path.is_file() for path in written)
    assert not any("__pycache__" in name for name in names)


def test_every_prompt_of_every_agent_renders_from_the_projects_own_templates(project: Path, graph: LoadedGraph) -> None:
    prompts = PromptLibrary([project / "prompts"])
    briefs = read_briefs(load_config(project / "config.yaml").briefs, project, graph.make)
    agents = agents_of(graph.make())
    assert {agent.role for agent in agents} == {"reporter", "expert", "editor"}
    for position in range(len(briefs)):
        for agent in agents:
            check_prompts(agent, {"brief": briefs.brief(position)}, prompts)
            assert prompts.template(agent.template).source.startswith(str(project))
    assert len(briefs) == 3
    own = {path.stem for path in (project / "prompts").glob("*.md")}
    assert own == {agent.template for agent in agents} | {agent.task for agent in agents if agent.task}


async def test_the_graph_runs_to_its_end_and_sends_a_draft_back(project: Path, graph: LoadedGraph) -> None:
    issue = {"dimension": "truth", "severity": "block", "span": "No.", "evidence": "", "instruction": "Say why."}
    model = ScriptedModel(
        {
            "reporter": ["Why does dough rise?", "And bread?"],
            "expert": ["No.", "Yeast gives off gas.", "So does bread."],
            "editor": [{"verdict": "revise", "issues": [issue]}, VERDICT],
        }
    )
    config = load_config(project / "config.yaml")
    briefs = read_briefs(config.briefs, project, graph.make)
    cast = Cast(
        players={"default": Player(model=model)},
        prompts=PromptLibrary([project / "prompts"]),
    )
    plan = graph.make()
    end = await asyncio.wait_for(
        plan.compile().ainvoke({"id": "d", "brief": briefs.brief(2), "turns": []}, context=cast), timeout=30
    )
    assert [turn.role for turn in end["turns"]][:4] == ["reporter", "expert", "reporter", "expert"]
    assert [attempt.status for attempt in end["turns"][1].attempts] == ["rejected", "accepted"]
    assert outcome_of(plan, cast_to(Dialogue, end), cast.limits).reason == "out_of_turns"
    assert "Yeast is a living fungus" in str(model.prompts("expert")[0])
    assert "Yeast is a living fungus" not in str(model.prompts("reporter")[0])


@pytest.mark.parametrize("name", ["config.yaml", "graphs/interview.py", ".gitignore"])
def test_a_file_that_is_there_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name):
        start_project(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_with_other_things_in_it_is_fine(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    start_project(tmp_path)
    assert (tmp_path / "config.yaml").is_file()


def test_when_writing_fails_half_way_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "prompts").write_text("a file where a folder is to be")
    with pytest.raises(ConfigError, match="cannot be written to"):
        start_project(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "prompts"]
