"""How each tool is started, started again, and read: all that `benchmarks.resuming` needs to know of it."""

import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import orjson

RIVALS: Final = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The dialogues asked for: the same of every contestant."""

    url: str
    model: str
    briefs: Sequence[dict[str, str]]
    """Each with `id`, `topic`, `question`; one dialogue of each."""
    turns: int
    """Of each dialogue, and as many model calls."""
    concurrency: int
    """Dialogues under way at once."""
    max_tokens: int
    """Of each reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A dialogue as it stands in a tool's output."""

    id: str
    turns: Sequence[str]


class Contestant(ABC):
    """A tool with one way of setting it."""

    label: str

    @abstractmethod
    def version(self) -> str:
        """The tool's version."""

    @abstractmethod
    def command(self, folder: Path, job: Job) -> list[str]:
        """Writes what the tool needs into the folder. The command begins the job there, and resumes it if given again."""

    @abstractmethod
    def output(self, folder: Path) -> Iterator[Saved]:
        """Every dialogue in the output, in order, those that stand there twice too."""

    @abstractmethod
    def claim(self, folder: Path) -> str:
        """What the tool says of itself: whether it is done, and of how many dialogues."""


class Tutelage(Contestant):
    """`tutelage generate`, with nothing set but what the job says."""

    label = "tutelage generate"

    def version(self) -> str:
        return version("tutelage")

    def command(self, folder: Path, job: Job) -> list[str]:
        briefs = folder / "briefs.jsonl"
        briefs.write_bytes(b"".join(orjson.dumps(brief, option=orjson.OPT_APPEND_NEWLINE) for brief in job.briefs))
        config = {
            "run": "resuming",
            "graph": f"{RIVALS / 'two_roles.py'}:two_roles",
            "models": {"default": {"url": job.url, "model": job.model}},
            "roles": {role: {"temperature": 0.7, "max_tokens": job.max_tokens} for role in ("tutor", "student")},
            "briefs": [{"from": str(briefs)}],
            "limits": {"messages": job.turns, "tokens": 16_384},
            "concurrency": job.concurrency,
        }
        (folder / "config.yaml").write_bytes(orjson.dumps(config))  # JSON is YAML
        return [sys.executable, "-m", "tutelage", "generate", "config.yaml", "--out", "run"]

    def output(self, folder: Path) -> Iterator[Saved]:
        for shard in sorted((folder / "run" / "transcripts").glob("*.jsonl")):
            for line in shard.read_bytes().splitlines():
                transcript = orjson.loads(line)
                if transcript["outcome"]["status"] == "completed":
                    yield Saved(id=transcript["brief"]["id"], turns=[turn["text"] for turn in transcript["turns"]])

    def claim(self, folder: Path) -> str:
        said = [line for line in (folder / "log").read_text().splitlines() if "dialogues completed" in line]
        return said[-1].partition(" dialogues")[0] + " completed" if said else "nothing"


class SyGra(Contestant):
    """SyGra's task of the same dialogues, started with `resume=True` each time.

    Args:
        python: The interpreter of an environment that has SyGra.
        checkpoint_interval: Records between two writings of its output. Its default is 100, and it must be a multiple of
            the batch size, which is also how many records are under way at once.
    """

    def __init__(self, python: Path, checkpoint_interval: int) -> None:
        self._python = python
        self._interval = checkpoint_interval
        self.label = f"SyGra, checkpoint_interval={checkpoint_interval}"

    def version(self) -> str:
        return _version_in(self._python, "sygra")

    def command(self, folder: Path, job: Job) -> list[str]:
        (folder / "job.json").write_bytes(orjson.dumps(asdict(job)))
        script = str(RIVALS / "sygra_job.py")
        return [str(self._python), script, "job.json", "--checkpoint-interval", str(self._interval)]

    def output(self, folder: Path) -> Iterator[Saved]:
        path = folder / "tasks" / "two_roles" / "output.json"
        for row in orjson.loads(path.read_bytes()) if path.exists() else []:
            yield Saved(id=row["id"], turns=row["turns"])

    def claim(self, folder: Path) -> str:
        path = folder / "tasks" / "two_roles" / "metadata.json"
        state: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {}
        return f"{state.get('total_processed', 0)} processed, completed: {str(state.get('completed', False)).lower()}"


class Distilabel(Contestant):
    """distilabel's pipeline of the same dialogues, a step for each turn, with its cache as it is by default.

    Args:
        python: The interpreter of an environment that has distilabel.
    """

    label = "distilabel, use_cache=True"

    def __init__(self, python: Path) -> None:
        self._python = python

    def version(self) -> str:
        return _version_in(self._python, "distilabel")

    def command(self, folder: Path, job: Job) -> list[str]:
        (folder / "job.json").write_bytes(orjson.dumps(asdict(job)))
        return [str(self._python), str(RIVALS / "distilabel_job.py"), "job.json"]

    def output(self, folder: Path) -> Iterator[Saved]:
        path = folder / "output.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else []:
            row = orjson.loads(line)
            yield Saved(id=row["id"], turns=[text or "" for text in row["turns"]])

    def claim(self, folder: Path) -> str:
        rows = len(list(self.output(folder)))
        return f"a data set of {rows} rows" if rows else "no data set"


def _version_in(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
