"""Holds what lies in a run's folder against what the endpoint wrote down itself."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from benchmarks.run_process import Project
from tutelage import Transcript
from tutelage.dialogue.turn import Call
from tutelage.transcripts.messages import Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is wrong with a run, by the ids of dialogues."""

    owed: int
    """Dialogues: one for each brief."""
    lost: list[str]
    """Briefs without a dialogue."""
    doubled: list[str]
    """Dialogues with more than one line, and such as were made of a brief that has another one."""
    calls: int
    """In the transcripts."""
    untrue: list[str]
    """For each text, or call without one, that the endpoint did not give to that prompt with that seed."""
    lost_prompts: list[str]
    """For each prompt that `messages.jsonl` does not rebuild as it was sent."""
    differing: list[str]
    """Dialogues whose words are not those of the undisturbed run."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.untrue or self.lost_prompts or self.differing)


def prove(project: Project, *, answers: Sequence[Mapping[str, Any]], undisturbed: Project) -> Proof:
    """Looks at everything that a finished run has left.

    Args:
        project: Of the run. Each of its briefs is to be done once.
        answers: The endpoint's journal.
        undisturbed: The same run, made without any trouble.
    """
    transcripts = project.transcripts()
    briefs = {orjson.loads(line)["id"] for line in (project.folder / "briefs.jsonl").read_bytes().splitlines()}
    of_brief = Counter(transcript.brief.id for transcript in transcripts)
    lines = Counter(orjson.loads(line)["id"] for line in project.lines())
    said: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
    for answer in answers:
        said[answer["seed"], answer["messages_sha256"]].update(text.strip() for text in answer["texts"])
    untrue, lost_prompts, calls = [], [], 0
    with Prompts(project.run) as prompts:
        for transcript in transcripts:
            for call, text in texts_of(transcript):
                calls += 1
                sent = _sent(prompts, call)
                if sent is None:
                    lost_prompts.append(transcript.id)
                    continue
                replies = said.get((call.seed or 0, sent))
                if replies is None or (text is not None and text not in replies):
                    untrue.append(transcript.id)
    words = {transcript.id: _words(transcript) for transcript in undisturbed.transcripts()}
    return Proof(
        owed=len(briefs),
        lost=sorted(briefs - of_brief.keys()),
        doubled=[id_ for id_, count in lines.items() if count > 1]
        + [brief for brief, count in of_brief.items() if count > 1],
        calls=calls,
        untrue=untrue,
        lost_prompts=lost_prompts,
        differing=[t.id for t in transcripts if words.get(t.id) != _words(t)],
    )


def texts_of(transcript: Transcript) -> Iterator[tuple[Call, str | None]]:
    """Each call of a transcript with the text that it gave; None for a review, of which the verdict is kept."""
    left = transcript.unfinished
    attempts = [attempt for turn in transcript.turns for attempt in turn.attempts] + (left.attempts if left else [])
    steps = [step for turn in transcript.turns for step in turn.steps] + (left.steps if left else [])
    for attempt in attempts:
        yield attempt.call, attempt.text
        yield from ((review.call, None) for review in attempt.reviews if review.call)
    for step in steps:
        yield step.call, step.text


def _sent(prompts: Prompts, call: Call) -> str | None:
    """The hash of a call's messages, as the endpoint takes it; None where they cannot be rebuilt."""
    try:
        return sha256_of(prompts.messages(call.prompt_sha256))
    except KeyError:
        return None


def sha256_of(messages: Any) -> str:
    """The hash by which the endpoint's journal knows messages."""
    return hashlib.sha256(orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _words(transcript: Transcript) -> bytes:
    """All that was said and judged, without what differs between two runs: who answered, when, and how quickly."""
    same = {"model", "seed", "prompt_sha256", "completion_tokens", "finish_reason"}

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, dict):
            return {key: plain(each) if key != "call" else {k: each[k] for k in same} for key, each in value.items()}
        return value

    kept = transcript.model_dump(mode="json", include={"brief", "turns", "unfinished", "outcome"})
    return orjson.dumps(plain(kept), option=orjson.OPT_SORT_KEYS)
