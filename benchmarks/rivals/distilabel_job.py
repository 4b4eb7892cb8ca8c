"""Two-role dialogues as a pipeline of distilabel (Argilla), run or resumed from its cache.

    PYTHON_WITH_DISTILABEL benchmarks/rivals/distilabel_job.py JOB.json

Made for distilabel 1.5.3. A pipeline of distilabel has no cycles, so the nearest to a dialogue is a step for each turn,
each a `Task` that is shown what was said so far: dialogues go through it in batches of its default size, 50. What it
needs to resume it keeps below `cache_dir`, at every start with its default `use_cache=True`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from distilabel.models import OpenAILLM  # type: ignore[import-not-found]
from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
from distilabel.steps import LoadDataFromDicts  # type: ignore[import-not-found]
from distilabel.steps.tasks import Task  # type: ignore[import-not-found]


class Turn(Task):  # type: ignore[misc]
    """A turn of the tutor or of the student, added to those before it."""

    role: str

    @property
    def inputs(self) -> list[str]:
        """What it reads of a row."""
        return ["topic", "question", "turns"]

    @property
    def outputs(self) -> list[str]:
        """What it adds to a row."""
        return ["turns", "model_name"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, str]]:  # noqa: A002
        """Its own turns as the assistant's, the other's as the user's. The tutor's are the first, the third, …."""
        turns: list[str] = list(input["turns"])
        if self.role == "tutor":
            system = f"You are a patient tutor. The topic: {input['topic']}"
            said = [("user", input["question"]), *zip(["assistant", "user"] * len(turns), turns, strict=False)]
        else:
            system = f"You are a student in a lesson. The question: {input['question']}"
            said = list(zip(["user", "assistant"] * len(turns), turns, strict=False))
        return [{"role": role, "content": text} for role, text in [("system", system), *said]]

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002
        """The turns with the new one."""
        return {"turns": [*input["turns"], output]}


def main() -> None:
    """Runs the job in the current folder, or goes on with it; the dialogues lie in `output.jsonl` when it is done."""
    job = json.loads(Path(sys.argv[1]).read_text())
    with Pipeline(name="two-roles", cache_dir=Path("cache").resolve()) as pipeline:
        step = LoadDataFromDicts(data=[{**brief, "turns": []} for brief in job["briefs"]])
        for number in range(job["turns"]):
            llm = OpenAILLM(
                model=job["model"],
                base_url=job["url"],
                api_key="none",
                generation_kwargs={"max_new_tokens": job["max_tokens"], "temperature": 0.7},
            )
            turn = Turn(name=f"turn_{number}", role=("tutor", "student")[number % 2], llm=llm)
            step >> turn
            step = turn
    distiset = pipeline.run(use_cache=True)
    distiset["default"]["train"].to_json("output.jsonl")


if __name__ == "__main__":
    main()
