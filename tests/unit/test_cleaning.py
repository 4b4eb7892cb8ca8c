"""Cleaning: what is dropped from an export's rows, why, and what stays as it was."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tutelage import Brief
from tutelage.dialogue.view import DRAFT
from tutelage.errors import ExportError
from tutelage.exports.cleaning.clean import LOG, clean, scrub_log
from tutelage.exports.export import export
from tutelage.exports.manifest import Manifest, read_manifest, write_manifest
from tutelage.exports.request import Request
from tutelage.exports.rows import SCRUBBED, LeftOut
from tutelage.quality import near_duplicates

Row = dict[str, Any]

SFT = Request(format="sft")
DPO = Request(format="dpo")
LONG = (
    "Look at the two fractions again and tell me which size the parts must have before you may add the one to the other"
)
ITEM = (
    "A farmer has three fields and in each of them stand forty-two old apple trees, how many trees does he own in all?"
)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def place(number: int, **columns: Any) -> Row:
    of_a_row = {"id": f"d{number}/0", "dialogue": f"d{number}", "brief": f"b{number}", "role": "tutor"}
    return {**of_a_row, "origin": "synthetic", "finish_reason": "stop", **columns}


def turn(number: int, said: str, heard: str = "I am not sure.", **columns: Any) -> Row:
    """A row of sft."""
    prompt = [message("system", f"You teach brief {number}."), message("user", heard)]
    return {
        "prompt": prompt,
        "completion": [message("assistant", said)],
        **place(number, score=None),
        **columns,
    }


def pair(number: int, chosen: str, rejected: str, margin: float | None = None) -> Row:
    """A row of dpo."""
    return {
        "prompt": [message("user", f"Question {number}?")],
        "chosen": [message("assistant", chosen)],
        "rejected": [message("assistant", rejected)],
        **place(number, margin=margin),
    }


def review(number: int, draft: str, verdict: str = '{"verdict":"accept","issues":[]}') -> Row:
    """A row of sft for a reviewer: the whole dialogue, the draft, and a task that is longer than the draft."""
    task = (
        f"You are the critic. {LONG}. Judge how the draft teaches.\n\nReply with JSON. {LONG}: copy it word for word."
    )
    script = f"The dialogue so far:\n\nStudent:\n\n{LONG}\n\nTutor, {DRAFT}\n\n{draft}\n\n{task}"
    return turn(number, verdict, script, role="critic")


def cleaned(rows: Iterable[Row], request: Request, folder: Path) -> tuple[list[tuple[str, Row]], Counter[LeftOut]]:
    left_out = Counter[LeftOut]()
    files = set(folder.iterdir())
    stay = list(clean(rows, request, left_out=left_out, folder=folder))
    assert set(folder.iterdir()) == files, "nothing that was put aside is left"
    return stay, left_out


def numbers(stay: list[tuple[str, Row]]) -> list[int]:
    return [int(row["dialogue"][1:]) for _, row in stay]


def numbered(count: int) -> list[str]:
    """Turns that have few words in common."""
    return [" ".join(f"word{number}x{place}" for place in range(20)) for number in range(count)]


@pytest.mark.parametrize("dedup", ["exact", "near"])
def test_of_forty_turns_repeated_ten_times_360_rows_go(dedup: Any, tmp_path: Path) -> None:
    rows = [turn(number, text) for number, text in enumerate(numbered(40) * 10)]
    stay, left_out = cleaned(rows, replace(SFT, dedup=dedup), tmp_path)
    assert numbers(stay) == list(range(40))
    assert left_out == {LeftOut.DUPLICATE: 360}
    assert [row for _, row in stay] == rows[:40], "what stays is what came in"


def test_without_deduplication_all_stay(tmp_path: Path) -> None:
    stay, left_out = cleaned([turn(1, "Well done!")] * 3, replace(SFT, dedup="none"), tmp_path)
    assert len(stay) == 3 and not left_out


def test_the_same_words_in_answer_to_something_else_are_no_duplicate(tmp_path: Path) -> None:
    rows = [
        turn(0, "Well done!", "It is 5/6."),
        turn(1, "Well done!", "It is 3/4."),
        turn(2, " well  DONE! ", "It is 5/6."),
    ]
    stay, left_out = cleaned(rows, SFT, tmp_path)
    assert numbers(stay) == [0, 1] and left_out == {LeftOut.DUPLICATE: 1}


def test_the_instructions_and_earlier_turns_do_not_count(tmp_path: Path) -> None:
    longer = turn(1, "Well done!")
    longer["prompt"][:0] = [message("user", "Begin."), message("assistant", "What is 1/2 + 1/3?")]
    assert numbers(cleaned([turn(0, "Well done!"), longer], SFT, tmp_path)[0]) == [0]


def test_near_duplicates_go_only_where_they_are_asked_to(tmp_path: Path) -> None:
    rows = [turn(0, LONG), turn(1, LONG.replace("the other", "another")), turn(2, "Something else, then, altogether.")]
    assert numbers(cleaned(rows, SFT, tmp_path)[0]) == [0, 1, 2]
    stay, left_out = cleaned(rows, replace(SFT, dedup="near"), tmp_path)
    assert numbers(stay) == [0, 2] and left_out == {LeftOut.NEAR_DUPLICATE: 1}


def test_a_reviewers_verdicts_on_different_drafts_are_no_duplicates(tmp_path: Path) -> None:
    """Neither the dialogue before the draft nor the task behind it makes them alike."""
    rows = [review(number, text) for number, text in enumerate(["Which size must the parts have?", "It is 5/6.", LONG])]
    rows += [review(3, LONG.replace("the other", "another")), review(4, LONG, '{"verdict":"revise","issues":[]}')]
    stay, left_out = cleaned(rows, replace(SFT, dedup="near", role="critic"), tmp_path)
    assert numbers(stay) == [0, 1, 2, 4] and left_out == {LeftOut.NEAR_DUPLICATE: 1}
    again = [review(0, "It is 5/6."), review(1, "It is 5/6.")]
    assert numbers(cleaned(again, SFT, tmp_path)[0]) == [0]


def test_other_labels_for_the_same_draft_are_no_duplicates(tmp_path: Path) -> None:
    rows = [turn(0, LONG, label=True), turn(1, LONG, label=False), turn(2, LONG, label=True)]
    for dedup in ("exact", "near"):
        stay, _ = cleaned(rows, Request(format="kto", dedup=dedup), tmp_path)
        assert numbers(stay) == [0, 1]


def test_pairs_steps_prompts_and_whole_dialogues_are_compared_by_what_is_learnt(tmp_path: Path) -> None:
    assert numbers(cleaned([pair(0, "Yes.", "No."), pair(0, "Yes.", "Nope.")], DPO, tmp_path)[0]) == [0, 0]
    steps = [
        {"prompt": "You teach.\n\nHello.\n\n", "completions": ["A", "B"], "labels": [True, right]}
        for right in (True, False)
    ]
    rows = [{**each, **place(number)} for number, each in enumerate([*steps, steps[0]])]
    assert numbers(cleaned(rows, Request(format="prm"), tmp_path)[0]) == [0, 1]
    rows = [
        {"prompt": turn(0, "", text)["prompt"], "question": "1/2 + 1/3?", "answer": [answer], **place(number)}
        for number, (text, answer) in enumerate([("5/6?", "5/6"), ("2/5?", "5/6"), ("5/6?", "0.83"), (" 5/6?", "5/6")])
    ]
    assert numbers(cleaned(rows, Request(format="grpo"), tmp_path)[0]) == [0, 1, 2]
    messages = [message("system", "You."), message("user", "Hello."), message("assistant", "Hi."), message("user", "?")]
    whole = [
        {"messages": [*messages, message("assistant", text)], "train": [False, False, train, False, True]}
        for text, train in (("So.", True), ("Thus.", True), ("So.", False), ("So.", True))
    ]
    rows = [{**each, **place(number, score=None)} for number, each in enumerate(whole)]
    assert numbers(cleaned(rows, replace(SFT, whole_dialogue=True), tmp_path)[0]) == [0, 1, 2]


def test_prompts_of_one_dialogue_that_go_on_from_each_other_are_no_near_duplicates(tmp_path: Path) -> None:
    said = [message("system", LONG), message("user", "Begin.")]
    rows = []
    for number, text in enumerate(["Which size?", "Why?", "And now?"]):
        rows.append({"prompt": list(said), "question": "1/2 + 1/3?", "answer": ["5/6"], **place(number)})
        said += [message("assistant", f"{LONG}, {LONG}"), message("user", text)]
    rows.append({**rows[2], **place(9), "prompt": [message("system", f"{LONG} again"), *rows[2]["prompt"][1:]]})
    stay, left_out = cleaned(rows, Request(format="grpo", dedup="near"), tmp_path)
    assert numbers(stay) == [0, 1, 2] and left_out == {LeftOut.NEAR_DUPLICATE: 1}


def earlier(folder: Path, rows: list[Row], **changes: Any) -> Path:
    """An earlier export."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-00000-of-00001.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)) + b"\n")
    about: dict[str, Any] = {"format": "sft", "tool": "trl", "role": "tutor", "runs": {}, "splits": {}, "files": []}
    write_manifest(folder, Manifest(**{"generation": 1, "real_share": 0.0, **about, **changes}))
    return folder


def test_what_an_earlier_export_has_is_left_out(tmp_path: Path) -> None:
    before = earlier(tmp_path / "before", [turn(7, "Well done!"), turn(8, LONG)])
    rows = [turn(0, "Well done!"), turn(1, LONG.replace("the other", "another")), turn(2, "New."), turn(3, "New.")]
    out = tmp_path / "out"
    out.mkdir()
    stay, left_out = cleaned(rows, replace(SFT, against=(before,)), out)
    assert numbers(stay) == [1, 2] and left_out == {LeftOut.EXPORTED_BEFORE: 1, LeftOut.DUPLICATE: 1}
    stay, left_out = cleaned(rows, replace(SFT, against=(before,), dedup="near"), out)
    assert numbers(stay) == [2] and left_out == {LeftOut.EXPORTED_BEFORE: 2, LeftOut.DUPLICATE: 1}
    stay, left_out = cleaned(rows, replace(SFT, against=(before,), dedup="none"), out)
    assert numbers(stay) == [1, 2, 3] and left_out == {LeftOut.EXPORTED_BEFORE: 1}


def test_a_row_with_an_artefact_goes_and_the_talk_of_a_lesson_stays(tmp_path: Path) -> None:
    good = [
        "Which size must the parts have?",
        "Type `<|im_end|>` to see it.",
        '{"plan":"Ask.","utterance":"Why?"}',
        "{1, 2} is a set.",
    ]
    bad = [
        "Tutor: Which size?",
        "It is.<|im_end|>",
        "As an AI language model, I cannot.",
        "Here is the revised response: Why?",
        '{"plan":"Ask.","utterance":"Student: 5/6."}',
        "Then you look at the two fractions and you add the",
    ]
    rows = [turn(number, text, f"{number}?") for number, text in enumerate(good + bad)]
    rows.append(turn(90, "It stops", finish_reason="length"))
    rows.append(turn(91, "<think>\nWhat now?\n</think>\n\nWhy?"))
    rows.append(turn(92, "It is.<|im_end|>", label=False))
    stay, left_out = cleaned(rows, replace(SFT, drop_artefacts=True), tmp_path)
    assert numbers(stay) == [0, 1, 2, 3, 91, 92]
    assert left_out == {LeftOut.ARTEFACT: len(bad), LeftOut.CUT_OFF: 1}
    rejected = [pair(0, "Which size?", "Tutor: Which size?"), pair(1, "Tutor: Which size?", "Which size?")]
    assert numbers(cleaned(rejected, replace(DPO, drop_artefacts=True), tmp_path)[0]) == [0]


def test_a_benchmarks_item_goes_wherever_in_a_row_it_stands(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_bytes(orjson.dumps({"question": ITEM}))
    in_system = turn(2, "Why?", "Six?")
    in_system["prompt"][0]["content"] += f"\nThe question: {ITEM}"
    rows = [
        turn(0, "Why?"),
        turn(1, f"Now: {ITEM}"),
        in_system,
        turn(3, "How?", f"{ITEM} I do not know."),
        turn(4, "What?"),
    ]
    stay, left_out = cleaned(rows, replace(SFT, benchmarks=(bench,)), tmp_path)
    assert numbers(stay) == [0, 4] and left_out == {LeftOut.IN_A_BENCHMARK: 3}


def test_personal_data_is_replaced_and_logged_by_place_without_its_words(tmp_path: Path) -> None:
    rows = [
        turn(0, "Write to ada@example.org, or +49 30 1234567.", "I am bob@example.org."),
        turn(1, "Write to eve@example.org, or +49 30 1234567.", "I am kim@example.org."),
        turn(2, "Is it 3,600 or 12.5?"),
    ]
    stay, left_out = cleaned(rows, replace(SFT, scrub=True), tmp_path)
    assert numbers(stay) == [0, 2] and left_out == {LeftOut.DUPLICATE: 1}, "what differs in that alone is the same"
    with scrub_log(Request(format="sft", scrub=True), tmp_path) as note:
        for split, row in stay:
            note(split, row)
    del stay[0][1][SCRUBBED]
    assert stay[0][1] == turn(0, "Write to [EMAIL], or [PHONE].", "I am [EMAIL].")
    assert stay[1][1] == rows[2]
    text = (tmp_path / LOG).read_text()
    assert [orjson.loads(line) for line in text.splitlines()] == [
        {"id": "d0/0", "split": "train", "place": "prompt/1/content", "kind": "email", "start": 5},
        {"id": "d0/0", "split": "train", "place": "completion/0/content", "kind": "email", "start": 9},
        {"id": "d0/0", "split": "train", "place": "completion/0/content", "kind": "phone", "start": 21},
    ]
    assert "example" not in text and "1234567" not in text


def test_the_best_share_of_the_scored_rows_stays_and_what_people_wrote(tmp_path: Path) -> None:
    rows = [turn(number, f"Turn {number}.", score=number / 10) for number in range(10)]
    rows += [turn(10, "No score."), turn(11, "A person's.", origin="human")]
    stay, left_out = cleaned(rows, replace(SFT, best=0.3), tmp_path)
    assert numbers(stay) == [7, 8, 9, 11]
    assert left_out == {LeftOut.LOW_SCORE: 7, LeftOut.NO_SCORE: 1}
    pairs = [pair(number, "Why?", f"It is {number}.", margin=-number) for number in range(4)]
    assert numbers(cleaned(pairs, replace(DPO, best=0.5), tmp_path)[0]) == [0, 1]


def test_of_equal_scores_the_seed_draws(tmp_path: Path) -> None:
    rows = [turn(number, f"Turn {number}.", score=1.0) for number in range(40)]
    drawn = [numbers(cleaned(rows, replace(SFT, best=0.5, seed=seed), tmp_path)[0]) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 20


def test_lengths_of_pairs_are_balanced_and_what_went_is_counted(tmp_path: Path) -> None:
    """Chosen texts are 40 % longer on average, and two pairs are lopsided."""
    rows = [pair(number, "a" * (140 + number % 60), "b" * (70 + number * 7 % 80)) for number in range(200)]
    rows += [pair(200 + number, "c" * (90 + number), "d" * 100) for number in range(40)]
    stay, left_out = cleaned(rows, replace(DPO, balance_lengths=True, dedup="none"), tmp_path)
    lengths = [[len(row[name][0]["content"]) for _, row in stay] for name in ("chosen", "rejected")]
    assert sum(lengths[0]) <= 1.05 * sum(lengths[1]) and sum(lengths[1]) <= 1.05 * sum(lengths[0])
    assert all(max(both) <= 2 * min(both) for both in zip(*lengths, strict=True))
    assert left_out[LeftOut.LOPSIDED] > 10 and left_out[LeftOut.LENGTH] > 10
    assert len(stay) + left_out.total() == 240


@pytest.mark.parametrize("dedup", ["none", "exact", "near"])
def test_no_brief_and_no_near_duplicates_span_two_splits(dedup: Any, tmp_path: Path) -> None:
    texts = numbered(60)
    rows = [turn(number, f"{text} {turn_}", brief=f"b{number}") for number, text in enumerate(texts) for turn_ in "xyz"]
    # Brief 0 has a near-duplicate in brief 1, that one in brief 2, and so on to brief 5.
    rows += [turn(number, f"{texts[number + 1]} again", brief=f"b{number}") for number in range(5)]
    for seed in range(3):
        request = replace(SFT, dedup=dedup, validation=0.2, test=0.1, seed=seed)
        stay, _ = cleaned(rows, request, tmp_path)
        by_brief: dict[str, set[str]] = {}
        for split, row in stay:
            by_brief.setdefault(row["brief"], set()).add(split)
        assert all(len(splits) == 1 for splits in by_brief.values())
        if dedup != "near":
            assert len(set.union(*(by_brief[f"b{number}"] for number in range(6)))) == 1
        shares = Counter(split for split, _ in stay)
        assert abs(shares["validation"] / len(stay) - 0.2) < 0.08 and abs(shares["test"] / len(stay) - 0.1) < 0.08
        assert [row["id"] for _, row in stay] == [row["id"] for row in rows if row in [each for _, each in stay]]


@pytest.mark.parametrize("seed", range(3))
def test_every_row_stays_or_is_counted_once_whatever_is_asked_for(seed: int, tmp_path: Path) -> None:
    """And all of it comes out the same again."""
    rng = random.Random(seed)
    texts = [*numbered(30), "Tutor: Why?", "Write to ada@example.org.", ITEM, "It stops and the", "Well done!"]
    bench = tmp_path / "bench.txt"
    bench.write_text(ITEM)
    out = tmp_path / "out"
    out.mkdir()
    rows = []
    for number in range(300):
        said = " ".join([rng.choice(texts), *rng.sample(texts, rng.randint(0, 1)), *rng.choices("xyz", k=2)])
        chosen, rejected = said, rng.choice(texts)
        rows.append(
            {**pair(number, chosen, rejected, rng.choice([None, 0.5, rng.random()])), "brief": f"b{number % 40}"}
        )
    request = replace(DPO, scrub=True, drop_artefacts=True, benchmarks=(bench,), dedup="near", best=0.8,
                      balance_lengths=True, validation=0.1, test=0.1, seed=seed)  # fmt: skip
    stay, left_out = cleaned(rows, request, out)
    assert len(stay) + left_out.total() == len(rows) and len(stay) > 20
    assert {LeftOut.ARTEFACT, LeftOut.IN_A_BENCHMARK, LeftOut.NO_SCORE, LeftOut.LOW_SCORE, LeftOut.LOPSIDED} <= set(
        left_out
    )
    assert cleaned(rows, request, out) == (stay, left_out)
    assert {split for split, _ in stay} == {"train", "validation", "test"}


def test_rows_go_through_one_by_one_where_no_step_must_see_all(tmp_path: Path) -> None:
    def endless() -> Iterator[Row]:
        number = 0
        while True:
            yield turn(number, f"Turn {number}.")
            number += 1

    request = replace(SFT, drop_artefacts=True)
    first = next(clean(endless(), request, left_out=Counter(), folder=tmp_path))
    assert first == ("train", turn(0, "Turn 0."))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"near": 0.2}, "near=0.2"),
        ({"near": 1.1}, "near=1.1"),
        ({"near": float("nan")}, "near=nan"),
        ({"best": 0.0}, "best=0.0"),
        ({"best": 1.5}, "best=1.5"),
        ({"validation": -0.1}, "validation=-0.1"),
        ({"test": 1.0}, "test=1.0"),
        ({"validation": 0.6, "test": 0.4}, "leave nothing to train on"),
        ({"benchmarks": (Path("gone.jsonl"),)}, "'gone.jsonl' cannot be read"),
        ({"against": (Path("nowhere"),)}, "'nowhere' is no export"),
        ({"format": "kto", "best": 0.5}, "rows of kto have no score"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_row_is_read(
    wrong: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def unread() -> Iterator[Row]:
        raise AssertionError("a row was read")
        yield

    with pytest.raises(ExportError, match=message):
        clean(unread(), replace(SFT, **wrong), left_out=Counter(), folder=tmp_path)


def test_an_earlier_export_of_other_rows_is_refused(tmp_path: Path) -> None:
    wrong = {
        "has rows of dpo": earlier(tmp_path / "dpo", [], format="dpo"),
        "was laid out for openai": earlier(tmp_path / "openai", [], tool="openai"),
    }
    empty = earlier(tmp_path / "empty", [])
    next((empty / "data").iterdir()).unlink()
    wrong["has no rows"] = empty
    for message, folder in wrong.items():
        with pytest.raises(ExportError, match=message):
            clean([], replace(SFT, against=(folder,)), left_out=Counter(), folder=tmp_path)
    torn = earlier(tmp_path / "torn", [{"question": "none of ours"}])
    (torn / "data" / "train-00000-of-00001.jsonl").write_text("{torn")
    with pytest.raises(ExportError, match=r"train-00000-of-00001\.jsonl' cannot be compared with"):
        list(clean([], replace(SFT, against=(torn,)), left_out=Counter(), folder=tmp_path))


@pytest.mark.parametrize("wanted", [{"dedup": "near"}, {"validation": 0.1}, {"test": 0.1}])
def test_near_duplicates_and_splits_need_rensa_and_say_so(
    wanted: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "find_spec", lambda name: None if name == "rensa" else object())
    with pytest.raises(ExportError, match=r"pip install 'tutelage\[quality\]'"):
        clean([], replace(SFT, **wanted), left_out=Counter(), folder=tmp_path)
    assert list(clean([turn(0, "Why?")], SFT, left_out=Counter(), folder=tmp_path)), "the default needs none of it"


def test_scores_that_nobody_gave_and_a_single_brief_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no row has a score in its column 'score'"):
        cleaned([turn(0, "Why?")], replace(SFT, best=0.5), tmp_path)
    with pytest.raises(ExportError, match="too few for 2 splits"):
        cleaned([turn(0, "Why?")], replace(SFT, validation=0.5), tmp_path)


def test_an_export_is_cleaned_and_says_so(written_run: Any, tmp_path: Path) -> None:
    """Its log names only rows that are in it, its card and summary count what is not, and its manifest lists the log."""
    for number in range(6):
        opening = f"Write to ada{number}@example.org. {numbered(6)[number]}"
        written_run.add(
            ("tutor", [(opening, "accepted")]),
            ("student", [("It is 5/6.", "accepted")]),
            ("tutor", [("Well done! Call +49 30 1234567.", "accepted")]),
            brief=Brief(id=f"b{number}", topic="fractions"),
            id_=f"d{number}",
        )
    request = replace(SFT, scrub=True, dedup="near", test=0.2, files="jsonl")
    summary = export(written_run.path, request, out=tmp_path / "out")
    lines = [orjson.loads(line) for line in (tmp_path / "out" / LOG).read_bytes().splitlines()]
    rows = {
        row["id"]: split
        for split in ("train", "test")
        for path in (tmp_path / "out" / "data").glob(f"{split}-*.jsonl")
        for row in map(orjson.loads, path.read_bytes().splitlines())
    }
    assert summary.left_out[LeftOut.DUPLICATE] == 5 and len(rows) == 7 and set(rows.values()) == {"train", "test"}
    learnt = {line["id"]: line["split"] for line in lines if line["place"].startswith("completion")}
    assert learnt == rows
    assert "5 duplicate" in str(summary) and "duplicate" in (tmp_path / "out" / "README.md").read_text()
    assert LOG in read_manifest(tmp_path / "out").files
    export(written_run.path, request, out=tmp_path / "out", force=True)
    with pytest.raises(ExportError, match="exported before"):
        export(written_run.path, replace(request, against=(tmp_path / "out",)), out=tmp_path / "again")


def test_every_reason_says_what_it_means() -> None:
    assert all(reason.about for reason in LeftOut)
