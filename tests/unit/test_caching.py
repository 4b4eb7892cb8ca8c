"""What the prefix caches of a run could have found, worked out from its prompts."""

import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from tutelage.dialogue.brief import Brief
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.turn import Attempt, Call, Outcome, Review, Step, Turn
from tutelage.transcripts import messages
from tutelage.transcripts.caching import CacheTally, CacheUse
from tutelage.transcripts.messages import MessageLog, PromptParts
from tutelage.transcripts.statistics import read_statistics
from tutelage.transcripts.transcript import GraphIdentity, Transcript, Usage

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)
SYSTEM = Message("system", ("S" * 100,))


def prompt(*said: str, system: Message = SYSTEM) -> Prompt:
    """A system prompt, then user and assistant by turns."""
    return Prompt((system, *(Message("assistant" if n % 2 else "user", (text,)) for n, text in enumerate(said))))


def call(asked: Prompt, *, found: int = 0, tokens: int | None = None, **more: Any) -> Call:
    """A call with one token for each character."""
    characters = sum(len(message.content) for message in asked.messages) if tokens is None else tokens
    values: dict[str, Any] = {"model": "base", "prompt_tokens": characters, "cached_tokens": found} | more
    return Call(prompt_sha256=asked.sha256, **values)


def turn(role: str, asked: Prompt, text: str, *reviews: Review, **more: Any) -> Turn:
    draft = Attempt(text=text, status="accepted", call=call(asked, **more), reviews=list(reviews))
    return Turn(index=0, role=role, text=text, attempts=[draft])


def dialogue(*turns: Turn, id_: str = "a") -> Transcript:
    return Transcript(
        id=id_,
        run="r",
        graph=GraphIdentity(name="lesson", sha256="0"),
        brief=Brief(topic="t"),
        turns=list(turns),
        usage=Usage(),
        outcome=Outcome(status="completed", reason="mastered"),
        started=NOW,
        finished=NOW,
    )


def log_of(*prompts: Prompt) -> bytes:
    log = MessageLog()
    for asked in prompts:
        log.keep("a", asked)
    return log.take()


def counted(lines: bytes, *dialogues: Transcript, block: int = 1) -> list[CacheUse]:
    tally = CacheTally(PromptParts(lines.splitlines(keepends=True)), block=block)
    for each in dialogues:
        tally.add(each)
    return tally.all()


def figures(uses: Iterable[CacheUse]) -> list[tuple[str, int, int, int]]:
    """By role: prompt tokens, and what could have been found within a dialogue and within the run."""
    return [(use.role, use.prompt_tokens, use.dialogue_tokens, use.run_tokens) for use in uses]


def test_the_next_prompt_of_a_view_finds_the_one_before_and_the_reply_to_it() -> None:
    first, second = prompt("q" * 40), prompt("q" * 40, "r" * 30, "n" * 20)
    said = dialogue(turn("tutor", first, "r" * 30), turn("tutor", second, "x"))
    [use] = counted(log_of(first, second), said)
    assert (use.prompt_tokens, use.dialogue_tokens) == (140 + 190, 170), "system, question and reply; not what is new"
    assert use.run_tokens == 170


def test_a_reply_that_stands_otherwise_in_the_next_prompt_is_not_found() -> None:
    first, second = prompt("q" * 40), prompt("q" * 40, "R" * 30, "n" * 20)
    [use] = counted(log_of(first, second), dialogue(turn("tutor", first, "r" * 30), turn("tutor", second, "x")))
    assert use.dialogue_tokens == 140


def test_candidates_of_one_request_are_one_call_that_finds_nothing_of_itself() -> None:
    first, second = prompt("q" * 40), prompt("q" * 40, "r" * 30, "n" * 20)
    best = Attempt(text="r" * 30, status="accepted", call=call(first, candidate=0))
    other = Attempt(text="o" * 30, status="superseded", call=call(first, tokens=0, candidate=1))
    begun = Turn(index=0, role="tutor", text=best.text, attempts=[other, best])
    [use] = counted(log_of(first, second), dialogue(begun, turn("tutor", second, "x")))
    assert (use.calls, use.prompt_tokens, use.dialogue_tokens) == (2, 140 + 190, 170), (
        "and the next finds what was said"
    )


def test_what_a_shaped_reply_was_word_for_word_is_not_known() -> None:
    first, second = prompt("q" * 40), prompt("q" * 40, "r" * 30, "n" * 20)
    shaped = Attempt(text="r" * 30, status="accepted", private={"plan": "wait"}, call=call(first))
    begun = Turn(index=0, role="tutor", text=shaped.text, attempts=[shaped])
    assert counted(log_of(first, second), dialogue(begun, turn("tutor", second, "x")))[0].dialogue_tokens == 140


def test_another_dialogue_has_the_system_prompt_for_the_run_but_not_for_itself() -> None:
    one, other = prompt("a" * 40), prompt("b" * 40)
    dialogues = dialogue(turn("tutor", one, "x")), dialogue(turn("tutor", other, "x"), id_="b")
    assert figures(counted(log_of(one, other), *dialogues)) == [("tutor", 280, 0, 100)]


def test_system_prompts_that_differ_in_their_middle_share_their_beginning() -> None:
    one, other = (prompt("q" * 40, system=Message("system", ("S" * 60 + topic * 40,))) for topic in "ab")
    dialogues = dialogue(turn("tutor", one, "x")), dialogue(turn("tutor", other, "x"), id_="b")
    assert figures(counted(log_of(one, other), *dialogues)) == [("tutor", 280, 0, 60)]


def test_a_model_finds_nothing_of_what_another_one_or_another_adapter_was_sent() -> None:
    asked = prompt("q" * 40)
    said = dialogue(
        turn("tutor", asked, "x"),
        turn("tutor", asked, "x", adapter="v2"),
        turn("tutor", asked, "x", model="small"),
        turn("tutor", asked, "x", adapter="v2"),
    )
    uses = counted(log_of(asked), said)
    assert [(use.player, use.run_tokens) for use in uses] == [("base", 0), ("base + v2", 140), ("small", 0)]


def test_reviewers_share_all_before_their_tasks() -> None:
    shown = ("script" * 20, "draft" * 10)
    critic, checker = (Prompt((SYSTEM, Message("user", (*shown, task)))) for task in ("Judge tone.", "Judge facts."))
    reviews = [
        Review(role=role, verdict="accept", call=call(asked))
        for role, asked in (("critic", critic), ("checker", checker))
    ]
    spoken = prompt("q" * 40)
    said = dialogue(turn("tutor", spoken, "x", *reviews))
    by_role = {use.role: use for use in counted(log_of(spoken, critic, checker), said)}
    assert by_role["critic"].dialogue_tokens == 100, "the system prompt, which the tutor's call left"
    assert by_role["checker"].dialogue_tokens == 100 + 120 + 2 + 50 + len("Judge ")


def test_a_repair_finds_what_was_asked_before_it() -> None:
    asked = prompt("q" * 40)
    repaired = Prompt((SYSTEM, Message("user", ("q" * 40, "Again." * 10))))
    misfit = Step(kind="misfit", role="tutor", text="", call=call(asked))
    said = turn("tutor", repaired, "x").model_copy(update={"steps": [misfit]})
    [use] = counted(log_of(asked, repaired), dialogue(said))
    assert abs(use.dialogue_tokens - 140) <= 1


def test_of_a_turn_the_shorter_prompt_came_first() -> None:
    """A transcript has a turn's steps after its drafts, and a plan is made before them."""
    planned, spoken = (
        prompt("q" * 40),
        Prompt((*prompt("q" * 40).messages[:-1], Message("user", ("q" * 40, "Plan: wait.")))),
    )
    step = Step(kind="plan", role="planner", text="wait", call=call(planned))
    said = turn("tutor", spoken, "x").model_copy(update={"steps": [step]})
    found = {use.role: use.dialogue_tokens for use in counted(log_of(planned, spoken), dialogue(said))}
    assert found["planner"] == 0
    assert found["tutor"] >= 139


def test_only_whole_blocks_count_where_that_is_asked() -> None:
    first, second = prompt("q" * 40), prompt("q" * 40, "r" * 30, "n" * 20)
    said = dialogue(turn("tutor", first, "r" * 30), turn("tutor", second, "x"))
    assert counted(log_of(first, second), said, block=16)[0].dialogue_tokens == 160
    assert counted(log_of(first, second), said, block=128)[0].dialogue_tokens == 128


def test_what_was_found_could_have_been_found() -> None:
    """By a server that was warm before the run began, or a text that takes more tokens where it begins."""
    asked = prompt("q" * 40)
    [use] = counted(log_of(asked), dialogue(turn("tutor", asked, "x", found=96)))
    assert (use.cached_tokens, use.dialogue_tokens, use.run_tokens) == (96, 0, 96)
    assert use.cached_share == use.run_share == round(96 / 140, 4)


def test_a_prompt_that_is_not_in_the_file_is_counted_as_such() -> None:
    known, lost = prompt("q" * 40), prompt("lost")
    torn = log_of(known) + orjson.dumps({"sha256": "ab" * 32})[:-9] + b"\n" + b'{"no": "record"}\n'
    said = dialogue(turn("tutor", lost, "x"), turn("tutor", known, "x"))
    [use] = counted(torn, said)
    assert (use.calls, use.unknown, use.prompt_tokens) == (2, 1, 140)


def test_parts_that_dialogues_share_are_found_long_after_they_were_written() -> None:
    """A log writes what dialogues share once; here thousands of dialogues come between."""
    log, dialogues = MessageLog(), []
    for number in range(3_000):
        asked = prompt(f"q{number}")
        log.keep(str(number), asked)
        log.forget(str(number))
        dialogues.append(dialogue(turn("tutor", asked, "x"), id_=str(number)))
    lines = log.take()
    assert lines.count(b"S" * 100) == 1
    [use] = counted(lines, *dialogues)
    assert use.unknown == 0
    assert use.run_tokens >= 2_999 * 100


def test_memory_follows_what_was_under_way_at_once_not_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(messages, "_MOST_BEHIND", 100)
    run = tmp_path / "r"
    (run / "transcripts").mkdir(parents=True)
    log = MessageLog()
    with (run / "messages.jsonl").open("wb") as parts, (run / "transcripts" / "00000.jsonl").open("wb") as lines:
        for number in range(1_000):
            asked = prompt(f"{number}" + "q" * 20_000)
            log.keep(str(number), asked)
            log.forget(str(number))
            parts.write(log.take())
            lines.write(dialogue(turn("tutor", asked, "x"), id_=str(number)).as_line())
    assert (run / "messages.jsonl").stat().st_size > 20_000_000
    tracemalloc.start()
    try:
        statistics = read_statistics(run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert statistics.caching[0].unknown == 0
    assert peak < 6_000_000
