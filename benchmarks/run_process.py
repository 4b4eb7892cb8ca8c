"""A run in a process of its own, as its user would start it, and what it has left in its folder.

What the processes of a run use is read from /proc, so these benchmarks want Linux.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from tutelage import Transcript, read_transcripts

ROOT: Final = Path(__file__).resolve().parent.parent
MODEL: Final = "simulated"
MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A config, its briefs, and the folder of its run."""

    folder: Path

    @classmethod
    def write(cls, folder: Path, url: str, *, briefs: int, **config: Any) -> "Project":
        """Writes a config and that many briefs, `brief-0` and on, into a folder; the run's folder is made by the run.

        Args:
            folder: Made if it is not there.
            url: The endpoint's.
            briefs: How many.
            **config: Keys of the config that are not as they are here.
        """
        folder.mkdir(parents=True, exist_ok=True)
        project = cls(folder=folder)
        lines = [
            {"id": f"brief-{n}", "topic": "Sums", "question": f"What is {n} + {n}?", "answer": "never said"}
            for n in range(briefs)
        ]
        (folder / "briefs.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        everything = {
            "run": "benchmark",
            "models": {"default": {"url": url, "model": MODEL}},
            "briefs": [{"from": "briefs.jsonl"}],
            **config,
        }
        project.config.write_bytes(orjson.dumps(everything))  # JSON is YAML
        return project

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def said(self) -> Path:
        """What all processes of the run have said on stderr."""
        return self.folder / "stderr.log"

    def start(
        self, *interpreter: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[bytes]":
        """Starts `tutelage generate` on the config.

        Args:
            *interpreter: What Python is given before the command's own arguments; `-m tutelage` if nothing.
            environment: Variables besides those that are there.
            **options: For `subprocess.Popen`.
        """
        arguments = interpreter or ("-m", "tutelage")
        path = os.pathsep.join(map(str, [ROOT, *filter(None, sys.path)]))
        with self.said.open("ab") as said:
            return subprocess.Popen(
                [sys.executable, *arguments, "generate", str(self.config), "--out", str(self.run)],
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path, "LANGSMITH_TRACING": "false", **(environment or {})},
                **options,
            )

    def lines(self) -> list[bytes]:
        """The whole lines of all transcript files."""
        files = sorted((self.run / "transcripts").glob("*.jsonl"))
        return [line for file in files for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def transcripts(self) -> list[Transcript]:
        """The transcripts; of an id that is there twice, the last one.

        Raises:
            SystemExit: A line cannot be read.
        """

        def refuse(what: str) -> None:
            raise SystemExit(f"a line of the transcripts is broken: {what}")

        return list(read_transcripts(self.run, on_skip=refuse))

    def bytes_on_disk(self, pattern: str) -> int:
        """Of the files of the run that match."""
        return sum(file.stat().st_size for file in self.run.glob(pattern))

    def used_bytes(self, database: str) -> int:
        """Bytes of the pages that a database of the run uses, without those that it keeps for later; 0 without one."""
        file = self.run / database
        if not file.exists():
            return 0
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30)) as connection:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)


def tidy_on_sigterm() -> None:
    """Has SIGTERM end this process as an error would: with its folders removed, and what it started ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def memory(process: int) -> int:
    """Bytes of a process that are in memory now."""
    return _status(process, "VmRSS:")


def most_memory(process: int) -> int:
    """Bytes of a process that were in memory at most."""
    return _status(process, "VmHWM:")


def handles(process: int) -> int:
    """Files, sockets and pipes that a process has open."""
    return sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())


def _status(process: int, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def cpu(process: int) -> float:
    """Seconds of CPU, user and system, that a process has used."""
    # The second field is the command's name in brackets, which may hold spaces.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
