"""Whether an outside check agrees with a reviewer: what makes its verdict fit to be learnt.

A reviewer's verdict on a draft is learnt from if at least one witness agrees with it and none disagrees; a person's word
outweighs that of all others. The reviewer never witnesses for itself, nor does its model as another judge. The witnesses:

- **People and other judges**, by what they decided about the turn that was said. `keep` says that it is good, `drop` and
  `edit` that it is not; `prefer` says that the preferred words are good and that what was said instead is not. Of drafts
  that nobody spoke about it says nothing.
- **Checks in code** that looked at the same draft. What they found agrees with a `revise` that is about the same matter;
  a blocking or major issue disagrees with an `accept`. That they found nothing shows nothing: each looks for one thing.
- **Quotes that were verified.** A fact-checker's own verdict stands if each claim of the draft has a quote that code found
  in its source, and none was made up; one whose quote was not to be found disagrees with it. For other reviewers a claim
  that a verified quote contradicts agrees with a `revise` about it and disagrees with an `accept`; if all claims are
  supported, that agrees with an `accept`, and disagrees with a `revise` that is about a supported one.
- **An independent solution.** Where programs that nobody showed the answer confirmed the brief's answer, a draft that
  claims it is right, and one that claims the misconception's is wrong: as for `accept`, and for a `revise` that is about
  correctness.
- **What became of the draft**, for a `revise`: the words that it named stood in the draft and are gone from the next one,
  and somebody else found that one better: another reviewer has fewer serious issues with it, or higher scores for it, or
  an arbiter preferred it in both orders; and no other one found it worse.

Two issues are about the same matter if they have one dimension, or if the words of one stand in those of the other.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from tutelage.checks.answers import gives, wrong_answer_in
from tutelage.dialogue.arbiter import prefers
from tutelage.dialogue.pointing import still_stands
from tutelage.dialogue.turn import Attempt, Claim, Issue, Review, Turn
from tutelage.exports.formats.deciding import preferred_by
from tutelage.exports.formats.scores import scores_of
from tutelage.transcripts.decisions import JUDGE, Decision, Judged

SOLUTION: Final = "solution"
"""Under which key of a transcript's findings an independent solution stands."""
OF_CORRECTNESS: Final = frozenset({"correctness", "accuracy", "arithmetic", "fact", "facts", "factuality"})
"""The dimensions of issues that say that something is not so."""


def agreement(review: Review, judged: Judged, turn: Turn, number: int) -> bool | None:
    """Whether outside checks agree with a review.

    Args:
        review: By a model.
        judged: The dialogue, and what was decided about it.
        turn: The turn that the review is about.
        number: Which of its attempts was reviewed.

    Returns:
        True if one agrees and none disagrees, False if one disagrees, None if none has anything to say.
    """
    draft = turn.attempts[number]
    people = [*_decisions(review, judged, turn, draft, persons=True)]
    if people:
        return all(people)
    found = [
        *_decisions(review, judged, turn, draft, persons=False),
        *_checks(review, draft),
        *_quotes(review, draft),
        *_solution(review, judged, draft),
        *_revision(review, turn, number),
    ]
    return all(found) if found else None


def _decisions(review: Review, judged: Judged, turn: Turn, draft: Attempt, *, persons: bool) -> Iterator[bool]:
    for decision in judged.decisions.get(turn.index, ()):
        if decision.is_a_persons is not persons or _is_its_own(decision, review):
            continue
        is_good = _finds_good(decision, turn, draft)
        if is_good is not None:
            yield is_good is (review.verdict == "accept")


def _finds_good(decision: Decision, turn: Turn, draft: Attempt) -> bool | None:
    was_said = draft is turn.accepted
    if decision.decision == "prefer":
        preferred = preferred_by(decision, turn.attempts)
        if preferred is draft:
            return True
        return False if was_said and preferred is not None else None
    return decision.decision == "keep" if was_said else None


def _is_its_own(decision: Decision, review: Review) -> bool:
    """Whether a judge is the model that wrote the review, in whichever role: `judge:critic/one-model,another`."""
    if decision.is_a_persons:
        return False
    role, _, players = decision.by.removeprefix(JUDGE).partition("/")
    if review.call is None or not players:
        return role == review.role
    return bool({review.call.model, review.call.player} & {*players.split(",")})


def _checks(review: Review, draft: Attempt) -> Iterator[bool]:
    issues = [
        issue
        for other in draft.reviews
        if other.call is None and other.role != review.role and not other.claims
        for issue in other.issues
    ]
    if review.verdict == "revise":
        if any(_is_same(found, named) for found in issues for named in review.issues):
            yield True
    elif any(issue.severity != "minor" for issue in issues):
        yield False


def _quotes(review: Review, draft: Attempt) -> Iterator[bool]:
    if review.claims:
        if review.scores.get("unverified_quotes"):
            yield False
        elif all(claim.quote for claim in review.claims):
            yield True
        return
    claims = [claim for other in draft.reviews if other.role != review.role for claim in other.claims]
    contradicted = [claim for claim in claims if claim.quote and claim.verdict == "contradicted"]
    supported = [claim for claim in claims if claim.quote and claim.verdict == "supported"]
    if review.verdict == "revise":
        about = [issue for issue in review.issues if issue.dimension.casefold() in OF_CORRECTNESS or issue.span]
        if any(_is_about(issue, claim) for issue in about for claim in contradicted):
            yield True
        elif any(_doubts(issue, claim) for issue in about for claim in supported):
            yield False
    elif contradicted:
        yield False
    elif claims and len(supported) == len(claims):
        yield True


def _solution(review: Review, judged: Judged, draft: Attempt) -> Iterator[bool]:
    transcript = judged.transcript
    solution = transcript.findings.get(SOLUTION) or {}
    if solution.get("verdict") != "confirmed":
        return
    if review.verdict == "revise" and not any(_is_of_correctness(issue) for issue in review.issues):
        return
    wrong = wrong_answer_in(draft.text, transcript.brief)
    if any(each.certain and not each.denied and not each.worked_out for each in wrong):
        yield review.verdict == "revise"
    elif gives(draft.text, transcript.brief):
        yield review.verdict == "accept"


def _revision(review: Review, turn: Turn, number: int) -> Iterator[bool]:
    following = next(
        (place for place in range(number + 1, len(turn.attempts)) if turn.attempts[place].status != "superseded"), None
    )
    if review.verdict != "revise" or following is None:
        return
    draft, revised = turn.attempts[number], turn.attempts[following]
    named = [issue for issue in review.issues if still_stands(issue, draft.text)]
    if not named or any(still_stands(issue, revised.text) for issue in named):
        return
    found = [*_others_find(review, draft, revised)]
    if prefers(turn.steps, following, number):
        found.append(True)
    if found and all(found):
        yield True


def _others_find(review: Review, draft: Attempt, revised: Attempt) -> Iterator[bool]:
    """Whether others found the revision better, or worse; nothing of those that found it neither."""
    for role in dict.fromkeys(each.role for each in (*draft.reviews, *revised.reviews) if each.role != review.role):
        before, after = ([each for each in one.reviews if each.role == role] for one in (draft, revised))
        # A check that has nothing to say leaves no review; a reviewer that left none was not asked.
        is_code = not any(each.call for each in (*before, *after))
        if not is_code and not (before and after):
            continue
        less = _serious(before) - _serious(after)
        if less:
            yield less > 0
    scores, scored = scores_of(draft), scores_of(revised)
    both = [each for each in scores.keys() & scored.keys() if each[0] != review.role]
    gains = [scored[each] - scores[each] for each in both]
    if any(gains):
        yield all(gain >= 0 for gain in gains)


def _serious(reviews: Sequence[Review]) -> int:
    return sum(issue.severity != "minor" for review in reviews if review.verdict == "revise" for issue in review.issues)


def _is_same(one: Issue, other: Issue) -> bool:
    return one.dimension.casefold() == other.dimension.casefold() or _overlap(one.span, other)


def _is_about(issue: Issue, claim: Claim) -> bool:
    return _overlap(claim.span, issue)


def _doubts(issue: Issue, claim: Claim) -> bool:
    """Whether an issue says that a claim is not so; what is wrong with its tone, a source does not say."""
    return _is_of_correctness(issue) and _is_about(issue, claim)


def _is_of_correctness(issue: Issue) -> bool:
    return issue.dimension.casefold() in OF_CORRECTNESS


def _overlap(span: str, issue: Issue) -> bool:
    return bool(span and issue.span) and (
        still_stands(issue, span) or still_stands(issue.model_copy(update={"span": span}), issue.span)
    )
