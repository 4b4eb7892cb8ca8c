"""What ten dialogues gained, counted by hand: solve-rate gain, success@k and telling@k."""

from typing import NamedTuple

import pytest

from tutelage import Brief, Call, Misconception, Step, Turn
from tutelage.learners.gains import (
    misconception_rates,
    solve_rate_gain,
    solve_rates,
    solved_within,
    success_at,
    telling_at,
    told_within,
)

BRIEF = Brief(
    id="b",
    question="What is 1/2 + 1/3?",
    answer=("5/6",),
    misconception=Misconception(belief="You add the tops and the bottoms.", predicts="2/5"),
)
ASKS, WRONG, RIGHT = "How many sixths is that?", "2/5.", "5/6."


class Ten(NamedTuple):
    """One of the ten: what was said, the tutor first, and by probe the replies before and after."""

    said: list[str]
    before: list[str]
    """By probe, a letter for each reply: `r`ight, the `m`isconception's, `o`ther."""
    after: list[str]
    solved: int | None
    """Turns of the tutor until the student had it."""
    told: int | None
    gain: float | None


TEN = [
    Ten([ASKS, WRONG, ASKS, RIGHT], ["mmmr"], ["rrrr"], 2, None, 0.75),
    Ten([ASKS, RIGHT], ["mmmm", "mmmm"], ["rrmm", "mmmm"], 1, None, 0.25),
    Ten(["It is 5/6.", "I see."], ["mmmm"], ["mmmm"], None, 1, 0.0),
    Ten([ASKS, WRONG, "It is 5/6.", RIGHT], ["rm"], ["rrro"], 2, 2, 0.25),
    Ten([ASKS, WRONG, ASKS, WRONG, ASKS, WRONG], ["oooo"], ["oooo"], None, None, 0.0),
    Ten([ASKS, WRONG, ASKS, WRONG, ASKS, RIGHT], ["mm", "mo", "rr"], ["rr", "rr", "mm"], 3, None, 1 / 3),
    Ten([ASKS, RIGHT, "Yes, 5/6.", "Good."], ["rr"], ["mm"], 1, None, -1.0),
    Ten([ASKS, WRONG, "It is 5/6!", WRONG], [], [], None, 2, None),
    Ten([ASKS, WRONG, ASKS, RIGHT], ["mmmm"], [], 2, None, None),
    Ten([], [], [], None, None, None),
]


def probed(kind: str, replies: list[str]) -> list[Step]:
    return [
        Step(
            kind=kind,
            role="student",
            text="",
            data={"probe": probe, "correct": letter == "r", "misconception": letter == "m"},
            call=Call(model="m", prompt_sha256="p"),
        )
        for probe, letters in enumerate(replies)
        for letter in letters
    ]


def turns_of(dialogue: Ten) -> list[Turn]:
    turns = [
        Turn(index=index, role="student" if index % 2 else "tutor", text=text, attempts=[])
        for index, text in enumerate(dialogue.said)
    ]
    if turns:
        turns[0] = turns[0].model_copy(update={"steps": probed("probe_before", dialogue.before)})
        steps = [*turns[-1].steps, *probed("probe_after", dialogue.after)]
        turns[-1] = turns[-1].model_copy(update={"steps": steps})
    return turns


@pytest.mark.parametrize("dialogue", TEN)
def test_each_of_the_ten_is_as_it_was_counted(dialogue: Ten) -> None:
    turns = turns_of(dialogue)
    assert (solved_within(turns, BRIEF), told_within(turns, BRIEF)) == (dialogue.solved, dialogue.told)
    assert solve_rate_gain(turns) == (None if dialogue.gain is None else pytest.approx(dialogue.gain))


@pytest.mark.parametrize(
    ("k", "success", "telling"), [(0, 0.0, 0.0), (1, 0.2, 0.1), (2, 0.5, 0.3), (3, 0.6, 0.3), (99, 0.6, 0.3)]
)
def test_success_and_telling_at_k_over_the_ten(k: int, success: float, telling: float) -> None:
    dialogues = [(turns_of(each), BRIEF) for each in TEN]
    assert (success_at(k, dialogues), telling_at(k, dialogues)) == (success, telling)


def test_of_no_dialogues_nothing_is_said() -> None:
    assert success_at(1, []) is None
    assert telling_at(1, []) is None


def test_rates_are_told_by_probe() -> None:
    turns = turns_of(TEN[5])
    assert solve_rates(turns, "before") == {0: 0, 1: 0, 2: 1}
    assert misconception_rates(turns, "before") == {0: 1, 1: 0.5, 2: 0}
    assert misconception_rates(turns, "after") == {0: 0, 1: 0, 2: 1}
