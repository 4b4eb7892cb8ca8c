"""`tutelage doctor` over real HTTP: what it finds in a config, on this machine, and at endpoints of many kinds."""

import fcntl
import json
import re
import shutil
import socket
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from rich.console import Console

from tutelage.cli import run_command
from tutelage.generation import doctor, probing
from tutelage.generation.doctor import examine
from tutelage.generation.findings import Finding, Level, render
from tutelage.testing import SimulatedEndpoint

from .odd_endpoints import BRIEF, NOWHERE, by_schema, chat_server, exit_code, said, server, talk, write


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(adapters=("v2",)) as endpoint:
        yield endpoint


# --- a healthy one ------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_where_nothing_is_wrong(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, roles={"student": {"adapter": "v2"}}))
    assert said(findings, Level.WARNING) == said(findings, Level.PROBLEM) == ""
    assert exit_code(findings) == 0
    fine = said(findings, Level.FINE, "models.m")
    assert "serves 'simulated'" in fine
    assert "serves the adapter 'v2' (student)" in fine
    assert "follows a schema" in fine
    assert "gives one reply for one seed" in fine
    assert "counts tokens, cached ones too" in fine
    for role in ("tutor", "critic", "fact_checker", "student"):
        assert f"{role}: its longest first prompt and max_tokens take" in fine


def test_the_first_prompts_are_those_that_a_run_would_send(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    """With the longest brief, the role's own schema, adapter and options, so that it is the run that is tried."""
    path = write(tmp_path, endpoint.url, roles={"student": {"adapter": "v2", "extra": {"top_k": 3}}})
    longest = {**BRIEF, "id": "b", "question": "Why? " * 100}
    (tmp_path / "briefs.jsonl").write_text("\n".join(map(json.dumps, (BRIEF, longest, {**BRIEF, "id": "c"}))))
    endpoint.forget()
    examine(path)
    first = [each["body"] for each in endpoint.requests() if each["body"].get("max_tokens") == 1]
    assert len(first) == 4
    assert all("Why? Why?" in json.dumps(body["messages"]) for body in first)
    assert sum("response_format" in body for body in first) == 2
    (student,) = (body for body in first if body["model"] == "v2")
    assert student["top_k"] == 3


def test_it_leaves_no_trace(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    path = write(tmp_path, endpoint.url)
    before = sorted(tmp_path.rglob("*"))
    examine(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_prints_what_was_found_and_exits_with_the_worst(
    tmp_path: Path, endpoint: SimulatedEndpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["doctor", str(write(tmp_path, endpoint.url))]) == 0
    assert "  ✓ follows a schema\n" in capsys.readouterr().out
    assert run_command(["doctor", str(write(tmp_path))]) == 3
    assert "  ✗ cannot be reached" in capsys.readouterr().out


def test_without_models_the_embedded_one_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_EMBEDDED_MODEL", str(tmp_path / "none.gguf"))
    findings = examine(write(tmp_path, models={}))
    assert "its data is for trying out, not for training" in said(findings, Level.WARNING, "Embedded model")
    assert "none.gguf" in said(findings, Level.PROBLEM, "Embedded model")
    assert exit_code(findings) == 2


# --- endpoints ----------------------------------------------------------------------------------------------------


def test_another_model_is_served(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, model={"model": "Qwen/Qwen3-4B"}))
    assert "does not serve 'Qwen/Qwen3-4B', but 'simulated', 'v2'" in said(findings, Level.PROBLEM, "models.m")
    assert exit_code(findings) == 2


def test_an_adapter_is_missing_and_the_other_roles_are_tried_all_the_same(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    findings = examine(write(tmp_path, endpoint.url, roles={"tutor": {"adapter": "v3"}}))
    assert "does not serve the adapter 'v3' (tutor), but 'simulated', 'v2'" in said(findings, Level.PROBLEM)
    fine = said(findings, Level.FINE, "models.m")
    assert "student: its longest first prompt" in fine
    assert "tutor: its longest" not in fine


def test_a_context_too_short_for_a_reply_is_told_with_its_figures(tmp_path: Path) -> None:
    with SimulatedEndpoint(max_model_len=600) as endpoint:
        findings = examine(write(tmp_path, endpoint.url))
    problems = said(findings, Level.PROBLEM)
    assert "critic: its longest first prompt and max_tokens take " in problems
    assert " + 768 = " in problems
    assert " of 600 tokens, so its calls are refused: lower roles.critic.max_tokens" in problems
    assert "limits.tokens is 8192, its context 600" in said(findings, Level.WARNING)
    assert "student: its longest first prompt and max_tokens take" in said(findings, Level.FINE)


def test_a_context_too_short_for_the_prompt_itself(tmp_path: Path) -> None:
    with SimulatedEndpoint(max_model_len=100) as endpoint:
        findings = examine(write(tmp_path, endpoint.url))
    assert "tutor: its longest first prompt does not fit" in said(findings, Level.PROBLEM)


def test_limits_that_end_every_dialogue_at_once_are_a_warning(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, limits={"tokens": 512}))
    assert "raise limits.tokens, or lower roles.tutor.max_tokens" in said(findings, Level.WARNING)
    assert exit_code(findings) == 0


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "The API key is missing"),
        ("wrong", "The API key was refused"),
    ],
)
def test_a_key_that_is_missing_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None, message: str
) -> None:
    monkeypatch.setenv("OUR_KEY", key or "")
    with SimulatedEndpoint(api_key="right") as endpoint:
        findings = examine(write(tmp_path, endpoint.url, model={"api_key": "${OUR_KEY}"} if key else None))
    assert message in said(findings, Level.PROBLEM)
    assert exit_code(findings) == 2
    assert "wrong" not in render(findings)


def test_a_key_that_is_not_in_the_environment(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, model={"api_key": "${OUR_KEY}"}))
    assert "export OUR_KEY=" in said(findings, Level.PROBLEM, "models.m")


def test_an_endpoint_that_ignores_schemas(tmp_path: Path) -> None:
    with chat_server(lambda body: "Hello! How can I help?") as url:
        findings = examine(write(tmp_path, url))
        unneeded = examine(write(tmp_path, url, graph=talk(tmp_path)))
    assert "ignores schemas (it said 'Hello! How can I help?')" in said(findings, Level.PROBLEM)
    assert "These roles need it: critic, fact_checker" in said(findings, Level.PROBLEM)
    assert exit_code(findings) == 2
    assert "ignores schemas" in said(unneeded, Level.WARNING)
    assert exit_code(unneeded) == 0


def test_an_endpoint_that_keeps_to_the_json_but_not_to_the_enum(tmp_path: Path) -> None:
    with chat_server(lambda body: '{"bird": "sparrow"}') as url:
        assert "ignores schemas" in said(examine(write(tmp_path, url)), Level.PROBLEM)


def test_a_schema_is_followed_if_one_of_a_few_replies_fits(tmp_path: Path) -> None:
    """A tiny model may fill the reply with the blanks that JSON allows; the endpoint is not to blame."""
    with chat_server(lambda body: by_schema(body) if body.get("seed") == 2 else "{   ") as url:
        assert "follows a schema" in said(examine(write(tmp_path, url)), Level.FINE)


def test_a_reply_that_is_all_thinking(tmp_path: Path) -> None:
    with chat_server(lambda body: {"content": None, "reasoning": "A bird, hm."}) as url:
        assert "enable_thinking: false" in said(examine(write(tmp_path, url)), Level.PROBLEM)


def test_what_is_not_counted_is_told(tmp_path: Path) -> None:
    with chat_server(by_schema, usage={"prompt_tokens": 5, "completion_tokens": 1}) as url:
        assert "--enable-prompt-tokens-details" in said(examine(write(tmp_path, url)), Level.WARNING)
    with chat_server(by_schema) as url:
        assert "does not count tokens" in said(examine(write(tmp_path, url)), Level.WARNING)


def test_a_seed_that_does_not_hold_is_a_warning(tmp_path: Path) -> None:
    calls: list[dict[str, Any]] = []

    def forgetful(body: dict[str, Any]) -> str:
        calls.append(body)
        return by_schema(body) if "response_format" in body else f"Reply {len(calls)}"

    with chat_server(forgetful) as url:
        findings = examine(write(tmp_path, url))
    assert "gives two replies for one seed" in said(findings, Level.WARNING)
    assert exit_code(findings) == 0


def test_a_web_page(tmp_path: Path) -> None:
    page = "<html><head><title>Welcome to nginx!</title></head></html>"
    with server(lambda request, body: web.Response(text=page, content_type="text/html")) as url:
        findings = examine(write(tmp_path, url))
    assert "answers with a web page ('Welcome to nginx!') that is no list of models" in said(findings, Level.PROBLEM)


def test_a_redirect(tmp_path: Path) -> None:
    moved = web.Response(status=302, headers={"Location": "http://elsewhere/v1"})
    with server(lambda request, body: moved) as url:
        findings = examine(write(tmp_path, url))
    assert "a redirect to 'http://elsewhere/v1'" in said(findings, Level.PROBLEM)


def test_a_server_that_is_still_loading(tmp_path: Path) -> None:
    with server(lambda request, body: web.json_response({"error": {"message": "Loading model"}}, status=503)) as url:
        findings = examine(write(tmp_path, url))
    assert "answers 503 (Loading model)" in said(findings, Level.PROBLEM)
    assert exit_code(findings) == 3


def test_nobody_listens(tmp_path: Path) -> None:
    findings = examine(write(tmp_path, NOWHERE))
    assert "cannot be reached: nothing listens at 127.0.0.1:9" in said(findings, Level.PROBLEM)
    assert exit_code(findings) == 3


def test_each_replica_is_asked_and_one_that_is_down_is_not_the_end(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    findings = examine(write(tmp_path, endpoint.url, NOWHERE))
    assert "follows a schema" in said(findings, Level.FINE, f"models.m, {endpoint.url}")
    assert "nothing listens" in said(findings, Level.PROBLEM, f"models.m, {NOWHERE}")
    assert exit_code(findings) == 2


def test_dead_hosts_are_waited_for_together_and_not_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take the connection, for their kernel does, and never answer."""
    assert probing.ANSWER_SECONDS <= 10
    monkeypatch.setattr(probing, "ANSWER_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}/v1" for each in (one, two)]
        path = write(tmp_path, *urls)
        started = time.monotonic()
        findings = examine(path)
        seconds = time.monotonic() - started
    assert said(findings, Level.PROBLEM).count("does not answer within 2 s") == 2
    assert exit_code(findings) == 3
    assert seconds < 4, "one after the other they would take 4 s and more"


# --- the config, the briefs, the prompts, the run folder ----------------------------------------------------------


def test_an_unknown_key_ends_it_at_once(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    (finding,) = examine(write(tmp_path, endpoint.url, rols={}))
    assert "rols: unknown key; did you mean 'roles'?" in finding.text
    assert finding.exit_code == 2


def test_whatever_fails_the_rest_is_checked(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    path = write(tmp_path, endpoint.url, graph="graphs/mine.py:mine", run="r")
    (tmp_path / "briefs.jsonl").write_text("{}\nnonsense\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").write_text("")
    problems = said(examine(path), Level.PROBLEM)
    assert "the graph 'graphs/mine.py:mine' is not there" in problems
    assert "briefs.jsonl, line 2" in problems
    assert "is a file, not a run folder" in problems
    assert "serves 'simulated'" in said(examine(path), Level.FINE)


def test_roles_that_are_not_the_graphs_or_have_no_model(tmp_path: Path) -> None:
    two = {name: {"url": NOWHERE, "model": "simulated"} for name in ("large", "small")}
    config = write(tmp_path, models=two, roles={"tutr": {"model": "large"}, "tutor": {"model": "large"}})
    findings = examine(config)
    problems = said(findings, Level.PROBLEM, "Config")
    assert "roles.tutr: the graph 'lesson' has no such role" in problems
    assert "roles.student: say which model plays it" in problems
    assert "models.small plays no role" in said(findings, Level.WARNING)


def test_models_of_a_panel_and_of_the_search_play_a_part(tmp_path: Path) -> None:
    model = {"url": NOWHERE, "model": "simulated"}
    (tmp_path / "notes.md").write_text("# Notes")
    path = write(
        tmp_path,
        graph="socratic",
        models={"default": model, "other": model, "meaning": model, "idle": model},
        roles={"critic": {"panel": ["other"]}},
        evidence={"documents": ["notes.md"], "embedding": "meaning"},
    )
    findings = examine(path)
    assert re.findall(r"models\.(\w+) plays no role", said(findings, Level.WARNING)) == ["idle"]
    assert "critic: played by other" in said(findings, Level.FINE)


def test_a_document_of_a_brief_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    path = write(tmp_path, graph="open_book")
    (tmp_path / "briefs.jsonl").write_text(json.dumps({**BRIEF, "documents": "tides.md"}) + "\n")
    assert "line 1: documents: the document 'tides.md' cannot be read" in said(examine(path), Level.PROBLEM, "Briefs")


def test_a_panel_that_nobody_asks_is_a_problem(tmp_path: Path) -> None:
    findings = examine(write(tmp_path, roles={"student": {"panel": ["m"]}}))
    assert "roles.student.panel: " in said(findings, Level.PROBLEM, "Config")


def test_briefs_that_lack_what_the_graph_needs_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, graph="debate")
    assert "has no misconception, which the graph 'debate' needs" in said(examine(path), Level.PROBLEM, "Briefs")


def test_briefs_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, briefs=[{"from": "*.jsonl"}], target={"dialogues": 21})
    (tmp_path / "more.jsonl").write_text(json.dumps({**BRIEF, "id": "b"}))
    findings = examine(path)
    assert "2 briefs in 2 files can be read, and have what 'lesson' needs" in said(findings, Level.FINE)
    assert "21 dialogues of 2 briefs: above 10 of one" in said(findings, Level.WARNING)


def test_a_prompt_of_the_users_is_told_and_one_that_does_not_render_is_named(tmp_path: Path) -> None:
    path = write(tmp_path)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    (prompts / "tutor.md").write_text("Ask: {{ brief.question }}")
    (prompts / "student.md").write_text("You know that it is {{ brief.answer[0] }}.")
    (prompts / "revision.md").write_text("{% for attempt in attempts %}{{ attempt.reviews[0].verdikt }}{% endfor %}")
    findings = examine(path)
    assert f"{prompts / 'tutor.md'} is used instead of our prompt 'tutor'" in said(findings, Level.FINE)
    problems = said(findings, Level.PROBLEM, "Prompts")
    assert "student: for 1 of 1 brief, at first 'a': prompt 'student'" in problems
    assert "tutor: for 1 of 1 brief, at first 'a': prompt 'revision'" in problems, "what is shown in mid-dialogue"


def test_a_prompt_that_fails_for_some_briefs_only(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "tutor.md").write_text("{{ brief.topic + 1 if brief.level else '' }}")
    lines = [{**BRIEF, "id": f"b{number}", "level": "hard" if number == 150 else None} for number in range(201)]
    (tmp_path / "briefs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    problems = said(examine(path), Level.PROBLEM, "Prompts")
    assert "tutor: for 1 of the first 200 briefs, at first 'b150': prompt 'tutor'" in problems


def run_folder(folder: Path, **config: Any) -> Path:
    """A run folder with a transcript in it, of a config like ours but for these keys."""
    path = folder / "runs" / "r"
    (path / "transcripts").mkdir(parents=True)
    (path / "transcripts" / "1.jsonl").write_text("")
    (path / "run.yaml").write_text(json.dumps({"run": "r", "graph": "lesson", "seed": 0, **config}))
    return path


def test_a_run_folder_that_goes_on_and_one_of_another_config(tmp_path: Path) -> None:
    run_folder(tmp_path)
    assert "is this config's" in said(examine(write(tmp_path)), Level.FINE, "Run folder")
    assert "there `seed` is 0, here it is 8" in said(examine(write(tmp_path, seed=8)), Level.PROBLEM, "Run folder")


def test_a_run_folder_in_use(tmp_path: Path) -> None:
    with (run_folder(tmp_path) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in said(examine(write(tmp_path)), Level.PROBLEM, "Run folder")
    assert "in use" not in said(examine(write(tmp_path)), Level.PROBLEM)


def test_a_folder_that_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "thesis.tex").write_text("")
    assert "is not empty and no run folder" in said(examine(write(tmp_path)), Level.PROBLEM, "Run folder")


def test_little_room_on_the_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**29, 2**29))
    assert "512 MiB are free" in said(examine(write(tmp_path)), Level.WARNING, "Run folder")
    assert doctor.LITTLE_ROOM == 2**30


# --- how it is printed --------------------------------------------------------------------------------------------


def finding(level: Level, text: str, group: str = "Config") -> Finding:
    return Finding(group=group, level=level, text=text)


def test_piped_each_finding_is_one_line_without_colour() -> None:
    long = "word " * 60
    printed = render([finding(Level.PROBLEM, long), finding(Level.WARNING, "so so")])
    assert printed.splitlines() == [
        "Config",
        f"  ✗ {long.rstrip()}",
        "  ! so so",
        "",
        "✗ 1 problem and 1 warning",
    ]


def test_at_a_terminal_findings_are_wrapped_under_their_text_and_coloured() -> None:
    console = Console(force_terminal=True, width=80, color_system="standard", highlight=False)
    printed = render([finding(Level.PROBLEM, "word " * 60)], console)
    assert "\x1b[1;31m  ✗ " in printed
    lines = re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines()
    assert len(lines) > 5
    assert all(len(line) <= 80 for line in lines)
    assert all(line.startswith("    word") for line in lines[2:4])


def test_what_a_server_says_cannot_move_the_cursor() -> None:
    assert "\x1b" not in render([finding(Level.PROBLEM, "\x1b[2Jall gone\x07")])


def test_all_is_well_is_said() -> None:
    assert render([finding(Level.FINE, "good")]).endswith("✓ All is well")
