"""A panel: several models judge in one role, and what most of them say counts."""

import asyncio
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.graph import END, START, StateGraph
from pydantic import PrivateAttr

from tutelage import Brief, Cast, Dialogue, Limits, add_critique_loop, review
from tutelage.agents import critic, tutor
from tutelage.dialogue.cast import Journal, NoJournal, Player
from tutelage.dialogue.turn import Call, Turn
from tutelage.errors import EndpointFailed
from tutelage.testing import ScriptedModel

ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
DRAFTS = ["The first draft is this one.", "Here comes another try.", "Why not a third way?"]


def finds(*severities: str) -> dict[str, Any]:
    """A verdict whose issues point at the brief's topic."""
    issues = [
        {"dimension": "d", "severity": each, "evidence": "Adding two fractions", "instruction": "Mend it."}
        for each in severities
    ]
    return {"verdict": "revise", "issues": issues}


class Member(ScriptedModel):
    """Says one verdict after the other, after so many seconds."""

    _delay: float = PrivateAttr(0.0)
    _asked: int = PrivateAttr(0)

    def __init__(self, *verdicts: Any, delay: float = 0.0) -> None:
        super().__init__({"critic": list(verdicts)})
        self._delay = delay

    @property
    def asked(self) -> int:
        return self._asked

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._asked += 1
        await asyncio.sleep(self._delay)
        return await super()._agenerate(messages, stop, run_manager, **kwargs)


class Memory(NoJournal):
    """A journal that outlives a dialogue that is killed."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], tuple[str, Call]] = {}
        self.two_kept = asyncio.Event()

    def recall(self, dialogue: str, key: str) -> tuple[str, Call] | None:
        return self.kept.get((dialogue, key))

    async def keep(self, dialogue: str, key: str, text: str, call: Call) -> None:
        self.kept[dialogue, key] = text, call
        if len(self.kept) == 2:
            self.two_kept.set()


def loop(discards: str | None = None) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, reviewers=[review(critic, discards=discards)], then=END)
    graph.add_edge(START, "tutor")
    return graph


def cast_of(*members: Member, journal: Journal | None = None, revisions: int = 2) -> Cast:
    first, *others = (Player(model=member) for member in members)
    judge = Player(model=first.model, panel=tuple(others))
    return Cast(
        players={"tutor": Player(model=ScriptedModel({"tutor": DRAFTS})), "critic": judge},
        limits=Limits(revisions=revisions),
        journal=journal or NoJournal(),
    )


async def the_turn(cast: Cast) -> Turn:
    brief = Brief(id="b", topic="Adding two fractions")
    dialogue: Any = await loop().compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    turns: list[Turn] = dialogue["turns"]
    assert len(turns) == 1
    return turns[0]


@pytest.mark.parametrize(
    ("verdicts", "drafts"),
    [
        ((ACCEPT, ACCEPT, finds("block")), 1),
        ((finds("block"), ACCEPT, ACCEPT), 1),
        ((ACCEPT, finds("block"), finds("major")), 2),
        ((finds("block"), finds("block"), ACCEPT), 2),
        ((finds("major"), finds("minor"), finds("block")), 2),
        ((finds("block"), {"verdict": "revise", "issues": []}, ACCEPT), 1),
        ((finds("block"), ACCEPT), 1),
        ((finds("block"), finds("major")), 2),
    ],
)
async def test_what_most_members_say_counts_and_a_tie_sends_nothing_back(verdicts: Any, drafts: int) -> None:
    turn = await the_turn(cast_of(*(Member(verdict, ACCEPT) for verdict in verdicts)))
    assert len(turn.attempts) == drafts
    assert [review.verdict for review in turn.attempts[0].reviews] == [verdict["verdict"] for verdict in verdicts]


@pytest.mark.parametrize(
    ("verdicts", "refused"),
    [
        ((finds("block"), finds("block"), ACCEPT), True),
        ((finds("block"), ACCEPT, ACCEPT), False),
        ((finds("block"), finds("major"), finds("major")), False),
        ((finds("block"), ACCEPT), False),
    ],
)
async def test_a_panel_refuses_a_draft_for_good_if_most_of_its_members_do(verdicts: Any, refused: bool) -> None:
    cast = cast_of(*(Member(verdict) for verdict in verdicts), revisions=0)
    state: Any = {"id": "d", "brief": Brief(id="b", topic="Adding two fractions")}
    dialogue: Any = await loop(discards="leak").compile().ainvoke(state, context=cast)
    assert bool(dialogue.get("outcome")) is refused
    assert len(dialogue.get("turns", [])) == (not refused)


async def test_each_member_s_review_is_kept_with_its_call() -> None:
    turn = await the_turn(cast_of(Member(ACCEPT), Member(finds("block")), Member(ACCEPT)))
    reviews = turn.attempts[0].reviews
    assert [(review.role, review.verdict) for review in reviews] == [
        ("critic", "accept"),
        ("critic", "revise"),
        ("critic", "accept"),
    ]
    seeds = {review.call.seed for review in reviews if review.call}
    assert len(seeds) == 3, "each has a seed of its own"
    assert len({review.call.prompt_sha256 for review in reviews if review.call}) == 1, "and is shown the same"


async def test_a_revision_is_weighed_by_the_median_of_its_panel() -> None:
    """One harsh member makes a revision no worse than the draft, and one mild member no better."""
    harsh = [Member(finds("block"), finds("major")) for _ in range(2)]
    turn = await the_turn(cast_of(*harsh, Member(finds("major"), finds("block", "block")), revisions=1))
    assert turn.text == DRAFTS[1]
    stubborn = [Member(finds("major"), finds("major")) for _ in range(2)]
    turn = await the_turn(cast_of(*stubborn, Member(finds("block"), ACCEPT), revisions=1))
    assert turn.text == DRAFTS[0]


async def test_after_a_kill_in_the_middle_of_a_panel_nobody_is_asked_twice() -> None:
    journal = Memory()
    before = Member(finds("block"), ACCEPT), Member(ACCEPT), Member(delay=600)
    task = asyncio.create_task(the_turn(cast_of(*before, journal=journal)))
    await asyncio.wait_for(journal.two_kept.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [member.asked for member in before] == [1, 1, 1]

    after = Member(ACCEPT), Member(ACCEPT), Member(ACCEPT)
    turn = await the_turn(cast_of(*after, journal=journal))
    assert [member.asked for member in after] == [0, 0, 1]
    assert [review.verdict for review in turn.attempts[0].reviews] == ["revise", "accept", "accept"]


async def test_where_one_member_fails_what_the_others_say_is_not_lost() -> None:
    journal = Memory()
    cast = cast_of(
        Member(EndpointFailed("down")), Member(ACCEPT, delay=0.1), Member("no JSON", ACCEPT), journal=journal
    )
    with pytest.raises(EndpointFailed):
        await the_turn(cast)
    after = Member(ACCEPT), Member(finds("block")), Member(finds("block"))
    turn = await the_turn(cast_of(*after, journal=journal))
    assert [member.asked for member in after] == [1, 0, 0]
    assert [review.verdict for review in turn.attempts[0].reviews] == ["accept"] * 3
    assert [step.text for step in turn.steps] == ["no JSON"]
