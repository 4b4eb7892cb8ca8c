"""Whose a run's folder is, and who plays in it."""

import json
from pathlib import Path

import pytest

from tutelage import generate
from tutelage.config import load_config
from tutelage.errors import RunFolderError
from tutelage.generation.run_folder import RunFolder
from tutelage.testing import ScriptedModel

CONFIG = load_config({"run": "r", "briefs": [{"from": "b.jsonl"}]})


def test_a_folder_that_was_made_for_nothing_is_taken_away_again(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", CONFIG).close()
    assert not (tmp_path / "run").exists()


def test_two_that_start_at_once_do_not_take_away_each_other_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second saw no folder yet when it looked; the first had made and locked it when it came to do the same."""
    first = RunFolder(tmp_path / "run", CONFIG)
    with monkeypatch.context() as blind:
        blind.setattr(Path, "exists", lambda self: False)
        with pytest.raises(RunFolderError, match="in use by another process"):
            RunFolder(tmp_path / "run", CONFIG)
    assert (tmp_path / "run" / "run.yaml").exists()
    first.close()


def test_models_given_in_code_are_played_with_the_config_s_sampling(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"topic": "Sums", "answer": "4"}) + "\n")
    accept = {"verdict": "accept", "issues": []}
    model = ScriptedModel({"tutor": ["2 + 2?"], "critic": [accept], "fact_checker": [accept], "student": ["4"]})
    roles = {"tutor": {"max_tokens": 77}}
    generate(
        {"run": "r", "briefs": [{"from": str(tmp_path / "b.jsonl")}], "roles": roles},
        out=tmp_path / "run",
        models={"default": model},
    )
    assert {role: options.get("max_tokens") for role, _, options in model.calls}["tutor"] == 77
