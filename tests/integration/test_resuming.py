"""A dialogue goes on at its step: whatever is stopped in the middle of it, and whatever has changed since."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Interrupt, Overwrite, interrupt
from pydantic import BaseModel, PrivateAttr
from structlog.testing import capture_logs

from tutelage import Cast, Dialogue, Transcript, agenerate, max_messages, read_transcripts, speak, stop_or
from tutelage.agents import student, tutor
from tutelage.config import load_config
from tutelage.dialogue.asking import REPAIRS
from tutelage.errors import EndpointFailed, RunFolderError, SchemaRefused
from tutelage.generation import run as run_module
from tutelage.generation.checkpoint_store import CheckpointStore
from tutelage.generation.checkpoints import CheckpointSaver
from tutelage.generation.generate import RunSummary
from tutelage.generation.ledger import Ledger
from tutelage.generation.session import Means, Session, open_session
from tutelage.testing import ScriptedModel
from tutelage.transcripts.messages import Prompts

ACCEPT = json.dumps({"verdict": "accept", "issues": []})
ROLES = ("tutor", "critic", "fact_checker", "student")


@dataclass(frozen=True, slots=True)
class Call:
    """A call that an actor was asked."""

    role: str
    seed: int
    messages: list[tuple[str, str]] = field(repr=False)


def by_seed(role: str, seed: int, nth: int) -> str | Exception:
    return ACCEPT if role in ("critic", "fact_checker") else f"{role} says {seed}"


class Actor(ScriptedModel):
    """Says what its role and seed make it say, and never answers the calls at which it is to be stopped."""

    _begun: list[Call] = PrivateAttr(default_factory=list)
    _says: Callable[[str, int, int], str | Exception] = PrivateAttr()
    _hangs: Callable[[str, int], bool] = PrivateAttr()
    _stuck: asyncio.Event = PrivateAttr(default_factory=asyncio.Event)

    def __init__(
        self,
        says: Callable[[str, int, int], str | Exception] = by_seed,
        hangs: Callable[[str, int], bool] = lambda role, nth: False,
    ) -> None:
        super().__init__({})
        self._says, self._hangs = says, hangs

    @property
    def asked(self) -> list[Call]:
        return self._begun

    @property
    def stuck(self) -> asyncio.Event:
        return self._stuck

    def of(self, role: str) -> list[Call]:
        return [call for call in self._begun if call.role == role]

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert run_manager is not None
        role = run_manager.metadata["role"]
        nth = len(self.of(role))
        seed = kwargs["seed"]
        self._begun.append(Call(role, seed, [(message.type, str(message.content)) for message in messages]))
        if self._hangs(role, nth):
            self._stuck.set()
            await asyncio.Event().wait()
        self.script[role] = [self._says(role, seed, nth)]
        return self._answer(messages, {"role": role}, kwargs)


def hangs_at(role: str, nth: int = 0) -> Callable[[str, int], bool]:
    return lambda who, count: (who, count) == (role, nth)


def hangs_after(nth: int) -> Callable[[str, int], bool]:
    return lambda who, count: who in ("critic", "student") and count > nth


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A run's config and folder."""

    folder: Path
    briefs: int = 1
    graph: str | Callable[[], Any] = "lesson"
    answer: Callable[[str, Sequence[Interrupt]], Awaitable[Any]] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def config(self) -> dict[str, Any]:
        path = self.folder / "briefs.jsonl"
        if not path.exists():
            self.write_briefs("What is {n} + {n}?")
        return {
            "run": "r",
            "briefs": [{"from": str(path)}],
            "limits": {"messages": 4},
            **({"graph": self.graph} if isinstance(self.graph, str) else {}),
            **self.settings,
        }

    def write_briefs(self, question: str) -> None:
        self.folder.mkdir(exist_ok=True)
        lines = [{"id": f"b{n}", "topic": "Sums", "question": question.format(n=n)} for n in range(self.briefs)]
        (self.folder / "briefs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    async def play(self, actor: Actor) -> RunSummary:
        return await asyncio.wait_for(
            agenerate(
                self.config(),
                graph=None if isinstance(self.graph, str) else self.graph,
                out=self.run,
                models={"default": actor},
                answer=self.answer,
            ),
            60,
        )

    async def play_until_killed(self, actor: Actor) -> None:
        """Leaves the run's folder as it is on disk when the actor hangs: all that comes after that is lost."""
        task = asyncio.create_task(self.play(actor))
        stuck = asyncio.create_task(actor.stuck.wait())
        await asyncio.wait([task, stuck], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), task.result()
        await quiet(self.run)
        shutil.copytree(self.run, self.folder / "killed")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        shutil.rmtree(self.run)
        (self.folder / "killed").rename(self.run)

    @asynccontextmanager
    async def session(self, actor: Actor) -> AsyncIterator[Session]:
        means = Means(models={"default": actor})
        async with open_session(load_config(self.config()), out=self.run, means=means) as session:
            yield session

    def transcripts(self) -> list[Transcript]:
        def refuse(what: str) -> None:
            raise AssertionError(what)

        return sorted(read_transcripts(self.run, on_skip=refuse), key=lambda transcript: transcript.brief.id)

    def ledger(self) -> Ledger:
        return Ledger(self.run / "ledger.db", self.run / "transcripts")

    def checkpoints(self) -> CheckpointStore:
        with CheckpointSaver(self.run / "checkpoints.db") as saver:
            return saver.store


async def quiet(folder: Path) -> None:
    """Returns when nothing has been written for a while."""
    before, since = [(0, 0.0)], 0
    while since < 6:
        await asyncio.sleep(0.05)
        now = [(path.stat().st_size, path.stat().st_mtime) for path in _files(folder)]
        since = since + 1 if now == before else 0
        before = now


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def without_times(transcript: Transcript) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key not in ("seconds", "started", "finished")}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return strip(transcript.model_dump(mode="json"))


async def undisturbed(folder: Path, **options: Any) -> tuple[list[Any], Actor]:
    project, actor = Project(folder=folder / "undisturbed", **options), Actor()
    await project.play(actor)
    return [without_times(transcript) for transcript in project.transcripts()], actor


async def test_of_two_reviewers_only_the_one_who_had_not_answered_is_asked_again(tmp_path: Path) -> None:
    project, before, after = Project(folder=tmp_path), Actor(hangs=hangs_at("fact_checker")), Actor()
    await project.play_until_killed(before)
    await project.play(after)
    assert [call.role for call in before.asked] == ["tutor", "critic", "fact_checker"]
    assert [call.role for call in after.asked] == ["fact_checker", "student", "tutor", *ROLES[1:3], "student"]
    assert before.of("fact_checker")[0] == after.of("fact_checker")[0]


@pytest.mark.parametrize(("role", "nth"), [("tutor", 0), ("critic", 0), ("student", 0), ("tutor", 1), ("student", 1)])
async def test_a_resumed_dialogue_is_what_it_would_have_been(tmp_path: Path, role: str, nth: int) -> None:
    """Wherever it was killed: only the call in flight is made again, and every prompt is there."""
    wanted, whole = await undisturbed(tmp_path)
    project, before, after = Project(folder=tmp_path / "p"), Actor(hangs=hangs_at(role, nth)), Actor()
    await project.play_until_killed(before)
    await project.play(after)
    assert [without_times(transcript) for transcript in project.transcripts()] == wanted
    assert len(before.asked) + len(after.asked) == len(whole.asked) + 1
    sent = {call.seed: call.messages for call in [*before.asked, *after.asked]}
    kinds = {"system": "system", "user": "human", "assistant": "ai"}
    with Prompts(project.run) as prompts:
        for transcript in project.transcripts():
            for call in transcript.calls():
                messages = prompts.messages(call.prompt_sha256)
                assert [(kinds[each["role"]], each["content"]) for each in messages] == sent[call.seed or 0]


async def test_many_dialogues_killed_again_and_again_are_what_they_would_have_been(tmp_path: Path) -> None:
    options: dict[str, Any] = {"briefs": 6, "settings": {"concurrency": 3}}
    wanted, whole = await undisturbed(tmp_path, **options)
    project = Project(folder=tmp_path / "p", **options)
    asked = 0
    for kill in range(4):
        actor = Actor(hangs=hangs_after(kill))
        await project.play_until_killed(actor)
        asked += len(actor.asked)
    last = Actor()
    await project.play(last)
    assert [without_times(transcript) for transcript in project.transcripts()] == wanted
    assert len(whole.asked) <= asked + len(last.asked) <= len(whole.asked) + 4 * 2 * 3
    assert project.checkpoints().threads == set()


async def test_a_cancelled_run_goes_on_where_it_was(tmp_path: Path) -> None:
    wanted, whole = await undisturbed(tmp_path)
    project, before, after = Project(folder=tmp_path / "p"), Actor(hangs=hangs_at("tutor", 1)), Actor()
    task = asyncio.create_task(project.play(before))
    await before.stuck.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await project.play(after)
    assert [without_times(transcript) for transcript in project.transcripts()] == wanted
    assert len(before.asked) + len(after.asked) == len(whole.asked) + 1


async def test_a_reply_that_did_not_fit_is_not_asked_for_again(tmp_path: Path) -> None:
    def says(role: str, seed: int, nth: int) -> str | Exception:
        return "no JSON" if role == "critic" and nth == 0 else by_seed(role, seed, nth)

    project, before, after = Project(folder=tmp_path), Actor(says, hangs_at("critic", 1)), Actor()
    await project.play_until_killed(before)
    await project.play(after)
    assert after.of("critic")[0] == before.of("critic")[1]
    transcript = project.transcripts()[0]
    (misfit,) = transcript.turns[0].steps
    assert (misfit.kind, misfit.text, misfit.call.seed if misfit.call else None) == (
        "misfit",
        "no JSON",
        before.of("critic")[0].seed,
    )
    assert transcript.usage.calls == len({call.seed for call in [*before.asked, *after.asked]})


def never_fits(role: str, seed: int, nth: int) -> str | Exception:
    return f"no JSON {seed}" if role == "critic" else by_seed(role, seed, nth)


async def test_a_dialogue_whose_replies_never_fit_is_tried_thrice_and_set_aside_with_all_of_them(
    tmp_path: Path,
) -> None:
    project, actor = Project(folder=tmp_path), Actor(never_fits)
    assert (await project.play(actor)).counts == {"failed": {"wrong_shape": 1}}
    assert [len(actor.of(role)) for role in ("tutor", "critic", "fact_checker")] == [1, REPAIRS + 1 + 2, 1]
    assert len({call.seed for call in actor.asked}) == len(actor.asked)
    transcript = project.transcripts()[0]
    assert transcript.unfinished is not None
    assert [step.text for step in transcript.unfinished.steps] == [
        f"no JSON {call.seed}" for call in actor.of("critic")
    ]
    assert transcript.usage.calls == len(actor.asked)
    with closing(project.ledger()) as ledger:
        assert [(each.id, each.reason) for each in ledger.set_aside()] == [(transcript.id, "wrong_shape")]


async def test_killed_between_its_tries_it_has_none_of_its_replies_asked_for_again(tmp_path: Path) -> None:
    project, before = Project(folder=tmp_path), Actor(never_fits, hangs_at("critic", REPAIRS + 1))
    await project.play_until_killed(before)
    after = Actor(never_fits)
    await project.play(after)
    assert after.asked[0] == before.asked[-1]
    transcript = project.transcripts()[0]
    assert transcript.unfinished is not None
    replies = [call.seed for call in before.of("critic")[:-1]] + [call.seed for call in after.of("critic")]
    assert [step.text for step in transcript.unfinished.steps] == [f"no JSON {seed}" for seed in replies]
    assert len(after.asked) == 3


async def test_it_was_started_when_it_was_first_started(tmp_path: Path) -> None:
    project, before = Project(folder=tmp_path), Actor(hangs=hangs_at("student"))
    await project.play_until_killed(before)
    with closing(project.checkpoints()), CheckpointSaver(project.run / "checkpoints.db") as saver:
        (found,) = saver.list(None)
    await asyncio.sleep(0.01)
    await project.play(Actor())
    (transcript,) = project.transcripts()
    assert transcript.started.isoformat() == found.metadata["started"]  # type: ignore[typeddict-item]


async def test_its_brief_is_the_one_that_it_was_begun_with(tmp_path: Path) -> None:
    project = Project(folder=tmp_path)
    await project.play_until_killed(Actor(hangs=hangs_at("student")))
    project.write_briefs("What is {n} - {n}?")
    after = Actor()
    await project.play(after)
    assert project.transcripts()[0].brief.question == "What is 0 + 0?"
    assert "What is 0 + 0?" in str(after.asked[0].messages)


async def test_its_brief_may_be_gone(tmp_path: Path) -> None:
    project = Project(folder=tmp_path, briefs=2, settings={"concurrency": 1})
    await project.play_until_killed(Actor(hangs=hangs_at("student")))
    (tmp_path / "briefs.jsonl").write_text(json.dumps({"id": "b1", "topic": "Sums"}) + "\n")
    await project.play(Actor())
    assert [transcript.brief.id for transcript in project.transcripts()] == ["b0", "b1"]


def spoil(project: Project, statement: str) -> None:
    with closing(sqlite3.connect(project.run / "checkpoints.db")) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()


async def test_one_whose_checkpoint_cannot_be_read_is_begun_anew_and_keeps_no_other_from_going_on(
    tmp_path: Path,
) -> None:
    wanted, _ = await undisturbed(tmp_path, briefs=2)
    project, after = Project(folder=tmp_path / "p", briefs=2), Actor()
    await project.play_until_killed(Actor(hangs=hangs_at("student", 0)))
    spoil(project, "UPDATE checkpoints SET data = x'c1' WHERE written = (SELECT min(written) FROM checkpoints)")
    with capture_logs() as logs:
        await project.play(after)
    assert [each["event"] for each in logs if each["log_level"] == "warning"] == ["checkpoint_unreadable"]
    assert [without_times(transcript) for transcript in project.transcripts()] == wanted
    assert len(after.of("tutor")) < 4


async def test_a_journalled_reply_that_cannot_be_read_is_asked_for_again(tmp_path: Path) -> None:
    project, after = Project(folder=tmp_path), Actor(never_fits)
    await project.play_until_killed(Actor(never_fits, hangs_at("critic", 1)))
    spoil(project, """UPDATE replies SET reply = '{"text": "x", "call": {"of another version": 1}}'""")
    assert (await project.play(after)).counts == {"failed": {"wrong_shape": 1}}
    assert len(after.of("critic")) == REPAIRS + 1 + 2


def scribbling() -> StateGraph[Dialogue, Cast]:
    async def scribble(state: Dialogue, runtime: Runtime[Cast]) -> Any:
        return {"attempts": [{"text": "no Attempt"}], "reviews": [{"verdict": "no Review"}]}

    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("scribble", scribble)
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "scribble")
    graph.add_edge("scribble", END)
    return graph


async def test_what_a_node_of_ones_own_leaves_under_review_fails_its_dialogue_alone(tmp_path: Path) -> None:
    project = Project(folder=tmp_path, graph=scribbling, briefs=2)
    assert (await project.play(Actor())).count("failed") == 2


def talk(*, messages: int) -> StateGraph[Dialogue, Cast]:
    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_conditional_edges("tutor", stop_or("student", max_messages(messages)))
    graph.add_conditional_edges("student", stop_or("tutor", max_messages(messages)))
    return graph


def short_talk() -> StateGraph[Dialogue, Cast]:
    return talk(messages=3)


def talk_with_a_rest() -> StateGraph[Dialogue, Cast]:
    graph = short_talk()
    graph.add_node("rest", lambda state: {})
    graph.add_edge("rest", "tutor")
    return graph


talk_with_a_rest.__name__ = "short_talk"


async def test_a_graph_that_has_changed_begins_its_dialogues_anew(tmp_path: Path) -> None:
    await Project(folder=tmp_path, graph=short_talk).play_until_killed(Actor(hangs=hangs_at("student")))
    changed, after = Project(folder=tmp_path, graph=talk_with_a_rest), Actor()
    with capture_logs() as logs:
        await changed.play(after)
    assert [(each["log_level"], each["dialogues"]) for each in logs if each["event"] == "begun_anew"] == [
        ("warning", 1)
    ]
    assert [call.role for call in after.asked] == ["tutor", "student", "tutor"]
    assert len(changed.transcripts()) == 1


async def test_killed_while_it_drops_them_it_does_not_go_on_from_another_graphs_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Project(folder=tmp_path, graph=short_talk).play_until_killed(Actor(hangs=hangs_at("student")))

    def power_cut(self: CheckpointStore, orders: Sequence[Any]) -> None:
        raise RuntimeError("power cut")

    changed, after = Project(folder=tmp_path, graph=talk_with_a_rest, settings={"concurrency": 1}), Actor()
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointStore, "write", power_cut)
        with pytest.raises(RunFolderError):
            async with open_session(
                load_config(changed.config()),
                graph=changed.graph,
                out=changed.run,
                means=Means(models={"default": Actor()}, patience=0),
            ) as session:
                await session.run.complete()
    await changed.play(after)
    assert [call.role for call in after.asked] == ["tutor", "student", "tutor"]


def take_checkpoints(project: Project) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for path in project.run.glob("checkpoints.db*")]


def put_back(project: Project, files: list[tuple[Path, bytes]]) -> None:
    for path in project.run.glob("checkpoints.db*"):
        path.unlink()
    for path, content in files:
        path.write_bytes(content)


async def test_a_crash_between_transcript_and_checkpoint_makes_no_dialogue_twice(tmp_path: Path) -> None:
    project = Project(folder=tmp_path)
    await project.play_until_killed(Actor(hangs=hangs_at("student", 1)))
    checkpoints = take_checkpoints(project)
    await project.play(Actor())
    put_back(project, checkpoints)
    assert project.checkpoints().threads
    after = Actor()
    await project.play(after)
    assert after.asked == []
    assert len((project.run / "transcripts" / "00000.jsonl").read_bytes().splitlines()) == 1
    assert project.checkpoints().threads == set()


def refused(role: str, seed: int, nth: int) -> str | Exception:
    return SchemaRefused("no such schema") if role == "student" else by_seed(role, seed, nth)


async def test_a_retry_is_another_attempt_with_other_seeds_and_goes_before_what_is_new(tmp_path: Path) -> None:
    project, before = Project(folder=tmp_path, briefs=3, settings={"concurrency": 1}), Actor(refused)
    assert (await project.play(before)).counts == {"failed": {"schema_refused": 3}}
    with closing(project.ledger()) as ledger:
        ids = [each.id for each in project.transcripts()]
        assert ledger.retry(ids[:2]) == 2
    after = Actor()
    await Project(folder=tmp_path, briefs=3, settings={"concurrency": 1, "target": {"dialogues": 3}}).play(after)
    done = {each.id: each for each in project.transcripts()}
    assert [(done[id_].attempt, done[id_].outcome.status) for id_ in ids] == [
        (2, "completed"),
        (2, "completed"),
        (1, "failed"),
    ]
    assert not {call.seed for call in before.asked} & {call.seed for call in after.asked}
    in_file = [
        json.loads(line)["id"] for line in (project.run / "transcripts" / "00000.jsonl").read_bytes().splitlines()
    ]
    assert set(in_file[3:5]) == set(ids[:2])
    with closing(project.ledger()) as ledger:
        assert ledger.retries() == []


async def test_a_retry_does_not_go_on_from_the_checkpoint_of_what_failed(tmp_path: Path) -> None:
    project = Project(folder=tmp_path)
    await project.play_until_killed(Actor(hangs=hangs_at("student")))
    checkpoints = take_checkpoints(project)
    await project.play(Actor(refused))
    put_back(project, checkpoints)
    with closing(project.ledger()) as ledger:
        assert ledger.retry([project.transcripts()[0].id]) == 1
    after = Actor()
    await project.play(after)
    assert [call.role for call in after.asked][:3] == ["tutor", "critic", "fact_checker"]
    (transcript,) = project.transcripts()
    assert (transcript.attempt, transcript.outcome.status) == (2, "completed")
    assert transcript.turns[0].attempts[0].call is not None
    assert transcript.turns[0].attempts[0].call.seed == after.asked[0].seed


async def test_a_retry_that_is_killed_goes_on_as_that_retry(tmp_path: Path) -> None:
    project = Project(folder=tmp_path)
    await project.play(Actor(refused))
    with closing(project.ledger()) as ledger:
        ledger.retry([project.transcripts()[0].id])
    await project.play_until_killed(Actor(hangs=hangs_at("student")))
    after = Actor()
    await project.play(after)
    assert [call.role for call in after.asked][:2] == ["student", "tutor"]
    assert project.transcripts()[0].attempt == 2


async def test_what_is_to_be_retried_is_no_new_dialogue_where_new_ones_are_looked_for(tmp_path: Path) -> None:
    """A retry that comes while the dialogue is just ending waits for the next start at the latest."""
    project = Project(folder=tmp_path)
    async with project.session(Actor(refused)) as session:
        await session.run.complete()
        session.ledger.retry([entry.id for entry in session.ledger.set_aside()])
        session.run.look_again()
        await session.run.complete()
    assert [transcript.attempt for transcript in project.transcripts()] == [1]
    assert (await project.play(Actor())).counts == {"completed": {"out_of_turns": 1}}
    lines = (project.run / "transcripts" / "00000.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["attempt"] for line in lines] == [1, 2]


async def test_one_whose_transcript_cannot_be_read_keeps_no_other_from_being_retried(tmp_path: Path) -> None:
    project = Project(folder=tmp_path, briefs=2)
    await project.play(Actor(refused))
    transcripts = project.run / "transcripts" / "00000.jsonl"
    content = transcripts.read_bytes()
    transcripts.write_bytes(b"?" + content[1:])
    with closing(project.ledger()) as ledger:
        assert ledger.retry([entry.id for entry in ledger.set_aside()]) == 2
    with capture_logs() as logs:
        assert (await project.play(Actor())).count("completed") == 1
    assert [each["event"] for each in logs if each["log_level"] == "error"] == ["retry_not_begun"]


async def test_a_retry_that_waits_to_be_tried_again_is_not_begun_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "TRY_AGAIN", (0.5, 0.5))
    project = Project(folder=tmp_path)
    await project.play(Actor(refused))
    with closing(project.ledger()) as ledger:
        ledger.retry([project.transcripts()[0].id])

    failed = asyncio.Event()

    def fails_once(role: str, seed: int, nth: int) -> str | Exception:
        if (role, nth) != ("student", 0):
            return by_seed(role, seed, nth)
        failed.set()
        return EndpointFailed("gone")

    actor = Actor(fails_once)
    async with project.session(actor) as session:
        task = asyncio.create_task(session.run.complete())
        await failed.wait()
        await asyncio.sleep(0.1)
        session.run.retry()
        await asyncio.wait_for(task, 30)
    assert [call.role for call in actor.asked][:5] == ["tutor", "critic", "fact_checker", "student", "student"]
    assert len((project.run / "transcripts" / "00000.jsonl").read_bytes().splitlines()) == 2


def asking() -> StateGraph[Dialogue, Cast]:
    async def ask_person(state: Dialogue, runtime: Runtime[Cast]) -> dict[str, Any]:
        said = interrupt(f"what about {state['turns'][0].text!r}?")
        last = state["turns"][-1]
        return {"turns": Overwrite([*state["turns"][:-1], last.model_copy(update={"private": {"person": said}})])}

    graph = StateGraph(Dialogue, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("person", ask_person)
    graph.add_node("student", speak(student))
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "person")
    graph.add_edge("person", "student")
    graph.add_conditional_edges("student", stop_or("tutor", max_messages(2)))
    return graph


async def test_a_graph_that_asks_fails_where_nobody_answers(tmp_path: Path) -> None:
    project = Project(folder=tmp_path, graph=asking)
    assert (await project.play(Actor())).counts == {"failed": {"unanswered": 1}}
    assert "what about" in (project.transcripts()[0].outcome.detail or "")


async def test_a_graph_that_asks_is_answered_and_asks_again_after_a_restart(tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    async def never(id_: str, asks: Sequence[Interrupt]) -> Any:
        asked.append((id_, asks[0].value))
        before.stuck.set()
        await asyncio.Event().wait()

    async def well(id_: str, asks: Sequence[Interrupt]) -> Any:
        asked.append((id_, asks[0].value))
        return "go on"

    before, after = Actor(), Actor()
    await Project(folder=tmp_path, graph=asking, answer=never).play_until_killed(before)
    project = Project(folder=tmp_path, graph=asking, answer=well)
    await project.play(after)
    (transcript,) = project.transcripts()
    assert asked == 2 * [(transcript.id, f"what about {transcript.turns[0].text!r}?")]
    assert transcript.turns[0].private == {"person": "go on"}
    assert ([call.role for call in before.asked], [call.role for call in after.asked]) == (["tutor"], ["student"])


class Mood(BaseModel):
    """A type of a graph's own."""

    name: str
    since: int = 0


class Moody(Dialogue, total=False):
    mood: Mood
    heard: Annotated[list[str], DeltaChannel(lambda before, writes: [*before, *(w for each in writes for w in each)])]


class WithMood(Dialogue, total=False):
    mood: Mood


def nested() -> StateGraph[WithMood, Cast]:
    def change(state: WithMood) -> dict[str, Any]:
        mood = state.get("mood") or Mood(name="calm")
        assert type(mood) is Mood
        return {"mood": Mood(name=mood.name, since=mood.since + 1)}

    inner = StateGraph(WithMood, context_schema=Cast)
    inner.add_node("change", change)
    inner.add_node("tutor", speak(tutor))
    inner.add_node("student", speak(student))
    inner.add_edge(START, "change")
    inner.add_edge("change", "tutor")
    inner.add_edge("tutor", "student")
    inner.add_edge("student", END)

    def conclude(state: WithMood) -> dict[str, Any]:
        assert state["mood"] == Mood(name="calm", since=1), state["mood"]
        return {}

    graph = StateGraph(WithMood, context_schema=Cast)
    graph.add_node("inner", inner.compile())
    graph.add_node("conclude", conclude)
    graph.add_edge(START, "inner")
    graph.add_edge("inner", "conclude")
    graph.add_edge("conclude", END)
    return graph


async def test_a_subgraph_goes_on_at_its_step_with_the_types_of_its_state(tmp_path: Path) -> None:
    project, before, after = Project(folder=tmp_path, graph=nested), Actor(hangs=hangs_at("student")), Actor()
    await project.play_until_killed(before)
    summary = await project.play(after)
    assert summary.counts == {"completed": {"ended": 1}}, project.transcripts()[0].outcome
    assert [call.role for call in after.asked] == ["student"]


def with_deltas() -> StateGraph[Moody, Cast]:
    def hear(state: Moody) -> dict[str, Any]:
        turns = state["turns"]
        assert state.get("heard", []) == [turn.text for turn in turns[:-1]]
        return {"heard": [turns[-1].text]}

    graph = StateGraph(Moody, context_schema=Cast)
    graph.add_node("tutor", speak(tutor))
    graph.add_node("student", speak(student))
    graph.add_node("hear", hear)
    graph.add_edge(START, "tutor")
    graph.add_edge("tutor", "hear")
    graph.add_edge("student", "hear")
    onward = {0: "tutor", 1: "student", 4: END}
    graph.add_conditional_edges("hear", lambda state: onward.get(len(state["turns"]), onward[len(state["turns"]) % 2]))
    return graph


async def test_a_graph_with_a_delta_channel_goes_on_with_all_that_it_holds(tmp_path: Path) -> None:
    project, before, after = Project(folder=tmp_path, graph=with_deltas), Actor(hangs=hangs_at("student", 1)), Actor()
    await project.play_until_killed(before)
    summary = await project.play(after)
    assert summary.count("completed") == 1, project.transcripts()[0].outcome
    assert [call.role for call in after.asked] == ["student"]
    assert len(project.transcripts()[0].turns) == 4
