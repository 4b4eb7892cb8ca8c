"""Judging again, with scripted models: a reviewer is shown what it was shown in the run, and the run's rule counts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

from tutelage import generate, read_transcripts
from tutelage.errors import ConfigError, ShapeError, UserError
from tutelage.generation.judge import doubtful, judge
from tutelage.generation.judge_summary import JudgeSummary, JudgeTally
from tutelage.testing import ScriptedModel
from tutelage.testing.scripted import Script
from tutelage.transcripts.decisions import FILE, Decision, read_decisions
from tutelage.transcripts.messages import Prompts

FACT = "Without air all things fall equally fast."
BRIEF = {
    "id": "moon",
    "question": "On the Moon a hammer and a feather are dropped. Which lands first?",
    "answer": "at the same time",
    "misconception": {"belief": "Heavier things fall faster.", "predicts": "the hammer"},
    "facts": [FACT],
}
ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
ISSUE = {"dimension": "tone", "severity": "major", "span": "What slows", "evidence": "", "instruction": "Be kinder."}
REVISE: dict[str, Any] = {"verdict": "revise", "issues": [ISSUE]}
PLAN = {
    "student_claim": "The hammer.",
    "first_wrong_step": "That weight counts.",
    "error_type": "misconception",
    "strategy": "counterexample",
    "reveals": True,
    "ends": False,
}
SOCRATIC: dict[str, Script] = {
    "student": ["I think the hammer, for it is heavier.", "Heavier ones are faster, that is clear."],
    "tutor": [
        {**PLAN, "utterance": f"{FACT} What slows a feather here, then?"},
        {**PLAN, "utterance": f"{FACT} Look: what slows it?"},
        {**PLAN, "utterance": "And a coin and a leaf up there, what of these?"},
    ],
    "critic": [REVISE, ACCEPT],
    "leak_judge": [{"reveals": "nothing", **ACCEPT}],
    "claim_checker": [{"findings": [{"claim": 1, "source": 1, "quote": FACT, "verdict": "supported"}]}],
    "feedback_judge": [{"reason": "Weight counts for nothing there.", "feedback": "generic"}],
    "arbiter": [{"difference": "None.", "better": "tie"}],
}
AT_ONCE: dict[str, Script] = {**SOCRATIC, "critic": [ACCEPT], "tutor": [SOCRATIC["tutor"][0], SOCRATIC["tutor"][2]]}  # type: ignore[index]
"""No draft is sent back: a claim that was upheld in an earlier one is not asked about again."""
LESSON: dict[str, Script] = {
    "tutor": ["What slows it?", "What slows a feather here?"],
    "student": ["The air?"],
    "critic": [ACCEPT],
    "fact_checker": [ACCEPT],
}


def play(folder: Path, script: dict[str, Script], graph: str = "lesson", **config: Any) -> Path:
    """A run of one dialogue."""
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF))
    settings = {
        "run": "r",
        "graph": graph,
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": 4},
    }
    generate({**settings, **config}, out=folder / "run", models={"default": ScriptedModel(script)})
    return folder / "run"


def judged(run: Path, replies: Script, by: str = "critic", **options: Any) -> tuple[JudgeTally, ScriptedModel]:
    """What one reviewer makes of a run."""
    model = ScriptedModel({by.rpartition(":")[2]: replies})
    summary = judge(run, by=by, models={"default": model}, **options)
    return summary.reviewers[0], model


def decisions(run: Path) -> list[Decision]:
    return list(read_decisions(run, on_skip=pytest.fail))


def sent(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    roles = {"system": "system", "human": "user", "ai": "assistant"}
    return [{"role": roles[message.type], "content": str(message.content)} for message in messages]


@pytest.mark.parametrize(
    ("graph", "by", "script", "reply"),
    [
        ("lesson", "critic", LESSON, ACCEPT),
        ("lesson", "fact_checker", LESSON, ACCEPT),
        ("socratic", "critic", SOCRATIC, ACCEPT),
        ("socratic", "leak_judge", SOCRATIC, {"reveals": "nothing", **ACCEPT}),
        ("socratic", "claim_checker", AT_ONCE, SOCRATIC["claim_checker"]),
    ],
)
def test_a_reviewer_is_shown_the_very_same_again(
    tmp_path: Path, graph: str, by: str, script: dict[str, Script], reply: Any
) -> None:
    run = play(tmp_path, script, graph)
    [transcript] = read_transcripts(run)
    with Prompts(run) as prompts:
        reviews = [
            review
            for turn in transcript.turns
            if turn.role == "tutor" and turn.accepted
            for review in turn.accepted.reviews
            if review.role == by and review.call
        ]
        before = [prompts.messages(review.call.prompt_sha256) for review in reviews if review.call]
    tally, model = judged(run, reply if isinstance(reply, list) else [reply], by)
    assert before
    again = [sent(messages) for _, messages, _ in model.calls]
    assert [each for each in again if each in before] == before
    assert (tally.reviewed, tally.as_shown) == (len(before), len(before))
    assert {each.by for each in decisions(run)} == {f"judge:{by}/scripted"}


def test_what_is_judged_is_what_was_said_not_the_draft_before_it(tmp_path: Path) -> None:
    run = play(tmp_path, SOCRATIC, "socratic")
    _, model = judged(run, [ACCEPT])
    [transcript] = read_transcripts(run)
    first = next(turn for turn in transcript.turns if turn.role == "tutor")
    assert len(first.attempts) > 1, "otherwise there was no draft before it"
    assert first.text in model.prompts("critic")[0][-1][1]
    assert first.attempts[0].text not in model.prompts("critic")[0][-1][1]


def test_what_would_have_sent_a_draft_back_drops_the_turn_with_the_issues_as_reason(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    tally, _ = judged(run, [REVISE, ACCEPT])
    assert (tally.kept, tally.dropped, tally.against) == (1, 1, {"tone": 1})
    assert [(each.turn, each.decision) for each in decisions(run)] == [(0, "drop"), (2, "keep")]
    assert decisions(run)[0].reason == 'tone, major: "What slows" Be kinder.'


@pytest.mark.parametrize("change", [{"severity": "minor"}, {"span": "words that nobody said"}])
def test_what_would_have_sent_nothing_back_in_the_run_drops_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    run = play(tmp_path, LESSON)
    tally, _ = judged(run, [{"verdict": "revise", "issues": [{**ISSUE, **change}]}])
    assert (tally.kept, tally.overruled, tally.dropped) == (2, 2, 0)
    assert "2 of those kept it would have had revised" in "\n".join(tally.lines("tutor"))
    assert decisions(run)[0].reason.startswith(f"tone, {change.get('severity', 'major')}: ")


def test_the_transcripts_never_change(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.suffix in (".jsonl", ".yaml")}
    judged(run, [REVISE])
    assert {path: path.read_bytes() for path in before} == before
    assert (run / FILE).exists()


def test_what_was_judged_before_is_not_judged_twice_unless_it_is_asked_for(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    judged(run, [ACCEPT])
    tally, model = judged(run, [REVISE])
    assert (tally.judged, tally.known, model.calls) == (0, 2, [])
    tally, _ = judged(run, [REVISE], again=True)
    assert (tally.dropped, tally.known) == (2, 0)
    assert [each.decision for each in decisions(run)] == ["drop", "drop"]


def test_another_role_is_judged_where_that_is_asked_for(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    tally, model = judged(run, [ACCEPT], role="student")
    assert tally.kept == 2
    assert [each.turn for each in decisions(run)] == [1, 3]
    assert all("Student, draft of the next turn:" in prompt[-1][1] for prompt in model.prompts("critic"))


def test_replies_are_drawn_cold_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    (tmp_path / "mine.py").write_text(MINE)
    place = f"{tmp_path / 'mine.py'}:my_critic"
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "my_critic.md").write_text("You read what {{ brief.question }} led to.")
    (tmp_path / "prompts" / "my_task.md").write_text("Is it kind?")
    _, model = judged(run, [ACCEPT], place)
    assert {options["temperature"] for _, _, options in model.calls} == {0.0}
    config = {"run": "r", "briefs": [{"from": "x"}], "roles": {"my_critic": {"temperature": 0.5}}}
    _, model = judged(run, [ACCEPT], place, config=config, again=True)
    assert {options["temperature"] for _, _, options in model.calls} == {0.5}


MINE = """
from tutelage import Agent, Issue

my_critic = Agent(role="my_critic", task="my_task")
speaker = Agent(role="speaker")
number = 3


def short(dialogue, draft):
    if len(draft.text) > 20:
        return [Issue(dimension="length", severity="major", instruction="Say less.")]
    return []


def broken(dialogue, draft):
    return 1 / 0
"""


def test_a_reviewer_of_ones_own_has_the_prompts_of_its_project(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    for folder in ("agents", "prompts"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    (tmp_path / "project" / "agents" / "mine.py").write_text(MINE)
    (tmp_path / "project" / "prompts" / "my_critic.md").write_text("You are OF-THE-PROJECT.")
    (tmp_path / "project" / "prompts" / "my_task.md").write_text("Is it kind?")
    tally, model = judged(run, [REVISE], f"{tmp_path / 'project' / 'agents' / 'mine.py'}:my_critic")
    assert tally.dropped == 2
    assert model.prompts("my_critic")[0][0] == ("system", "You are OF-THE-PROJECT.")


def test_a_check_in_code_judges_without_a_model(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    (tmp_path / "mine.py").write_text(MINE)
    [tally] = judge(run, checks=[f"{tmp_path / 'mine.py'}:short"]).reviewers
    assert (tally.by, tally.kept, tally.dropped) == (f"judge:short/{tmp_path / 'mine.py'}", 1, 1)
    assert [(each.turn, each.reason) for each in decisions(run) if each.decision == "drop"] == [
        (2, "length, major: Say less.")
    ]


def test_several_checks_of_a_list_are_one_author(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    [tally] = judge(run, checks=["tutelage.checks.speech:plain_speech"]).reviewers
    assert (tally.by, tally.judged) == ("judge:plain_speech/tutelage.checks.speech", 2)


def test_a_check_that_fails_leaves_its_turn_unjudged_and_the_command_fails(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    (tmp_path / "mine.py").write_text(MINE)
    summary = judge(run, checks=[f"{tmp_path / 'mine.py'}:broken"])
    assert summary.reviewers[0].failed == {"error:ZeroDivisionError": 2}
    assert summary.exit_code == 1
    assert not decisions(run)


def test_a_model_that_gives_nothing_that_fits_leaves_its_turn_to_the_next_start(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    tally, _ = judged(run, ["no verdict"] * 3 + [ACCEPT], config=one_at_a_time())
    assert (tally.failed, tally.kept) == ({ShapeError.reason: 1}, 1)
    tally, _ = judged(run, [ACCEPT])
    assert (tally.failed, tally.kept, tally.known) == ({}, 1, 1)


def one_at_a_time() -> dict[str, Any]:
    return {"run": "r", "briefs": [{"from": "x"}], "concurrency": 1}


def test_a_role_that_is_asked_only_now_and_then_has_nothing_to_judge_elsewhere(tmp_path: Path) -> None:
    harmless = {**SOCRATIC, "tutor": [{**PLAN, "reveals": False, "utterance": "Why would you think so?"}]}
    run = play(tmp_path, {**harmless, "critic": [ACCEPT]}, "socratic")
    tally, model = judged(run, [{"reveals": "nothing", **ACCEPT}], "leak_judge")
    assert (tally.judged, tally.nothing, model.calls) == (0, tally.nothing, [])
    assert tally.nothing > 0


def test_a_prompt_that_is_not_the_runs_is_said(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "critic.md").write_text("Another task.")
    tally, _ = judged(run, [ACCEPT])
    assert (tally.reviewed, tally.as_shown) == (2, 0)
    assert "in 2 of 2 turns it was shown another prompt than in the run" in "\n".join(tally.lines("tutor"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "the graph 'lesson' has critic, fact_checker"),
        ({"by": "nobody"}, "those that do: critic, fact_checker"),
        ({"by": "student"}, "no role of that name reviews drafts"),
        ({"by": "mine.py:nobody"}, "it has"),
        ({"by": "mine.py:speaker"}, "needs a `task`"),
        ({"by": "mine.py:number"}, "it is int, and reviews nothing"),
        ({"by": "mine.py"}, "say which one of the file"),
        ({"by": "nowhere.py:x"}, "there is no file"),
        ({"checks": ["mine.py:number"]}, "no check"),
        ({"checks": ["nowhere.at.all:x"]}, "does not import"),
        ({"by": "critic", "role": "dean"}, "one of student, tutor"),
    ],
)
def test_who_cannot_judge_is_told_who_could(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    run = play(tmp_path, LESSON)
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(UserError) as error:
        judge(run, models={"default": ScriptedModel({"critic": [ACCEPT]})}, **options)
    assert says in str(error.value)
    assert not decisions(run)


def test_a_graph_beside_its_config_is_looked_for_beside_the_config_that_is_named(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    own = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(own.replace("graph: lesson", "graph: mine.py:mine"))
    with pytest.raises(UserError, match=r"no file .*mine\.py; say beside which config it is \(--config CONFIG\)"):
        judged(run, [ACCEPT])


def test_a_role_of_the_config_that_nobody_has_is_refused(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    config = {**one_at_a_time(), "roles": {"critc": {"temperature": 0.5}}}
    with pytest.raises(ConfigError, match="critc"):
        judged(run, [ACCEPT], config=config)


def test_a_judge_that_the_run_disagrees_with_is_warned_about(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    judged(run, [REVISE, ACCEPT])
    (tmp_path / "people.jsonl").write_text(
        "".join(
            json.dumps({"id": decisions(run)[0].id, "turn": turn, "by": "ada", "decision": how}) + "\n"
            for turn, how in ((0, "keep"), (2, "drop"))
        )
    )
    summary = judge(run, decisions=tmp_path / "people.jsonl")
    assert {each.authors: each.agreed.count for each in summary.agreements} == {
        ("ada", "judge:critic/scripted"): 0,
        ("ada", "the run"): 1,
    }
    assert "κ -1.00, of which no interval can be told; fewer than 30 say little" in str(summary)
    assert "warning: a κ below 0.6" in str(summary)


def test_what_judges_doubt_is_listed(tmp_path: Path) -> None:
    run = play(tmp_path, LESSON)
    assert doubtful(run) == []
    judged(run, [ACCEPT, REVISE])
    assert [(each.turn, each.why) for each in doubtful(run)] == [
        (2, ("the run kept it, judge:critic/scripted would not",))
    ]


def test_a_summary_says_how_many_with_their_interval() -> None:
    tally = JudgeTally(by="judge:critic/m", kept=9, dropped=1, known=3)
    said = str(JudgeSummary(folder=Path("run"), role="tutor", reviewers=[tally]))
    assert "10 turns of tutor judged, 9 kept, 1 dropped (10.0%, 95 % interval 1.8% to 40.4%)" in said
    assert "3 were judged before" in said
