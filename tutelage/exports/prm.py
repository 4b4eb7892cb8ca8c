"""Stepwise supervision: a dialogue as the steps of a role, each right or wrong, for process reward models.

A step is a turn of the role, with what the others said since its last one before it. It is right if the reviewers
accepted what was said, and wrong if it was said although they still refused it. A draft that was sent back is a row of
its own: the dialogue up to there is its prompt, and the draft is its only step, wrong. So each text is labelled in what
came before it, and once.

The rows are what TRL's `PRMTrainer` reads (Uesato et al. 2022, arXiv 2211.14275), as plain text: a step ends with its
`step_separator`, a line break, and the label stands there. TRL had that trainer up to version 1.13.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tutelage.dialogue.turn import Attempt, Turn
from tutelage.dialogue.view import label as name_of
from tutelage.exports.request import Request
from tutelage.exports.rows import FLAGS, IDENTITY, TEXTS, Column, Format, LeftOut, Row, first_prompt, identity, player
from tutelage.exports.verdicts import is_reviewed, labels, right_as_said
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
    first = next((turn for turn in transcript.turns if turn.role == request.role and turn.attempts), None)
    if first is None:
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
        yield _row(
            transcript,
            steps[-1].turn,
            _said(steps[-1].turn),
            prompt=prompt,
            completions=[step.saying(step.turn.text) for step in steps],
            labels=[step.right for step in steps],
        )


def roles(transcript: Transcript) -> Iterator[str]:
    """Whose drafts somebody looked at."""
    yield from (role for role in {turn.role for turn in transcript.turns} if is_reviewed(transcript, role))


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
        "model": Column("text", "who wrote the last step: the model, or `model+adapter`; empty where a person did"),
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
        if right is LeftOut.UNJUDGED:
            yield LeftOut.UNJUDGED
            return
        yield Step(turn=turn, heard="".join(heard or []), right=right is True)
        heard = []


def _branches(judged: Judged, step: Step, prompt: str, *, reviewed: bool) -> Iterator[Row | LeftOut]:
    """A row for each draft that was not said, and for each text that a person wrote instead."""
    for label in labels(judged, step.turn, reviewed=reviewed):
        if isinstance(label, LeftOut):
            if label is not LeftOut.FORCED:  # it is a wrong step of the dialogue as it went
                yield label
        elif label.draft is None or label.draft.status != "accepted":
            row = _row(
                judged.transcript,
                step.turn,
                label.draft,
                label.place,
                prompt=prompt,
                completions=[step.saying(label.text)],
                labels=[label.right],
            )
            yield row if label.draft else {**row, "origin": "human"}


def _said(turn: Turn) -> Attempt | None:
    return turn.accepted


def _row(transcript: Transcript, turn: Turn, draft: Attempt | None, *place: int | str, **learnt: object) -> Row:
    return {
        **learnt,
        **identity(transcript, turn.role, *((turn.index, *place) if place else ())),
        "turn": turn.index,
        "model": player(draft.call) if draft else "",
        "finish_reason": (draft.call.finish_reason if draft else None) or "",
    }
