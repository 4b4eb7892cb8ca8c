"""Exports of real run folders: the built-in lesson, played by a scripted model."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from langchain_core.messages import BaseMessage
from langgraph.graph import START, StateGraph

from tutelage import (
    Agent,
    Brief,
    Cast,
    Claim,
    Dialogue,
    Transcript,
    Turn,
    Utterance,
    add_critique_loop,
    max_messages,
    speak,
    stop_or,
)
from tutelage.agents import student, tutor
from tutelage.agents.claim_checker import claim_checker
from tutelage.agents.leak_judge import leak_judge
from tutelage.dialogue.brief import Misconception
from tutelage.dialogue.cast import Limits
from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.stopping import completed, outcome_of
from tutelage.dialogue.turn import Outcome, Step
from tutelage.errors import ExportError
from tutelage.evidence.fact_checking import fact_check
from tutelage.exports import contents
from tutelage.exports import files as training_files
from tutelage.exports.card import TRIAL_MODELS
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.graphs.debate import debate
from tutelage.graphs.lesson import lesson
from tutelage.serving.weights import SMOLLM2
from tutelage.testing.scripted import Said, Script, ScriptedModel
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.store import TranscriptStore
from tutelage.transcripts.transcript import GraphIdentity, Unfinished, Usage, calls_of

CANARY = "CANARY-OF-THE-CRITIC"
ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
REVISE: dict[str, Any] = {
    "verdict": "revise",
    "issues": [
        {
            "dimension": "leak",
            "severity": "block",
            "span": CANARY,
            "evidence": f'{CANARY} says: "A sixth is half a third."',
            "instruction": f"Ask. {CANARY}",
        }
    ],
}
"""It counts, for what it quotes stands in the brief."""
WORSE: dict[str, Any] = {**REVISE, "issues": REVISE["issues"] * 2}
BRIEF = Brief(
    id="halves", topic="fractions", question="What is 1/2 + 1/3?", answer=("5/6",), facts=("A sixth is half a third.",)
)
MESSAGES = 4
"""Public turns of a dialogue, so two of the tutor."""

Row = dict[str, Any]


class Runs:
    """Makes run folders."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "run"
        self.transcripts: list[Transcript] = []
        self.sent: dict[str, list[dict[str, str]]] = {}
        """Every prompt that a model was sent, by its hash."""
        self._log = MessageLog()
        self._store = TranscriptStore(self.path / "transcripts")
        (self.path / "messages.jsonl").touch()

    async def play(
        self,
        script: Mapping[str, Script],
        *,
        id_: str = "d0",
        graph: Any = lesson,
        brief: Brief = BRIEF,
        outcome: Outcome | None = None,
        change: Callable[[Turn], Turn] = lambda turn: turn,
        alter: Callable[[Transcript], Transcript] = lambda transcript: transcript,
    ) -> Transcript:
        """Plays one dialogue and puts it into the run."""
        cast = replace(Cast.of(ScriptedModel(script)), on_prompt=self._keep, limits=Limits(messages=MESSAGES))
        built = graph()
        state: Dialogue = await built.compile().ainvoke({"id": id_, "brief": brief}, context=cast)
        turns = [change(turn) for turn in state["turns"]]
        transcript = Transcript(
            id=id_,
            run="fractions",
            graph=GraphIdentity(name=graph.__name__, sha256="0" * 64),
            brief=brief,
            turns=turns,
            outcome=outcome or outcome_of(built, state, cast.limits),
            usage=Usage.of(calls_of(turns)),
            started=datetime(2026, 1, 1, tzinfo=UTC),
            finished=datetime(2026, 1, 2, tzinfo=UTC),
        )
        transcript = alter(transcript)
        self._store.append([transcript.model_dump_json(by_alias=True).encode() + b"\n"])
        with (self.path / "messages.jsonl").open("ab") as file:
            file.write(self._log.take())
        self.transcripts.append(transcript)
        return transcript

    def _keep(self, dialogue: str, prompt: Prompt) -> None:
        self._log.keep(dialogue, prompt)
        self.sent[prompt.sha256] = prompt.as_dicts()

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def runs(tmp_path: Path) -> Any:
    made = Runs(tmp_path)
    yield made
    made.close()


def script(**roles: Script) -> dict[str, Script]:
    """A lesson in which all goes well, but for what is given."""
    calm: dict[str, Script] = {
        "tutor": numbered("Which size must the parts have?"),
        "student": numbered("I am not sure."),
        "critic": [ACCEPT],
        "fact_checker": [ACCEPT],
    }
    return {**calm, **roles}


def numbered(text: str) -> Callable[[list[BaseMessage]], Said]:
    """Says the same with another number each time, so that no two replies are equal."""
    said: list[None] = []

    def say(_: list[BaseMessage]) -> str:
        said.append(None)
        return f"{text} ({', '.join([str(len(said))] * 4)})"

    return say


def judged_lesson() -> Any:
    """A tutor's draft goes to a judge whose schema is not the plain verdict."""
    return reviewed_lesson(leak_judge)


def checked_lesson() -> Any:
    """A tutor's claims are held against the brief's facts."""
    return reviewed_lesson(fact_check(claim_checker))


def reviewed_lesson(reviewer: Any, learner: Agent = student) -> Any:
    graph = StateGraph(Dialogue, context_schema=Cast)
    add_critique_loop(graph, tutor, reviewers=[reviewer], then=stop_or("student", max_messages()))
    graph.add_node("student", speak(learner))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("student", stop_or("tutor", max_messages()))
    return graph


SENT_BACK_ONCE = {"critic": [REVISE, ACCEPT]}
"""The first draft of the first turn is sent back."""


def rows_of(out: Path) -> list[Row]:
    rows = [orjson.loads(line) for path in sorted(out.rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return rows + [row for path in sorted(out.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def card_of(out: Path) -> tuple[dict[str, Any], str]:
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


async def test_sft_pairs_what_a_role_was_shown_with_what_it_said(runs: Runs, tmp_path: Path) -> None:
    transcript = await runs.play(script())
    export(runs.path, Request(format="sft"), out=tmp_path / "out")
    turns = [turn for turn in transcript.turns if turn.role == "tutor"]
    rows = rows_of(tmp_path / "out")
    assert len(rows) == len(turns) == 2
    for row, turn in zip(rows, turns, strict=True):
        assert row["prompt"] == runs.sent[turn.attempts[0].call.prompt_sha256]
        assert row["completion"] == [{"role": "assistant", "content": turn.text}]
        assert (row["id"], row["brief"], row["turn"]) == (f"d0/{turn.index}", "halves", turn.index)
        assert (row["role"], row["model"], row["finish_reason"]) == ("tutor", "scripted", "stop")


async def test_the_prompt_is_that_of_the_first_draft_and_the_completion_the_accepted_one(
    runs: Runs, tmp_path: Path
) -> None:
    transcript = await runs.play(script(**SENT_BACK_ONCE))
    export(runs.path, Request(format="sft"), out=tmp_path / "out")
    first, second = transcript.turns[0].attempts
    row = rows_of(tmp_path / "out")[0]
    assert row["prompt"] == runs.sent[first.call.prompt_sha256] != runs.sent[second.call.prompt_sha256]
    assert row["completion"][0]["content"] == second.text != first.text


@pytest.mark.parametrize("whole_dialogue", [False, True])
async def test_no_critique_is_in_any_prompt_of_sft(runs: Runs, tmp_path: Path, whole_dialogue: bool) -> None:
    await runs.play(script(critic=[REVISE, ACCEPT]))
    assert any(CANARY in str(prompt) for prompt in runs.sent.values())
    for role in ("tutor", "student"):
        export(runs.path, Request(format="sft", role=role, whole_dialogue=whole_dialogue), out=tmp_path / role)
        assert CANARY not in str(rows_of(tmp_path / role))


async def test_no_critique_is_in_any_prompt_or_text_of_dpo(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script(critic=[WORSE, REVISE, ACCEPT]))
    assert any(CANARY in str(prompt) for prompt in runs.sent.values())
    export(runs.path, Request(format="dpo"), out=tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 2
    assert CANARY not in str(rows_of(tmp_path / "out"))


async def test_a_note_that_asked_for_a_better_shape_is_not_in_the_prompt(runs: Runs, tmp_path: Path) -> None:
    """An empty draft and a verdict that is no verdict are asked for again, with a note at the prompt's end."""
    transcript = await runs.play(script(tutor=["", "", "Which size?"], critic=[{"verdict": "perhaps"}, ACCEPT]))
    turn = transcript.turns[0]
    assert [step.kind for step in turn.steps] == ["misfit"] * 3
    misfit_of = {step.role: step.call.prompt_sha256 for step in reversed(turn.steps)}
    for role, given in (("tutor", turn.attempts[0].call), ("critic", turn.attempts[0].reviews[0].call)):
        export(runs.path, Request(format="sft", role=role, unchecked=True), out=tmp_path / role)
        assert given is not None
        assert rows_of(tmp_path / role)[0]["prompt"] == runs.sent[misfit_of[role]] != runs.sent[given.prompt_sha256]


async def test_a_whole_dialogue_is_one_row_as_the_role_saw_it(runs: Runs, tmp_path: Path) -> None:
    transcript = await runs.play(script(**SENT_BACK_ONCE))
    export(runs.path, Request(format="sft", role="student", whole_dialogue=True), out=tmp_path / "out")
    [row] = rows_of(tmp_path / "out")
    system, *messages = row["messages"]
    assert system["role"] == "system"
    assert [(each["role"], each["content"]) for each in messages] == [
        ("assistant" if turn.role == "student" else "user", turn.text) for turn in transcript.turns
    ]


async def test_a_whole_dialogue_whose_earlier_turns_followed_notes_is_left_out(runs: Runs, tmp_path: Path) -> None:
    """A later prompt has the answers and not the notes: such a row would teach answers without their cause."""

    def noted() -> Any:
        return reviewed_lesson(leak_judge, replace(student, note="leak_judge"))

    said = script(leak_judge=[{"reveals": "nothing", **ACCEPT}])
    transcript = await runs.play(said, graph=noted)
    assert [turn.role for turn in transcript.turns].count("student") == 2
    with pytest.raises(ExportError, match=r"left out: 1 notes lost .*export without `whole_dialogue`"):
        export(runs.path, Request(format="sft", role="student", whole_dialogue=True), out=tmp_path / "out")
    assert export(runs.path, Request(format="sft", whole_dialogue=True), out=tmp_path / "tutor").rows == 1
    export(runs.path, Request(format="sft", role="student"), out=tmp_path / "turns")
    for row, turn in zip(rows_of(tmp_path / "turns"), transcript.turns[1::2], strict=True):
        assert row["prompt"] == runs.sent[turn.attempts[0].call.prompt_sha256]


async def test_what_a_role_thought_before_it_spoke_is_learnt_only_where_asked_for(runs: Runs, tmp_path: Path) -> None:
    class Planned(Utterance):
        plan: str
        doubts: list[str]

    def planned() -> Any:
        return reviewed_lesson(leak_judge, replace(student, reply=Planned))

    reply = {"plan": "Ask back.", "doubts": ["sixths?"], "utterance": "Why sixths?"}
    await runs.play(script(student=[reply], leak_judge=[{"reveals": "nothing", **ACCEPT}]), graph=planned)
    export(runs.path, Request(format="sft", role="student"), out=tmp_path / "said")
    assert {row["completion"][0]["content"] for row in rows_of(tmp_path / "said")} == {"Why sixths?"}
    for role, completion in (("student", orjson.dumps(reply).decode()), ("tutor", None)):
        export(runs.path, Request(format="sft", role=role, with_private=True), out=tmp_path / role)
        said = rows_of(tmp_path / role)[0]["completion"][0]["content"]
        assert said == (completion or runs.transcripts[0].turns[0].text)


async def test_a_reviewer_learns_from_each_of_its_reviews(runs: Runs, tmp_path: Path) -> None:
    transcript = await runs.play(script(**SENT_BACK_ONCE))
    export(runs.path, Request(format="sft", role="critic", unchecked=True), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    verdicts = [orjson.loads(row["completion"][0]["content"]) for row in rows]
    assert verdicts == [REVISE, ACCEPT, ACCEPT]
    reviews = [attempt.reviews[0] for turn in transcript.turns for attempt in turn.attempts if attempt.reviews]
    calls = [review.call for review in reviews if review.call]
    assert [row["prompt"] for row in rows] == [runs.sent[call.prompt_sha256] for call in calls]
    assert len({row["id"] for row in rows}) == len(rows)


async def test_a_reviewer_with_a_schema_of_its_own_learns_what_it_replied(runs: Runs, tmp_path: Path) -> None:
    reply = {"reveals": "part", **ACCEPT}
    transcript = await runs.play(script(leak_judge=[reply]), graph=judged_lesson)
    export(runs.path, Request(format="sft", role="leak_judge", unchecked=True), out=tmp_path / "out")
    [review] = transcript.turns[0].attempts[0].reviews
    assert review.scores == {"reveals": 0.5}
    rows = rows_of(tmp_path / "out")
    assert [row["completion"][0]["content"] for row in rows] == [review.reply] * len(rows) != []
    assert orjson.loads(rows[0]["completion"][0]["content"]) == reply


async def test_a_checker_of_claims_learns_what_it_found_and_not_the_review_made_of_it(
    runs: Runs, tmp_path: Path
) -> None:
    fact, claim = "A hexagon has six sides.", "A hexagon has 6 sides."
    found = {"findings": [{"claim": 1, "source": 1, "quote": fact, "verdict": "supported"}]}
    brief = Brief(id="hexagon", topic="hexagons", facts=(fact,))
    said = script(tutor=[claim], claim_checker=[found])
    transcript = await runs.play(said, graph=checked_lesson, brief=brief)
    review = transcript.turns[0].attempts[0].reviews[0]
    assert review.claims and review.scores
    export(runs.path, Request(format="sft", role="claim_checker"), out=tmp_path / "out")
    assert orjson.loads(rows_of(tmp_path / "out")[0]["completion"][0]["content"]) == found


@pytest.mark.parametrize(
    "made", [{"scores": {"clarity": 0.5}}, {"claims": [Claim(text="x", span="x", verdict="supported")]}]
)
async def test_a_review_whose_reply_is_not_there_is_left_out_and_counted(
    runs: Runs, tmp_path: Path, made: dict[str, Any]
) -> None:
    """As in runs made before replies were kept."""

    def without_reply(turn: Turn) -> Turn:
        if turn.index:
            return turn
        [attempt] = turn.attempts
        reviews = [review.model_copy(update=made) for review in attempt.reviews]
        return turn.model_copy(update={"attempts": [attempt.model_copy(update={"reviews": reviews})]})

    await runs.play(script(), change=without_reply)
    summary = export(runs.path, Request(format="sft", role="critic", unchecked=True), out=tmp_path / "out")
    assert [row["turn"] for row in rows_of(tmp_path / "out")] == [2]
    assert summary.left_out == {"reply lost": 1}


async def test_each_member_of_a_panel_has_a_row_of_its_own(runs: Runs, tmp_path: Path) -> None:
    def twice(turn: Turn) -> Turn:
        attempts = [each.model_copy(update={"reviews": [*each.reviews, *each.reviews]}) for each in turn.attempts]
        return turn.model_copy(update={"attempts": attempts})

    await runs.play(script(), change=twice)
    export(runs.path, Request(format="sft", role="critic", unchecked=True, dedup="none"), out=tmp_path / "out")
    ids = [row["id"] for row in rows_of(tmp_path / "out")]
    assert ids == ["d0/0/0/critic", "d0/0/0/critic/1", "d0/2/0/critic", "d0/2/0/critic/1"]


async def test_a_role_that_assesses_learns_from_its_assessments(runs: Runs, tmp_path: Path) -> None:
    ruling = {"proponent_answer": "5/6", "opponent_answer": "2/5", "agreed": False}
    said: dict[str, Script] = {
        "proponent": numbered("It is 5/6."),
        "opponent": numbered("It is 2/5."),
        "moderator": [ruling],
    }
    brief = Brief(question="What is 1/2 + 1/3?", answer=("5/6",), misconception=Misconception(belief="Add the tops."))
    await runs.play(said, graph=debate, brief=brief)
    export(runs.path, Request(format="sft", role="moderator"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [orjson.loads(row["completion"][0]["content"]) for row in rows] == [ruling, ruling]


async def test_dpo_pairs_each_draft_that_was_sent_back_with_the_accepted_one(runs: Runs, tmp_path: Path) -> None:
    transcript = await runs.play(script(critic=[WORSE, REVISE, ACCEPT]))
    export(runs.path, Request(format="dpo"), out=tmp_path / "out")
    drafts = transcript.turns[0].attempts
    rows = rows_of(tmp_path / "out")
    assert [row["rejected"][0]["content"] for row in rows] == [drafts[0].text, drafts[1].text]
    assert all(row["chosen"] == [{"role": "assistant", "content": drafts[2].text}] for row in rows)
    assert all(row["prompt"] == runs.sent[drafts[0].call.prompt_sha256] for row in rows)
    assert all(row["issues_fixed"] == ["leak"] for row in rows)
    assert [row["id"] for row in rows] == ["d0/0/0", "d0/0/1"]
    assert rows[0]["margin"] is None


async def test_dpo_has_the_margin_of_the_scores_that_both_drafts_have(runs: Runs, tmp_path: Path) -> None:
    scores = iter([{"clarity": 0.25, "warmth": 0.0}, {"clarity": 0.75}])

    def score(turn: Turn) -> Turn:
        attempts = []
        for attempt in turn.attempts if turn.index == 0 else ():
            critic, *others = attempt.reviews
            scored = critic.model_copy(update={"scores": next(scores)})
            attempts.append(attempt.model_copy(update={"reviews": [scored, *others]}))
        return turn.model_copy(update={"attempts": attempts or turn.attempts})

    await runs.play(script(**SENT_BACK_ONCE), change=score)
    export(runs.path, Request(format="dpo"), out=tmp_path / "out")
    [row] = rows_of(tmp_path / "out")
    assert (row["score_chosen"], row["score_rejected"], row["margin"]) == (0.75, 0.25, 0.5)


async def test_pairs_that_teach_nothing_are_left_out_and_counted(runs: Runs, tmp_path: Path) -> None:
    def revise(dimension: str) -> dict[str, Any]:
        return {"verdict": "revise", "issues": [{**REVISE["issues"][0], "dimension": dimension}]}

    def with_draft(text: Callable[[Turn], str], which: int = 0) -> Callable[[Turn], Turn]:
        def change(turn: Turn) -> Turn:
            attempts = list(turn.attempts)
            if len(attempts) > 1:
                attempts[which] = attempts[which].model_copy(update={"text": text(turn)})
            return turn.model_copy(update={"attempts": attempts})

        return change

    still_wrong = {**revise("tone"), "verdict": "accept"}
    same = with_draft(lambda turn: f"{turn.text.replace(' ', '  ')}\n")
    twice = with_draft(lambda turn: turn.attempts[0].text, which=1)
    await runs.play(script(**SENT_BACK_ONCE), id_="good")
    await runs.play(script(**SENT_BACK_ONCE), id_="identical", change=same)
    await runs.play(script(critic=[WORSE, REVISE, ACCEPT]), id_="repeated", change=twice)
    await runs.play(script(critic=[revise("tone"), still_wrong, ACCEPT]), id_="nothing mended")
    await runs.play(script(critic=[REVISE, REVISE, ACCEPT]), id_="forced")
    summary = export(runs.path, Request(format="dpo"), out=tmp_path / "out")
    assert [row["dialogue"] for row in rows_of(tmp_path / "out")] == ["good", "repeated"]
    assert summary.left_out == {"identical": 1, "repeated": 1, "nothing mended": 1, "forced": 1}
    assert "left out: 1 forced" in str(summary)
    assert (
        "| forced | the reviewers still refused what was said: no revision was better | 1 |"
        in card_of(tmp_path / "out")[1]
    )


async def test_forced_turns_are_left_out_unless_they_are_asked_for(runs: Runs, tmp_path: Path) -> None:
    transcript = await runs.play(script(critic=[REVISE, REVISE, ACCEPT]))
    assert any(attempt.forced for attempt in transcript.turns[0].attempts)
    without = export(runs.path, Request(format="sft"), out=tmp_path / "without")
    assert [row["turn"] for row in rows_of(tmp_path / "without")] == [2]
    assert without.left_out == {"forced": 1}
    kept = export(runs.path, Request(format="sft", forced=True), out=tmp_path / "with")
    assert [row["turn"] for row in rows_of(tmp_path / "with")] == [0, 2]
    assert not kept.left_out
    assert "Refused turns are in it" in card_of(tmp_path / "with")[1]
    assert "Refused turns are in it" not in card_of(tmp_path / "without")[1]


async def test_a_whole_dialogue_with_a_turn_that_was_refused_is_none_for_a_trainer_that_learns_all(
    runs: Runs, tmp_path: Path
) -> None:
    await runs.play(script(), id_="good")
    await runs.play(script(critic=[REVISE, REVISE, ACCEPT]), id_="forced")
    summary = export(runs.path, Request(format="sft", whole_dialogue=True), out=tmp_path / "out")
    assert [row["dialogue"] for row in rows_of(tmp_path / "out")] == ["good"]
    assert summary.left_out == {"masked": 1}
    kept = export(runs.path, Request(format="sft", whole_dialogue=True, forced=True), out=tmp_path / "with")
    assert (kept.rows, kept.left_out) == (2, {})


async def test_only_completed_dialogues_are_exported_and_of_a_retried_one_the_last(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script(), id_="retried")
    await runs.play(script(), id_="failed", outcome=Outcome(status="failed", reason="endpoint_unreachable"))
    await runs.play(script(tutor=["Anew?", "Once more?"]), id_="retried", outcome=completed("mastered"))
    summary = export(runs.path, Request(format="sft"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert [row["completion"][0]["content"] for row in rows] == ["Anew?", "Once more?"]
    assert summary.outcomes == {("failed", "endpoint_unreachable"): 1, ("completed", "mastered"): 1}


async def test_a_prompt_that_was_lost_costs_its_rows_and_is_counted(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    path = runs.path / "messages.jsonl"
    lost = runs.transcripts[0].turns[2].attempts[0].call.prompt_sha256
    path.write_bytes(
        b"".join(line for line in path.read_bytes().splitlines(True) if not line[11:].startswith(lost.encode()))
    )
    summary = export(runs.path, Request(format="sft"), out=tmp_path / "out")
    assert [row["turn"] for row in rows_of(tmp_path / "out")] == [0]
    assert summary.left_out == {"prompt lost": 1}


@pytest.mark.parametrize("format_", ["sft", "dpo"])
async def test_parquet_and_jsonl_hold_the_same_rows(runs: Runs, tmp_path: Path, format_: Any) -> None:
    await runs.play(script(**SENT_BACK_ONCE))
    for files in ("parquet", "jsonl"):
        export(runs.path, Request(format=format_, files=files), out=tmp_path / files)
    rows = rows_of(tmp_path / "parquet")
    assert rows == rows_of(tmp_path / "jsonl") != []
    assert [list(row) for row in rows] == [list(row) for row in rows_of(tmp_path / "jsonl")]


async def test_shards_are_numbered_as_the_hub_numbers_them_and_all_have_the_same_types(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await runs.play(script(critic=[REVISE, ACCEPT]), id_=f"d{number}")
    monkeypatch.setattr(training_files, "BATCH", 1)
    monkeypatch.setattr(training_files, "SHARD_BYTES", 1)
    for files in ("parquet", "jsonl"):
        export(runs.path, Request(format="dpo", files=files, dedup="none"), out=tmp_path / files)
        names = sorted(path.name for path in (tmp_path / files / "data").iterdir())
        assert names == [f"train-{number:05d}-of-00003.{files}" for number in range(3)]
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "parquet" / "data").iterdir())]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    assert {schemas[0].field(name).type.value_type for name in ("prompt", "chosen", "rejected")} == {message}
    assert schemas[0].field("issues_fixed").type.value_type == pa.string()
    whole = pq.ParquetDataset(tmp_path / "parquet" / "data").read()
    assert whole.num_rows == 3
    metadata = pq.ParquetFile(next((tmp_path / "parquet" / "data").iterdir())).metadata
    assert metadata.row_group(0).column(0).compression == "ZSTD"


async def test_the_numbers_of_the_card_are_those_of_the_files(runs: Runs, tmp_path: Path) -> None:
    brief = BRIEF.model_copy(update={"language": "en"})
    await runs.play(script(**SENT_BACK_ONCE), id_="a", brief=brief)
    await runs.play(script(), id_="b", brief=brief)
    await runs.play(script(), id_="c", outcome=Outcome(status="discarded", reason="leak"))
    summary = export(runs.path, Request(format="sft"), out=tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    front, body = card_of(tmp_path / "out")
    mean = {
        name: sum(len(m["content"]) for row in rows for m in row[name]) / len(rows) for name in summary.mean_characters
    }
    assert set(mean) == {"prompt", "completion"}
    for line in (
        "| rows | 4 |",
        "| completed dialogues | 2 |",
        "| turns in them, of all roles | 8 |",
        f"| mean characters of `prompt` | {mean['prompt']:,.1f} |",
        f"| mean characters of `completion` | {mean['completion']:,.1f} |",
        "| completed | `out_of_turns` | 2 |",
        "| discarded | `leak` | 1 |",
        "| `tutor` | `scripted` | 5 |",
        "| `student` | `scripted` | 4 |",
        "| `critic` | `scripted` | 5 |",
        "| `fractions` | 2 |",
        "| synthetic | 1 | 2 |",
    ):
        assert line in body.splitlines()
    assert front["size_categories"] == ["n<1K"]
    assert front["language"] == ["en"]
    assert {"synthetic", "tutelage", "sft"} <= set(front["tags"])
    assert front["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
    ]
    for column in rows[0]:
        assert f"| `{column}` |" in body


@pytest.mark.parametrize("format_", ["sft", "dpo"])
async def test_the_card_names_the_types_that_the_files_have(runs: Runs, tmp_path: Path, format_: Any) -> None:
    """`datasets` guesses the types of JSONL from its first lines otherwise; a YAML alias makes it fail."""
    await runs.play(script(**SENT_BACK_ONCE))
    export(runs.path, Request(format=format_), out=tmp_path / "out")
    schema = pq.read_schema(next((tmp_path / "out" / "data").iterdir()))

    def feature(type_: pa.DataType) -> dict[str, Any]:
        if pa.types.is_list(type_):
            within = feature(type_.value_type)
            return {"list": within.get("struct") or within["dtype"]}
        if pa.types.is_struct(type_):
            return {"struct": [{"name": each.name, **feature(each.type)} for each in type_]}
        return {"dtype": {"double": "float64"}.get(str(type_), str(type_))}

    front, _ = card_of(tmp_path / "out")
    assert front["dataset_info"]["features"] == [{"name": each.name, **feature(each.type)} for each in schema]
    assert "&id" not in (tmp_path / "out" / "README.md").read_text()


async def test_the_card_says_that_the_embedded_model_is_for_trying_out(runs: Runs, tmp_path: Path) -> None:
    def by(model: str) -> Callable[[Turn], Turn]:
        def change(turn: Turn) -> Turn:
            attempts = [
                a.model_copy(update={"call": a.call.model_copy(update={"model": model})}) for a in turn.attempts
            ]
            return turn.model_copy(update={"attempts": attempts})

        return change

    assert SMOLLM2.name in TRIAL_MODELS
    await runs.play(script(), change=by("large"))
    export(runs.path, Request(format="sft"), out=tmp_path / "large")
    assert "For trying out" not in card_of(tmp_path / "large")[1]
    await runs.play(script(), id_="d1", change=by(SMOLLM2.name))
    export(runs.path, Request(format="sft"), out=tmp_path / "small")
    assert "For trying out, not for training" in card_of(tmp_path / "small")[1]


async def test_names_from_outside_cannot_break_the_card(runs: Runs, tmp_path: Path) -> None:
    def by(turn: Turn) -> Turn:
        call = turn.attempts[0].call.model_copy(update={"model": "a|b`\n# <script>", "adapter": "v2"})
        return turn.model_copy(update={"attempts": [turn.attempts[0].model_copy(update={"call": call})]})

    await runs.play(script(), change=by)
    export(runs.path, Request(format="sft"), out=tmp_path / "out")
    _, body = card_of(tmp_path / "out")
    assert "<script" not in body
    assert "| `tutor` | `a b  #  script +v2` | 2 |" in body.splitlines()


async def test_the_same_run_gives_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script(**SENT_BACK_ONCE))
    for name in ("one", "two"):
        export(runs.path, Request(format="sft"), out=tmp_path / name)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


async def test_a_folder_that_is_not_empty_is_refused_unless_forced(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    out = tmp_path / "deep" / "out"
    export(runs.path, Request(format="sft"), out=out)
    before = (out / "README.md").read_bytes()
    with pytest.raises(ExportError, match="not empty"):
        export(runs.path, Request(format="sft", role="student"), out=out)
    assert (out / "README.md").read_bytes() == before
    export(runs.path, Request(format="sft", role="student", files="jsonl"), out=out, force=True)
    assert {row["role"] for row in rows_of(out)} == {"student"}
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "data", "export.json"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


async def test_an_empty_folder_is_taken(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    (tmp_path / "out").mkdir()
    assert export(runs.path, Request(format="sft"), out=tmp_path / "out").rows == len(rows_of(tmp_path / "out")) == 2


async def test_what_is_no_export_is_never_replaced(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    with pytest.raises(ExportError, match="is no export"):
        export(runs.path, Request(format="sft"), out=runs.path, force=True)
    export(runs.path, Request(format="sft"), out=tmp_path / "out")
    (tmp_path / "out" / "checkpoint").touch()
    with pytest.raises(ExportError, match=r"holds more than an export \(checkpoint\)"):
        export(runs.path, Request(format="sft"), out=tmp_path / "out", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is a file"):
        export(runs.path, Request(format="sft"), out=tmp_path / "file", force=True)
    assert (runs.path / "messages.jsonl").exists()


async def test_a_failed_export_leaves_what_was_there_and_nothing_else(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runs.play(script())
    out = tmp_path / "exports" / "out"
    export(runs.path, Request(format="sft"), out=out)
    before = rows_of(out)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_files.Parquet, "write", full)
    with pytest.raises(ExportError, match="No space left"):
        export(runs.path, Request(format="sft"), out=out, force=True)
    assert rows_of(out) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


async def test_an_earlier_export_comes_back_when_the_new_one_cannot_take_its_place(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runs.play(script())
    out = tmp_path / "exports" / "out"
    export(runs.path, Request(format="sft"), out=out)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.suffix == ".new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match="Input/output error"):
        export(runs.path, Request(format="sft", role="student"), out=out, force=True)
    assert {row["role"] for row in rows_of(out)} == {"tutor"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


async def test_an_unknown_role_is_answered_with_the_roles_there_are(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    with pytest.raises(ExportError, match=r"'tutr' never speaks.*rows of tutor, critic, fact_checker, student$"):
        export(runs.path, Request(format="sft", role="tutr"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_only_roles_that_have_rows_are_offered(runs: Runs, tmp_path: Path) -> None:
    """A solver is called, and neither speaks nor judges; without a draft sent back there is no pair of anybody."""

    def solved(turn: Turn) -> Turn:
        return turn.model_copy(
            update={"steps": [Step(kind="solution", role="solver", text="5/6", call=turn.attempts[0].call)]}
        )

    await runs.play(script(), change=solved)
    for role in ("tutr", "solver"):
        with pytest.raises(ExportError, match=r"there are rows of tutor, critic, fact_checker, student$"):
            export(runs.path, Request(format="sft", role=role), out=tmp_path / "out")
    with pytest.raises(ExportError, match=r"there are rows of none$"):
        export(runs.path, Request(format="dpo", role="tutr"), out=tmp_path / "out")


async def test_a_role_whose_drafts_were_all_sent_back_is_said_to_be_one(runs: Runs, tmp_path: Path) -> None:
    def refused(transcript: Transcript) -> Transcript:
        tutor, student = transcript.turns[:2]
        drafts = [attempt.model_copy(update={"status": "rejected"}) for attempt in tutor.attempts]
        return transcript.model_copy(
            update={
                "turns": [student],
                "unfinished": Unfinished(role="tutor", attempts=drafts),
                "outcome": Outcome(status="discarded", reason="vetoed"),
            }
        )

    await runs.play(script(**SENT_BACK_ONCE), alter=refused)
    with pytest.raises(ExportError, match=r"'tutor' never speaks .* all 2 drafts of it were sent back. .*1 discarded"):
        export(runs.path, Request(format="sft"), out=tmp_path / "out")


async def test_no_rows_are_an_error_that_says_why(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="no finished dialogue yet"):
        export(runs.path, Request(format="sft"), out=out)
    await runs.play(script(), id_="bad", outcome=Outcome(status="failed", reason="wrong_shape"))
    with pytest.raises(ExportError, match=r"no dialogue .* was completed.*1 failed \(wrong_shape\)"):
        export(runs.path, Request(format="sft"), out=out)
    await runs.play(script())
    with pytest.raises(ExportError, match="no draft of the role 'tutor' was sent back"):
        export(runs.path, Request(format="dpo"), out=out)
    with pytest.raises(ExportError, match="takes no turns"):
        export(runs.path, Request(format="sft", role="critic", whole_dialogue=True), out=out)
    assert not out.exists()


async def test_rows_that_are_all_left_out_are_an_error_that_says_why(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script(critic=[REVISE]))
    with pytest.raises(ExportError, match=r"left out: 2 forced .*the option `forced` keeps"):
        export(runs.path, Request(format="sft"), out=tmp_path / "out")
    with pytest.raises(ExportError, match="left out: 2 forced"):
        export(runs.path, Request(format="dpo"), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "rlhf"}, "no format 'rlhf': there is sft, dpo"),
        ({"format": "dpo", "forced": True}, "'dpo' has no option 'forced'"),
        ({"format": "dpo", "with_private": True}, "'dpo' has no option 'with_private'"),
        ({"format": "sft", "with_private": True, "whole_dialogue": True}, "nothing private"),
        ({"format": "dpo", "whole_dialogue": True}, "'dpo' has no option 'whole_dialogue'"),
    ],
)
def test_what_a_format_has_not_is_refused(runs: Runs, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        export(runs.path, Request(**options), out=tmp_path / "out")


async def test_parquet_without_pyarrow_says_what_to_install(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await runs.play(script())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"pip install 'tutelage\[export\]'"):
        export(runs.path, Request(format="sft"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(runs.path, Request(format="sft", files="jsonl"), out=tmp_path / "out").rows == 2


async def test_lines_that_cannot_be_read_are_named_and_counted(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcript = await runs.play(script())
    newer = transcript.as_line().replace(b"transcript/1", b"transcript/9").replace(b'"d0"', b'"d1"')
    with (runs.path / "transcripts" / "00000.jsonl").open("ab") as file:
        file.write(b'{"half": \n' + newer + b'{"schema":"tutelage.transc')
    (runs.path / "decisions.jsonl").write_bytes(b'{"id": "d0"}\n')
    summary = export(runs.path, Request(format="sft"), out=tmp_path / "out")
    assert (summary.rows, summary.unreadable) == (2, 4)
    told = capsys.readouterr().err
    assert [f"jsonl, line {line}: " in told for line in (1, 2, 3, 4)] == [True] * 4
    assert "tutelage.transcript/9" in told
    assert "4 lines" in str(summary)


@pytest.mark.parametrize("missing", ["numpy", "threadpoolctl"])
async def test_without_what_diversity_is_measured_with_the_card_does_without_it(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    await runs.play(script())
    export(runs.path, Request(format="sft"), out=tmp_path / "with")
    monkeypatch.setattr(contents, "find_spec", lambda name: None if name == missing else find_spec(name))
    export(runs.path, Request(format="sft"), out=tmp_path / "without")
    assert "Vendi" in card_of(tmp_path / "with")[1]
    assert "Vendi" not in card_of(tmp_path / "without")[1]


@pytest.mark.parametrize("name", [".", "..", "/"])
async def test_a_folder_that_is_named_by_its_place_alone_is_refused(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    await runs.play(script())
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ExportError, match="name a folder in it"):
        export(runs.path, Request(format="sft"), out=name)


async def test_a_run_that_is_named_twice_is_refused(runs: Runs, tmp_path: Path) -> None:
    await runs.play(script())
    with pytest.raises(ExportError, match="named twice"):
        export([runs.path, tmp_path / "." / runs.path.name], Request(format="sft"), out=tmp_path / "out")


async def test_the_card_names_no_person(runs: Runs, tmp_path: Path) -> None:
    """Label Studio knows people by their e-mail addresses."""
    await runs.play(script())
    people = ("ada@school.example", "ben@school.example")
    lines = [{"id": "d0", "turn": turn, "by": by, "decision": "keep"} for turn in (0, 2) for by in people]
    (runs.path / "decisions.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    export(runs.path, Request(format="sft"), out=tmp_path / "out")
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert b"school.example" not in written
    assert "| `person 2` | 2 |" in card_of(tmp_path / "out")[1].splitlines()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "dpo", "minimal_edit": True, "pairs": "people"}, "is about revisions"),
        ({"format": "dpo", "gap": 0.2, "pairs": "revisions"}, "is about siblings"),
        ({"format": "sft", "near": 0.5}, "says what near-duplicates are"),
        ({"format": "grpo", "drop_artefacts": True}, "nothing that is imitated"),
    ],
)
async def test_options_that_would_change_nothing_are_refused(
    runs: Runs, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    await runs.play(script())
    with pytest.raises(ExportError, match=said):
        export(runs.path, Request(**options), out=tmp_path / "out")
