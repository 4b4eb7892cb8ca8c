"""`tutelage report`: one page of runs that needs nothing from elsewhere, and the numbers that it is drawn from."""

import json
import re
import subprocess
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tutelage import generate
from tutelage.errors import ExportError, RunFolderError
from tutelage.reports.curves import time_picture
from tutelage.reports.page import as_page
from tutelage.reports.reading import names_of, read_runs
from tutelage.reports.report import as_json, write_report
from tutelage.reports.timeline import MOST_WINDOWS, Timeline
from tutelage.testing import ScriptedModel, SimulatedEndpoint
from tutelage.transcripts.store import read_transcripts

EVIL = '</text></svg><script>alert("1")</script><img src=x onerror=alert(2)> $x^2$ &amp; \x1b[31m'
LEAKY = f"It is five sixths, as you know. {EVIL}"
FINE = "Which size must the parts have, so that you can count them together?"
ACCEPT: dict[str, Any] = {"verdict": "accept", "issues": []}
REVISE: dict[str, Any] = {
    "verdict": "revise",
    "issues": [
        {
            "dimension": f"leak {EVIL}",
            "severity": "block",
            "span": "It is five sixths",
            "evidence": "The student has not said it.",
            "instruction": f"Ask instead. {EVIL}",
        }
    ],
}
BRIEF = {"id": "halves", "question": f"What is 1/2 + 1/3? {EVIL}", "answer": "5/6"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of forty lessons, some of whose drafts were sent back."""
    folder = tmp_path_factory.mktemp("simulated")
    briefs = [{"id": f"b{number}", "question": f"What is {number} + 1/3?", "answer": "1"} for number in range(4)]
    (folder / "briefs.jsonl").write_text("".join(json.dumps(brief) + "\n" for brief in briefs))
    with SimulatedEndpoint(accept_rate=0.6, completion_tokens=25) as endpoint:
        config = {
            "run": "r",
            "graph": "lesson",
            "briefs": [{"from": str(folder / "briefs.jsonl")}],
            "models": {"default": {"url": endpoint.url, "model": "simulated"}},
            "limits": {"messages": 6, "revisions": 1},
            "target": {"dialogues": 40},
        }
        generate(config, out=folder / "forty")
    return folder / "forty"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which all that models and briefs say tries to get out of the page."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "briefs.jsonl").write_text(json.dumps(BRIEF) + "\n")
    script: dict[str, Any] = {
        "tutor": [LEAKY, FINE],
        "student": [f"I do not know. {EVIL}"],
        "critic": [REVISE, ACCEPT],
        "fact_checker": [ACCEPT],
    }
    config = {
        "run": "r",
        "graph": "lesson",
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "limits": {"messages": 4},
    }
    generate(config, out=folder / "run <b>", models={"default": ScriptedModel(script)})
    return folder / "run <b>"


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty" / "transcripts").mkdir(parents=True)
    return tmp_path / "empty"


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_numbers_are_those_of_the_transcripts(simulated: Path) -> None:
    run = json.loads(as_json([simulated]))["runs"][0]
    transcripts = list(read_transcripts(simulated))
    turns = [turn for each in transcripts for turn in each.turns]
    drafts = [turn.attempts for turn in turns if turn.role == "tutor"]
    assert run["run"] == "forty" and run["briefs"] == 4
    assert run["statistics"]["dialogues"] == len(transcripts) == 40
    assert sum(run["turns"].values()) == 40
    assert {int(count) for count in run["turns"]} == {len(each.turns) for each in transcripts}
    assert sum(int(n) * times for n, times in run["words"]["tutor"].items()) == sum(
        len(turn.text.split()) for turn in turns if turn.role == "tutor"
    )
    assert run["drafts"]["tutor"] == [len(drafts), sum(len(each) > 1 for each in drafts)]
    [acceptance] = [each for each in run["statistics"]["acceptance"] if each["role"] == "tutor"]
    at_first = sum(window["at_first"]["tutor"]["count"] for window in run["timeline"])
    assert at_first == acceptance["at_first"] == sum(len(each) == 1 for each in drafts)
    assert {group["role"] for group in run["diversity"]["groups"]} == {"tutor", "student"}


def test_the_page_needs_nothing_from_elsewhere(simulated: Path, tmp_path: Path) -> None:
    said = write_report([simulated], out=tmp_path / "deep" / "page.html")
    page = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert str(tmp_path / "deep" / "page.html") in said
    tags = Tags(page)
    names = {tag for tag, _ in tags.found}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "form", "base"})
    references = [attrs[name] for _, attrs in tags.found for name in ("src", "href", "xlink:href") if name in attrs]
    assert references and all(reference and reference.startswith("#") for reference in references)
    assert "url(http" not in page and "@import" not in page
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_pictures_take_the_pages_colours_and_their_words_are_words(simulated: Path) -> None:
    page = as_page(read_runs([simulated]))
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) >= 6
    assert not any(re.search("#[0-9a-f]{6}", picture) for picture in pictures)
    assert all("var(--" in picture and "<text" in picture for picture in pictures)
    declared = set(re.findall(r"(--[a-z0-9-]+):", page))
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", page)) <= declared


def test_references_within_a_page_lead_somewhere(simulated: Path) -> None:
    page = as_page(read_runs([simulated, simulated]))
    ids = set(re.findall(r' id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= ids


def test_what_models_say_stays_text(hostile: Path) -> None:
    page = as_page(read_runs([hostile, hostile]))
    tags = Tags(page)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in tags.found)
    assert not any(name.startswith("on") for _, attrs in tags.found for name in attrs)
    assert "alert(&#34;1&#34;)" in page, "it is there, as text"
    assert "\x1b" not in page
    assert "run &lt;b&gt;" in page and "run <b>" not in page


def test_the_examples_show_what_was_sent_back_and_why(hostile: Path) -> None:
    page = as_page(read_runs([hostile]))
    assert "<mark>It is five sixths</mark>" in page
    assert page.index("<mark>It is five") < page.index("The student has not said it.") < page.rindex(FINE)
    [run] = read_runs([hostile]).runs
    assert run.examples.mended is not None and run.examples.mended.revision == FINE
    assert run.examples.good is not None and run.examples.good.turns[0].text == FINE
    assert run.examples.discarded is None


def test_a_run_of_which_nothing_is_finished_has_a_page(empty: Path, simulated: Path, tmp_path: Path) -> None:
    page = as_page(read_runs([empty]))
    assert "No dialogue is finished yet" in page and "<svg" not in page
    beside = as_page(read_runs([empty, simulated]))
    assert "Nothing is finished yet in empty" in beside and "<svg" in beside


def test_a_run_under_way_is_read_as_far_as_it_is(simulated: Path, tmp_path: Path) -> None:
    """Its last line is still being written, and one before it is another program's."""
    folder = tmp_path / "run" / "transcripts"
    folder.mkdir(parents=True)
    lines = (simulated / "transcripts" / "00000.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "00000.jsonl").write_bytes(b"".join(lines[:5]) + b'{"a": 1}\n' + lines[5][:100])
    [run] = read_runs([tmp_path / "run"]).runs
    assert (run.statistics.dialogues, run.unreadable) == (5, 2)
    assert "lines not readable" in as_page(read_runs([tmp_path / "run"]))


def test_one_dialogue_is_enough_for_a_page(hostile: Path) -> None:
    [run] = read_runs([hostile]).runs
    assert run.statistics.dialogues == 1
    assert as_page(read_runs([hostile])).count("<figure") >= 4


def test_the_same_runs_give_the_same_page(simulated: Path) -> None:
    assert as_page(read_runs([simulated])) == as_page(read_runs([simulated]))


def test_several_runs_stand_side_by_side(simulated: Path, hostile: Path) -> None:
    page = as_page(read_runs([simulated, hostile]))
    for name in ("forty", "run &lt;b&gt;"):
        assert page.count(f'<span class="run">{name}</span>') >= 6
        assert page.count(f'<th scope="col">{name}</th>') >= 2
    alone = as_page(read_runs([simulated]))
    assert '<span class="run">' not in alone


def test_a_course_is_drawn_only_of_dialogues_enough(simulated: Path) -> None:
    [run] = read_runs([simulated]).runs
    few = run.timeline[0]
    enough = [few.model_copy(update={"first": 1 + 4 * number, "dialogues": 4}) for number in range(10)]
    assert time_picture(run, ["tutor"]) is None
    assert time_picture(run.model_copy(update={"timeline": enough}), ["tutor"]) is not None


def test_what_people_wrote_stands_beside_it(simulated: Path, tmp_path: Path) -> None:
    texts = tmp_path / "human.jsonl"
    texts.write_text("".join(json.dumps({"text": f"People say thing number {n} {n * n}"}) + "\n" for n in range(30)))
    [run] = read_runs([simulated], human=[texts]).runs
    assert run.diversity.human is not None and run.diversity.human.texts == 30
    assert "than people&#39;s" in as_page(read_runs([simulated], human=[texts]))


@pytest.mark.parametrize("line", ['{"words": "x"}', "torn", '{"text": 3}', "[]"])
def test_a_file_of_people_without_texts_is_refused(simulated: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "human.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ExportError, match=r"human.jsonl', line 2.*key `text`"):
        read_runs([simulated], human=[tmp_path / "human.jsonl"])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        read_runs([tmp_path])


def test_a_page_that_cannot_be_written_is_said(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"page.html' cannot be written"):
        write_report([simulated], out=tmp_path / "file" / "page.html")


def test_without_matplotlib_the_command_says_what_to_install(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ExportError, match=r"pip install 'tutelage\[report\]'"):
        as_page(read_runs([simulated]))
    assert json.loads(as_json([simulated]))["runs"]


def test_decisions_and_agreement_stand_in_the_page(simulated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "transcripts").mkdir(parents=True)
    (run / "transcripts" / "00000.jsonl").write_bytes((simulated / "transcripts" / "00000.jsonl").read_bytes())
    ids = [each.id for each in read_transcripts(run)]
    decided: list[dict[str, Any]] = [
        {"id": id_, "turn": 0, "by": by, "decision": "keep"} for id_ in ids[:4] for by in ("ada", "judge:x")
    ]
    first = read_runs([run]).runs[0].examples.good
    assert first is not None
    decided.append({"id": first.id, "by": "ada", "decision": "drop"})
    decided += [{"id": id_, "turn": 2, "by": "judge:x", "decision": "drop"} for id_ in ids[:6] if id_ != first.id][:4]
    (run / "decisions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in decided))
    [read] = read_runs([run]).runs
    assert read.decisions is not None
    assert (read.decisions.decisions, read.decisions.dropped, read.decisions.turns_dropped) == (13, 1, 4)
    assert read.decisions.authors == {"ada": 5, "judge:x": 8}
    assert read.examples.good is not None
    assert read.examples.good.id != first.id, "what somebody dropped is shown to nobody as one that went well"
    assert "13 (judge:x 8, ada 5); 1 dialogue dropped, 4 turns of others" in as_page(read_runs([run]))


def test_windows_of_a_timeline_hold_each_dialogue_once(simulated: Path) -> None:
    first = next(read_transcripts(simulated))
    for count in (1, 7, MOST_WINDOWS, MOST_WINDOWS + 1, 333):
        timeline = Timeline()
        for number in range(count):
            timeline.add(first.model_copy(update={"finished": first.finished + timedelta(seconds=number)}))
        windows = timeline.result()
        assert sum(window.dialogues for window in windows) == count
        assert len(windows) <= MOST_WINDOWS
        assert len({window.dialogues for window in windows[:-1]}) <= 1
        assert [window.first for window in windows] == [
            1 + sum(each.dialogues for each in windows[:place]) for place in range(len(windows))
        ]
        assert windows[-1].finished == first.finished + timedelta(seconds=count - 1)


def test_the_command(simulated: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tutelage", "report"]
    done = subprocess.run([*command, simulated], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "report.html: open it in a browser\n"), done.stderr
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    done = subprocess.run([*command, simulated, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout)["runs"][0]["run"] == "forty"
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "say which run" in done.stderr


def test_runs_of_one_name_are_told_apart_by_the_folders_above_them() -> None:
    folders = [Path("/runs/may/lessons"), Path("/runs/june/lessons"), Path("/runs/june/debates")]
    assert names_of(folders) == ["may/lessons", "june/lessons", "june/debates"]
    assert names_of(folders[1:]) == ["lessons", "debates"]
