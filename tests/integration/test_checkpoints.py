"""The checkpoint saver: LangGraph's own conformance suite, resuming, and what is left on disk."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate

from tutelage.generation.checkpoints import CheckpointSaver


async def test_it_passes_langgraphs_conformance_suite_whole(tmp_path: Path) -> None:
    count = 0

    @checkpointer_test(name="CheckpointSaver")
    async def saver() -> AsyncIterator[CheckpointSaver]:
        nonlocal count
        count += 1
        with CheckpointSaver(tmp_path / f"{count}.db", keep="all") as saver:
            yield saver

    report = await validate(saver)
    failures = [failure for result in report.results.values() for failure in result.failures or ()]
    assert failures == []
    assert all(result.passed for result in report.results.values())
    assert sum(result.tests_passed for result in report.results.values()) > 80
