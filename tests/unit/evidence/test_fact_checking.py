"""The fact-checking node: what is asked, which verdicts count, what goes back to the speaker, and what is kept."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.graph import END, START, StateGraph

from tutelage import Agent, Brief, Cast, Dialogue, Limits, add_critique_loop
from tutelage.agents import critic, tutor
from tutelage.agents.claim_checker import claim_checker
from tutelage.dialogue.cast import Evidence
from tutelage.dialogue.checking import Check
from tutelage.dialogue.turn import Attempt, Issue, Review
from tutelage.errors import CheckerFailed, GraphError, ShapeError
from tutelage.evidence.fact_checking import QUOTED, FactCheck, fact_check
from tutelage.evidence.search import PassageIndex
from tutelage.evidence.tools import document_search
from tutelage.testing import ScriptedModel

FACTS = ("At sea level, water boils at 100 °C.", "Ice is less dense than liquid water, therefore it floats.")
BRIEF = Brief(id="b", topic="Water", question="At what temperature does water boil?", answer=("100 °C",), facts=FACTS)


def finding(claim: int, verdict: str, source: int = 0, quote: str = "") -> dict[str, Any]:
    return {"claim": claim, "source": source, "quote": quote, "verdict": verdict}


def findings(*given: dict[str, Any]) -> dict[str, Any]:
    return {"findings": list(given)}


async def play(
    drafts: Sequence[str],
    checked: Any,
    brief: Brief = BRIEF,
    *,
    tools: tuple[BaseTool, ...] = (),
    policy: Any = "mark",
    limits: Limits | None = None,
    folder: Path | None = None,
    others: Sequence[Agent] = (),
    looking: Sequence[Check] = (),
) -> tuple[Dialogue, ScriptedModel]:
    """One turn of a tutor whose drafts go to the fact-checker."""
    model = ScriptedModel({"tutor": drafts, "claim_checker": checked, "critic": [{"verdict": "accept", "issues": []}]})
    graph = StateGraph(Dialogue, context_schema=Cast)
    reviewers: list[Agent | FactCheck] = [*others, fact_check(claim_checker)]
    add_critique_loop(graph, tutor, reviewers=reviewers, checks=looking, then="end", max_revisions=2)
    graph.add_node("end", lambda _: {})
    graph.add_edge(START, "tutor")
    graph.add_edge("end", END)
    cast = Cast(
        players=Cast.of(model).players,
        limits=limits or Limits(),
        evidence=Evidence(policy=policy, tools=tools, folder=folder or Path()),
    )
    dialogue: Any = await graph.compile().ainvoke({"id": "d", "brief": brief}, context=cast)
    return dialogue, model


def attempts(dialogue: Dialogue) -> list[Attempt]:
    return dialogue["turns"][0].attempts


def checks(dialogue: Dialogue) -> list[Review]:
    return [next(each for each in attempt.reviews if each.role == "claim_checker") for attempt in attempts(dialogue)]


async def test_a_supported_claim_is_kept_with_its_source_and_its_quote() -> None:
    quote = "water boils at 100 °C"
    dialogue, model = await play(["Water boils at 100 °C."], [findings(finding(1, "supported", 1, quote))])
    (review,) = checks(dialogue)
    assert review.verdict == "accept"
    assert [claim.model_dump(exclude_none=True) for claim in review.claims] == [
        {
            "text": "Water boils at 100 °C.",
            "span": "Water boils at 100 °C.",
            "verdict": "supported",
            "source": "brief#fact-1",
            "quote": quote,
        }
    ]
    assert review.scores == {"claims": 1, "supported": 1, "contradicted": 0, "not_found": 0, "unverified_quotes": 0}
    assert review.call is not None
    assert QUOTED not in dialogue.get("findings", {}), "a brief's own facts stand in the brief"
    assert len(model.prompts("claim_checker")) == 1


async def test_a_contradicted_claim_goes_back_with_its_words_and_the_evidence_and_only_that_one() -> None:
    dialogue, model = await play(
        ["Ice floats on water. Water boils at 90 °C.", "Ice floats on water. Water boils at 100 °C."],
        [
            findings(
                finding(1, "supported", 2, "Ice is less dense than liquid water"),
                finding(2, "contradicted", 1, "water boils at 100 °C"),
            ),
            findings(finding(1, "supported", 1, "water boils at 100 °C")),
        ],
    )
    first, second = checks(dialogue)
    (issue,) = first.issues
    assert (first.verdict, issue.severity, issue.span) == ("revise", "block", "Water boils at 90 °C.")
    assert issue.evidence == 'brief#fact-1: "water boils at 100 °C"'
    assert issue.instruction
    assert [each.status for each in attempts(dialogue)] == ["rejected", "accepted"]
    assert "Water boils at 90 °C." in model.prompts("tutor")[1][-1][1]
    assert [claim.verdict for claim in second.claims] == ["supported", "supported"]


async def test_what_was_upheld_is_not_asked_about_again() -> None:
    _, model = await play(
        ["Ice floats on water. Water boils at 90 °C.", "Ice floats on water. Water boils at 100 °C."],
        [
            findings(
                finding(1, "supported", 2, "Ice is less dense than liquid water"),
                finding(2, "contradicted", 1, "water boils at 100 °C"),
            ),
            findings(finding(1, "supported", 1, "water boils at 100 °C")),
        ],
    )
    first, second = (prompt[-1][1] for prompt in model.prompts("claim_checker"))
    assert "1. Ice floats on water.\n2. Water boils at 90 °C." in first
    assert second.endswith("Claims of the draft:\n\n1. Water boils at 100 °C.")


async def test_a_draft_that_only_leaves_out_what_failed_takes_no_call() -> None:
    dialogue, model = await play(
        ["Ice floats on water. Water boils at 90 °C.", "Ice floats on water. When does it boil?"],
        [
            findings(
                finding(1, "supported", 2, "Ice is less dense than liquid water"),
                finding(2, "contradicted", 1, "water boils at 100 °C"),
            )
        ],
    )
    assert len(model.prompts("claim_checker")) == 1
    assert checks(dialogue)[1].call is None
    assert [claim.verdict for claim in checks(dialogue)[1].claims] == ["supported"]
    assert attempts(dialogue)[1].status == "accepted"


@pytest.mark.parametrize("draft", ["What happens when water boils?", "Good thinking!", "Try it out. Why is that so?"])
async def test_a_draft_without_claims_takes_no_call_and_is_accepted(draft: str) -> None:
    dialogue, model = await play([draft], AssertionError("nobody is to be asked"))
    (review,) = checks(dialogue)
    assert (review.verdict, review.call, review.claims, review.scores) == ("accept", None, [], {})
    assert model.prompts("claim_checker") == []


@pytest.mark.parametrize("policy", ["mark", "open"])
async def test_claims_that_nothing_was_found_for_take_no_call_and_are_tagged(policy: str) -> None:
    dialogue, model = await play(["Water boils."], [], Brief(id="b", topic="Water"), policy=policy)
    assert checks(dialogue)[0].claims == []  # two words claim nothing
    dialogue, model = await play(["Water boils at 90 °C."], [], Brief(id="b", topic="Water"), policy=policy)
    (review,) = checks(dialogue)
    assert [claim.verdict for claim in review.claims] == ["not_found"]
    assert (review.verdict, review.call) == ("accept", None)
    assert model.prompts("claim_checker") == []


async def test_strict_sends_back_what_nothing_was_found_for() -> None:
    drafts = ["Water boils at 90 °C.", "When does water boil?"]
    dialogue, _ = await play(drafts, [], Brief(id="b", topic="Water"), policy="strict")
    assert [each.status for each in attempts(dialogue)] == ["rejected", "accepted"]
    (issue,) = checks(dialogue)[0].issues
    assert issue.span == "Water boils at 90 °C."
    assert issue.severity == "block"


@pytest.mark.parametrize("sources", [FACTS, ()])
async def test_strict_never_says_what_no_source_upholds(sources: tuple[str, ...]) -> None:
    """With a call that contradicts each draft, and without one where there is nothing to hold it against."""
    drafts = ["Water boils at 90 °C.", "In a pot, water will boil at 80 °C.", "It boils at 70 °C, as we all know."]
    reply = findings(finding(1, "contradicted", 1, "water boils at 100 °C"))
    brief = BRIEF.model_copy(update={"facts": sources, "answer": ()})
    dialogue, _ = await play(drafts, [reply], brief, policy="strict")
    assert dialogue.get("turns", []) == []
    assert (dialogue["outcome"].status, dialogue["outcome"].reason) == ("discarded", "unsupported")
    assert dialogue["outcome"].detail == "none of 3 drafts passed the check 'claim_checker'"


async def test_where_a_contradicted_claim_is_only_marked_it_is_said_if_no_draft_is_better() -> None:
    reply = findings(finding(1, "contradicted", 1, "water boils at 100 °C"))
    dialogue, _ = await play(["Water boils at 90 °C."], [reply], policy="mark")
    assert attempts(dialogue)[0].forced


@pytest.mark.parametrize(
    ("policy", "verdict", "sent_back"),
    [
        ("strict", "contradicted", True),
        ("strict", "not_found", True),
        ("strict", "supported", False),
        ("mark", "contradicted", True),
        ("mark", "not_found", False),
        ("open", "contradicted", False),
        ("open", "not_found", False),
    ],
)
async def test_the_policy_says_what_is_sent_back(policy: str, verdict: str, sent_back: bool) -> None:
    quoted = (1, "water boils at 100 °C") if verdict != "not_found" else (0, "")
    dialogue, _ = await play(
        ["Water boils at some point.", "When does it boil?"], [findings(finding(1, verdict, *quoted))], policy=policy
    )
    assert (attempts(dialogue)[0].status == "rejected") is sent_back
    assert [claim.verdict for claim in checks(dialogue)[0].claims] == [verdict]


@pytest.mark.parametrize("verdict", ["supported", "contradicted"])
@pytest.mark.parametrize(
    ("source", "quote"),
    [
        (1, "water boils at 90 °C"),
        (2, "water boils at 100 °C"),
        (0, "water boils at 100 °C"),
        (1, ""),
        (1, "water"),
        (2, "therefore it floats"),
    ],
)
async def test_a_verdict_without_a_quote_that_stands_in_its_source_does_not_count(
    verdict: str, source: int, quote: str
) -> None:
    dialogue, _ = await play(["Water boils at 90 °C."], [findings(finding(1, verdict, source, quote))])
    (review,) = checks(dialogue)
    (claim,) = review.claims
    assert (claim.verdict, claim.source, claim.quote) == ("not_found", None, None)
    assert review.scores["unverified_quotes"] == 1
    assert review.verdict == "accept"


async def test_a_fabricated_quote_is_rejected_whatever_is_fabricated() -> None:
    rng = random.Random(7)
    words = " ".join(FACTS).split()
    for _ in range(40):
        quote = " ".join(rng.choices(words, k=rng.randrange(1, 12)))
        genuine = any(quote in fact for fact in FACTS)
        source = rng.randrange(4)
        dialogue, _ = await play(["Water boils at 90 °C."], [findings(finding(1, "contradicted", source, quote))])
        (claim,) = checks(dialogue)[0].claims
        if claim.verdict != "not_found":
            assert genuine, quote
            assert (claim.quote or quote) in " ".join(FACTS)


async def test_a_claim_that_the_model_leaves_out_or_judges_twice() -> None:
    quote = "water boils at 100 °C"
    twice = [finding(2, "supported", 1, quote), finding(2, "contradicted", 1, quote)]
    for given in (twice, twice[::-1]):
        dialogue, _ = await play(["Ice floats on water. Water boils at 90 °C.", "Why?"], [findings(*given)])
        assert [claim.verdict for claim in checks(dialogue)[0].claims] == ["not_found", "contradicted"]


async def test_a_draft_that_a_check_has_vetoed_is_not_looked_at() -> None:
    def look(_: Dialogue, draft: Attempt) -> list[Issue]:
        forbidden = "100" in draft.text
        return [Issue(dimension="leak", severity="block", instruction="Do not tell.")] if forbidden else []

    leak = Check(name="leak", look=look)
    dialogue, model = await play(["Water boils at 100 °C.", "When does it boil?"], [], looking=[leak])
    assert model.prompts("claim_checker") == []
    assert [[each.role for each in attempt.reviews] for attempt in attempts(dialogue)] == [["leak"], ["claim_checker"]]


async def test_numbers_that_there_are_not_are_asked_for_again() -> None:
    right = findings(finding(1, "supported", 1, "water boils at 100 °C"))
    wrong = [
        findings(finding(2, "supported", 1, "x")),
        findings(finding(1, "supported", 9, "x")),
        findings(),
        findings(finding(1, "true", 1, "x")),
    ]
    for reply in wrong:
        dialogue, model = await play(["Water boils at 100 °C."], [reply, right])
        assert len(model.prompts("claim_checker")) == 2
        assert [step.kind for step in dialogue["turns"][0].steps] == ["misfit"]
    with pytest.raises(ShapeError):
        await play(["Water boils at 100 °C."], [wrong[0]])


async def test_the_prompt_begins_as_the_critic_s_and_ends_with_the_evidence(index: PassageIndex) -> None:
    _, model = await play(
        ["Water boils at 90 °C."],
        [findings(finding(1, "not_found"))],
        tools=(document_search(index),),
        others=[critic],
    )
    (system, said), (system_of_critic, said_to_critic) = model.prompts("claim_checker")[0], model.prompts("critic")[0]
    assert system == system_of_critic
    draft = "The lesson so far:\n\nTutor, draft of the next turn:\n\nWater boils at 90 °C.\n\n"
    assert said[1].startswith(draft)
    assert said_to_critic[1].startswith(draft)
    task = said[1].index("You are the claim checker")
    sources, claims = said[1].index("Sources:"), said[1].index("Claims of the draft:")
    assert task < sources < claims
    assert "[1]\nAt sea level, water boils at 100 °C.\n\n[2]\nIce is less" in said[1]
    assert "(Water > Boiling)\n## Boiling" in said[1]


async def test_a_passage_that_is_quoted_is_kept_once_with_its_id(index: PassageIndex) -> None:
    boiling = next(each for each in index.passages if each.id.startswith("water.md#boiling"))

    def checked(messages: Any) -> dict[str, Any]:
        sources = messages[-1].content.partition("Sources:")[2]
        number = next(
            n for n in range(1, 20) if boiling.text in sources.partition(f"[{n}]")[2].partition(f"[{n + 1}]")[0]
        )
        return findings(finding(1, "contradicted", number, "At sea level, water boils at 100 °C."))

    dialogue, _ = await play(
        ["Water boils at 90 °C at sea level.", "Does water boil?"],
        checked,
        Brief(id="b", topic="Water"),
        tools=(document_search(index),),
    )
    (claim,) = checks(dialogue)[0].claims
    assert (claim.verdict, claim.source) == ("contradicted", boiling.id)
    assert dialogue["findings"][QUOTED] == {boiling.id: boiling.text}


async def test_a_brief_s_documents_are_evidence(library: Path) -> None:
    brief = Brief(id="b", topic="Moon", documents=("moon.md", "The Moon is made of rock, and of nothing else."))
    _, model = await play(
        ["The Moon is made of cheese.", "Why?"], [findings(finding(1, "not_found"))], brief, folder=library
    )
    said = model.prompts("claim_checker")[0][-1][1]
    assert "The Moon is made of rock, and of nothing else." in said
    assert "The phases of the Moon" in said


async def test_a_brief_s_document_that_is_not_there_fails_the_dialogue(library: Path) -> None:
    brief = Brief(id="b", topic="Moon", documents=("mars.md",))
    with pytest.raises(CheckerFailed, match=r"brief 'b'.*'mars\.md' cannot be read"):
        await play(["The Moon is made of cheese."], [], brief, folder=library)


async def test_evidence_leaves_room_for_the_dialogue(index: PassageIndex) -> None:
    draft = "Water boils at 90 °C. The Moon has no far side. Bees hibernate in winter. Veins are full of blue blood."
    reply = findings(*(finding(number, "not_found") for number in (1, 2, 3, 4)))
    _, model = await play([draft], [reply], tools=(document_search(index),), limits=Limits(tokens=2048))
    sources = model.prompts("claim_checker")[0][-1][1].partition("Sources:")[2]
    assert len(sources) < 2048 / 3 * 4 + 500
    for word in ("boils at 100", "far side was first", "do not hibernate", "only look blue"):
        assert word in sources, "the best passage of each claim comes first"


def test_a_checker_needs_a_task_and_findings() -> None:
    with pytest.raises(GraphError, match="needs a `task`"):
        fact_check(Agent(role="x", reply=claim_checker.reply))
    with pytest.raises(GraphError, match="must be Findings"):
        fact_check(Agent(role="x", task="claim_checker"))


def failing(query: str) -> str:
    """Fails."""
    raise OSError(f"no network for {query}")


async def test_a_tool_that_fails_fails_the_dialogue_with_its_name() -> None:
    tool = StructuredTool.from_function(failing, name="web_search")
    with pytest.raises(CheckerFailed, match="'web_search' failed: OSError: no network"):
        await play(["Water boils at 90 °C."], [], tools=(tool,))


async def test_the_transcript_of_a_review_has_no_call_and_no_claims_where_there_are_none() -> None:
    dialogue, _ = await play(["Why?"], [])
    written = json.loads(checks(dialogue)[0].model_dump_json())
    assert written == {"role": "claim_checker", "verdict": "accept", "issues": [], "scores": {}}
