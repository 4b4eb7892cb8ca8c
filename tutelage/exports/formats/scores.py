"""The scores that reviewers and verifiers gave to a draft, so that two drafts can be compared: the higher, the better.

What stands under a review's `scores` is what its schema or its code calls a score. Most are the higher the better; two that
ship here are not, and are turned round: how much a draft gives away (`reveals`, from 0 to 1), and a fact-checker's counts
of claims, of which the share that is supported is taken (FActScore's precision, arXiv 2305.14251).
"""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Final, TypeAlias

from tutelage.dialogue.turn import Attempt, Review

Component: TypeAlias = tuple[str, str]
"""Who scored, and what."""
Scores: TypeAlias = Mapping[Component, float]

LOWER_IS_BETTER: Final = frozenset({"reveals"})
"""Scores from 0 to 1 that say how bad something is."""


def scores_of(attempt: Attempt) -> Scores:
    """A draft's scores by who gave them and for what; of a panel's, the mean."""
    given: dict[Component, list[float]] = {}
    for review in attempt.reviews:
        if review.scores:
            for name, score in _scores(review).items():
                given.setdefault((review.role, name), []).append(score)
    return {component: fmean(scores) for component, scores in given.items()}


def mean_score(scores: Scores, components: Iterable[Component] | None = None) -> float | None:
    """The mean over some components, or over all; None where there is none."""
    counted = list(scores.values()) if components is None else [scores[each] for each in components]
    return fmean(counted) if counted else None


def _scores(review: Review) -> Mapping[str, float]:
    if review.claims:
        supported = sum(claim.verdict == "supported" for claim in review.claims)
        return {"supported": supported / len(review.claims)}
    return {name: 1 - score if name in LOWER_IS_BETTER else score for name, score in review.scores.items()}
