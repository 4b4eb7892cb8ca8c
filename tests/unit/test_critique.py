"""The critique loop: what sends a draft back, what replaces it, and what is said in the end."""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, ClassVar

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from tutelage import Agent, Brief, Cast, Dialogue, Limits, Verdict, add_critique_loop
from tutelage.agents import critic, fact_checker, tutor
from tutelage.agents.arbiter import arbiter
from tutelage.dialogue.cast import NoJournal
from tutelage.dialogue.checking import Check
from tutelage.dialogue.cycles import similar
from tutelage.dialogue.drawing import mermaid
from tutelage.dialogue.nodes import Update, agents_of, review
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.turn import Attempt, Call, Issue, Outcome, Review, Step, Turn
from tutelage.errors import CallError, EndpointFailed, GraphError
from tutelage.testing import ScriptedModel

ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
BRIEF = Brief(
    id="b", topic="Fractions", question="What is 1/2 + 1/3?", answer=("5/6",), facts=("1/2 is 3/6, not 1/6.",)
)
DRAFTS = ["The first draft is this one.", "Here comes another try.", "Why not a third way?", "Fourth of all, then."]


def says(*severities: str, span: str = "", evidence: str = "1/2 is 3/6, not 1/6") -> dict[str, Any]:
    """A verdict with an issue of each severity, which points at a fact of the brief."""
    issues = [
        {"dimension": f"d{n}", "severity": severity, "span": span, "evidence": evidence, "instruction": "Mend it."}
        for n, severity in enumerate(severities)
    ]
    return {"verdict": "revise", "issues": issues}


def loop(**options: Any) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, **{"reviewers": [critic], "then": END, **options})
    graph.add_edge(START, "tutor")
    return graph


async def play(
    script: dict[str, Any], graph: StateGraph[Dialogue, Cast] | None = None, **limits: Any
) -> tuple[Dialogue, ScriptedModel]:
    model = ScriptedModel({"tutor": DRAFTS, **script})
    cast = Cast(players=Cast.of(model).players, limits=Limits(**limits))
    plan = loop() if graph is None else graph
    dialogue: Any = await plan.compile().ainvoke({"id": "d", "brief": BRIEF}, context=cast)
    return dialogue, model


async def the_turn(script: dict[str, Any], graph: StateGraph[Dialogue, Cast] | None = None, **limits: Any) -> Turn:
    dialogue, _ = await play(script, graph, **limits)
    (turn,) = dialogue["turns"]
    return turn


def statuses(attempts: Sequence[Attempt]) -> list[str]:
    return ["forced" if attempt.forced else attempt.status for attempt in attempts]


# --- what sends a draft back ---


@pytest.mark.parametrize(
    "verdict",
    [
        {"verdict": "revise", "issues": []},
        says("block", evidence=""),
        says("block", span="words that are not there", evidence="nor is this anywhere"),
        says("block", "major", "block", span="it", evidence="it is bad"),
        says("minor"),
        says("minor", "minor", "minor"),
        {**says("block"), "verdict": "accept"},
    ],
)
async def test_a_critique_that_points_at_nothing_or_minor_things_sends_nothing_back(verdict: dict[str, Any]) -> None:
    turn = await the_turn({"critic": [verdict]})
    assert statuses(turn.attempts) == ["accepted"]
    kept = turn.attempts[0].reviews[0]
    assert {"verdict": kept.verdict, "issues": [issue.model_dump() for issue in kept.issues]} == verdict


@pytest.mark.parametrize(
    "verdict",
    [
        says("major"),
        says("minor", "block"),
        says("block", span="FIRST  draft is", evidence=""),
        says("block", span="**The** first “draft”", evidence="nowhere to be found"),
        says("major", span="not there", evidence="What is 1/2 + 1/3?"),
    ],
)
async def test_a_serious_issue_with_a_span_or_evidence_sends_the_draft_back(verdict: dict[str, Any]) -> None:
    turn = await the_turn({"critic": [verdict, ACCEPT]})
    assert statuses(turn.attempts) == ["rejected", "accepted"]
    assert turn.text == DRAFTS[1]


async def test_evidence_counts_only_if_the_reviewer_may_see_it() -> None:
    blind = Agent(role="critic", prompt="moderator", task="moderator_task", reply=Verdict)
    turn = await the_turn({"critic": [says("block")]}, loop(reviewers=[blind]))
    assert statuses(turn.attempts) == ["accepted"]


async def test_an_earlier_turn_is_evidence() -> None:
    model = ScriptedModel({"tutor": DRAFTS, "critic": [says("block", evidence="Once I had a dog"), ACCEPT]})
    said = Turn(index=0, role="student", text="Once I had a dog, and a cat.", attempts=[])
    state: Any = {"id": "d", "brief": BRIEF, "turns": [said]}
    dialogue = await loop().compile().ainvoke(state, context=Cast.of(model))
    assert statuses(dialogue["turns"][1].attempts) == ["rejected", "accepted"]


# --- what replaces what ---


@pytest.mark.parametrize(
    ("first", "second", "replaced"),
    [
        (("block",), ("major",), True),
        (("block", "block"), ("block",), True),
        (("block", "major"), ("block",), True),
        (("block",), ("major", "major", "major"), True),
        (("major", "major"), ("major", "minor", "minor"), True),
        (("major",), ("block",), False),
        (("major",), ("major",), False),
        (("block",), ("block",), False),
        (("block",), ("block", "major"), False),
        (("major", "minor", "minor"), ("major",), False),
    ],
)
async def test_a_revision_replaces_a_draft_only_if_less_is_wrong_with_it(
    first: tuple[str, ...], second: tuple[str, ...], replaced: bool
) -> None:
    turn = await the_turn({"critic": [says(*first), says(*second)]}, revisions=1)
    assert turn.text == DRAFTS[1 if replaced else 0]
    assert statuses(turn.attempts) == (["rejected", "forced"] if replaced else ["forced", "rejected"])


async def test_whatever_the_critic_says_no_worse_revision_is_said_and_at_most_two_are_made() -> None:
    """Over all courses that the severest issue of three drafts can take."""
    rank = {(): 0, ("minor",): 0, ("major",): 1, ("block",): 2, ("block", "block"): 3}
    for course in product(rank, repeat=3):
        turn = await the_turn({"critic": [says(*each) for each in course]})
        weights = [rank[each] for each in course[: len(turn.attempts)]]
        said = next(n for n, attempt in enumerate(turn.attempts) if attempt.status == "accepted")
        assert len(turn.attempts) <= 3
        assert weights[said] == min(weights)
        assert all(later < earlier for earlier, later in pairwise(weights[: said + 1])), "each step was one forward"
        assert turn.attempts[said].forced == (weights[said] > 0)
        assert statuses(turn.attempts).count("rejected") == len(turn.attempts) - 1


async def test_a_revision_that_is_no_better_ends_the_loop() -> None:
    turn = await the_turn({"critic": [says("major"), says("major"), ACCEPT]})
    assert statuses(turn.attempts) == ["forced", "rejected"]


async def test_the_run_s_limit_of_revisions_counts_where_the_graph_has_none() -> None:
    falling = {"critic": [says("block", "block", "block"), says("block", "block"), says("block"), says("major")]}
    assert [len((await the_turn(falling, revisions=n)).attempts) for n in (0, 1, 2, 3)] == [1, 2, 3, 4]
    assert len((await the_turn(falling, loop(max_revisions=1), revisions=3)).attempts) == 2


async def test_no_draft_is_sent_back_for_which_the_tokens_of_a_turn_do_not_suffice() -> None:
    falling = {"critic": [says("block", "block", "block"), says("block", "block"), says("block"), says("major")]}
    whole = await the_turn(falling, revisions=3)
    calls = [call for attempt in whole.attempts for call in (attempt.call, attempt.reviews[0].call)]
    costs = [call.prompt_tokens + call.completion_tokens for call in calls if call]
    rounds = [sum(costs[n : n + 2]) for n in range(0, len(costs), 2)]
    for made in (1, 2, 3):
        just_enough = sum(rounds[:made]) + rounds[made - 1]
        assert len((await the_turn(falling, revisions=3, turn_tokens=just_enough)).attempts) > made
        assert len((await the_turn(falling, revisions=3, turn_tokens=just_enough - 1)).attempts) == made


async def test_what_stands_before_the_first_turn_is_none_of_its_tokens() -> None:
    falling = {"critic": [says("block"), says("major")]}
    call = Call(model="m", prompt_sha256="0", prompt_tokens=100_000)

    async def drafts_after(*kinds: str) -> int:
        graph = loop(checks=[], max_revisions=1)
        model = ScriptedModel({"tutor": DRAFTS, **falling})
        cast = Cast(players=Cast.of(model).players, limits=Limits(turn_tokens=50_000))
        steps = [Step(kind=kind, role="tutor", text="", call=call) for kind in kinds]
        state: Any = {"id": "d", "brief": BRIEF, "steps": steps}
        dialogue = await graph.compile().ainvoke(state, context=cast)
        return len(dialogue["turns"][0].attempts)

    assert await drafts_after("misfit", "solution", "misfit", "probe_before") == 2
    assert await drafts_after("probe_before", "misfit") == 1, "a draft that did not fit"


# --- going round in circles ---


async def test_a_revision_that_says_the_same_again_ends_the_loop_and_nobody_is_asked_about_it() -> None:
    first = "It is five sixths, as you can see when you cut the cake into six pieces of one size."
    again = first.replace("cut the", "cut a")
    dialogue, model = await play({"tutor": [first, again], "critic": [says("block"), ACCEPT]})
    (turn,) = dialogue["turns"]
    assert statuses(turn.attempts) == ["forced", "rejected"]
    assert [role for role, _, _ in model.calls] == ["tutor", "critic", "tutor"]
    (noticed,) = turn.attempts[1].reviews
    assert (noticed.role, noticed.call, noticed.issues[0].evidence) == (
        "cycle",
        None,
        "draft 1 said the same, and was sent back",
    )


async def test_a_small_change_at_the_words_that_were_pointed_at_is_no_circle() -> None:
    first = "It is five sixths, as you can see when you cut the cake into six pieces of one size."
    mended = first.replace("five sixths", "six sixths")
    assert similar(first, mended)
    turn = await the_turn({"tutor": [first, mended], "critic": [says("block", span="five sixths"), ACCEPT]})
    assert turn.text == mended


async def test_a_circle_is_noticed_over_a_draft_in_between() -> None:
    turn = await the_turn(
        {"tutor": [DRAFTS[0], DRAFTS[1], f"**{DRAFTS[0]}**"], "critic": [says("block"), says("major")]}
    )
    assert turn.text == DRAFTS[1]
    assert [each.role for each in turn.attempts[2].reviews] == ["cycle"]


def test_texts_are_similar_from_95_per_cent_on() -> None:
    text = "abcdefghij" * 10
    assert similar(text, text[:-5] + "VWXYZ")
    assert not similar(text, text[:-6] + "UVWXYZ")
    assert not similar(text, "")


# --- checks ---


def forbids(word: str, *, severity: Any = "block", name: str = "no_word", discards: str | None = None) -> Check:
    def look(dialogue: Dialogue, draft: Attempt) -> list[Issue]:
        issue = Issue(dimension="word", severity=severity, span=word, instruction=f"Do not say {word}.")
        return [issue] if word in draft.text else []

    return Check(name=name, look=look, discards=discards)


async def test_a_vetoed_draft_goes_back_without_a_review_and_is_not_said() -> None:
    dialogue, model = await play({"critic": [ACCEPT]}, loop(checks=[forbids("first")]))
    (turn,) = dialogue["turns"]
    assert statuses(turn.attempts) == ["rejected", "accepted"]
    assert [role for role, _, _ in model.calls] == ["tutor", "tutor", "critic"]
    assert "Do not say first." in model.prompts("tutor")[1][-1][1]


async def test_a_veto_keeps_the_sound_draft_before_it() -> None:
    """However little else is wrong with the one that is vetoed."""
    turn = await the_turn(
        {"critic": [says("block", "block"), ACCEPT]}, loop(checks=[forbids("another", discards="leak")])
    )
    assert statuses(turn.attempts) == ["forced", "rejected"]


async def test_a_sound_draft_replaces_one_that_was_vetoed_whatever_is_wrong_with_it() -> None:
    turn = await the_turn({"critic": [says("block", "block")]}, loop(checks=[forbids("first")]), revisions=1)
    assert statuses(turn.attempts) == ["rejected", "forced"]


async def test_a_dialogue_is_discarded_if_no_draft_passes() -> None:
    graph = loop(checks=[forbids("r", name="no_r", discards="leak")], max_revisions=1)
    dialogue, model = await play({}, graph)
    assert dialogue.get("turns", []) == []
    assert outcome_of(graph, dialogue, Limits()) == Outcome(
        status="discarded", reason="leak", detail="none of 2 drafts passed the check 'no_r'"
    )
    assert statuses(dialogue["attempts"]) == ["rejected", "rejected"]
    assert [[each.role for each in attempt.reviews] for attempt in dialogue["attempts"]] == [["no_r"], ["no_r"]]
    assert [role for role, _, _ in model.calls] == ["tutor", "tutor"]


async def test_where_no_draft_passes_one_is_said_that_no_check_discards() -> None:
    checks = [forbids("first", name="hard", discards="leak"), forbids("r", name="soft")]
    turn = await the_turn({}, loop(checks=checks), revisions=2)
    assert statuses(turn.attempts) == ["rejected", "rejected", "forced"], "the last of equals that is not discarded"


async def test_a_check_s_other_issues_count_as_a_reviewer_s_and_need_no_span() -> None:
    def look(dialogue: Dialogue, draft: Attempt) -> list[Issue]:
        return [Issue(dimension="length", severity="major", instruction="Be brief.")] if "first" in draft.text else []

    dialogue, model = await play({"critic": [ACCEPT]}, loop(checks=[Check(name="length", look=look)]))
    (turn,) = dialogue["turns"]
    assert statuses(turn.attempts) == ["rejected", "accepted"]
    assert [(each.role, each.verdict) for each in turn.attempts[0].reviews] == [
        ("length", "revise"),
        ("critic", "accept"),
    ]
    assert "Be brief." in model.prompts("tutor")[1][-1][1]


async def test_checks_alone_have_a_draft_tried_again() -> None:
    turn = await the_turn({}, loop(reviewers=[], checks=[forbids("first"), forbids("another")]))
    assert turn.text == DRAFTS[2]


def test_a_loop_in_which_nobody_looks_is_refused() -> None:
    with pytest.raises(GraphError, match="nobody looks at the drafts of 'tutor'"):
        loop(reviewers=[])


# --- reviewers ---


async def test_a_reviewer_may_be_a_node_of_one_s_own() -> None:
    class Reader:
        agent = Agent(role="reader", task="critic", prompt="review", sees=critic.sees)

        async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
            draft = state["attempts"][-1].text
            issue = Issue(dimension="d", severity="major", span=draft[:9], instruction="Mend it.")
            call = state["attempts"][-1].call
            issues = [issue] if draft == DRAFTS[0] else []
            return {"reviews": [Review(role="reader", verdict="revise", issues=issues, call=call)]}

    graph = loop(reviewers=[Reader(), critic])
    turn = await the_turn({"critic": [ACCEPT]}, graph)
    assert statuses(turn.attempts) == ["rejected", "accepted"]
    assert [each.role for each in turn.attempts[0].reviews] == ["reader", "critic"]
    assert [agent.role for agent in agents_of(graph)] == ["tutor", "reader", "critic"]
    assert 'reader("reader"):::judge' in mermaid(graph)


async def test_a_reviewer_is_asked_only_when_there_is_something_to_judge() -> None:
    def once(dialogue: Dialogue) -> bool:
        return len(dialogue["attempts"]) > 1

    graph = loop(reviewers=[review(fact_checker, when=once), critic])
    _, model = await play({"critic": [says("block"), ACCEPT], "fact_checker": [ACCEPT]}, graph)
    assert sorted(role for role, _, _ in model.calls) == ["critic", "critic", "fact_checker", "tutor", "tutor"]


def refusing(**options: Any) -> StateGraph[Dialogue, Cast]:
    return loop(reviewers=[review(fact_checker, discards="leak"), critic], **options)


async def test_what_a_reviewer_refuses_for_good_is_never_said() -> None:
    """Whatever else is wrong with the draft that it lets pass, and though its issue points at nothing."""
    script = {"fact_checker": [says("block", evidence=""), ACCEPT], "critic": [ACCEPT, says("block", "block")]}
    turn = await the_turn(script, refusing(), revisions=1)
    assert statuses(turn.attempts) == ["rejected", "forced"]
    turn = await the_turn({**script, "fact_checker": [ACCEPT, says("block")], "critic": [says("major")]}, refusing())
    assert statuses(turn.attempts) == ["forced", "rejected"]


async def test_a_dialogue_is_discarded_if_a_reviewer_refuses_each_draft() -> None:
    graph = refusing(max_revisions=1)
    dialogue, _ = await play({"fact_checker": [says("block")], "critic": [ACCEPT]}, graph)
    assert dialogue.get("turns", []) == []
    assert outcome_of(graph, dialogue, Limits()) == Outcome(
        status="discarded", reason="leak", detail="none of 2 drafts passed the check 'fact_checker'"
    )


async def test_what_was_refused_is_not_said_because_it_is_said_again() -> None:
    """Nobody reviews a draft that a check has vetoed, here for going in a circle."""
    script = {"tutor": [DRAFTS[0]], "fact_checker": [says("block")], "critic": [ACCEPT]}
    dialogue, model = await play(script, refusing())
    assert len(model.prompts("fact_checker")) == 1
    assert (dialogue.get("turns", []), dialogue["outcome"].reason) == ([], "leak")


@pytest.mark.parametrize("verdict", [says("major"), {**says("block"), "verdict": "accept"}])
async def test_less_than_a_block_refuses_nothing_for_good(verdict: dict[str, Any]) -> None:
    turn = await the_turn({"fact_checker": [verdict], "critic": [ACCEPT]}, refusing(), revisions=0)
    assert turn.text == DRAFTS[0]


# --- the arbiter ---

EQUAL = {"critic": [says("major")]}


def better(*choices: str) -> list[dict[str, str]]:
    return [{"difference": "One of them asks.", "better": choice} for choice in choices]


async def test_a_revision_that_is_preferred_in_both_orders_replaces_the_draft() -> None:
    script = {**EQUAL, "arbiter": better("candidate 2", "candidate 1")}
    dialogue, model = await play(script, loop(arbiter=arbiter), revisions=1)
    (turn,) = dialogue["turns"]
    assert statuses(turn.attempts) == ["rejected", "forced"]
    assert [(step.kind, step.role, step.data) for step in turn.steps] == [
        ("comparison", "arbiter", {"attempts": [0, 1], "preferred": 1}),
        ("comparison", "arbiter", {"attempts": [1, 0], "preferred": 1}),
    ]
    first, second = (prompt[-1][1] for prompt in model.prompts("arbiter"))
    assert first.index(DRAFTS[0]) < first.index(DRAFTS[1])
    assert second.index(DRAFTS[1]) < second.index(DRAFTS[0])
    seeds = [options["seed"] for role, _, options in model.calls if role == "arbiter"]
    assert len(set(seeds)) == 2


@pytest.mark.parametrize(
    "choices",
    [
        ("candidate 1", "candidate 1"),
        ("candidate 2", "candidate 2"),
        ("tie", "tie"),
        ("candidate 2", "tie"),
        ("tie", "candidate 1"),
        ("candidate 1", "candidate 2"),
    ],
)
async def test_a_judgement_that_depends_on_the_order_is_a_tie_and_the_earlier_draft_stays(choices: Any) -> None:
    turn = await the_turn({**EQUAL, "arbiter": better(*choices)}, loop(arbiter=arbiter))
    assert statuses(turn.attempts) == ["forced", "rejected"]
    assert [step.kind for step in turn.steps] == ["comparison", "comparison"]


@pytest.mark.parametrize("place", ["candidate 1", "candidate 2"])
async def test_an_arbiter_that_favours_a_place_never_replaces_a_draft(place: str) -> None:
    for course in product([("major",), ("block",), ("block", "block")], repeat=2):
        script = {"critic": [says(*each) for each in course], "arbiter": better(place)}
        turn = await the_turn(script, loop(arbiter=arbiter), revisions=1)
        fell = [each.count("block") for each in course]
        assert turn.text == DRAFTS[1 if fell[1] < fell[0] else 0]


async def test_the_arbiter_is_asked_only_where_the_issues_do_not_decide() -> None:
    async def asked(*verdicts: Any, **options: Any) -> int:
        script = {"critic": list(verdicts), "arbiter": better("tie")}
        _, model = await play(script, loop(arbiter=arbiter, **options), revisions=1)
        return len(model.prompts("arbiter"))

    assert await asked(ACCEPT) == 0
    assert await asked(says("block"), ACCEPT) == 0
    assert await asked(says("block"), says("major")) == 0
    assert await asked(says("major"), says("major"), checks=[forbids("another")]) == 0
    assert await asked(says("major"), says("block"), reviewers=[review(critic, discards="leak")]) == 0
    assert await asked(says("major"), says("block")) == 2


async def test_a_preferred_revision_may_be_revised_again() -> None:
    script = {"critic": [says("major"), says("major"), ACCEPT], "arbiter": better("candidate 2", "candidate 1")}
    turn = await the_turn(script, loop(arbiter=arbiter))
    assert statuses(turn.attempts) == ["rejected", "rejected", "accepted"]


async def test_what_an_arbiter_said_is_kept_when_its_second_call_fails() -> None:
    def fails_later(messages: Any) -> Any:
        answered.append(None)
        return better("tie")[0] if len(answered) == 1 else EndpointFailed("no")

    answered: list[None] = []
    with pytest.raises(CallError) as failure:
        await play({**EQUAL, "arbiter": fails_later}, loop(arbiter=arbiter))
    assert [step.kind for step in failure.value.replies if isinstance(step, Step)] == ["comparison"]


async def test_after_a_crash_between_its_two_calls_an_arbiter_is_not_asked_again_for_the_first() -> None:
    class Memory(NoJournal):
        kept: ClassVar[dict[str, tuple[str, Call]]] = {}

        def recall(self, dialogue: str, key: str) -> tuple[str, Call] | None:
            return self.kept.get(key)

        async def keep(self, dialogue: str, key: str, text: str, call: Call) -> None:
            self.kept[key] = text, call

    async def started(*said: Any) -> tuple[ScriptedModel, Any]:
        model = ScriptedModel({"tutor": DRAFTS, **EQUAL, "arbiter": list(said)})
        cast = Cast(players=Cast.of(model).players, limits=Limits(revisions=1), journal=Memory())
        state: Any = {"id": "d", "brief": BRIEF}
        try:
            return model, await loop(arbiter=arbiter).compile().ainvoke(state, context=cast)
        except EndpointFailed:
            return model, None

    before, _ = await started(better("candidate 2")[0], EndpointFailed("down"))
    after, dialogue = await started(better("candidate 1")[0])
    assert [len(model.prompts("arbiter")) for model in (before, after)] == [2, 1]
    assert statuses(dialogue["turns"][0].attempts) == ["rejected", "forced"]


def test_an_arbiter_s_place_in_the_graph() -> None:
    graph = loop(reviewers=[critic, fact_checker], arbiter=arbiter)
    lines = {line.strip() for line in mermaid(graph).splitlines()}
    assert {"critic --> arbiter", "fact_checker --> arbiter", "arbiter --> tutor_gate"} <= lines
    assert 'arbiter("arbiter"):::judge' in lines
    assert [agent.role for agent in agents_of(graph)] == ["tutor", "critic", "fact_checker", "arbiter"]


def test_an_agent_that_cannot_compare_is_refused() -> None:
    with pytest.raises(GraphError, match="'tutor' compares drafts, so it needs a `task`"):
        loop(arbiter=tutor)
    with pytest.raises(GraphError, match="'critic' compares drafts, so its `reply` must be Preference"):
        loop(arbiter=critic)
