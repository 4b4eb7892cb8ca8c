"""The first thing a new user does, for real: a config without `models:`, and a dialogue by the embedded model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from tutelage import Transcript, read_transcripts
from tutelage.dialogue.turn import Attempt
from tutelage.transcripts.messages import Prompts

pytestmark = pytest.mark.timeout(400)  # the weights may have to be fetched: 93 MB

ANSWER = "40320"
BRIEF = {
    "id": "books",
    "question": "In how many orders can eight books stand on a shelf?",
    "answer": [ANSWER, "40,320"],  # hardly said by chance, which would end the lesson at once
    "misconception": {"belief": "Eight books have eight times eight orders.", "predicts": "64"},
    "facts": ["The first place can be filled in eight ways, the next one in seven."],
}
CONFIG = {
    "run": "trial",
    "briefs": [{"from": "briefs.jsonl"}],
    "limits": {"messages": 4, "revisions": 1},
    # The reviewers have room for a whole verdict, whatever the model puts into it.
    "roles": {"tutor": {"max_tokens": 40}, "student": {"max_tokens": 32}},
}


@pytest.fixture(scope="module")
def printed_and_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What `tutelage generate` printed in a process of its own, and its run folder."""
    folder = tmp_path_factory.mktemp("trial")
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    done = subprocess.run(
        [Path(sys.executable).with_name("tutelage"), "generate", "config.yaml"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("TUTELAGE_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done, folder / "runs" / "trial"


@pytest.fixture
def run(printed_and_run: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    return printed_and_run[1]


@pytest.fixture
def transcript(run: Path) -> Transcript:
    (transcript,) = read_transcripts(run)
    return transcript


def test_a_config_without_models_makes_a_whole_dialogue(transcript: Transcript) -> None:
    assert (transcript.outcome.status, transcript.outcome.reason) == ("completed", "out_of_turns")
    assert [turn.role for turn in transcript.turns] == ["tutor", "student", "tutor", "student"]
    assert all(turn.text for turn in transcript.turns)
    assert transcript.unfinished is None
    assert transcript.brief.id == "books"
    assert transcript.finished > transcript.started


def test_both_reviewers_judge_each_draft(transcript: Transcript) -> None:
    for attempt in drafts(transcript):
        roles = [review.role for review in attempt.reviews]
        assert roles == ["critic", "fact_checker"] or roles == ["cycle"], "nobody is asked about what is said again"
        if all(review.verdict == "accept" for review in attempt.reviews):
            assert (attempt.status, attempt.forced) == ("accepted", False)


def test_the_embedded_model_plays_all_roles(transcript: Transcript) -> None:
    calls = list(transcript.calls())
    assert {(call.model, call.adapter) for call in calls} == {("SmolLM2-135M-Instruct", None)}
    assert transcript.lineage.parents == ["SmolLM2-135M-Instruct"]
    assert all(call.prompt_tokens and call.completion_tokens and call.seconds for call in calls)
    assert transcript.usage.calls == len(calls) == 2 + sum(1 + _reviews(draft) for draft in drafts(transcript))


def test_a_role_finds_its_former_prompt_in_the_cache(transcript: Transcript) -> None:
    for turn in transcript.turns[2:]:
        call = turn.attempts[0].call
        assert call.cached_tokens > call.prompt_tokens / 4, turn.role


def test_its_prompts_can_be_rebuilt(transcript: Transcript, run: Path) -> None:
    """The last prompt holds the dialogue as the student saw it: its own turn as the assistant's."""
    said = [turn.text for turn in transcript.turns]
    with Prompts(run) as prompts:
        system, *messages = prompts.messages(transcript.turns[-1].attempts[0].call.prompt_sha256)
        assert system["role"] == "system"
        assert ANSWER not in system["content"], "the student must not know the answer"
        assert messages == [
            {"role": "user", "content": said[0]},
            {"role": "assistant", "content": said[1]},
            {"role": "user", "content": said[2]},
        ]
        for call in transcript.calls():
            assert prompts.messages(call.prompt_sha256)[0]["role"] == "system"


def test_it_says_what_came_of_it_and_what_it_is_good_for(
    printed_and_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = printed_and_run
    assert done.stdout.startswith("1 of 1 dialogues completed, in runs/trial")
    assert "not for training" in done.stderr


def test_the_server_is_gone_when_the_command_has_ended(transcript: Transcript) -> None:
    (endpoint,) = {call.endpoint for call in transcript.calls()}
    assert endpoint is not None
    with pytest.raises(URLError, match="refused"):
        urlopen(f"{endpoint}/models", timeout=5)


def drafts(transcript: Transcript) -> list[Attempt]:
    """The tutor's drafts."""
    return [attempt for turn in transcript.turns if turn.role == "tutor" for attempt in turn.attempts]


def _reviews(draft: Attempt) -> int:
    return sum(review.call is not None for review in draft.reviews)
