"""What lineage, mix and guard are for: a model of word frequencies, trained five times over on what it wrote itself.

The simplest model that collapses (Shumailov et al., doi 10.1038/s41586-024-07566-y; Gerstgrasser et al., arXiv 2404.01413):
people write 10,000 words of 5,000, by Zipf's law; a model learns how often each comes in an export, and writes the next run.
What it never saw it never says. Runs, exports, lineage and mix are the product's own; only the model is a toy.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from tutelage import Brief
from tutelage.config import Config
from tutelage.dialogue.turn import Call
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.manifest import read_manifest
from tutelage.exports.request import Request
from tutelage.generation.lineage import Ancestry, ancestry_of, lineage_of, with_training_read

from .conftest import WrittenRun

VOCABULARY = [f"w{number:04d}" for number in range(5000)]
WORDS = 10_000
WORDS_A_TURN = 40
GENERATIONS = 5
BRIEF = Brief(id="words", topic="words")

Frequencies = Counter[str]


def zipf(seed: int) -> list[str]:
    """What people write."""
    return random.Random(seed).choices(VOCABULARY, [1 / rank for rank in range(1, len(VOCABULARY) + 1)], k=WORDS)


def turns(words: list[str]) -> Iterator[str]:
    for start in range(0, len(words), WORDS_A_TURN):
        yield " ".join(words[start : start + WORDS_A_TURN])


def effective_words(frequencies: Frequencies) -> float:
    """The exponential of the entropy: among so many equally frequent words there would be as much choice."""
    total = frequencies.total()
    return math.exp(-sum(count / total * math.log(count / total) for count in frequencies.values()))


class Loop:
    """A model that writes a run, is trained on its export, writes the next run …

    Args:
        folder: Where all of it is.
        accumulate: Whether the model is trained anew on what people wrote and on all runs, or on the newest run alone.
        real_share: How much of people's is mixed into the newest run.
    """

    def __init__(self, folder: Path, *, accumulate: bool = False, real_share: float = 0.0) -> None:
        folder.mkdir()
        self.folder = folder
        self.model = Counter(by_people := zipf(seed=0))
        self.runs: list[Path] = []
        self._accumulate = accumulate
        self._real_share = real_share
        self._random = random.Random(0)
        self._people = folder / "people.jsonl"
        rows = ({"prompt": "Speak.", "completion": text} for text in turns(by_people))
        self._people.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))

    def write_a_run(self) -> None:
        """The model says as many words as people did, each as often as it learnt that it comes."""
        run = WrittenRun(self.folder / f"run{len(self.runs) + 1}")
        lineage = lineage_of([Call(model="m", prompt_sha256="")], BRIEF, self._ancestry())
        said = self._random.choices(list(self.model), list(self.model.values()), k=WORDS)
        for number, text in enumerate(turns(said)):
            dialogue = f"{run.path.name}.{number}"
            run.add(("tutor", [(text, "accepted")]), brief=BRIEF, id_=dialogue, lineage=lineage)
        self.runs.append(run.path)

    def train(self) -> None:
        """The model forgets what it knew, and learns how often each word comes in an export."""
        out = self.export(any_generation=True)
        learnt = [
            orjson.loads(line) for line in (out / "data" / "train-00000-of-00001.jsonl").read_bytes().splitlines()
        ]
        self.model = Counter(word for row in learnt for word in row["completion"][0]["content"].split())

    def export(self, *, any_generation: bool) -> Path:
        """The export that the next model is trained on."""
        runs = self.runs if self._accumulate else self.runs[-1:]
        real_share = 1 / (len(runs) + 1) if self._accumulate else self._real_share
        request = Request(format="sft", files="jsonl", any_generation=any_generation)
        if real_share:
            request = replace(request, mix=(self._people,), real_share=real_share)
        export(runs, request, out=self._out(len(self.runs)))
        return self._out(len(self.runs))

    def _ancestry(self) -> Ancestry:
        trained_on = {"trained_on": [str(self._out(len(self.runs)))]} if self.runs else {}
        model = {"url": "http://gpu:8000/v1", "model": "m", **trained_on}
        config = Config.model_validate({"run": "r", "models": {"m": model}, "briefs": [{"from": "briefs.jsonl"}]})
        return ancestry_of(with_training_read(config))

    def _out(self, number: int) -> Path:
        return self.folder / f"set{number}"


def what_is_kept(loop: Loop) -> float:
    """The share of the effective words that the model still has after five generations."""
    start = effective_words(loop.model)
    for _ in range(GENERATIONS):
        loop.write_a_run()
        loop.train()
    return effective_words(loop.model) / start


def test_five_generations_collapse_where_each_replaces_what_was_there(tmp_path: Path) -> None:
    """And the guard has warned from the third on, and refuses the fifth."""
    loop = Loop(tmp_path / "replaced")
    with capture_logs() as logs:
        assert what_is_kept(loop) <= 0.70
    assert [each["generation"] for each in logs if each["event"] == "late_generation_exported"] == [3, 4, 5]
    assert read_manifest(tmp_path / "replaced" / "set5").real_share == 0
    (tmp_path / "replaced" / "set5").rename(tmp_path / "replaced" / "elsewhere")
    with pytest.raises(ExportError, match="is of generation 5"):
        loop.export(any_generation=False)


def test_five_generations_keep_nine_tenths_where_all_that_was_written_stays_in_the_mix(tmp_path: Path) -> None:
    assert what_is_kept(Loop(tmp_path / "accumulated", accumulate=True)) >= 0.90
    assert read_manifest(tmp_path / "accumulated" / "set5").real_share == pytest.approx(1 / 6, abs=0.01)


def test_five_generations_keep_nine_tenths_where_half_of_each_mix_is_people_s(tmp_path: Path) -> None:
    assert what_is_kept(Loop(tmp_path / "half", real_share=0.5)) >= 0.90
