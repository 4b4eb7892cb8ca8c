"""The lesson with Tutelage: as `tutelage generate` runs it, the same without checkpoints, and its graph alone."""

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
from langchain_core.runnables import RunnableConfig

from benchmarks.lesson import MAX_TOKENS, Job, Script
from tutelage import Brief, agenerate
from tutelage.config import load_config
from tutelage.generation.casting import cast_of, prompt_library
from tutelage.generation.performance import Stage
from tutelage.generation.registry import load_graph

ROLES = ("tutor", "critic", "fact_checker", "student")


async def play(job: Job) -> None:
    """Makes the job's dialogues as a run: config, briefs and prompts checked, everything saved."""
    summary = await agenerate(_config(job), out=job.folder / "run")
    if summary.count("completed") != len(job.scripts):
        raise RuntimeError(f"not all dialogues were completed:\n{summary}")


async def play_without_checkpoints(job: Job) -> None:
    """The same, but a dialogue under way leaves nothing on disk: what durability costs is the difference."""

    class Forgetful(Stage):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self._compiled, self._durability = given["graph"].graph.compile(), None

    with patch("tutelage.generation.session.Stage", Forgetful):
        await play(job)


async def play_graph_only(job: Job) -> None:
    """Makes the job's dialogues by invoking the compiled graph, and saves nothing."""
    config = load_config(_config(job))
    loaded = load_graph(config.graph, config.folder)
    graph = loaded.graph.compile()
    briefs = {brief.id: brief for brief in map(Brief.model_validate_json, job.briefs.read_text().splitlines())}
    slots = asyncio.Semaphore(job.concurrency)
    async with cast_of(config, loaded, prompt_library(config, loaded)) as casting:

        async def one(script: Script) -> None:
            limit: RunnableConfig = {"recursion_limit": 1000}
            async with slots:
                dialogue = {"id": script.id, "brief": briefs[script.id], "turns": []}
                await graph.ainvoke(dialogue, limit, context=casting.cast)

        await asyncio.gather(*map(one, job.scripts))


def _config(job: Job) -> Path:
    sampling = {"temperature": 0.0, "max_tokens": MAX_TOKENS}
    config: dict[str, Any] = {
        "run": "benchmark",
        "graph": "lesson",
        # The others ask as much at once as their dialogues have to ask, and so does this: two reviewers are side by side.
        "models": {"default": {"url": job.url, "model": job.model, "in_flight": 2 * job.concurrency}},
        "roles": dict.fromkeys(ROLES, sampling),
        "briefs": [{"from": str(job.briefs)}],
        "limits": {"messages": job.messages, "revisions": job.revisions, "tokens": 16_384},
        "concurrency": job.concurrency,
    }
    path = job.folder / "config.yaml"
    path.write_bytes(orjson.dumps(config))  # JSON is YAML
    return path
