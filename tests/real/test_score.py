"""`tutelage score` at a real vLLM server, against the logits of transformers: both in float32, on the same weights."""

import asyncio
import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tutelage import generate
from tutelage.exports.logprobs import Place
from tutelage.generation.score import score
from tutelage.generation.teacher import Teacher, Tokens
from tutelage.serving.endpoint_pool import EndpointPool

from .conftest import TinyModel, make_tiny_model
from .vllm_server import VLLMServer, serve_vllm

pytestmark = pytest.mark.vllm

BRIEFS = [
    {"id": "halves", "topic": "Fractions", "question": "What is 1/2 + 1/3?", "answer": ["5/6"]},
    {"id": "ice", "topic": "Why ice floats — « la glace »"},
    {"id": "loops", "topic": "Loops"},
]
TOLERANCE = 1e-2
"""Of a logarithm: half precision alone takes .004 of it for what is as unlikely as e⁻¹⁵."""
SAMPLES = 16_000
"""Just below what vLLM draws for one request."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A run at a server, and what transformers says of its rows."""

    python: Path
    tiny: TinyModel
    server: VLLMServer
    config: Path
    run: Path

    def rows(self, out: Path, role: str) -> Rows:
        """What is written of a role."""
        score(self.run, config=self.config, out=out, role=role)
        return [row for path in sorted(out.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]

    def truth(self, rows: Rows, adapter: str | None) -> Rows:
        """What transformers says."""
        more = ["--adapter", str(self.tiny.adapters[adapter])] if adapter else []
        lines = "".join(json.dumps({key: row[key] for key in ("input_ids", "loss_mask")}) + "\n" for row in rows)
        script = Path(__file__).with_name("reference_logprobs.py")
        command = list(map(str, [self.python, script, self.tiny.model, *more]))
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def scored(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scored]:
    folder = tmp_path_factory.mktemp("scored")
    tiny = make_tiny_model(vllm_python, folder)
    (folder / "briefs.jsonl").write_text("".join(json.dumps(brief) + "\n" for brief in BRIEFS))
    log, more = folder / "server.log", ["--dtype", "float32"]
    with serve_vllm(vllm_python, tiny.model, adapters=tiny.adapters, log=log, more=more) as server:
        config = {
            "run": "lesson",
            "graph": "lesson",
            "models": {"tiny": {"url": server.url, "model": server.model}},
            "briefs": [{"from": "briefs.jsonl"}],
            "limits": {"messages": 4, "revisions": 1},
            "roles": {
                "tutor": {"adapter": "a", "max_tokens": 24},
                "student": {"max_tokens": 24},
                "critic": {"max_tokens": 200},
                "fact_checker": {"max_tokens": 200},
            },
            "seed": 3,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        generate(folder / "config.yaml", out=folder / "run")
        yield Scored(python=vllm_python, tiny=tiny, server=server, config=folder / "config.yaml", run=folder / "run")


@pytest.mark.parametrize(("role", "adapter"), [("student", None), ("tutor", "a")])
def test_what_is_packed_is_what_transformers_computes(
    scored: Scored, tmp_path: Path, role: str, adapter: str | None
) -> None:
    rows = scored.rows(tmp_path / "scored", role)
    assert rows
    assert {(row["role"], row["model"], row["adapter"]) for row in rows} == {(role, "tiny", adapter or "")}
    for row, truth in zip(rows, scored.truth(rows, adapter), strict=True):
        assert truth["text"] == row["text"] + "<|end|>"
        said = [id_ for id_, each in zip(row["input_ids"], row["loss_mask"], strict=True) if each]
        assert len(said) == len(row["topk_ids"]) == len(truth["logprobs"])
        for number, likely in enumerate(truth["logprobs"]):
            ids, logprobs = row["topk_ids"][number], row["topk_logprobs"][number]
            assert logprobs == pytest.approx(sorted(likely, reverse=True)[:20], abs=TOLERANCE)
            assert logprobs == pytest.approx([likely[id_] for id_ in ids], abs=TOLERANCE)
            assert row["token_logprobs"][number] == pytest.approx(likely[said[number]], abs=TOLERANCE)
            tail = 1 - sum(math.exp(likely[id_]) for id_ in ids)
            assert math.exp(row["tail_logmass"][number]) == pytest.approx(tail, abs=1e-3)
            assert sum(map(math.exp, logprobs)) + math.exp(row["tail_logmass"][number]) == pytest.approx(1, abs=1e-3)


def test_an_adapter_finds_other_things_likely_than_its_model(scored: Scored, tmp_path: Path) -> None:
    rows = scored.rows(tmp_path / "scored", "tutor")
    [with_adapter], [without] = scored.truth(rows[:1], "a"), scored.truth(rows[:1], None)
    pairs = zip(with_adapter["logprobs"], without["logprobs"], strict=True)
    assert max(abs(a - b) for likely, other in pairs for a, b in zip(likely, other, strict=True)) > 1


def test_the_mean_of_drawn_tokens_is_the_teachers_distribution(scored: Scored, tmp_path: Path) -> None:
    rows = scored.rows(tmp_path / "scored", "student")
    truths = scored.truth(rows, None)
    # Of the places where so many draws show an error of .05, that with the most probability beyond the twenty likeliest.
    row, number, likely = max(
        (
            (row, number, likely)
            for row, truth in zip(rows, truths, strict=True)
            for number, likely in enumerate(truth["logprobs"])
            if expected_distance(likely) < 0.03
        ),
        key=lambda each: 1 - sum(sorted(map(math.exp, each[2]), reverse=True)[:20]),
    )
    end = row["loss_mask"].index(1) + number
    [place] = asyncio.run(drawn(scored.server, Tokens(row["input_ids"][: end + 1], end)))
    assert len(place.ids) == SAMPLES
    told = {id_ for id_ in place.ids if id_ not in row["topk_ids"][number]}
    assert len(told) > 20, "otherwise nothing had to be asked for"
    counts = Counter(place.ids)
    assert sum(abs(counts[id_] / SAMPLES - math.exp(each)) for id_, each in enumerate(likely)) < 0.05
    listed = dict(zip(place.ids, place.logprobs, strict=True))
    assert listed == pytest.approx({id_: likely[id_] for id_ in listed}, abs=TOLERANCE)


def expected_distance(logprobs: list[float]) -> float:
    """The L1 distance from a distribution that the frequencies of `SAMPLES` draws have on average."""
    return sum(math.sqrt(2 * math.exp(each) * (1 - math.exp(each)) / (math.pi * SAMPLES)) for each in logprobs)


async def drawn(server: VLLMServer, said: Tokens) -> list[Place]:
    """Tokens drawn in each place of a reply."""
    async with EndpointPool(server.url) as pool:
        places = await Teacher(pool=pool, model="tiny", samples=SAMPLES).places(said)
    assert isinstance(places, list)
    return places
