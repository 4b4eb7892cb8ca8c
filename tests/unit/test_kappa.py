"""Agreement between those who judge: Cohen's kappa by golden values, and what counts as saying something."""

from collections.abc import Mapping

import pytest

from tutelage import Attempt, Review, Turn
from tutelage.dialogue.turn import Call
from tutelage.quality.agreement import THE_RUN, Agreements, Kappa, Saying, said_by_run, said_in
from tutelage.quality.intervals import Missing
from tutelage.transcripts.decisions import Decision

CALL = Call(model="m", prompt_sha256="0")


def kappa(counts: Mapping[tuple[str, str], int]) -> Kappa:
    found = Kappa.of_counts(counts)
    assert isinstance(found, Kappa)
    return found


def test_kappa_of_two_raters_and_two_sayings() -> None:
    """50 grant proposals: 35 agreements, 25 expected by chance: (0.7 - 0.5) / (1 - 0.5)."""
    assert kappa({("yes", "yes"): 20, ("yes", "no"): 5, ("no", "yes"): 10, ("no", "no"): 15}).value == 0.4


@pytest.mark.parametrize(("counts", "value"), [((45, 15, 25, 15), 0.1304), ((25, 35, 5, 35), 0.2593)])
def test_kappa_of_raters_who_say_yes_more_or_less_often(counts: tuple[int, ...], value: float) -> None:
    """Both agree on 60 of 100; by chance 54 and 46 are expected, by the shares of each of the two."""
    sayings = [("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no")]
    assert kappa(dict(zip(sayings, counts, strict=True))).value == value


def test_kappa_and_its_standard_error_of_three_sayings() -> None:
    """Fleiss, Levin and Paik 2003, table 18.1 (100 subjects, three diagnoses): kappa .68, standard error .087."""
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    found = kappa({(str(a), str(b)): count for a, row in enumerate(table) for b, count in enumerate(row)})
    assert found.value == pytest.approx(0.68, abs=0.005)
    assert (found.high - found.low) / 2 / 1.959964 == pytest.approx(0.087, abs=0.001)


def test_kappa_at_its_ends() -> None:
    assert kappa({("keep", "keep"): 5, ("drop", "drop"): 5}).value == 1
    assert kappa({("keep", "drop"): 5, ("drop", "keep"): 5}).value == -1
    assert kappa({("keep", "keep"): 4, ("keep", "drop"): 4, ("drop", "keep"): 4, ("drop", "drop"): 4}).value == 0


def test_two_who_always_say_the_same_tell_nothing() -> None:
    found = Kappa.of_counts({("keep", "keep"): 100})
    assert isinstance(found, Missing)


def test_each_two_authors_are_compared_where_they_overlap() -> None:
    agreements = Agreements()
    said: list[dict[str, Saying]] = [{"ada": "keep", "bob": "keep"}, {"ada": "drop", "bob": "keep", "eve": "drop"}]
    for each in [*said, {"eve": "keep"}]:
        agreements.count(each)  # type: ignore[arg-type]
    found = {each.authors: (each.agreed.count, each.agreed.of) for each in agreements.found()}
    assert found == {("ada", "bob"): (1, 2), ("ada", "eve"): (1, 1), ("bob", "eve"): (0, 1)}
    assert agreements.found()[0].authors == ("ada", "bob"), "who overlap most come first"


def test_an_edit_says_that_the_words_will_not_do_and_a_preference_says_nothing() -> None:
    def by(author: str, decision: str) -> Decision:
        return Decision.model_validate({"id": "d", "by": author, "decision": decision, "text": "Words."})

    said = said_in([by("a", "keep"), by("b", "drop"), by("c", "edit"), by("d", "prefer")])
    assert said == {"a": "keep", "b": "drop", "c": "drop"}


@pytest.mark.parametrize(("forced", "said"), [(False, "keep"), (True, "drop")])
def test_the_run_would_not_keep_what_it_was_forced_to_say(forced: bool, said: str) -> None:
    reviews = [Review(role="critic", verdict="accept", call=CALL)]
    accepted = Attempt(text="Hm?", status="accepted", forced=forced, call=CALL, reviews=reviews)
    assert said_by_run(Turn(index=0, role="tutor", text="Hm?", attempts=[accepted])) == said
    unseen = accepted.model_copy(update={"reviews": []})
    assert said_by_run(Turn(index=0, role="tutor", text="Hm?", attempts=[unseen])) is None


def test_agreement_below_the_mark_is_low() -> None:
    agreements = Agreements()
    for said in [("keep", "keep")] * 20 + [("keep", "drop")] * 5 + [("drop", "keep")] * 10 + [("drop", "drop")] * 15:
        agreements.count({"judge:critic/m": said[0], THE_RUN: said[1]})  # type: ignore[dict-item]
    [found] = agreements.found()
    assert found.is_low
