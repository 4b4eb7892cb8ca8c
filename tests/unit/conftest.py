"""A run's folder written by hand: the turns, drafts, verdicts and decisions that a test needs, and no others."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage import Attempt, Brief, Issue, Review, Transcript, Turn
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.turn import Call, Outcome
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.transcript import GraphIdentity, Usage

CRITIQUE = "CANARY: what the critic said"
"""It stands in the prompt of each draft but a turn's first."""
ACCEPT, REVISE = '{"verdict":"accept"}', '{"verdict":"revise"}'
"""What the critic replied."""
SYSTEM = {"tutor": "You teach.", "student": "You learn."}

STATUS = {
    **dict.fromkeys(("forced", "unseen", "scored"), "accepted"),
    "checked": "rejected",
    **dict.fromkeys(("scored_lower", "vetoed"), "superseded"),
}
"""What stands in a transcript for a fate that has a name of its own here."""

Draft = tuple[str, str]
"""Its words, and what became of it.

`accepted`, `forced`, `rejected` or `superseded`; and more closely `checked` (rejected by code), `unseen` (accepted, and
looked at by nobody), `scored` (accepted for its score), `scored_lower` (superseded), `vetoed` (superseded, by a check).
"""


class WrittenRun:
    """A run's folder. Each dialogue is its turns: a role, and its drafts."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        (folder / "transcripts").mkdir(parents=True)
        self._log = MessageLog()

    def add(self, *turns: tuple[str, Sequence[Draft]], brief: Brief, id_: str = "d0", **changes: Any) -> Transcript:
        """Writes a dialogue down."""
        said: list[Turn] = []
        for role, drafts in turns:
            said.append(self._turn(id_, role, drafts, said))
        transcript = Transcript(
            id=id_,
            run="written",
            graph=GraphIdentity(name="lesson", sha256="0" * 64),
            brief=brief,
            turns=said,
            outcome=Outcome(status="completed", reason="max_messages"),
            usage=Usage(),
            started=datetime(2026, 1, 1, tzinfo=UTC),
            finished=datetime(2026, 1, 2, tzinfo=UTC),
        ).model_copy(update=changes)
        with (self.path / "transcripts" / "0.jsonl").open("ab") as file:
            file.write(transcript.as_line())
        with (self.path / "messages.jsonl").open("ab") as file:
            file.write(self._log.take())
        return transcript

    def decide(self, **decision: Any) -> None:
        """Writes a decision down."""
        with (self.path / "decisions.jsonl").open("ab") as file:
            file.write(orjson.dumps({"id": "d0", **decision}) + b"\n")

    def _turn(self, id_: str, role: str, drafts: Sequence[Draft], before: list[Turn]) -> Turn:
        attempts = [self._attempt(id_, role, draft, before, number) for number, draft in enumerate(drafts)]
        text = next((attempt.text for attempt in attempts if attempt.status == "accepted"), "What a person said.")
        return Turn(index=len(before), role=role, text=text, attempts=attempts)

    def _attempt(self, id_: str, role: str, draft: Draft, before: list[Turn], number: int) -> Attempt:
        text, fate = draft
        shown = [Message("assistant" if turn.role == role else "user", (turn.text,)) for turn in before]
        prompt = Prompt(
            (Message("system", (SYSTEM[role],)), *shown, *([Message("user", (CRITIQUE,))] if number else []))
        )
        self._log.keep(id_, prompt)
        call = Call(model="m", prompt_sha256=prompt.sha256, finish_reason="stop", seed=7)
        return Attempt.model_validate(
            {
                "text": text,
                "status": STATUS.get(fate, fate),
                "forced": fate == "forced",
                "call": call,
                "reviews": _reviews(fate, call),
            }
        )


def _reviews(fate: str, call: Call) -> list[Review]:
    issue = Issue(dimension="leak", severity="block", instruction="Ask.")
    accept = Review(role="critic", verdict="accept", scores={"clarity": 0.8}, call=call, reply=ACCEPT)
    low = {"clarity": 0.2}
    revise = Review(role="critic", verdict="revise", issues=[issue], scores=low, call=call, reply=REVISE)
    score = Review(role="best", verdict="accept", scores={"brevity": 0.5})
    veto = Review(role="keeps_the_answer", verdict="revise", issues=[issue])
    of_fate = {"accepted": accept, "forced": revise, "rejected": revise, "checked": veto, "vetoed": veto}
    return [of_fate[fate]] if fate in of_fate else [score] if fate.startswith("scored") else []


@pytest.fixture
def written_run(tmp_path: Path) -> WrittenRun:
    """A run's folder without dialogues."""
    return WrittenRun(tmp_path / "written")
