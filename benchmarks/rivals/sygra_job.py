"""Two-role dialogues as a task of SyGra (ServiceNow), run or resumed: nothing here but what its documentation shows.

    PYTHON_WITH_SYGRA benchmarks/rivals/sygra_job.py JOB.json [--checkpoint-interval 100]

Made for SyGra 2.0.0.post1. The task is a `graph_config.yaml` in a folder, run through `sygra.Workflow`; it is resumable
from the first start on, since a start with `resume=False` saves no state and deletes the output that is there. What
SyGra writes lies in the task's folder: `output.json` and, where it has got to, `metadata.json`.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

TASK = "tasks/two_roles"
MODEL = "simulated"


def student_view(state: dict[str, Any]) -> dict[str, Any]:
    """Pre-processor of the student: its own turns as the assistant's, the tutor's as the user's."""
    messages: list[BaseMessage] = state.get("messages") or []
    swapped = [(HumanMessage if each.type == "ai" else AIMessage)(content=each.content) for each in messages]
    return {**state, "messages": swapped}


def after_tutor(state: dict[str, Any]) -> str:
    """Condition of the edge that leaves the tutor."""
    return _or_end("student", state)


def after_student(state: dict[str, Any]) -> str:
    """Condition of the edge that leaves the student."""
    return _or_end("tutor", state)


def main() -> None:
    """Runs the job in the current folder, or goes on with it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--checkpoint-interval", type=int, default=100, help="SyGra's own default is 100")
    options = parser.parse_args()
    job = json.loads(options.job.read_text())
    _write_task(job)
    import sygra  # type: ignore[import-not-found]

    workflow = sygra.Workflow(TASK)
    workflow.run(
        num_records=len(job["briefs"]),
        batch_size=job["concurrency"],
        checkpoint_interval=options.checkpoint_interval,
        resume=True,
    )


def _or_end(speaker: str, state: dict[str, Any]) -> str:
    from sygra.utils.constants import SYGRA_END  # type: ignore[import-not-found]

    return str(SYGRA_END) if len(state["messages"]) >= int(state["turns"]) else speaker


def _write_task(job: dict[str, Any]) -> None:
    folder = Path(TASK)
    folder.mkdir(parents=True, exist_ok=True)
    records = [{**brief, "turns": job["turns"]} for brief in job["briefs"]]
    (folder / "briefs.json").write_text(json.dumps(records))
    (folder / "graph_config.yaml").write_text(json.dumps(_graph(folder / "briefs.json", job["max_tokens"])))
    models = {MODEL: {"model_type": "vllm", "model_serving_name": job["model"], "parameters": {"temperature": 0.7}}}
    (folder / "models.yaml").write_text(json.dumps(models))
    # Where there is no internet, LiteLLM would otherwise spend seconds on trying to fetch its price list.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    os.environ["SYGRA_CUSTOM_MODELS_PATH"] = str((folder / "models.yaml").resolve())
    os.environ[f"SYGRA_{MODEL.upper()}_URL"] = job["url"]
    os.environ[f"SYGRA_{MODEL.upper()}_TOKEN"] = "none"


def _graph(records: Path, max_tokens: int) -> dict[str, Any]:
    model = {"name": MODEL, "parameters": {"max_tokens": max_tokens}}
    tutor = {
        "node_type": "llm",
        "model": model,
        "prompt": [{"system": "You are a patient tutor. The topic: {topic}"}, {"user": "{question}"}],
    }
    student = {
        "node_type": "llm",
        "model": model,
        "prompt": [{"system": "You are a student in a lesson. The question: {question}"}],
        "pre_process": "sygra_job.student_view",
        "output_role": "user",
    }
    return {
        "data_config": {"source": {"type": "disk", "file_path": str(records), "file_format": "json"}},
        "graph_config": {
            "nodes": {"tutor": tutor, "student": student},
            "edges": [
                {"from": "START", "to": "tutor"},
                {
                    "from": "tutor",
                    "condition": "sygra_job.after_tutor",
                    "path_map": {"END": "END", "student": "student"},
                },
                {
                    "from": "student",
                    "condition": "sygra_job.after_student",
                    "path_map": {"END": "END", "tutor": "tutor"},
                },
            ],
        },
        "output_config": {
            "generator": "sygra_output.Conversations",
            "output_map": {"id": {"from": "id"}, "turns": {"from": "messages", "transform": "texts"}},
        },
    }


if __name__ == "__main__":
    main()
