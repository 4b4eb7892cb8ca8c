"""The fact-checker: each claim of a draft is held against evidence, and each quoted evidence against its source.

    claims ──▶ evidence ──▶ one model call ──▶ quotes verified ──▶ review

The claims are the draft's own sentences (`claims`). Evidence is what the brief says and what its tools find (`sources`). The
model is asked once: for each claim the source that speaks of it, a quote, and one of supported, contradicted, not found. No
verdict counts without a quote that stands in its source word for word (`quotes`): otherwise the claim is not found. What is
sent back to the speaker are the claims that failed, each with its words, the evidence and what to do, so that the rest of
the draft stays. Which ones fail, `evidence.policy` says. Where it is
strict, a draft with a claim that failed is never said: if no draft passes, the dialogue is discarded as `unsupported`.

    add_critique_loop(graph, tutor, reviewers=[critic, fact_check(claim_checker)], then="student")

A claim that was upheld is not asked about again in the next draft. A draft without claims takes no call, nor does one that
nothing was found for.

In the transcript, the review has `claims` and, under `scores`, how many there are of each verdict and how many quotes were
not to be found where they were said to stand (`unverified_quotes`). The passages that were quoted are kept once for each
dialogue, by id, under `findings["quoted_passages"]`: there a reader can look quotes up without the documents.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from langgraph.runtime import Runtime
from pydantic import BaseModel, ConfigDict, Field, create_model

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import Reply, ask_for_several
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.checking import is_vetoed
from tutelage.dialogue.nodes import Update, occasion_of
from tutelage.dialogue.outgrown import Shown, ask_within_limit
from tutelage.dialogue.prompt import Message, Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import CHARACTERS_PER_TOKEN, Reason
from tutelage.dialogue.turn import Claim, Issue, Review
from tutelage.dialogue.view import brief_of, judge_prompt
from tutelage.errors import GraphError
from tutelage.evidence.claims import DraftClaim, claims_in
from tutelage.evidence.quotes import bears_on, find_quote
from tutelage.evidence.reading import documents_of
from tutelage.evidence.sources import OF_BRIEF, Source, as_source, brief_facts, found_by, in_turn, within

EVIDENCE_SHARE: Final = 3
"""Evidence takes at most one token of so many of `limits.tokens`."""
QUOTED: Final = "quoted_passages"
"""The key in a transcript's `findings`."""

Policy: TypeAlias = Literal["strict", "mark", "open"]
Status: TypeAlias = Literal["supported", "contradicted", "not_found"]

_FAILS: Final[Mapping[Policy, frozenset[Status]]] = {
    "strict": frozenset({"contradicted", "not_found"}),
    "mark": frozenset({"contradicted"}),
    "open": frozenset(),
}
_INSTRUCTIONS: Final[Mapping[Status, str]] = {
    "contradicted": "The source says otherwise. Say it as the source has it, or leave it out, and keep the rest as it is.",
    "not_found": "No source says so. Leave it out, or say only what a source says, and keep the rest as it is.",
}


class Finding(BaseModel):
    """What a model says of one claim. It is asked for the quote before the verdict, so that it looks before it judges."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: int = Field(ge=1)
    """The claim's number."""
    source: int = Field(ge=0)
    """The number of the source that speaks of it; 0 if none does."""
    quote: str
    """The source's own words."""
    verdict: Status


class Findings(BaseModel):
    """The schema of a fact-checker's reply: a finding for each claim."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: list[Finding]


@dataclass(frozen=True, slots=True)
class FactCheck:
    """A node in which a role checks the claims of the draft under way."""

    agent: Agent

    @staticmethod
    def discards(cast: Cast) -> str | None:
        """What the dialogue is discarded for if a claim fails in each draft: only where strict."""
        return Reason.UNSUPPORTED if cast.evidence.policy == "strict" else None

    async def __call__(self, state: Dialogue, runtime: Runtime[Cast]) -> Update:
        """Looks for evidence, asks for a finding on each claim, and verifies the quotes."""
        if is_vetoed(state):
            return {}
        context, role = runtime.context, self.agent.role
        claims = claims_in(state["attempts"][-1].text)
        upheld = _upheld(state, role)
        asked = [claim for claim in claims if claim.text not in upheld]
        sources = await _evidence(self.agent, asked, state, context) if asked else []
        if not sources:
            judged = {claim.text: _not_found(claim) for claim in asked}
            return {"reviews": [_review(role, _in_order(claims, upheld, judged), context.evidence.policy)]}
        reply, shown = await _found(self.agent, asked, sources, state, context)
        judged, unverified = _verified(asked, sources, reply.value)
        ordered = _in_order(claims, upheld, judged)
        review = _review(role, ordered, context.evidence.policy, unverified=unverified)
        quoted = _quoted(judged.values(), sources, state)
        return {
            "reviews": [review.model_copy(update={"call": reply.call, "reply": reply.text})],
            "steps": [*shown.steps, *reply.misfits],
            **({"findings": {QUOTED: quoted}} if quoted else {}),
            **shown.update,
        }


def fact_check(checker: Agent) -> FactCheck:
    """A node in which `checker` checks a draft's claims, for the `reviewers` of a critique loop.

    Args:
        checker: Who is asked. It needs a `task`, and `Findings` or a subclass as its `reply`. What its `sees` names of facts,
            answer and documents is evidence.
    """
    if checker.task is None:
        raise GraphError(
            f"the agent {checker.role!r} checks claims, so it needs a `task`: the prompt of its last message"
        )
    if not (isinstance(checker.reply, type) and issubclass(checker.reply, Findings)):
        raise GraphError(
            f"the agent {checker.role!r} checks claims, so its `reply` must be Findings or a subclass of it"
        )
    return FactCheck(checker)


async def _evidence(agent: Agent, claims: Sequence[DraftClaim], state: Dialogue, context: Cast) -> list[Source]:
    """What may be quoted: all that the brief says itself, then the best of what was found for each claim.

    Raises:
        CheckerFailed: A tool or a document could not do its work.
    """
    brief, evidence = brief_of(state), context.evidence
    index = await documents_of(brief, evidence.folder) if "documents" in agent.sees else None

    async def found_for(query: str) -> list[Source]:
        passages = await index.search(query, evidence.passages) if index is not None else []
        by_tools = await found_by(evidence.tools, query, evidence.passages)
        return in_turn([[as_source(passage) for passage in passages], by_tools])

    found = await asyncio.gather(*(found_for(claim.query) for claim in claims))
    known = brief_facts(brief, agent.sees)
    room = context.limits.tokens // EVIDENCE_SHARE * CHARACTERS_PER_TOKEN
    return [*known, *within(found, room - sum(len(source.text) for source in known))]


async def _found(
    agent: Agent, claims: Sequence[DraftClaim], sources: Sequence[Source], state: Dialogue, context: Cast
) -> tuple[Reply[Any], Shown]:
    """Asks for a finding on each claim."""
    occasion, shape = occasion_of(state), _shape(agent, len(claims), len(sources))
    replies, shown = await ask_within_limit(
        agent,
        state,
        context,
        occasion,
        lambda dialogue: _prompt(agent, claims, sources, dialogue, context.prompts),
        lambda prompt: ask_for_several(1, shape, agent, prompt, context, occasion),
    )
    return replies[0], shown


def _prompt(
    agent: Agent, claims: Sequence[DraftClaim], sources: Sequence[Source], dialogue: Dialogue, prompts: PromptLibrary
) -> Prompt:
    """What every reviewer is shown, then the task, then what is of this draft alone: its claims, and the evidence."""
    *before, last = judge_prompt(agent, dialogue, prompts).messages
    evidence = prompts.render(f"{agent.task}_evidence", claims=claims, sources=sources)
    return Prompt((*before, Message(last.role, (*last.parts, evidence))))


def _shape(agent: Agent, claims: int, sources: int) -> type[BaseModel]:
    assert isinstance(agent.reply, type)
    return _bounded(agent.reply, claims, sources)


@lru_cache(maxsize=1024)
def _bounded(schema: type[BaseModel], claims: int, sources: int) -> type[BaseModel]:
    """The schema, with as many findings as there are claims, and no numbers but theirs."""
    finding = create_model(
        "Finding",
        __base__=Finding,
        claim=(int, Field(ge=1, le=claims)),
        source=(int, Field(ge=0, le=sources)),
    )
    several = (list[finding], Field(min_length=claims, max_length=claims))  # type: ignore[valid-type]
    return create_model(schema.__name__, __base__=schema, findings=several)


def _verified(
    claims: Sequence[DraftClaim], sources: Sequence[Source], findings: Findings
) -> tuple[dict[str, Claim], int]:
    """The claims by their text, with the verdicts that have a quote to show, and how many quotes were not to be found.

    Of several findings on one claim the gravest counts; one that has none is not found.
    """
    judged = {claim.text: _not_found(claim) for claim in claims}
    unverified = 0
    for finding in findings.findings:
        if finding.verdict == "not_found":
            continue
        claim = claims[finding.claim - 1]
        source = sources[finding.source - 1] if finding.source else None
        place = find_quote(finding.quote, source.text) if source and bears_on(finding.quote, claim.query) else None
        if source is None or place is None:
            unverified += 1
        elif judged[claim.text].verdict != "contradicted":
            quote = " ".join(source.text[slice(*place)].split())
            judged[claim.text] = Claim(
                text=claim.text, span=claim.span, verdict=finding.verdict, source=source.id, quote=quote
            )
    return judged, unverified


def _upheld(state: Dialogue, role: str) -> dict[str, Claim]:
    """What was found to be supported in earlier drafts of this turn."""
    reviews = [review for attempt in state["attempts"] for review in attempt.reviews if review.role == role]
    return {claim.text: claim for review in reviews for claim in review.claims if claim.verdict == "supported"}


def _not_found(claim: DraftClaim) -> Claim:
    return Claim(text=claim.text, span=claim.span, verdict="not_found")


def _in_order(claims: Sequence[DraftClaim], upheld: Mapping[str, Claim], judged: Mapping[str, Claim]) -> list[Claim]:
    known = {**upheld, **judged}
    return [known[claim.text].model_copy(update={"span": claim.span}) for claim in claims]


def _review(role: str, claims: list[Claim], policy: Policy, *, unverified: int | None = None) -> Review:
    """The review of a draft; without a call unless `unverified` is given."""
    issues = [_issue(claim) for claim in claims if claim.verdict in _FAILS[policy]]
    statuses = [claim.verdict for claim in claims]
    counts = {status: statuses.count(status) for status in ("supported", "contradicted", "not_found")}
    return Review(
        role=role,
        verdict="revise" if issues else "accept",
        issues=issues,
        scores={"claims": len(claims), **counts, "unverified_quotes": unverified or 0} if claims else {},
        claims=claims,
    )


def _issue(claim: Claim) -> Issue:
    return Issue(
        dimension="correctness",
        severity="block",
        span=claim.span,
        evidence=f'{claim.source}: "{claim.quote}"' if claim.quote else "",
        instruction=_INSTRUCTIONS[claim.verdict],
    )


def _quoted(judged: Iterable[Claim], sources: Sequence[Source], state: Dialogue) -> dict[str, str]:
    """The passages quoted so far in the dialogue, by id; what the brief says stands there."""
    texts = {source.id: source.text for source in sources if not source.id.startswith(OF_BRIEF)}
    new = {claim.source: texts[claim.source] for claim in judged if claim.source in texts}
    return {**state.get("findings", {}).get(QUOTED, {}), **new} if new else {}
