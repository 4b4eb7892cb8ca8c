"""`tutelage score` against the simulated endpoint: what is scored, what is refused, and what an interruption leaves."""

import asyncio
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.parquet as pq
import pytest
import yaml
from aiohttp import web
from structlog.testing import capture_logs

from tutelage import generate, read_transcripts
from tutelage.errors import ConfigError, EndpointFailed, EndpointUnreachable, ExportError
from tutelage.exports.export import export
from tutelage.exports.manifest import read_manifest
from tutelage.exports.request import Request
from tutelage.generation.score import ascore, score
from tutelage.generation.teacher import CONVERSATION, PROBE, Teacher, Tokens, Unscorable
from tutelage.serving.endpoint_pool import EndpointPool
from tutelage.testing import Fault, SimulatedEndpoint
from tutelage.testing.likelihoods import likeliest
from tutelage.testing.tokenizer import token_ids, tokenize, tokens_of

Rows = list[dict[str, Any]]

# `tokens_of` knows what was numbered in this process: the template's tokens, and what a test numbers itself.
token_ids(["<|im_start|>", "<|im_end|>", "assistant", "user", "system", "\n", "One"])


@dataclass(frozen=True, slots=True)
class Run:
    folder: Path
    config: dict[str, Any]
    endpoint: SimulatedEndpoint

    def with_models(self, **models: Any) -> dict[str, Any]:
        return {**self.config, "models": {**self.config["models"], **models}}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[SimulatedEndpoint]:
    with SimulatedEndpoint(model="tiny", adapters=["a"], completion_tokens=20, accept_rate=0.7) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def run(endpoint: SimulatedEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("scored")
    briefs = [{"id": f"b{number}", "topic": "Fractions", "question": "1/2 + 1/3?"} for number in range(6)]
    (folder / "briefs.jsonl").write_text("".join(json.dumps(brief) + "\n" for brief in briefs))
    config = {
        "run": "lesson",
        "graph": "lesson",
        "models": {"m": {"url": endpoint.url, "model": "tiny", "patience": 1}},
        "briefs": [{"from": str(folder / "briefs.jsonl")}],
        "roles": {"tutor": {"adapter": "a", "token_ids": True, "max_tokens": 60}},
        "limits": {"messages": 4},
        "concurrency": 4,
        "seed": 5,
    }
    generate(config, out=folder / "run")
    return Run(folder / "run", config, endpoint)


@pytest.fixture(autouse=True)
def calm(endpoint: SimulatedEndpoint) -> Iterator[None]:
    yield
    endpoint.clear_faults()


def rows_in(folder: Path) -> Rows:
    return [row for path in sorted(folder.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def said_in(row: dict[str, Any], mask: int = 1) -> str:
    """The text of a row's tokens under its mask, or of the others."""
    chosen = [id_ for id_, each in zip(row["input_ids"], row["loss_mask"], strict=True) if each == mask]
    return "".join(tokens_of(chosen))


# --- what is scored -------------------------------------------------------------------------------------------------


def test_the_rows_are_those_of_an_sft_export(run: Run, tmp_path: Path) -> None:
    summary = score(run.folder, out=tmp_path / "scored")
    export(run.folder, Request(format="sft", files="jsonl", dedup="none"), out=tmp_path / "sft")
    lines = (tmp_path / "sft/data/train-00000-of-00001.jsonl").read_text().splitlines()
    exported = [json.loads(line) for line in lines]
    rows = rows_in(tmp_path / "scored")
    assert [(row["id"], row["text"]) for row in rows] == [
        (each["id"], each["completion"][0]["content"]) for each in exported
    ]
    assert summary.rows == len(rows) > 5
    assert summary.exit_code == 0
    assert summary.tokens == sum(sum(row["loss_mask"]) for row in rows)
    manifest = read_manifest(tmp_path / "scored")
    assert (manifest.format, manifest.role, manifest.splits) == ("distillation", "tutor", {"train": len(rows)})
    assert sorted(manifest.files) == sorted(path.name for path in (tmp_path / "scored").iterdir())


def test_the_mask_covers_what_was_said_and_the_stop_token_and_nothing_else(run: Run, tmp_path: Path) -> None:
    score(run.folder, out=tmp_path / "scored")
    spoken = {}
    for transcript in read_transcripts(run.folder):
        for turn in transcript.turns:
            for attempt in turn.attempts:
                # What the endpoint numbered stands in this process only once it has numbered it, too.
                token_ids(tokenize(attempt.text))
            spoken[f"{transcript.id}/{turn.index}"] = turn.text
    for row in rows_in(tmp_path / "scored"):
        assert said_in(row) == spoken[row["id"]] + "<|im_end|>"
        assert row["loss_mask"] == sorted(row["loss_mask"]), "all of the prompt, then all of the reply"
        assert said_in(row, mask=0).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("k", [1, 5, 20])
def test_each_place_has_the_likeliest_tokens_and_the_rest_as_one_number(run: Run, tmp_path: Path, k: int) -> None:
    score(run.folder, out=tmp_path / "scored", top_k=k)
    outside = 0
    for row in rows_in(tmp_path / "scored"):
        begin = row["loss_mask"].index(1)
        places = range(begin, len(row["input_ids"]))
        assert len(row["topk_ids"]) == len(row["tail_logmass"]) == len(row["token_logprobs"]) == len(places)
        for place, ids, logprobs, tail, own in zip(
            places, row["topk_ids"], row["topk_logprobs"], row["tail_logmass"], row["token_logprobs"], strict=True
        ):
            assert len(ids) == len(set(ids)) == k
            assert logprobs == sorted(logprobs, reverse=True)
            assert sum(map(math.exp, logprobs)) + math.exp(tail) == pytest.approx(1, abs=1e-3)
            token = row["input_ids"][place]
            outside += token not in ids
            if token in ids:
                assert own == logprobs[ids.index(token)]
            else:
                assert own <= logprobs[-1]
    assert outside > 0, "otherwise no place had k + 1 entries"


def test_an_adapter_is_scored_as_the_adapter_and_the_model_as_the_model(run: Run, tmp_path: Path) -> None:
    score(run.folder, out=tmp_path / "adapter")
    bare = {**run.config, "roles": {}}
    score(run.folder, config=bare, out=tmp_path / "model")
    [adapter, *_], [model, *_] = rows_in(tmp_path / "adapter"), rows_in(tmp_path / "model")
    assert (adapter["model"], adapter["adapter"]) == ("tiny", "a")
    assert (model["model"], model["adapter"]) == ("tiny", "")
    assert adapter["input_ids"] == model["input_ids"]
    assert adapter["topk_ids"] != model["topk_ids"]
    for row, name in ((adapter, "a"), (model, "tiny")):
        at = row["loss_mask"].index(1)
        before, *_ = tokens_of([row["input_ids"][at - 1]])
        truth = likeliest(name, before)[:20]
        assert row["topk_ids"][0] == token_ids(token for token, _ in truth)
        assert row["topk_logprobs"][0] == pytest.approx([logprob for _, logprob in truth], abs=5e-3)


async def test_tokens_are_drawn_as_the_teacher_would_draw_them(run: Run) -> None:
    # Two tokens are told, so that most of the others have to be asked for.
    samples = 16_000
    async with EndpointPool(run.endpoint.url) as pool:
        teacher = Teacher(pool=pool, model="tiny", adapter="a", k=2, samples=samples)
        said = await teacher.tokens(CONVERSATION[:-1], "One", {})
        assert isinstance(said, Tokens)
        places = await teacher.places(said)
    assert isinstance(places, list)
    assert len(places) == 2
    for place, before in zip(places, tokens_of(said.ids[said.begin - 1 : -1]), strict=True):
        truth = {token_ids([token])[0]: math.exp(logprob) for token, logprob in likeliest("a", before)}
        drawn = Counter(place.ids)
        assert drawn.total() == samples
        # What is not common, 2 % in all, the simulated model says to be likely and never draws.
        assert sum(abs(drawn[id_] / samples - each) for id_, each in truth.items()) < 0.05 + 0.02
        listed = dict(zip(place.ids, place.logprobs, strict=True))
        assert {id_: math.exp(each) for id_, each in listed.items() if id_ in truth} == pytest.approx(
            {id_: truth[id_] for id_ in listed if id_ in truth}
        )
        assert sum(map(math.exp, listed.values())) + math.exp(place.tail) == pytest.approx(1)


def test_drawn_tokens_are_kept_with_repeats(run: Run, tmp_path: Path) -> None:
    summary = score(run.folder, out=tmp_path / "scored", samples=12)
    assert summary.rows > 5
    for row in rows_in(tmp_path / "scored"):
        assert {len(ids) for ids in row["sampled_ids"]} == {12}
        assert "topk_ids" not in row
        for ids, logprobs, tail in zip(row["sampled_ids"], row["sampled_logprobs"], row["tail_logmass"], strict=True):
            listed = dict(zip(ids, logprobs, strict=True))
            assert sum(map(math.exp, listed.values())) + math.exp(tail) == pytest.approx(1, abs=1e-3)


def test_what_people_decided_is_honoured(run: Run, tmp_path: Path) -> None:
    score(run.folder, out=tmp_path / "before")
    first, second, *others = rows_in(tmp_path / "before")
    decisions = [
        {"id": first["dialogue"], "turn": first["turn"], "by": "ann", "decision": "drop"},
        {"id": second["dialogue"], "turn": second["turn"], "by": "ann", "decision": "edit", "text": "Try, please."},
    ]
    try:
        (run.folder / "decisions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in decisions))
        score(run.folder, out=tmp_path / "after")
    finally:
        (run.folder / "decisions.jsonl").unlink()
    rows = {row["id"]: row for row in rows_in(tmp_path / "after")}
    assert first["id"] not in rows
    edited = next(row for row in rows.values() if row["text"] == "Try, please.")
    assert edited["dialogue"] == second["dialogue"]
    assert sum(edited["loss_mask"]) == len(tokenize("Try, please.")) + 1
    kept = [row for row in rows.values() if row["text"] != "Try, please."]
    assert [row["input_ids"] for row in kept] == [row["input_ids"] for row in others]


def test_what_a_late_generation_wrote_is_warned_of_and_then_refused_unless_it_is_asked_for(
    run: Run, tmp_path: Path
) -> None:
    for generation in (3, 5):
        run_of_it = tmp_path / f"run{generation}"
        shutil.copytree(run.folder, run_of_it)
        for path in (run_of_it / "transcripts").iterdir():
            path.write_text(path.read_text().replace('"generation":1', f'"generation":{generation}'))
    with capture_logs() as logs:
        score(tmp_path / "run3", out=tmp_path / "three")
    assert "late_generation_exported" in {each["event"] for each in logs}
    assert read_manifest(tmp_path / "three").generation == 3
    with pytest.raises(ExportError, match=r"is of generation 5: .*--any-generation"):
        score(tmp_path / "run5", out=tmp_path / "five")
    assert not list(tmp_path.glob("*five*")), "nothing was made"
    assert score(tmp_path / "run5", out=tmp_path / "five", any_generation=True).rows


# --- who can be the teacher -----------------------------------------------------------------------------------------


def test_an_endpoint_that_takes_no_notice_of_prompt_logprobs_is_no_teacher(run: Run, tmp_path: Path) -> None:
    with SimulatedEndpoint(model="tiny", prompt_logprobs=False) as other:
        config = run.with_models(t={"url": other.url, "model": "tiny"}) | {"roles": {"tutor": {"model": "m"}}}
        with pytest.raises(ConfigError, match=r"models\.t cannot be the teacher.*takes no notice of `prompt_logprobs`"):
            score(run.folder, config=config, teacher="t", out=tmp_path / "scored")
    assert not (tmp_path / "scored").exists()


def test_more_tokens_than_the_server_gives_name_its_flag(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"greater than max allowed: 20.*--max-logprobs"):
        score(run.folder, out=tmp_path / "scored", top_k=21)


def test_another_model_with_the_same_tokenizer_can_be_the_teacher(run: Run, tmp_path: Path) -> None:
    with SimulatedEndpoint(model="large") as other:
        config = run.with_models(t={"url": other.url, "model": "large"}) | {"roles": {"tutor": {"model": "m"}}}
        summary = score(run.folder, config=config, teacher="t", out=tmp_path / "scored")
    assert summary.likeness == "its tokenizer and chat template"
    assert {row["model"] for row in rows_in(tmp_path / "scored")} == {"large"}


async def test_a_model_with_another_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    async with another_tokenizer(run.endpoint) as url:
        config = run.with_models(t={"url": url, "model": "tiny"}) | {"roles": {"tutor": {"model": "m"}}}
        with pytest.raises(ConfigError, match="takes text apart otherwise"):
            await ascore(run.folder, config=config, teacher="t", out=tmp_path / "scored")


async def test_recorded_token_ids_tell_the_tokenizer_of_a_model_that_is_gone(run: Run, tmp_path: Path) -> None:
    gone = {"url": "http://127.0.0.1:9/v1", "model": "tiny", "patience": 0}
    config = run.with_models(m=gone, t={"url": run.endpoint.url, "model": "tiny"}) | {
        "roles": {"tutor": {"model": "m"}}
    }
    summary = await ascore(run.folder, config=config, teacher="t", out=tmp_path / "same")
    assert summary.likeness == "recorded token ids"
    async with another_tokenizer(run.endpoint) as url:
        config = run.with_models(m=gone, t={"url": url, "model": "tiny"}) | {"roles": {"tutor": {"model": "m"}}}
        with pytest.raises(ConfigError, match="are another text"):
            await ascore(run.folder, config=config, teacher="t", out=tmp_path / "other")


class another_tokenizer:  # noqa: N801
    """A server before the simulated one that numbers the same tokens otherwise: each id is one more."""

    def __init__(self, endpoint: SimulatedEndpoint) -> None:
        self._root = endpoint.url.removesuffix("/v1")

    async def __aenter__(self) -> str:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/v1"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read() or b"null")
        if request.path == "/detokenize":
            body["tokens"] = [id_ - 1 for id_ in body["tokens"]]
        if isinstance(body, dict) and isinstance(body.get("prompt"), list):
            body["prompt"] = [id_ - 1 for id_ in body["prompt"]]
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self._root + request.path, json=body) as response,
        ):
            reply = await response.json(content_type=None)
        if request.path == "/tokenize":
            reply["tokens"] = [id_ + 1 for id_ in reply["tokens"]]
        for choice in reply.get("choices", ()):
            choice["prompt_logprobs"] = [
                entry and {str(int(id_) + 1): each for id_, each in entry.items()}
                for entry in choice.get("prompt_logprobs") or ()
            ]
        return web.json_response(reply, status=response.status)


def test_a_model_that_nothing_tells_the_tokenizer_of_is_refused(run: Run, tmp_path: Path) -> None:
    gone = {"url": "http://127.0.0.1:9/v1", "model": "tiny", "patience": 0}
    config = run.with_models(m=gone, t={"url": run.endpoint.url, "model": "tiny"})
    config |= {"roles": {"student": {"model": "m"}}}
    config["models"]["default"] = config["models"].pop("m")
    config["roles"] = {}
    with pytest.raises(ConfigError, match=r"cannot be told.*roles\.student\.token_ids"):
        score(run.folder, config=config, teacher="t", role="student", out=tmp_path / "scored")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"role": "nobody"}, "nobody speaks as 'nobody'.*tutor"),
        ({"teacher": "x"}, "there is no model 'x' under `models:`; there is 'm'"),
        ({"top_k": 0}, "--top-k is 0"),
        ({"samples": -1}, "--samples is -1"),
        ({"adapter": "z"}, "does not serve 'z'"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is(
    run: Run, tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(Exception, match=words) as caught:
        score(run.folder, out=tmp_path / "scored", **asked)
    assert getattr(caught.value, "exit_code", None) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_endpoint_that_is_not_there_is_said_to_be_unreachable(run: Run, tmp_path: Path) -> None:
    config = run.with_models(m={"url": "http://127.0.0.1:9/v1", "model": "tiny"})
    with pytest.raises(EndpointUnreachable) as caught:
        score(run.folder, config=config, out=tmp_path / "scored")
    assert caught.value.exit_code == 3


# --- what is in the way, and what is left ---------------------------------------------------------------------------


def test_only_an_export_is_replaced_and_only_by_force(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "scored"
    score(run.folder, out=out)
    with pytest.raises(ExportError, match="is not empty"):
        score(run.folder, out=out, top_k=3)
    assert score(run.folder, out=out, top_k=3, force=True).rows
    assert {len(ids) for row in rows_in(out) for ids in row["topk_ids"]} == {3}
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"holds more than an export \(notes\.txt\)"):
        score(run.folder, out=out, force=True)
    assert names_in(tmp_path) == ["scored"]


async def interrupted(run: Run, out: Path) -> None:
    """Begins to score, and is cancelled after some turns."""
    run.endpoint.forget()
    run.endpoint.inject(Fault(kind="slow", delay=0.02, requests="completions"))
    scoring = asyncio.create_task(ascore(run.folder, out=out))
    while len(_prefills(run)) < 6 and not scoring.done():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    run.endpoint.clear_faults()
    run.endpoint.forget()


def _prefills(run: Run) -> Rows:
    return [each for each in run.endpoint.requests() if "prompt_logprobs" in each["body"]]


async def test_what_was_scored_before_an_interruption_is_not_asked_for_again(run: Run, tmp_path: Path) -> None:
    whole = (await ascore(run.folder, out=tmp_path / "whole")).rows
    await interrupted(run, tmp_path / "scored")
    assert names_in(tmp_path) == [".scored.scoring", "whole"]
    summary = await ascore(run.folder, out=tmp_path / "scored")
    assert 0 < summary.resumed < whole
    assert summary.rows == whole
    assert len(_prefills(run)) == summary.scored + 2, "and twice for the examination"
    assert rows_in(tmp_path / "scored") == rows_in(tmp_path / "whole")
    assert names_in(tmp_path) == ["scored", "whole"]


def test_a_turn_that_was_not_answered_is_asked_for_again_by_the_same_command(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Teacher.places
    failed: list[object] = []

    async def fails_once(self: Teacher, tokens: Tokens, *at: Any) -> Any:
        if at and not failed:
            failed.append(at)
            raise EndpointFailed("it answers others")
        return await places(self, tokens, *at)

    whole = score(run.folder, out=tmp_path / "whole").rows
    monkeypatch.setattr(Teacher, "places", fails_once)
    summary = score(run.folder, out=tmp_path / "scored")
    assert (summary.exit_code, summary.rows, summary.unanswered) == (1, whole - 1, 1)
    assert "is not there yet" in str(summary)
    assert not (tmp_path / "scored").exists()
    summary = score(run.folder, out=tmp_path / "scored")
    assert (summary.exit_code, summary.scored, summary.resumed) == (0, 1, whole - 1)
    assert {row["id"] for row in rows_in(tmp_path / "scored")} == {row["id"] for row in rows_in(tmp_path / "whole")}


async def test_shards_that_answer_another_question_are_thrown_away(run: Run, tmp_path: Path) -> None:
    await interrupted(run, tmp_path / "scored")
    with capture_logs() as logs:
        summary = await ascore(run.folder, out=tmp_path / "scored", top_k=3)
    assert summary.resumed == 0
    assert "scoring_begun_anew" in {each["event"] for each in logs}
    assert {len(ids) for row in rows_in(tmp_path / "scored") for ids in row["topk_ids"]} == {3}


def test_a_turn_that_does_not_fit_the_teachers_context_is_left_out_and_counted(run: Run, tmp_path: Path) -> None:
    score(run.folder, out=tmp_path / "whole")
    lengths = sorted(len(row["input_ids"]) for row in rows_in(tmp_path / "whole"))
    limit = lengths[len(lengths) // 2]
    with SimulatedEndpoint(model="tiny", adapters=["a"], max_model_len=limit) as small:
        config = run.with_models(m={"url": small.url, "model": "tiny"})
        summary = score(run.folder, config=config, out=tmp_path / "scored")
    assert summary.left_out[Unscorable.TOO_LONG] == sum(length + 1 > limit for length in lengths) > 0
    assert summary.rows == sum(length + 1 <= limit for length in lengths)
    assert "too long" in str(summary)
    assert "too long" in (tmp_path / "scored/README.md").read_text()


def test_the_card_says_who_the_teacher_is_and_how_the_files_are_read(run: Run, tmp_path: Path) -> None:
    score(run.folder, out=tmp_path / "scored", samples=3)
    text = (tmp_path / "scored/README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "`tiny+a`" in text
    assert "3 tokens drawn" in text
    for column in pq.read_schema(next((tmp_path / "scored").glob("data/*"))).names:
        assert f"| {column} |" in text


def test_the_probe_of_tokenizers_has_many_scripts() -> None:
    assert len({character for character in PROBE if ord(character) > 127}) > 40
