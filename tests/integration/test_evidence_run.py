"""Whole runs that look for evidence: what the config asks for is read, asked and kept, and no quote is taken on trust."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage import Transcript, generate, read_transcripts
from tutelage.errors import ConfigError, DocumentError
from tutelage.evidence.documents import read_documents
from tutelage.evidence.fact_checking import QUOTED
from tutelage.evidence.passages import passages_of
from tutelage.evidence.reading import cited
from tutelage.testing import SimulatedEndpoint

LIBRARY = Path(__file__).parents[1] / "data" / "library"
TOOL = '''
def search(query: str) -> str:
    """Searches nothing."""
    return "Somebody said that: " + query
'''
SOURCE = "At sea level, water boils at 100 °C."

REPLIES = """
import json

from tutelage.testing import prose


def reply(body, rng):
    # A tutor who says what is so and what is not, and a claim checker who quotes, rightly and wrongly.
    shape = json.dumps(body.get("response_format") or {})
    if "findings" in shape:
        count = json.loads(shape)["json_schema"]["schema"]["properties"]["findings"]["maxItems"]
        right, wrong = "At sea level, water boils at 100 °C.", "water boils at 90 degrees at sea level"
        said = [(right, "supported"), (right, "contradicted"), (wrong, "supported"), ("", "not_found")]
        chosen = [rng.choice(said) for _ in range(count)]
        return json.dumps({"findings": [
            {"claim": n, "source": 1, "quote": quote, "verdict": verdict} for n, (quote, verdict) in enumerate(chosen, 1)
        ]})
    if "utterance" in shape:
        said = f"Water boils at {rng.choice([80, 90, 100])} °C. {prose.write(rng, 30)}"
        return json.dumps({"sources": [1], "utterance": said})
    return None
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(LIBRARY, tmp_path / "library")
    (tmp_path / "mytools.py").write_text(TOOL)
    brief = {"id": "water", "question": "When does water boil?", "documents": ["library/water.md"], "facts": [SOURCE]}
    (tmp_path / "briefs.jsonl").write_text(json.dumps(brief))
    return tmp_path


@pytest.fixture(scope="module")
def one_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedEndpoint]:
    replies = tmp_path_factory.mktemp("replies") / "replies.py"
    replies.write_text(REPLIES)
    with SimulatedEndpoint(model="m", replies=f"{replies}:reply") as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(one_endpoint: SimulatedEndpoint) -> SimulatedEndpoint:
    one_endpoint.forget()
    return one_endpoint


def config_of(folder: Path, endpoint: SimulatedEndpoint, dialogues: int = 4, **evidence: Any) -> Path:
    config = {
        "run": "r",
        "graph": "open_book",
        "models": {"m": {"url": endpoint.url, "model": "m"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        **({"target": {"dialogues": dialogues}} if dialogues else {}),
        "evidence": evidence,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(config))
    return path


def run(config: Path) -> list[Transcript]:
    generate(config, out=config.parent / "out")
    return list(read_transcripts(config.parent / "out"))


def claims_of(transcript: Transcript) -> Iterator[tuple[Transcript, Any]]:
    for turn in transcript.turns:
        for attempt in turn.attempts:
            for review in attempt.reviews:
                yield from ((transcript, claim) for claim in review.claims)


def test_every_verdict_has_a_quote_that_stands_in_a_source_and_every_citation_a_passage(
    folder: Path, endpoint: SimulatedEndpoint
) -> None:
    transcripts = run(config_of(folder, endpoint, documents=["library"], tools=["mytools.py:search"]))
    passages = {
        passage.id: passage.text
        for document in read_documents(["library/water.md"], folder)
        for passage in passages_of(document)
    }
    assert len(transcripts) >= 4
    claims = [pair for transcript in transcripts for pair in claims_of(transcript)]
    assert {claim.verdict for _, claim in claims} == {"supported", "contradicted", "not_found"}
    for transcript, claim in claims:
        assert (claim.source is None) == (claim.quote is None) == (claim.verdict == "not_found")
        if claim.source is not None:
            kept = {"brief#fact-1": SOURCE, **transcript.findings.get(QUOTED, {})}
            assert claim.quote in " ".join(kept[claim.source].split())
    turns = [turn for transcript in transcripts for turn in transcript.turns if turn.role == "tutor"]
    assert turns
    for turn in turns:
        assert len(cited(turn)) == 1
        assert all(passages[shown["id"]] == shown["text"] for shown in turn.private["passages"])


def test_documents_may_be_searched_by_meaning_too(folder: Path, endpoint: SimulatedEndpoint) -> None:
    with SimulatedEndpoint(model="e") as embedder:
        path = config_of(folder, endpoint, documents=["library/*.md"], embedding="e")
        config = json.loads(path.read_text())
        config["models"]["e"] = {"url": embedder.url, "model": "e"}
        config["roles"] = {role: {"model": "m"} for role in ("tutor", "student", "claim_checker")}
        path.write_text(json.dumps(config))
        run(path)
        embedded = embedder.requests()
    assert {each["api"] for each in embedded} == {"embeddings"}
    assert any(len(each["body"]["input"]) > 1 for each in embedded), "the passages"
    assert any(len(each["body"]["input"]) == 1 for each in embedded), "a claim"


@pytest.mark.parametrize(
    ("evidence", "error", "said"),
    [
        ({"documents": ["nowhere/*.md"]}, ConfigError, "matches no file"),
        ({"documents": ["mytools.py"]}, DocumentError, "of no kind that is read"),
        ({"tools": ["mytools.py:find"]}, ConfigError, "has no 'find'"),
        ({"embedding": "other"}, ConfigError, "no model 'other'"),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_first_call(
    folder: Path, endpoint: SimulatedEndpoint, evidence: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(config_of(folder, endpoint, **evidence))
    assert not [each for each in endpoint.requests() if each["api"] == "chat"]


def test_a_tool_that_fails_fails_its_dialogues_with_the_reason(
    folder: Path, endpoint: SimulatedEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.generation.run.TRY_AGAIN", (0.0, 0.0))
    (folder / "mytools.py").write_text(
        'def search(query: str) -> str:\n    """Fails."""\n    raise OSError("no index")'
    )
    transcripts = run(config_of(folder, endpoint, dialogues=0, tools=["mytools.py:search"]))
    assert {(each.outcome.status, each.outcome.reason) for each in transcripts} == {("failed", "checker_failed")}
    assert all("'search' failed: OSError: no index" in str(each.outcome.detail) for each in transcripts)
