"""Stepwise supervision: a dialogue as the steps of a role, each right or wrong, for process reward models.

A step is a turn of the role, with what the others said since its last one before it. It is right if the reviewers
accepted what was said; it is wrong if it was said although they still refused it, or if another text was written for it.
A draft that was sent back is a row of its own: the dialogue up to there is its prompt, and the draft is its only step,
wrong. So each text is labelled in what came before it, and once.

The rows are what TRL's `PRMTrainer` reads (Uesato et al. 2022, arXiv 2211.14275), as plain text: a step ends with its
`step_separator`, a line break, and the label stands there. TRL had that trainer up to version 1.13.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.dialogue.turn import Turn
from tutelage.dialogue.view import label as name_of
from tutelage.exports.formats.verdicts import Labelled, is_reviewed, labels, right_as_said
from tutelage.exports.request import Request
from tutelage.exports.rows import (
    FLAGS,
    IDENTITY,
    TEXTS,
    Column,
    Format,
    LeftOut,
    Row,
    accepted,
    first_prompt,
    identity,
)
from tutelage.transcripts.decisions import Judged
from tutelage.transcripts.messages import Prompts
from tutelage.transcripts.transcript import Transcript

SEPARATOR = "\n"
"""What ends a step: the default of TRL's `step_separator`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A turn of the role, in its place."""

    turn: Turn
    heard: str
    """What the others said since the role's last turn."""
    right: bool

    def saying(self, text: str) -> str:
        """The step, if this had been said."""
        return f"{self.heard}{name_of(self.turn.role)} {text}"


def rows(judged: Judged, prompts: Prompts, request: Request) -> Iterator[Row | LeftOut]:
    """One row for the dialogue as it went, and one for each other draft that has a label."""
    transcript = judged.transcript
    first = next((turn for turn in transcript.turns if turn.role == request.role), None)
    if first is None:
        return
    if not first.attempts:
        yield LeftOut.A_PERSONS
        return
    try:
        opening = first_prompt(first.attempts[0].call, first.steps, prompts)
    except KeyError:
        yield LeftOut.PROMPT_LOST
        return
    prompt = "\n\n".join(message["content"] for message in opening) + SEPARATOR
    reviewed = is_reviewed(transcript, request.role)
    steps: list[Step] = []
    for step in _steps(judged, request.role, reviewed=reviewed):
        if isinstance(step, LeftOut):
            yield step
            break
        so_far = prompt + "".join(each.saying(each.turn.text) + SEPARATOR for each in steps)
        yield from _branches(judged, step, so_far, reviewed=reviewed)
        steps.append(step)
    if steps:
        completions = [step.saying(step.turn.text) for step in steps]
        yield {
            **_learnt(prompt, completions, [step.right for step in steps]),
            **identity(transcript, request.role),
            **_origin(steps[-1].turn, None),
        }


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts somebody looked at."""
    speakers = dict.fromkeys(turn.role for turn in transcript.turns)
    yield from (role for role in speakers if is_reviewed(transcript, role))


def columns(_: Request) -> dict[str, Column]:
    """The columns of the rows."""
    return {
        "prompt": Column(
            "text", "what the role was shown before its first turn; of a draft, also what was said up to it"
        ),
        "completions": Column(TEXTS, "the steps: the role's turns, each after what the others said before it"),
        "labels": Column(FLAGS, "of each step, whether the reviewers accepted it"),
        **IDENTITY,
        "turn": Column("integer", "the index in the dialogue of the last step's turn, from 0"),
        "model": Column("text", "who played the role in the last step: the model, or `model+adapter`"),
        "source": Column("text", "who wrote the last step: the `model`, or a `human` or a `judge` instead of it"),
        "finish_reason": Column("text", "why the model stopped there; `length` means that the text was cut off"),
    }


PRM = Format(
    name="prm",
    rows=rows,
    roles=roles,
    columns=columns,
    about="process reward models: what a role said, step by step, and whether each step was right",
)


def _steps(judged: Judged, role: str, *, reviewed: bool) -> Iterator[Step | LeftOut]:
    """The role's turns, up to one that nobody judged, or that was decided against."""
    # Before its first turn the role was shown what was said in its prompt.
    heard: list[str] | None = None
    for turn in judged.transcript.turns:
        if turn.role != role:
            if heard is not None:
                heard.append(f"{name_of(turn.role)} {turn.text}{SEPARATOR}")
            continue
        if judged.drops(turn.index):
            yield LeftOut.DROPPED
            return
        right = right_as_said(judged, turn, reviewed=reviewed)
        if isinstance(right, LeftOut):
            yield right
            return
        yield Step(turn=turn, heard="".join(heard or []), right=right)
        heard = []


def _branches(judged: Judged, step: Step, prompt: str, *, reviewed: bool) -> Iterator[Row | LeftOut]:
    """A row for each draft that was not said, and for what was written instead."""
    for label in labels(judged, step.turn, reviewed=reviewed):
        if isinstance(label, LeftOut):
            # What was said has its label as a step of the dialogue, whatever else was preferred.
            if label not in (LeftOut.FORCED, LeftOut.REPLACED):
                yield label
        elif label.is_edit or label.draft.status != "accepted":
            yield {
                **_learnt(prompt, [step.saying(label.text)], [label.right]),
                **identity(judged.transcript, step.turn.role, step.turn.index, label.place),
                **_origin(step.turn, label),
            }


def _learnt(prompt: str, completions: list[str], labels: list[bool]) -> Row:
    return {"prompt": prompt, "completions": completions, "labels": labels}


def _origin(turn: Turn, label: Labelled | None) -> Row:
    """Where a row's last step is from: what was said in a turn, unless a label is given."""
    draft, source = (label.draft, label.source) if label else (accepted(turn), "model")
    row = {
        "turn": turn.index,
        "model": draft.call.player,
        "source": source,
        "finish_reason": "" if source != "model" else draft.call.finish_reason or "",
    }
    return {**row, "origin": "human"} if source == "human" else row
