"""Preference pairs: which two texts of a turn make one, which is the better one, and why others make none."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage import Attempt, Brief, Issue, Review, Turn
from tutelage.dialogue.turn import Call, Claim
from tutelage.errors import ExportError
from tutelage.exports.export import export
from tutelage.exports.formats.deciding import Decided
from tutelage.exports.formats.pairs.pair import Pair
from tutelage.exports.formats.pairs.revisions import LEAST_ALIKE, MOST_ALIKE, is_minimal, revisions, similarity
from tutelage.exports.formats.pairs.siblings import MOST_PAIRS, siblings
from tutelage.exports.formats.scores import mean_score, scores_of
from tutelage.exports.request import Request
from tutelage.exports.rows import LeftOut

BRIEF = Brief(id="halves", question="What is 1/2 + 1/3?", answer=("5/6",))
Row = dict[str, Any]


def call(prompt: str = "0", **more: Any) -> Call:
    return Call(model="m", prompt_sha256=prompt * 64, **more)


def issue(dimension: str = "leak", span: str = "", severity: Any = "block") -> Issue:
    return Issue(dimension=dimension, severity=severity, span=span, instruction="Ask.")


def judged_by(role: str = "critic", *issues: Issue, scores: Mapping[str, float] | None = None) -> Review:
    verdict: Any = "revise" if any(each.severity != "minor" for each in issues) else "accept"
    return Review(role=role, verdict=verdict, issues=list(issues), scores=dict(scores or {}), call=call("f"))


def checked_by(role: str, *issues: Issue, scores: Mapping[str, float] | None = None) -> Review:
    return judged_by(role, *issues, scores=scores).model_copy(update={"call": None})


def draft(text: str, status: Any, *reviews: Review, prompt: str = "0", forced: bool = False) -> Attempt:
    return Attempt(text=text, status=status, forced=forced, call=call(prompt), reviews=list(reviews))


def turn_of(*attempts: Attempt) -> tuple[Turn, Decided]:
    said = next(attempt for attempt in attempts if attempt.status == "accepted")
    turn = Turn(index=0, role="tutor", text=said.text, attempts=list(attempts))
    return turn, Decided(text=said.text, attempt=said, forced=said.forced)


def scored(text: str, status: str = "superseded", **scores: float) -> Attempt:
    return draft(text, status, checked_by("rubric", scores=scores))


def texts(pairs: Iterable[Pair | LeftOut]) -> list[tuple[str, str] | LeftOut]:
    return [(each.chosen, each.rejected) if isinstance(each, Pair) else each for each in pairs]


# --- revisions ------------------------------------------------------------------------------------------------------


def test_an_accepted_revision_is_better_than_each_draft_that_was_sent_back() -> None:
    drafts = [
        draft("a", "rejected", judged_by("critic", issue())),
        draft("b", "rejected", judged_by("critic", issue())),
    ]
    found = list(revisions(*turn_of(*drafts, draft("c", "accepted", judged_by()))))
    assert texts(found) == [("c", "a"), ("c", "b")]
    assert all(isinstance(pair, Pair) and pair.issues_fixed == ("leak",) for pair in found)


def test_a_draft_makes_no_pair_if_who_sent_it_back_has_not_seen_the_revision() -> None:
    refused = draft("a", "rejected", judged_by("leak_judge", issue()))
    assert texts(revisions(*turn_of(refused, draft("b", "accepted", judged_by("critic"))))) == [LeftOut.OTHER_JUDGE]


def test_a_draft_of_which_nobody_said_what_is_wrong_makes_no_pair() -> None:
    refused = draft("a", "rejected", judged_by("critic").model_copy(update={"verdict": "revise"}))
    assert texts(revisions(*turn_of(refused, draft("b", "accepted", judged_by())))) == [LeftOut.NOTHING_MENDED]


def test_a_check_that_no_longer_objects_has_seen_the_revision() -> None:
    refused = draft("a", "rejected", checked_by("plain_speech", issue("form")))
    assert texts(revisions(*turn_of(refused, draft("b", "accepted")))) == [("b", "a")]


def test_a_revision_with_lower_scores_by_the_same_judges_is_not_better() -> None:
    refused = draft("a", "rejected", judged_by("critic", issue(), scores={"clarity": 0.7}))
    for score, found in ((0.6, LeftOut.NARROW), (0.7, ("b", "a"))):
        accepted = draft("b", "accepted", judged_by("critic", scores={"clarity": score, "warmth": 0.0}))
        assert texts(revisions(*turn_of(refused, accepted))) == [found]


def test_what_was_said_and_forbidden_is_never_chosen() -> None:
    refused = draft("a", "rejected", judged_by("critic", issue()))
    vetoed = draft("b", "accepted", judged_by("critic"), checked_by("leak", issue()))
    assert texts(revisions(*turn_of(refused, vetoed))) == [LeftOut.VETOED]
    forced = draft("b", "accepted", judged_by("critic", issue("tone")), forced=True)
    assert texts(revisions(*turn_of(refused, forced))) == [LeftOut.FORCED]


def test_what_somebody_wrote_anew_is_not_chosen_as_it_was_said() -> None:
    turn, said = turn_of(draft("a", "rejected", judged_by("critic", issue())), draft("b", "accepted", judged_by()))
    better = Decided(text="c", attempt=said.attempt, source="human")
    assert texts(revisions(turn, better)) == [LeftOut.REPLACED]


BEFORE = "Five sixths it is, so which size must the parts have before you add them?"
AFTER = "Have a look, so which size must the parts have before you add them?"
LEAK = issue("leak", "Five sixths it is")


def test_a_minimal_edit_mends_the_one_thing_that_was_named_and_changes_little_else() -> None:
    refused, accepted = draft(BEFORE, "rejected", judged_by("critic", LEAK)), draft(AFTER, "accepted", judged_by())
    assert LEAST_ALIKE <= similarity(BEFORE, AFTER) <= MOST_ALIKE
    assert texts(revisions(*turn_of(refused, accepted), minimal_edit=True)) == [(AFTER, BEFORE)]


@pytest.mark.parametrize(
    ("refused", "accepted"),
    [
        (draft(BEFORE, "rejected", judged_by("critic", LEAK, issue("tone"))), draft(AFTER, "accepted", judged_by())),
        (
            draft(BEFORE, "rejected", judged_by("critic", issue("leak", "no such words"))),
            draft(AFTER, "accepted", judged_by()),
        ),
        (
            draft(BEFORE, "rejected", judged_by("critic", LEAK)),
            draft(f"Well, let me see now. {BEFORE}", "accepted", judged_by()),
        ),
        (draft(BEFORE, "rejected", judged_by("critic", LEAK)), draft("Which?", "accepted", judged_by())),
        (
            draft(BEFORE, "rejected", judged_by("critic", issue("leak", "Five"))),
            draft(BEFORE.replace("Five", "Six"), "accepted", judged_by("critic", issue("tone", severity="minor"))),
        ),
        (
            draft(BEFORE, "rejected", judged_by("critic", LEAK)),
            draft(AFTER, "accepted", judged_by("critic", issue("leak", severity="minor"))),
        ),
    ],
    ids=["two things named", "not there before", "still there", "all anew", "something new", "still named"],
)
def test_what_is_no_minimal_edit(refused: Attempt, accepted: Attempt) -> None:
    assert not is_minimal(accepted, refused)
    assert texts(revisions(*turn_of(refused, accepted), minimal_edit=True)) == [LeftOut.NOT_MINIMAL]
    assert texts(revisions(*turn_of(refused, accepted))) == [(accepted.text, refused.text)]


def test_a_text_that_is_almost_the_same_is_no_minimal_edit() -> None:
    words = [f"word{number}" for number in range(60)]
    before, after = " ".join(["wrong", *words]), " ".join(["right", *words])
    assert similarity(before, after) > MOST_ALIKE
    assert not is_minimal(
        draft(after, "accepted", judged_by()), draft(before, "rejected", judged_by("critic", issue("x", "wrong")))
    )


# --- siblings -------------------------------------------------------------------------------------------------------


def test_candidates_make_a_pair_only_where_their_scores_differ_by_more_than_the_gap() -> None:
    turn = turn_of(scored("low", good=0.25), scored("middle", good=0.5), scored("high", "accepted", good=1.0))
    assert texts(siblings(*turn, gap=0.5)) == [LeftOut.NARROW, LeftOut.NARROW, ("high", "low")]
    assert texts(siblings(*turn, gap=0.4)) == [LeftOut.NARROW, ("high", "low"), ("high", "middle")]
    assert LeftOut.NARROW in texts(siblings(*turn, gap=0.75))


def test_one_that_is_better_in_every_one_of_several_scores_needs_no_gap() -> None:
    better: dict[str, Any] = {"good": 0.5, "kind": 0.5}
    worse: dict[str, Any] = {"good": 0.4, "kind": 0.4}
    pair = texts(siblings(*turn_of(scored("worse", **worse), scored("better", "accepted", **better)), gap=0.5))
    assert pair == [("better", "worse")]
    mixed = texts(
        siblings(*turn_of(scored("worse", good=0.6, kind=0.0), scored("better", "accepted", **better)), gap=0.5)
    )
    assert mixed == [LeftOut.NARROW]


def test_candidates_that_were_not_chosen_make_pairs_among_each_other() -> None:
    turn = turn_of(scored("a", good=0.0), scored("b", good=1.0), scored("c", "accepted", good=0.5))
    assert texts(siblings(*turn, gap=0.6)) == [LeftOut.NARROW, LeftOut.NARROW, ("b", "a")]


def test_only_candidates_of_one_prompt_are_compared() -> None:
    of_another = scored("other", good=0.0).model_copy(update={"call": call("1")})
    assert texts(siblings(*turn_of(of_another, scored("said", "accepted", good=1.0)), gap=0.1)) == []


def test_a_draft_and_its_revision_are_no_candidates_of_each_other() -> None:
    turn = turn_of(scored("draft", "rejected", good=0.0), scored("said", "accepted", good=1.0))
    assert texts(siblings(*turn, gap=0.1)) == []


def test_no_candidate_is_chosen_that_a_check_forbids_or_that_was_sent_back_or_forced() -> None:
    vetoed = draft("best", "superseded", checked_by("rubric", scores={"good": 1.0}), checked_by("leak", issue()))
    assert texts(siblings(*turn_of(vetoed, scored("said", "accepted", good=0.0)), gap=0.5)) == [LeftOut.VETOED]
    back = scored("sent back", "rejected", good=1.0)
    turn = turn_of(
        scored("other", good=0.0), back, scored("said", "accepted", good=0.5).model_copy(update={"call": call("1")})
    )
    assert texts(siblings(*turn, gap=0.5)) == [LeftOut.VETOED]
    forced = scored("forced", "accepted", good=1.0).model_copy(update={"forced": True})
    assert texts(siblings(*turn_of(scored("other", good=0.0), forced), gap=0.5)) == [LeftOut.FORCED]


def test_a_candidate_that_was_said_is_not_chosen_where_somebody_wrote_other_words() -> None:
    turn, said = turn_of(scored("other", good=0.0), scored("said", "accepted", good=1.0))
    edited = Decided(text="a person's", attempt=said.attempt, source="human")
    assert texts(siblings(turn, edited, gap=0.5)) == [LeftOut.REPLACED]


def test_a_forbidden_candidate_may_be_the_worse_one() -> None:
    vetoed = draft("bad", "superseded", checked_by("rubric", scores={"good": 0.0}), checked_by("leak", issue()))
    assert texts(siblings(*turn_of(vetoed, scored("said", "accepted", good=1.0)), gap=0.5)) == [("said", "bad")]


def test_candidates_without_common_scores_or_words_of_their_own_make_no_pair() -> None:
    unscored = draft("a", "superseded")
    assert texts(siblings(*turn_of(unscored, scored("b", "accepted", good=1.0)), gap=0.5)) == [LeftOut.UNSCORED]
    empty = scored("  ", good=0.0)
    assert texts(siblings(*turn_of(empty, scored("b", "accepted", good=1.0)), gap=0.5)) == [LeftOut.EMPTY]
    same = scored("the  same", good=0.0)
    assert texts(siblings(*turn_of(same, scored("the same", "accepted", good=1.0)), gap=0.5)) == [LeftOut.IDENTICAL]


def test_scores_are_compared_only_where_the_same_judge_gave_both() -> None:
    said = draft(
        "said", "accepted", checked_by("rubric", scores={"good": 0.6}), judged_by("critic", scores={"good": 9.0})
    )
    assert texts(siblings(*turn_of(scored("a", good=0.5), said), gap=0.5)) == [LeftOut.NARROW]


def test_a_turn_gives_its_clearest_pairs_and_no_more_than_a_few() -> None:
    candidates = [scored(f"candidate {number}", good=float(number)) for number in range(5)]
    found = texts(siblings(*turn_of(*candidates, scored("said", "accepted", good=5.0)), gap=0.5))
    assert found.count(LeftOut.CAPPED) == len(list(itertools.combinations(range(6), 2))) - MOST_PAIRS
    pairs = [each for each in found if not isinstance(each, LeftOut)]
    assert len(pairs) == MOST_PAIRS
    assert pairs[0] == ("said", "candidate 0")
    assert set(pairs[1:3]) == {("said", "candidate 1"), ("candidate 4", "candidate 0")}


# --- scores ---------------------------------------------------------------------------------------------------------


def test_of_a_draft_that_gives_more_away_the_score_is_lower() -> None:
    given = draft("a", "accepted", judged_by("leak_judge", scores={"reveals": 1.0}))
    assert mean_score(scores_of(given)) == 0.0


def test_of_a_fact_checkers_counts_the_share_that_is_supported_is_the_score() -> None:
    claims = [Claim(text=verdict, span=verdict, verdict=verdict) for verdict in ("supported", "not_found")]
    review = judged_by("fact_checker", scores={"claims": 2, "supported": 1}).model_copy(update={"claims": claims})
    assert scores_of(draft("a", "accepted", review)) == {("fact_checker", "supported"): 0.5}


def test_a_panels_scores_are_averaged() -> None:
    panel = [judged_by("critic", scores={"clarity": score}) for score in (0.0, 1.0)]
    assert scores_of(draft("a", "accepted", *panel)) == {("critic", "clarity"): 0.5}


# --- people, and all of them in an export ---------------------------------------------------------------------------


def exported(run: Any, out: Path, **options: Any) -> tuple[list[Row], Any]:
    summary = export(run.path, Request(format="dpo", files="jsonl", dedup="none", **options), out=out)
    return [orjson.loads(line) for path in out.rglob("*.jsonl") for line in path.read_bytes().splitlines()], summary


def said(rows: list[Row]) -> list[tuple[str, str, str]]:
    return [(row["source"], row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows]


ONE_TURN = ("tutor", [("It is 5/6.", "rejected"), ("Which parts?", "accepted")])


def test_an_edit_is_preferred_to_what_was_said(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_TURN, brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="edit", text="Which parts are alike?")
    rows, summary = exported(written_run, tmp_path / "out")
    assert said(rows) == [("human", "Which parts are alike?", "Which parts?")]
    assert (rows[0]["chosen_model"], rows[0]["rejected_model"], rows[0]["margin"]) == ("", "m", None)
    assert summary.left_out == {"replaced": 1}
    assert "ada" not in str(rows)


def test_what_a_person_prefers_is_better_than_what_was_said(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("Or sixths?", "superseded"), ("Which parts?", "accepted")]), brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="prefer", text="Or  sixths?")
    rows, _ = exported(written_run, tmp_path / "out")
    assert said(rows) == [("human", "Or sixths?", "Which parts?")]


def test_what_a_check_forbids_is_not_chosen_whoever_prefers_it(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_TURN, brief=BRIEF)
    path = written_run.path / "transcripts" / "0.jsonl"
    line = orjson.loads(path.read_bytes())
    line["turns"][0]["attempts"][0]["reviews"][0].pop("call", None)  # a check in code has none
    path.write_bytes(orjson.dumps(line) + b"\n")
    written_run.decide(turn=0, by="ada", decision="prefer", text="It is 5/6.")
    rows, summary = exported(written_run, tmp_path / "out")
    assert said(rows) == [("revision", "Which parts?", "It is 5/6.")]
    assert summary.left_out == {"vetoed": 1}


def test_where_what_was_said_is_preferred_it_is_better_than_each_of_the_others(
    written_run: Any, tmp_path: Path
) -> None:
    drafts = [("One", "rejected"), ("Two", "rejected"), ("Three", "accepted")]
    written_run.add(("tutor", drafts), brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="prefer", text="Three")
    rows, summary = exported(written_run, tmp_path / "out")
    assert said(rows) == [("human", "Three", "One"), ("human", "Three", "Two")]
    assert summary.left_out == {"repeated": 2}
    assert len({row["id"] for row in rows}) == 2


def test_what_a_judge_prefers_is_said_to_be_a_judges_and_no_persons(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_TURN, brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="prefer", text="Which parts?")
    rows, _ = exported(written_run, tmp_path / "out")
    assert said(rows) == [("judge", "Which parts?", "It is 5/6.")]
    with pytest.raises(ExportError, match="nobody edited a turn of the role 'tutor' or preferred a draft"):
        exported(written_run, tmp_path / "people", pairs="people")


def test_what_a_judge_prefers_does_not_count_where_a_person_kept_what_was_said(
    written_run: Any, tmp_path: Path
) -> None:
    written_run.add(("tutor", [("Or sixths?", "superseded"), ("Which parts?", "accepted")]), brief=BRIEF)
    written_run.decide(turn=0, by="judge:critic/other", decision="prefer", text="Or sixths?")
    assert said(exported(written_run, tmp_path / "out")[0]) == [("judge", "Or sixths?", "Which parts?")]
    written_run.decide(turn=0, by="ada", decision="keep")
    with pytest.raises(ExportError, match=r"no pairs|left out"):
        exported(written_run, tmp_path / "kept")


def test_a_gap_below_zero_is_refused(written_run: Any, tmp_path: Path) -> None:
    for gap in (-0.1, float("nan")):
        with pytest.raises(ExportError, match="the gap between two scores cannot be"):
            exported(written_run, tmp_path / "out", gap=gap)


def test_a_turn_that_was_dropped_gives_no_pairs(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_TURN, ("student", [("Hm", "unseen")]), ONE_TURN, brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="drop")
    rows, summary = exported(written_run, tmp_path / "out")
    assert [row["turn"] for row in rows] == [2]
    assert summary.left_out == {"dropped": 1}


def test_each_kind_of_pairs_can_be_had_alone(written_run: Any, tmp_path: Path) -> None:
    written_run.add(ONE_TURN, brief=BRIEF)
    written_run.decide(turn=0, by="ada", decision="prefer", text="Which parts?")
    assert [row["source"] for row in exported(written_run, tmp_path / "r", pairs="revisions")[0]] == ["revision"]
    assert [row["source"] for row in exported(written_run, tmp_path / "p", pairs="people")[0]] == ["human"]
    with pytest.raises(ExportError, match="no turn of the role 'tutor' had candidates"):
        exported(written_run, tmp_path / "s", pairs="siblings")


def test_a_run_whose_candidates_nobody_scored_is_told_how_they_are(written_run: Any, tmp_path: Path) -> None:
    written_run.add(("tutor", [("One", "superseded"), ("Two", "unseen")]), brief=BRIEF)
    changed = (written_run.path / "transcripts" / "0.jsonl").read_bytes()
    line = orjson.loads(changed)
    one, two = line["turns"][0]["attempts"]
    one["call"]["prompt_sha256"] = two["call"]["prompt_sha256"]
    (written_run.path / "transcripts" / "0.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    with pytest.raises(ExportError, match=r"left out: 1 unscored .*`ByScore`"):
        exported(written_run, tmp_path / "out")


@pytest.mark.parametrize("thinks", [(True, True), (True, False), (False, True)])
def test_thoughts_are_learnt_where_both_texts_have_them(
    written_run: Any, tmp_path: Path, thinks: tuple[bool, bool]
) -> None:
    written_run.add(ONE_TURN, brief=BRIEF)
    path = written_run.path / "transcripts" / "0.jsonl"
    line = orjson.loads(path.read_bytes())
    for attempt, does in zip(line["turns"][0]["attempts"], thinks, strict=True):
        attempt["call"] |= {"reasoning": "Let me see."} if does else {}
    path.write_bytes(orjson.dumps(line) + b"\n")
    [row] = exported(written_run, tmp_path / "with", reasoning=True)[0]
    both = all(thinks)
    thought = "<think>\nLet me see.\n</think>\n\n" if both else ""
    assert row["rejected"][0]["content"] == f"{thought}It is 5/6."
    assert row["chosen"][0]["content"].startswith("<think>") is both
    assert "think" not in str(exported(written_run, tmp_path / "without")[0])
