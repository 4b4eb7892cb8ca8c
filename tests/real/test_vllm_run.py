"""A whole run against a real vLLM server, by the command as a user gives it: generated, read back, exported."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tutelage import Dialogue, Transcript, read_transcripts
from tutelage.agents import critic, fact_checker
from tutelage.dialogue.turn import Attempt, Call
from tutelage.dialogue.weighing import weigh
from tutelage.transcripts.messages import Prompts

from .vllm_server import VLLMServer

pytestmark = pytest.mark.vllm

BRIEFS = Path(__file__).parents[2] / "examples" / "briefs" / "mathematics.jsonl"
LESSONS = 8
ROLES = {
    # Drawn so, the tiny model gives either verdict about as often, and seldom falls into noise.
    "tutor": {"adapter": "a", "max_tokens": 32},
    "student": {"adapter": "b", "max_tokens": 24},
    "critic": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 400},
    "fact_checker": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 400},
}
ADAPTERS = {"tutor": "a", "student": "b", "critic": None, "fact_checker": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """A run of the graph `lesson` that has met its target."""

    config: Path
    folder: Path
    transcripts: list[Transcript]

    def attempts(self) -> Iterator[Attempt]:
        """Every draft of the run, whoever spoke."""
        for transcript in self.transcripts:
            for turn in transcript.turns:
                yield from turn.attempts


@pytest.fixture(scope="module")
def lessons(vllm_server: VLLMServer, tmp_path_factory: pytest.TempPathFactory) -> Lessons:
    folder = tmp_path_factory.mktemp("lessons")
    config = write_config(
        folder,
        vllm_server,
        graph="lesson",
        roles=ROLES,
        limits={"messages": 6, "revisions": 2},
    )
    printed = tutelage("generate", config, "--out", folder / "run")
    assert printed.startswith(f"{LESSONS} of {LESSONS} dialogues completed")
    return Lessons(config=config, folder=folder / "run", transcripts=list(read_transcripts(folder / "run")))


def write_config(folder: Path, server: VLLMServer, **keys: Any) -> Path:
    """A config file that has its briefs beside it, and one model: the server's."""
    with BRIEFS.open(encoding="utf-8") as briefs:
        (folder / "briefs.jsonl").write_text("".join(islice(briefs, LESSONS)), encoding="utf-8")
    config = {
        "run": keys["graph"],
        "models": {"tiny": {"url": server.url, "model": server.model}},
        "briefs": [{"from": "briefs.jsonl"}],
        "concurrency": LESSONS,
        "seed": 3,
        **keys,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def tutelage(*arguments: Path | str) -> str:
    """Give the command, in a process of its own, and return what it prints once it has ended with exit code 0."""
    done = subprocess.run(
        [Path(sys.executable).with_name("tutelage"), *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("TUTELAGE_")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def calls_by_role(transcript: Transcript) -> Iterator[tuple[str, int, Call]]:
    """Every call of a dialogue, with the role that it was made for and the index of its turn."""
    for turn in transcript.turns:
        for attempt in turn.attempts:
            yield turn.role, turn.index, attempt.call
            for review in attempt.reviews:
                if review.call:
                    yield review.role, turn.index, review.call
        for step in turn.steps:
            yield step.role, turn.index, step.call


def test_every_brief_becomes_a_whole_lesson(lessons: Lessons) -> None:
    briefs = [json.loads(line)["id"] for line in (lessons.config.parent / "briefs.jsonl").read_text().splitlines()]
    assert sorted(transcript.brief.id for transcript in lessons.transcripts) == sorted(briefs)
    for transcript in lessons.transcripts:
        assert transcript.outcome.status == "completed"
        assert transcript.outcome.reason in {"out_of_turns", "mastered"}
        assert transcript.unfinished is None
        assert [turn.role for turn in transcript.turns] == ["tutor", "student"] * (len(transcript.turns) // 2)
        for turn in transcript.turns:
            assert [attempt.text for attempt in turn.attempts if attempt.status == "accepted"] == [turn.text]
            assert turn.text


def test_reviewers_send_drafts_back_and_accept_others(lessons: Lessons) -> None:
    """By the verdicts of a model: against an accepted draft nobody has an issue that counts, else somebody has."""
    reviewed = []
    sees = {agent.role: agent.sees for agent in (critic, fact_checker)}
    for transcript in lessons.transcripts:
        for turn in transcript.turns:
            before: Dialogue = {"brief": transcript.brief, "turns": transcript.turns[: turn.index]}
            for attempt in turn.attempts if turn.role == "tutor" else ():
                if [review.role for review in attempt.reviews] != ["cycle"]:  # said again, so nobody was asked
                    assert [review.role for review in attempt.reviews] == ["critic", "fact_checker"]
                    accepted = (attempt.status, attempt.forced) == ("accepted", False)
                    assert accepted != weigh(attempt, before, sees).sends_back
                reviewed.append(attempt)
    status = Counter("forced" if attempt.forced else attempt.status for attempt in reviewed)
    assert status["rejected"] > 0
    assert status["accepted"] > 0


def test_verdicts_come_by_schema(lessons: Lessons) -> None:
    """Both verdicts, issues with their fields, and hardly a reply that does not fit."""
    reviews = [review for attempt in lessons.attempts() for review in attempt.reviews]
    assert {review.verdict for review in reviews} == {"accept", "revise"}
    issues = [issue for review in reviews for issue in review.issues]
    assert {issue.severity for issue in issues} <= {"block", "major", "minor"}
    assert any((issue.span or issue.evidence) and issue.instruction for issue in issues)
    steps = [step for transcript in lessons.transcripts for turn in transcript.turns for step in turn.steps]
    assert {step.kind for step in steps} <= {"misfit"}
    assert len(steps) <= len(reviews) / 10


def test_each_role_is_played_by_its_adapter(lessons: Lessons, vllm_server: VLLMServer) -> None:
    players = {
        (role, call.model, call.adapter, call.endpoint)
        for transcript in lessons.transcripts
        for role, _, call in calls_by_role(transcript)
    }
    assert players == {(role, vllm_server.model, adapter, vllm_server.url) for role, adapter in ADAPTERS.items()}


def test_no_two_calls_have_one_seed(lessons: Lessons) -> None:
    seeds = [call.seed for transcript in lessons.transcripts for call in transcript.calls()]
    assert len(seeds) > LESSONS * 10
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


def test_a_role_finds_its_former_prompt_in_the_prefix_cache(lessons: Lessons) -> None:
    """From a role's second turn on, each of its prompts begins with most of an earlier one."""
    for transcript in lessons.transcripts:
        first_turn: dict[str, int] = {}
        for role, turn, call in calls_by_role(transcript):
            if turn > first_turn.setdefault(role, turn):
                assert call.cached_tokens > call.prompt_tokens / 4, (role, turn)


def test_every_prompt_can_be_rebuilt_as_it_was_sent(lessons: Lessons, vllm_server: VLLMServer) -> None:
    """The server counts as many tokens in what we rebuild as it counted in what it was sent."""
    with Prompts(lessons.folder) as prompts:
        for transcript in lessons.transcripts:
            for call in transcript.calls():
                messages = prompts.messages(call.prompt_sha256)
                assert [message["role"] for message in messages[:2]] == ["system", "user"]
                assert messages[0]["content"].startswith("You ")
                assert messages[-1]["role"] == "user"
                assert tokens_of(messages, vllm_server) == call.prompt_tokens


def tokens_of(messages: list[dict[str, str]], server: VLLMServer) -> int:
    """How many tokens the server makes of a chat."""
    body = json.dumps({"model": server.model, "messages": messages}).encode()
    url = server.url.removesuffix("/v1") + "/tokenize"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return int(json.load(response)["count"])


def test_started_again_it_makes_nothing_more(lessons: Lessons) -> None:
    truth = [*(lessons.folder / "transcripts").iterdir(), lessons.folder / "messages.jsonl"]
    before = [file.read_bytes() for file in truth]
    printed = tutelage("generate", lessons.config, "--out", lessons.folder)
    assert printed.startswith(f"{LESSONS} of {LESSONS} dialogues completed")
    assert [file.read_bytes() for file in truth] == before
    assert len(list((lessons.folder / "transcripts").iterdir())) == 1


@pytest.mark.parametrize("files", ["jsonl", "parquet"])
def test_what_was_said_is_exported_for_fine_tuning(lessons: Lessons, tmp_path: Path, files: str) -> None:
    """The tutor's turns that its reviewers accepted, each with the prompt of the turn's first draft."""
    tutelage("export", lessons.folder, "--format", "sft", "--files", files, "--out", tmp_path / "sft")
    said = {}
    with Prompts(lessons.folder) as prompts:
        for transcript in lessons.transcripts:
            for turn in transcript.turns:
                if turn.role == "tutor" and not any(attempt.forced for attempt in turn.attempts):
                    prompt = prompts.messages(turn.attempts[0].call.prompt_sha256)
                    said[transcript.id, turn.index] = (prompt, [{"role": "assistant", "content": turn.text}])
    rows = {(row["dialogue"], row["turn"]): (row["prompt"], row["completion"]) for row in rows_of(tmp_path / "sft")}
    assert rows == said


@pytest.mark.parametrize("files", ["jsonl", "parquet"])
def test_drafts_that_were_sent_back_are_exported_as_pairs(lessons: Lessons, tmp_path: Path, files: str) -> None:
    """Each with what was said in its place, and the prompt of the turn's first draft: nothing of why it was refused."""
    tutelage("export", lessons.folder, "--format", "dpo", "--files", files, "--out", tmp_path / "dpo")
    turns = {(transcript.id, turn.index): turn for transcript in lessons.transcripts for turn in transcript.turns}
    rows = rows_of(tmp_path / "dpo")
    assert rows
    with Prompts(lessons.folder) as prompts:
        for row in rows:
            turn = turns[row["dialogue"], row["turn"]]
            sent_back = turn.attempts[row["attempt"]]
            assert sent_back.status == "rejected"
            assert row["prompt"] == prompts.messages(turn.attempts[0].call.prompt_sha256)
            assert row["rejected"] == [{"role": "assistant", "content": sent_back.text}]
            assert row["chosen"] == [{"role": "assistant", "content": turn.text}]


def rows_of(export: Path) -> list[dict[str, Any]]:
    """The rows of an export, by its kind of files."""
    rows: list[dict[str, Any]] = []
    for file in sorted((export / "data").iterdir()):
        if file.suffix == ".parquet":
            rows += pq.read_table(file).to_pylist()
        else:
            rows += map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return rows


def test_a_graph_of_another_shape_runs_too(vllm_server: VLLMServer, tmp_path: Path) -> None:
    """A debate: two speakers without reviewers, and a moderator who rules by schema after each round."""
    config = write_config(
        tmp_path,
        vllm_server,
        graph="debate",
        roles={
            "proponent": {"adapter": "a", "max_tokens": 24},
            "opponent": {"adapter": "b", "max_tokens": 24},
            "moderator": {"temperature": 1.0},
        },
        limits={"messages": 4},
        target={"dialogues": 3},
    )
    tutelage("generate", config, "--out", tmp_path / "run")
    transcripts = list(read_transcripts(tmp_path / "run"))
    assert len(transcripts) == 3
    for transcript in transcripts:
        assert transcript.graph.name == "debate"
        assert {role for role, _, _ in calls_by_role(transcript)} == {"proponent", "opponent", "moderator"}
        rulings = [turn.private["moderator"] for turn in transcript.turns if "moderator" in turn.private]
        assert len(rulings) == len(transcript.turns) / 2
        assert all(ruling.keys() == {"proponent_answer", "opponent_answer", "agreed"} for ruling in rulings)
        reason = "agreed" if rulings[-1]["agreed"] else "out_of_turns"
        assert transcript.outcome.reason == reason


def test_killed_in_mid_dialogue_a_run_goes_on_behind_what_was_answered(vllm_server: VLLMServer, tmp_path: Path) -> None:
    """Twice, by SIGKILL: each lesson is there once, and the server has answered hardly more than the lessons hold."""
    config = write_config(
        tmp_path,
        vllm_server,
        graph="lesson",
        roles=ROLES,
        limits={"messages": 6, "revisions": 2},
    )
    before, starts = answered(vllm_server), []
    for kill in (1, 2):
        process = subprocess.Popen(
            [Path(sys.executable).with_name("tutelage"), "generate", config, "--out", tmp_path / "run"],
            stderr=subprocess.DEVNULL,
        )
        starts.append(datetime.now(UTC))
        deadline = time.monotonic() + 120
        while answered(vllm_server) < before + kill * 2 * LESSONS and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
    printed = tutelage("generate", config, "--out", tmp_path / "run")
    assert printed.startswith(f"{LESSONS} of {LESSONS} dialogues completed")
    transcripts = list(read_transcripts(tmp_path / "run"))
    assert len({transcript.brief.id for transcript in transcripts}) == len(transcripts) == LESSONS
    assert (
        min(transcript.started for transcript in transcripts) < starts[1]
    )  # begun before the first kill, and not anew
    made_again = answered(vllm_server) - before - sum(transcript.usage.calls for transcript in transcripts)
    assert 0 <= made_again <= len(starts) * LESSONS * 2  # of each lesson what was in flight: two reviews at most
    with Prompts(tmp_path / "run") as prompts:
        assert all(prompts.messages(call.prompt_sha256) for each in transcripts for call in each.calls())


def answered(server: VLLMServer) -> int:
    """How many requests the server has answered, by its own count."""
    with urllib.request.urlopen(f"{server.url.removesuffix('/v1')}/metrics", timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    counts = [line.rpartition(" ")[2] for line in lines if line.startswith("vllm:request_success_total")]
    return int(sum(map(float, counts)))
