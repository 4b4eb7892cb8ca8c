"""What a daemon answers in its last moments, when its files are closed and its socket is still there."""

import json
from pathlib import Path

from tutelage.generation.daemon import Daemon
from tutelage.testing import ScriptedModel

SCRIPT = {"tutor": ["Add them."], "student": ["Four."]}


async def test_its_metrics_and_status_are_told_when_its_files_are_closed(tmp_path: Path) -> None:
    (tmp_path / "briefs.jsonl").write_text(json.dumps({"id": "b", "topic": "Sums"}) + "\n")
    config = {
        "run": "r",
        "graph": "lesson",
        "briefs": [{"from": str(tmp_path / "briefs.jsonl")}],
        "target": {"dialogues": 1},
        "watermarks": {"memory": 1, "disk": 0},
        "limits": {"messages": 2},
    }
    accept = [json.dumps({"verdict": "accept", "issues": []})]
    model = ScriptedModel({**SCRIPT, "critic": accept, "fact_checker": accept})
    daemon = Daemon(config, out=tmp_path / "run", models={"default": model})
    summary = await daemon.serve()
    assert summary is not None and summary.met
    assert b"tutelage_completed_dialogues 1.0" in daemon.metrics()
    assert daemon.status().run == "r"
