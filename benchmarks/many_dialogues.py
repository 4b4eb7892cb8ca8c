"""A run of as many dialogues as one wants, made of a few real ones: each copy has words, ids and hashes of its own."""

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from benchmarks.run_process import Project
from tutelage import generate
from tutelage.dialogue.prompt import link_of
from tutelage.testing import SimulatedEndpoint

REAL: Final = 64
"""Dialogues that are really made: `lesson`, with reviewers that accept most drafts."""
_SHA256: Final = re.compile(rb"[0-9a-f]{64}")
_WORD: Final = b" the "
"""Frequent in what is said: in each copy, other words stand here."""


def write_run(folder: Path, dialogues: int, *, messages: int) -> Path:
    """Writes a run's folder: transcripts and the prompts of all their calls.

    Args:
        folder: Empty, or not there.
        dialogues: How many.
        messages: Turns of each.

    Returns:
        The run's folder.
    """
    with SimulatedEndpoint(accept_rate=0.85, completion_tokens=60) as endpoint:
        project = Project.write(
            folder / "real", endpoint.url, briefs=REAL, limits={"messages": messages, "revisions": 2}
        )
        generate(project.config, out=project.run)
    run = folder / "many"
    (run / "transcripts").mkdir(parents=True)
    shutil.copy(project.run / "run.yaml", run)
    patterns = list(_patterns(project))
    with (run / "transcripts" / "00000.jsonl").open("wb") as lines, (run / "messages.jsonl").open("wb") as prompts:
        for number in range(dialogues):
            records, line = patterns[number % len(patterns)]
            copied, hashes = _copy(records, number)
            prompts.write(copied)
            lines.write(_copy_of_line(line, number, hashes))
    return run


def _patterns(project: Project) -> Iterator[tuple[list[dict[str, Any]], bytes]]:
    """The real dialogues: the records of their prompts, and their lines."""
    with (project.run / "messages.jsonl").open("rb") as file:
        known = {record["sha256"]: record for record in map(orjson.loads, file)}
    for line in islice(project.lines(), REAL):
        needed: dict[str, dict[str, Any]] = {}
        for found in _SHA256.findall(line):
            chain: list[dict[str, Any]] = []
            link = known.get(found.decode())
            while link is not None and link["sha256"] not in needed:
                chain += [link, known[link["text_sha256"]]]
                link = known.get(link["parent"] or "")
            needed.update((record["sha256"], record) for record in reversed(chain))
        yield list(needed.values()), line


def _copy(records: list[dict[str, Any]], number: int) -> tuple[bytes, dict[bytes, bytes]]:
    """The records of a copy as lines, and which hash of the pattern is which of the copy."""
    hashes: dict[str, str] = {}
    texts: dict[str, str] = {}
    lines = []
    for record in records:
        if "text" in record:
            text = record["text"].replace(_WORD.decode(), _words(number).decode())
            made = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
            texts[record["sha256"]] = text
        else:
            parent = hashes.get(record["parent"])
            text = texts[record["text_sha256"]]
            sha256 = link_of(parent, record["role"], record["opens"], text).sha256
            made = {**record, "sha256": sha256, "parent": parent, "text_sha256": hashes[record["text_sha256"]]}
        hashes[record["sha256"]] = made["sha256"]
        lines.append(orjson.dumps(made, option=orjson.OPT_APPEND_NEWLINE))
    return b"".join(lines), {old.encode(): new.encode() for old, new in hashes.items()}


def _copy_of_line(line: bytes, number: int, hashes: Mapping[bytes, bytes]) -> bytes:
    """The line of a copy: with words, ids and hashes of its own."""
    dialogue = hashlib.sha256(b"%d" % number).hexdigest()[:16].encode()
    line = line.replace(_WORD, _words(number)).replace(b"brief-", b"brief-%d-" % number).replace(_id_of(line), dialogue)
    return _SHA256.sub(lambda found: hashes.get(found[0], found[0]), line)


def _words(number: int) -> bytes:
    """What stands in a copy for `_WORD`: words of its own, all letters."""
    letters = bytes(97 + int(digit, 36) % 26 for digit in f"{number:x}")
    return b" the " + letters + b" "


def _id_of(line: bytes) -> bytes:
    return str(orjson.loads(line)["id"]).encode()
