"""`tutelage show`: what a person sees of a run."""

import io
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tutelage.dialogue.brief import Brief, Misconception
from tutelage.dialogue.prompt import Message, Prompt
from tutelage.dialogue.turn import Attempt, Call, Issue, Outcome, Review, Step, Turn
from tutelage.errors import RunFolderError
from tutelage.transcripts.display import LISTED, show
from tutelage.transcripts.messages import MessageLog
from tutelage.transcripts.terminal import clean
from tutelage.transcripts.transcript import GraphIdentity, Transcript, Unfinished, Usage, calls_of

BEGUN = datetime(2026, 11, 22, 8, tzinfo=UTC)
HOSTILE = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202etxt\u2066\r\x00[bold]loud[/bold] [link=http://evil]here[/link] :smile:"
ACCEPTED = "What would 1/2 and 1/3 be in sixths?"
LEAK = Issue(
    dimension="leak",
    severity="block",
    span="it is 5/6",
    evidence="The answer is 5/6.",
    instruction="Ask, and do not tell.",
)


def call(prompt: str = "0" * 64, model: str = "Qwen/Qwen3-32B") -> Call:
    return Call(
        model=model, prompt_sha256=prompt, prompt_tokens=1200, cached_tokens=700, completion_tokens=34, seconds=2
    )


def review(role: str, *issues: Issue) -> Review:
    return Review(role=role, verdict="revise" if issues else "accept", issues=list(issues), call=call())


def attempt(text: str, status: Any = "accepted", reviews: Sequence[Review] = (), *, forced: bool = False) -> Attempt:
    return Attempt(text=text, status=status, forced=forced, call=call(), reviews=list(reviews))


def turn(index: int, role: str, *attempts: Attempt, steps: Sequence[Step] = (), **more: Any) -> Turn:
    said = next(each.text for each in attempts if each.status == "accepted")
    return Turn(index=index, role=role, text=said, attempts=list(attempts), steps=list(steps), **more)


def transcript(id_: str, turns: Sequence[Turn] = (), **more: Any) -> Transcript:
    usage = Usage.of(calls_of(list(turns)))
    values: dict[str, Any] = {
        "run": "fractions",
        "graph": GraphIdentity(name="lesson", sha256="0" * 64),
        "brief": Brief(
            id="add", topic="adding fractions", question="What is 1/2 + 1/3?", answer=("5/6", "five sixths")
        ),
        "outcome": Outcome(status="completed", reason="mastered"),
        "started": BEGUN,
        "finished": BEGUN + timedelta(seconds=32.5),
    }
    return Transcript(id=id_, turns=list(turns), usage=usage, **(values | more))


def reviewed_lesson() -> Transcript:
    """One turn that was sent back once, one that was forced, and the student's."""
    sent_back = attempt("Easy: it is 5/6.", "rejected", [review("critic", LEAK), review("fact_checker")])
    accepted = attempt(ACCEPTED, reviews=[review("critic"), review("fact_checker")])
    misfit = Step(kind="misfit", role="critic", text="I think it is fine, really! {", call=call())
    forced = attempt("Well, 5/6.", reviews=[review("critic", LEAK)], forced=True)
    worse = attempt("It is 5/6, I said.", "rejected", [review("critic", LEAK, LEAK)])
    turns = [
        turn(0, "tutor", sent_back, accepted, steps=[misfit]),
        turn(1, "student", attempt("Is it 2/5?")),
        turn(2, "tutor", forced, worse),
        turn(3, "student", attempt("Oh, 5/6.")),
    ]
    return transcript("aaaa1111", turns)


def run_of(tmp_path: Path, *transcripts: Transcript, tail: bytes = b"") -> Path:
    run = tmp_path / "fractions"
    (run / "transcripts").mkdir(parents=True)
    lines = [each.model_dump_json(by_alias=True).encode() + b"\n" for each in transcripts]
    (run / "transcripts" / "00000.jsonl").write_bytes(b"".join(lines) + tail)
    return run


def printed(run: Path, *, width: int = 80, terminal: bool = False, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    show(run, console=console, **options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def in_order(text: str, *parts: str) -> bool:
    """Whether all parts are in the text, each after the one before."""
    return re.search(".*".join(map(re.escape, parts)), text, re.DOTALL) is not None


def test_a_dialogue_reads_from_brief_to_ending(tmp_path: Path) -> None:
    misconception = Misconception(belief="Add the tops and the bottoms.", predicts="2/5")
    brief = reviewed_lesson().brief.model_copy(update={"misconception": misconception, "facts": ("1/2 is 3/6.",)})
    text = printed(run_of(tmp_path, reviewed_lesson().model_copy(update={"brief": brief})), id="aaaa1111")
    assert in_order(text, "adding fractions", "What is 1/2 + 1/3?", "5/6 · five sixths", "2/5", "1/2 is 3/6.")
    assert in_order(text, "1  Tutor", ACCEPTED, "2  Student", "Is it 2/5?", "3  Tutor", "Well, 5/6.", "4  Student")
    assert in_order(text, "4  Student", "✓ completed: mastered", "Qwen/Qwen3-32B", "32.5 s")


def test_a_draft_that_was_sent_back_is_set_apart_and_says_why(tmp_path: Path) -> None:
    text = printed(run_of(tmp_path, reviewed_lesson()), id="aaaa1111")
    assert in_order(text, "│ draft 1, sent back", "│   Easy: it is 5/6.", "│ ✗ Critic: revise", ACCEPTED)
    assert in_order(text, "block · leak, at “it is 5/6”", "→ Ask, and do not tell.", "for: The answer is 5/6.")
    assert "│ ✓ Fact checker: accept" in text
    assert f"\n   {ACCEPTED}\n" in text, "what was said stands without a bar"


def test_a_forced_turn_says_which_draft_was_kept_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    text = printed(run_of(tmp_path, reviewed_lesson()), id="aaaa1111")
    assert "3  Tutor   forced: no revision was better, so draft 1 was said all the same" in text
    assert in_order(text, "3  Tutor", "draft 2, sent back", "   Well, 5/6.", "with these remarks", "✗ Critic: revise")
    assert text.count("forced") == 1


def test_steps_are_shown_with_their_turn(tmp_path: Path) -> None:
    ruling = Step(kind="assessment", role="moderator", text='{"agreed":false,"why":"one doubts"}', call=call())
    said = turn(0, "tutor", attempt("Hello."), steps=[ruling], private={"moderator": {"agreed": False}, "plan": "wait"})
    text = printed(run_of(tmp_path, transcript("a1", [said]), reviewed_lesson()), id="a1")
    assert in_order(text, "│ Moderator, assessment", "│ agreed: false", "│ why: one doubts")
    assert in_order(text, "│ Tutor kept to itself", "│ plan: wait")
    text = printed(tmp_path / "fractions", id="aaaa")
    assert in_order(
        text, "│ Critic gave a reply that does not fit, and was asked again", "│ I think it is fine, really!"
    )


def test_a_failed_dialogue_shows_what_there_was_and_why_it_ended(tmp_path: Path) -> None:
    failed = transcript(
        "f1",
        [turn(0, "tutor", attempt("Hello."))],
        unfinished=Unfinished(attempts=[attempt("So, 5/6?", "pending", [review("critic", LEAK)])]),
        outcome=Outcome(status="failed", reason="context_exceeded", detail="9000 tokens do not fit 8192"),
    )
    text = printed(run_of(tmp_path, failed), id="f1")
    assert in_order(text, "never finished", "still under review", "So, 5/6?", "leak", "✗ failed: context_exceeded")
    assert "9000 tokens do not fit 8192" in text


def test_calls_and_tokens_are_summed_by_role_at_the_end(tmp_path: Path) -> None:
    text = printed(run_of(tmp_path, reviewed_lesson()), id="aaaa1111")
    rows = {line.split()[0]: line.split() for line in text.partition("completed: mastered")[2].splitlines() if line}
    assert rows["tutor"][2:] == ["4", "4,800", "2,800", "136", "8.0"]
    assert rows["critic"][2:] == ["5", "6,000", "3,500", "170", "10.0"]
    assert rows["all"][1:] == ["13", "15,600", "9,100", "442", "26.0"]


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal_nor_ends_in_spaces(tmp_path: Path, width: int) -> None:
    long = turn(0, "tutor", attempt("wide " * 60 + "w" * 300, reviews=[review("critic")]))
    run = run_of(tmp_path, reviewed_lesson(), transcript("b1", [long]))
    for text in (printed(run, width=width), *(printed(run, width=width, id=id_) for id_ in ("aaaa1111", "b1"))):
        assert max(map(len, text.splitlines())) <= width
        assert not [line for line in text.splitlines() if line != line.rstrip()]


def hostile() -> Transcript:
    issue = Issue(dimension="x\x1b[31m[b]", severity="minor", span="\x1b[2J", evidence="\x9b1m", instruction=HOSTILE)
    step = Step(kind="kind\x1b[5m", role="role\x07", text=HOSTILE, call=call())
    shaped = Step(kind="assessment", role="judge", text='{"\\u001b[1m": "\\u202e[bold]"}', call=call())
    draft = attempt(HOSTILE, "rejected", [review("critic\x1b", issue)])
    said = turn(0, f"tutor{HOSTILE}", draft, attempt(HOSTILE), steps=[step, shaped], private={"note\x1b": HOSTILE})
    brief = Brief(
        id=HOSTILE,
        topic=HOSTILE,
        question="q" + HOSTILE,
        answer=(HOSTILE,),
        misconception=Misconception(belief=HOSTILE, predicts="p" + HOSTILE),
        facts=(HOSTILE,),
        level=HOSTILE,
    )
    outcome = Outcome(status="failed", reason=HOSTILE, detail=HOSTILE)
    odd_call = call(model=HOSTILE).model_copy(update={"adapter": HOSTILE})
    unfinished = Unfinished(attempts=[Attempt(text=HOSTILE, status="pending", call=odd_call)], steps=[step])
    graph = GraphIdentity(name=HOSTILE, sha256="0")
    more = {"graph": graph, "unfinished": unfinished, "versions": {HOSTILE: HOSTILE}}
    return transcript("dd\x1b[31m", [said], brief=brief, outcome=outcome, **more)


def harmful(text: str) -> set[str]:
    """The characters of a text that a terminal would obey, or that turn a line about."""
    return {
        character
        for character in text
        if (unicodedata.category(character) == "Cc" and character not in "\n\t")
        or unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    }


@pytest.mark.parametrize("id_", [None, "dd"])
def test_no_control_code_and_no_override_of_direction_reaches_the_terminal(tmp_path: Path, id_: str | None) -> None:
    run = run_of(tmp_path, hostile())
    assert harmful(printed(run, id=id_, width=300)) == set()
    coloured = printed(run, id=id_, width=300, terminal=True)
    assert harmful(re.sub(r"\x1b\[[0-9;]*m", "", coloured)) == set(), "only our own colours"
    assert "\x1b]8" not in coloured, "no link"


def test_markup_in_what_was_said_is_shown_and_not_read(tmp_path: Path) -> None:
    text = printed(run_of(tmp_path, hostile()), id="dd", width=300)
    assert text.count("[bold]loud[/bold] [link=http://evil]here[/link] :smile:") >= 10
    assert "␛]0;owned␇" in text, "what was taken out is seen"


def test_an_error_that_names_hostile_dialogues_is_clean_too(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as raised:
        printed(run_of(tmp_path, hostile()), id="zz\x1b[31m")
    assert harmful(str(raised.value)) == set()


def test_clean_keeps_what_is_only_unusual() -> None:
    kept = "naïve «شكرا» 日本語 👩\N{ZERO WIDTH JOINER}🏫\ttab\nnext \N{RIGHT-TO-LEFT MARK}"
    assert clean(kept) == kept
    assert clean("one\r\ntwo\u2028three\rfour") == "one\ntwo\nthree␍four"


def numbered(count: int) -> list[Transcript]:
    return [
        transcript(f"{number:08x}", brief=Brief(id=str(number), topic=f"topic {number}")) for number in range(count)
    ]


def test_a_list_is_newest_last_and_says_how_many_are_left_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, *numbered(LISTED + 7))
    text = printed(run)
    assert in_order(text, "topic 7 ", f"topic {LISTED + 6} ", "… and 7 more before these; --all lists them")
    assert "topic 6 " not in text
    assert f"{LISTED + 7} dialogues: ✓ {LISTED + 7} completed" in text
    everything = printed(run, everything=True)
    assert in_order(everything, "topic 0 ", "topic 6 ", f"topic {LISTED + 6} ")
    assert "--all" not in everything


def test_a_list_says_how_each_dialogue_went(tmp_path: Path) -> None:
    failed = transcript("ffff0000", outcome=Outcome(status="failed", reason="wrong_shape"))
    discarded = transcript("dddd0000", outcome=Outcome(status="discarded", reason="role_flip"))
    text = printed(run_of(tmp_path, reviewed_lesson(), failed, discarded))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["aaaa1111"][1:] == ["adding", "fractions", "✓", "mastered", "4", "2", "16.0k"]
    assert lines["ffff0000"][3:] == ["✗", "wrong_shape", "0", "·", "0"]
    assert "3 dialogues: ✓ 1 completed, ~ 1 discarded, ✗ 1 failed" in text


def test_the_beginning_of_an_id_is_enough_if_no_other_begins_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, transcript("abc1"), transcript("abd2"), transcript("ab"))
    assert "abc1" in printed(run, id="abc")
    assert re.search(r"dialogue +ab\n", printed(run, id="ab")), "a whole id is never ambiguous"


def test_the_latest_dialogue_needs_no_id(tmp_path: Path) -> None:
    assert re.search(r"dialogue +xyz\n", printed(run_of(tmp_path, transcript("abc1"), transcript("xyz")), id="latest"))


def test_an_ambiguous_id_names_the_candidates(tmp_path: Path) -> None:
    run = run_of(tmp_path, transcript("abc1"), transcript("abd2"), transcript("xyz"))
    with pytest.raises(RunFolderError, match=r"2 dialogues begin with 'ab': abc1 \(adding fractions\); abd2 \(adding"):
        printed(run, id="ab")


def test_an_unknown_id_names_the_newest(tmp_path: Path) -> None:
    run = run_of(tmp_path, *numbered(9))
    with pytest.raises(RunFolderError, match="has no dialogue 'nope'") as raised:
        printed(run, id="nope")
    assert "00000008 (topic 8)" in str(raised.value)
    assert "00000003 " not in str(raised.value)


def test_a_run_without_dialogues_and_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert printed(run_of(tmp_path)) == "no dialogues yet\n"
    with pytest.raises(RunFolderError, match="is no run folder"):
        printed(tmp_path)


def test_a_retried_dialogue_is_shown_once_as_it_went_last(tmp_path: Path) -> None:
    first = transcript("a1", outcome=Outcome(status="failed", reason="wrong_shape"))
    run = run_of(tmp_path, first, transcript("a1", attempt=2))
    assert "1 dialogue: ✓ 1 completed" in printed(run)
    assert "a1, try 2" in printed(run, id="a1")


def test_a_line_that_cannot_be_read_is_named_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path, reviewed_lesson(), tail=b'{"schema":"tutelage.transcript/1","id":"torn')
    assert "1 dialogue:" in printed(run)
    captured = capsys.readouterr()
    assert "00000.jsonl, line 2: torn" in captured.err
    assert captured.out == ""


def sent(*messages: tuple[Any, str]) -> Prompt:
    return Prompt(tuple(Message(role, (text,)) for role, text in messages))


def run_with_prompts(tmp_path: Path) -> Path:
    first = sent(("system", "You are a tutor. \x1b[31m[bold]"), ("user", "Begin."))
    second = sent(
        ("system", "You are a tutor. \x1b[31m[bold]"), ("user", "Begin."), ("assistant", "A?"), ("user", "B.")
    )
    said = [
        turn(number * 2, "tutor", Attempt(text="A?", status="accepted", call=call(prompt.sha256)))
        for number, prompt in enumerate((first, second))
    ]
    lost = turn(3, "student", Attempt(text="B.", status="accepted", call=call("9" * 64)))
    run = run_of(tmp_path, transcript("p1", [*said, lost]))
    log = MessageLog()
    log.keep("p1", first)
    log.keep("p1", second)
    (run / "messages.jsonl").write_bytes(log.take())
    return run


def test_prompts_are_what_each_role_was_sent_and_what_it_was_sent_before_is_not_repeated(tmp_path: Path) -> None:
    text = printed(run_with_prompts(tmp_path), id="p1", prompts=True)
    assert in_order(text, "┊ Tutor was sent", "┊ [system]", "You are a tutor. ␛[31m[bold]", "┊ [user]", "Begin.", "A?")
    assert in_order(text, "3  Tutor", "┊ 2 messages as before, then", "┊ [assistant]", "A?", "┊ [user]", "B.")
    assert text.count("You are a tutor.") == 1
    assert harmful(text) == set()


def test_a_prompt_that_is_lost_is_named(tmp_path: Path) -> None:
    text = printed(run_with_prompts(tmp_path), id="p1", prompts=True)
    assert in_order(text, "┊ Student was sent", "messages.jsonl does not hold this prompt")


def test_prompts_of_a_run_that_kept_none_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no messages\.jsonl"):
        printed(run_of(tmp_path, reviewed_lesson()), id="aaaa1111", prompts=True)
