"""`tutelage estimate`: what it says of a run, and that the run then takes it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tutelage.config import Config, load_config
from tutelage.errors import ConfigError, EndpointUnreachable, RunFolderError
from tutelage.generation import estimate as module
from tutelage.generation.estimate import Estimate, estimate_run, render
from tutelage.generation.generate import generate
from tutelage.testing import Fault, SimulatedEndpoint
from tutelage.transcripts.statistics import count_calls
from tutelage.transcripts.store import read_transcripts

BRIEFS = 40


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint() as endpoint:
        yield endpoint


def project(folder: Path, url: str = "http://127.0.0.1:9/v1", **config: Any) -> Path:
    """A config of forty briefs, the later ones longer; its keys may be given otherwise."""
    lines = [
        {"id": f"b{n}", "topic": "Fractions", "question": "Why? " * (1 + n), "answer": "5/6"} for n in range(BRIEFS)
    ]
    (folder / "briefs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    everything = {
        "run": "r",
        "models": {"m": {"url": url, "model": "simulated"}},
        "briefs": [{"from": "briefs.jsonl"}],
        "limits": {"messages": 4},
        **config,
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(everything))
    return path


def test_a_run_takes_what_was_said(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url, target={"dialogues": 80})
    said = estimate_run(config, sample=20)
    assert not (tmp_path / "runs").exists(), "the run itself is left alone"
    generate(config)
    counts = count_calls(read_transcripts(tmp_path / "runs" / "r"))
    assert said.owed == said.dialogues.value == 80
    for name in ("calls", "prompt_tokens", "completion_tokens"):
        took, guessed = sum(getattr(count, name) for count in counts), getattr(said, name)
        assert guessed.low < guessed.value < guessed.high
        assert 0.8 * took < guessed.value < 1.25 * took, name
    assert {role.role for role in said.roles} == {count.role for count in counts}
    assert sum(role.calls.value for role in said.roles) == pytest.approx(said.calls.value)


def test_the_sample_is_of_briefs_from_everywhere(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    kept = tmp_path / "kept"
    said = estimate_run(project(tmp_path, endpoint.url), sample=4, keep=kept)
    assert sorted(int(each.brief.id[1:]) // 10 for each in read_transcripts(kept)) == [0, 1, 2, 3]
    assert said.sample.folder == kept


def test_more_dialogues_than_briefs_are_sampled_with_each_brief_again(
    tmp_path: Path, endpoint: SimulatedEndpoint
) -> None:
    said = estimate_run(project(tmp_path, endpoint.url, target={"dialogues": 100}), sample=50, keep=tmp_path / "kept")
    ids = [each.brief.id for each in read_transcripts(tmp_path / "kept")]
    assert len(ids) == said.sample.dialogues == 50
    assert {"b0", "b0~2", "b39", "b9~2"} <= set(ids)
    assert said.sample.briefs == 40


def test_what_is_done_already_costs_nothing_more(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    generate(project(tmp_path, endpoint.url, target={"dialogues": 30}))
    more = estimate_run(project(tmp_path, endpoint.url, target={"dialogues": 50}), sample=5)
    assert (more.done, more.owed, more.dialogues.value) == (30, 20, 20)
    rest = estimate_run(project(tmp_path, endpoint.url), sample=5)
    assert (rest.done, rest.owed) == (30, 10), "without a target, the briefs that were not played"
    elsewhere = estimate_run(project(tmp_path, endpoint.url), sample=5, out=tmp_path / "other")
    assert (elsewhere.done, elsewhere.owed) == (0, 40)


def test_a_dialogue_that_is_not_completed_costs_too(tmp_path: Path) -> None:
    """The first ten calls are refused, and end their dialogues: for each that is owed, two will be played."""
    config = {"target": {"dialogues": 100}, "concurrency": 20}
    with SimulatedEndpoint(faults=[Fault(kind="context", times=10)]) as endpoint:
        said = estimate_run(project(tmp_path, endpoint.url, **config), sample=20)
    assert (said.sample.completed, said.sample.dialogues) == (10, 20)
    assert said.dialogues.value == 200
    assert said.dialogues.high == 2 * 100 + 20, "a run gives up there"
    assert said.exit_code == 0


def test_a_sample_of_which_nothing_is_completed_is_told(tmp_path: Path) -> None:
    with SimulatedEndpoint(faults=[Fault(kind="context")]) as endpoint:
        said = estimate_run(project(tmp_path, endpoint.url, target={"dialogues": 100}), sample=5)
    assert said.sample.endings == {"failed: context_exceeded": 5}
    assert said.dialogues.value == 220
    assert said.exit_code == 1
    assert "! No dialogue of the sample was completed" in render(said)


def test_time_follows_from_the_speed_that_is_given(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url, target={"dialogues": 1000})
    said = estimate_run(config, sample=5, speed=10.0, gpus=8)
    assert said.speed_from == "given"
    assert said.seconds.value == pytest.approx(said.completion_tokens.value / 10)
    assert said.gpu_hours.value == pytest.approx(said.seconds.value * 8 / 3600)
    fast = estimate_run(project(tmp_path, endpoint.url, target={"dialogues": 1000}, concurrency=1), sample=5, speed=1e9)
    assert fast.seconds.value == pytest.approx(1000 * fast.sample.dialogue_seconds, rel=0.1)
    assert "what holds the run is `concurrency: 1`" in one_line(render(fast))


def test_the_speed_that_is_measured_is_that_of_the_sample(tmp_path: Path) -> None:
    """One dialogue at a time, 50 tokens a second each: neither the client nor this machine's load makes it faster."""
    latency = {"output_token": 0.01}
    with SimulatedEndpoint(latency=latency, max_num_seqs=2, completion_tokens=20, completion_spread=0) as endpoint:
        config = project(tmp_path, endpoint.url, limits={"messages": 2}, concurrency=4)
        said = estimate_run(config, sample=8)
    assert said.speed_from == "measured"
    assert 10 < said.speed < 200
    assert said.seconds.value == pytest.approx(said.completion_tokens.value / said.speed, rel=0.01)
    assert said.fastest_seconds <= 1.5 * said.seconds.value
    assert 0 < said.sample.calls_in_flight <= 8


def look(at: float, tokens: int, under_way: int, written: int | None = None) -> Any:
    return module._Look(at=at, tokens=tokens, under_way=under_way, written=written)


def test_the_beginning_and_the_end_of_a_sample_do_not_count_as_its_speed() -> None:
    """Nothing is written while the first prompts are read, and the last dialogue is alone for a long time."""
    looks = [look(0, 0, 8), look(4, 10, 8), look(9, 510, 5), look(10, 600, 3), look(60, 650, 1)]
    measured = module._measured(looks, 60.0, 650)
    assert measured.tokens_per_second == 100
    brief = module._measured([look(0, 0, 8), look(1, 90, 8)], 1.5, 150)
    assert brief.tokens_per_second == 100, "too short a time to leave anything out"


def test_what_endpoints_write_for_others_is_seen_by_their_counters() -> None:
    looks = [look(0, 0, 8), look(1, 0, 8, written=5_000), look(11, 1_000, 8, written=9_000)]
    assert module._measured(looks, 11.0, 1_000).others_tokens_per_second == 300
    assert module._measured([look(0, 0, 8), look(11, 1_000, 8)], 11.0, 1_000).others_tokens_per_second is None


def one_line(text: str) -> str:
    return " ".join(text.split())


# --- GPUs ---------------------------------------------------------------------------------------------------------


def test_gpus_are_those_of_the_endpoints_or_given(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url)
    said = estimate_run(config, sample=2)
    assert (said.gpus, said.gpus_from) == (1, "endpoints")
    assert "GPUs: one for each endpoint was counted" in one_line(render(said))
    assert estimate_run(config, sample=2, gpus=4).gpus_from == "given"


def test_an_endpoint_that_serves_two_models_is_counted_once(tmp_path: Path) -> None:
    from tutelage.generation.registry import load_graph

    models = {name: {"url": "http://gpu-1:8000/v1", "model": name} for name in ("large", "small")}
    roles = {"tutor": {"model": "large"}, "student": {"model": "small"}}
    everyone = {role: roles.get(role, {"model": "large"}) for role in load_graph("lesson", tmp_path).roles}
    config = load_config({"run": "r", "models": models, "roles": everyone, "briefs": [{"from": "briefs.jsonl"}]})
    assert module._gpus(config, load_graph("lesson", tmp_path), None).count == 1


def test_gpus_of_servers_that_we_launch_are_known(tmp_path: Path) -> None:
    serve = {"model": "Qwen/Qwen3-4B", "replicas": 2, "gpus_per_replica": 4}
    both = load_config(project(tmp_path, models={"default": {"serve": serve}}))
    mixed = load_config(
        project(
            tmp_path,
            models={"default": {"serve": serve}, "small": {"url": ["http://a/v1", "http://b/v1"], "model": "x"}},
            roles={"student": {"model": "small"}},
        )
    )
    assert gpus(both) == (8, "serve")
    assert gpus(mixed) == (10, "endpoints")
    assert gpus(load_config(project(tmp_path, models={}))) == (0, "embedded")


def gpus(config: Config) -> tuple[int, str]:
    from tutelage.generation.registry import load_graph

    found = module._gpus(config, load_graph("lesson", config.folder), None)
    return found.count, found.known_from


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample": 41}, "owes 40 dialogues, fewer than the sample of 41: .* --sample 4"),
        ({"sample": 0}, "--sample is 0: it must be above 0"),
        ({"speed": -1.0}, "--speed is -1"),
        ({"gpus": 0}, "--gpus is 0"),
    ],
)
def test_a_sample_or_a_speed_that_makes_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        estimate_run(project(tmp_path), **options)


def test_a_run_that_is_done_or_has_no_briefs(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url, target={"dialogues": 3})
    generate(config)
    with pytest.raises(ConfigError, match="the run is done"):
        estimate_run(config, sample=1)


def test_folders_that_hold_something_else(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url)
    with pytest.raises(RunFolderError, match="is not an empty folder: choose another one"):
        estimate_run(config, sample=2, keep=tmp_path)
    generate(project(tmp_path, endpoint.url, target={"dialogues": 1}))
    with pytest.raises(RunFolderError, match="is another config's"):
        estimate_run(project(tmp_path, endpoint.url, seed=8), sample=2)


def test_endpoints_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(EndpointUnreachable, match=r"models\.m: "):
        estimate_run(project(tmp_path), sample=2)


# --- how it looks -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(endpoint: SimulatedEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Estimate:
    return estimate_run(
        project(tmp_path_factory.mktemp("example"), endpoint.url, target={"dialogues": 10_000}), sample=12
    )


def test_it_fits_a_terminal(example: Estimate) -> None:
    console = Console(force_terminal=True, width=80, color_system="standard", highlight=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", render(example, console)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "r   10,000 completed dialogues owed"
    assert lines[1].startswith("sample: 12 dialogues of 12 of 40 briefs in ")


def test_piped_it_is_plain_and_its_json_has_every_figure(example: Estimate) -> None:
    assert "\x1b" not in render(example)
    value = json.loads(example.model_dump_json())
    assert value["dialogues"] == {"value": 10_000.0, "low": 10_000.0, "high": 10_000.0}
    assert value["roles"][0]["role"] == "tutor"
    assert value["sample"]["endings"] == {"completed: out_of_turns": 12}


def test_a_larger_sample_says_more(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    config = project(tmp_path, endpoint.url, target={"dialogues": 1000})
    few, many = (estimate_run(config, sample=number).completion_tokens for number in (5, 80))
    assert few.low and few.high and many.low and many.high
    assert (many.high - many.low) / many.value < 0.6 * (few.high - few.low) / few.value


def test_one_dialogue_has_no_interval(tmp_path: Path, endpoint: SimulatedEndpoint) -> None:
    said = estimate_run(project(tmp_path, endpoint.url), sample=1)
    assert said.calls.low is None
    assert "A sample of 1 says little" in one_line(render(said))


def test_the_endpoints_of_a_panel_are_counted(tmp_path: Path) -> None:
    from tutelage.generation.registry import load_graph

    models = {name: {"url": f"http://{name}:8000/v1", "model": name} for name in ("default", "other")}
    panel = {"critic": {"panel": ["other"]}}
    config = load_config({"run": "r", "models": models, "roles": panel, "briefs": [{"from": "briefs.jsonl"}]})
    assert module._gpus(config, load_graph("lesson", tmp_path), None).count == 2
