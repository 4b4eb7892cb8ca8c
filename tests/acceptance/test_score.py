"""`tutelage score`, as a process of its own against a simulated endpoint: its exit codes, and what Ctrl-C leaves."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tutelage.testing import Fault, SimulatedEndpoint

GONE = {"m": {"url": "http://127.0.0.1:9/v1", "model": "m", "patience": 1}}
COMMAND = (sys.executable, "-P", "-c", "import sys; from tutelage.cli import main; main()")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="m", completion_tokens=20) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, endpoint: SimulatedEndpoint) -> Path:
    folder = tmp_path_factory.mktemp("project")
    briefs = [{"id": f"b{n}", "topic": "Sums", "question": f"What is {n} + {n}?"} for n in range(10)]
    (folder / "briefs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in briefs))
    config = {
        "run": "r",
        "models": {"m": {"url": endpoint.url, "model": "m", "patience": 1}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        "concurrency": 2,
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    code, _, err = tutelage(folder, "generate", "config.yaml", "--out", "runs/r")
    assert code == 0, err
    return folder


def tutelage(folder: Path, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_command_scores_a_run_by_its_name_and_says_what_it_wrote(project: Path, tmp_path: Path) -> None:
    code, out, err = tutelage(project, "score", "r", "--out", str(tmp_path / "scored"), "--top-k", "4")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "scored/data/train-00000-of-00001.parquet").to_pylist()
    assert f"{len(rows)} turns of the role tutor, scored by m, the 4 likeliest tokens in each place" in out
    assert {len(ids) for row in rows for ids in row["topk_ids"]} == {4}


def test_what_the_user_can_mend_is_2_and_an_endpoint_that_is_gone_is_3(project: Path, tmp_path: Path) -> None:
    code, out, err = tutelage(project, "score", "r", "--out", str(tmp_path / "scored"), "--role", "nobody")
    assert (code, out) == (2, "")
    assert "nobody speaks as 'nobody'" in err
    (project / "gone.yaml").write_text(
        json.dumps({**json.loads((project / "config.yaml").read_text()), "models": GONE})
    )
    code, out, err = tutelage(project, "score", "r", "--out", str(tmp_path / "scored"), "--config", "gone.yaml")
    assert (code, out) == (3, ""), err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_after_ctrl_c_the_same_command_goes_on(project: Path, tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    endpoint.forget()
    endpoint.inject(Fault(kind="slow", delay=0.2, requests="completions"))
    command = [*COMMAND, "score", "r", "--out", str(tmp_path / "scored")]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while sum("prompt_logprobs" in each["body"] for each in endpoint.requests()) < 7 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    endpoint.clear_faults()
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    code, out, err = tutelage(project, "score", "r", "--out", str(tmp_path / "scored"))
    assert code == 0, err
    assert "by an earlier start" in out
    ids = [row["id"] for path in (tmp_path / "scored/data").iterdir() for row in pq.read_table(path).to_pylist()]
    assert len(ids) == len(set(ids)) > 10
