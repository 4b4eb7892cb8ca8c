"""A reviewer's reviews in a dialogue, as replies that it gave: what it was asked, and what it said, word for word."""

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tutelage.dialogue.turn import Call, Review, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """A review by a model."""

    review: Review
    call: Call
    number: int
    """Which of the turn's attempts it is about."""
    place: tuple[int | str, ...]
    """In the dialogue, for a row's id."""

    @property
    def reply(self) -> str | None:
        """What the model replied; None where the transcript has only what code made of it.

        Claims and scores are what code made of a reply with a schema of its own, so none can be spelled from them. A plain
        verdict is spelled anew.
        """
        review = self.review
        if review.reply is not None:
            return review.reply
        if review.claims or review.scores:
            return None
        verdict = {"verdict": review.verdict, "issues": [issue.model_dump() for issue in review.issues]}
        return orjson.dumps(verdict).decode()


def reviews_by(role: str, turn: Turn) -> Iterator[Reviewed]:
    """What a role replied about a turn's attempts; of a panel, what each member did."""
    for number, attempt in enumerate(turn.attempts):
        reviews = [(review, review.call) for review in attempt.reviews if review.role == role and review.call]
        for member, (review, call) in enumerate(reviews):
            place: tuple[int | str, ...] = (turn.index, number, role, *((member,) if member else ()))
            yield Reviewed(review=review, call=call, number=number, place=place)
