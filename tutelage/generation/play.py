"""`tutelage play`: one dialogue, shown word by word as it is spoken. Nothing of it is kept.

The graph is streamed as any of LangGraph's: the words of those who speak come with the stream of messages, what the nodes
made of them with the stream of updates. What models and users wrote goes through `transcripts/terminal.py`.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langgraph.errors import GraphRecursionError
from langgraph.types import Interrupt, Overwrite
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from tutelage.briefs.sources import BriefIndex, read_briefs
from tutelage.config import load_config
from tutelage.dialogue.brief import Brief
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.nodes import Draft, Speak, actions_of
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import outcome_of
from tutelage.dialogue.turn import Attempt, Outcome, Review, Step, Turn
from tutelage.errors import AuthRefused, BriefError, CallError, EndpointUnreachable, ModelNotServed
from tutelage.generation.brief_checks import brief_check
from tutelage.generation.casting import Casting, cast_of, check_roles, prompt_library
from tutelage.generation.generate import fast_loop
from tutelage.generation.live_words import LiveWords, Utterance
from tutelage.generation.registry import DialogueGraph, LoadedGraph, load_graph
from tutelage.transcripts.terminal import Aside, clean, one_line, plain, role_name, short_number
from tutelage.transcripts.transcript import Unfinished, Usage, calls_of

INTERRUPTED = 130
"""The exit code of a command that was ended with Ctrl-C."""
_COLOURS = ("cyan", "green", "magenta", "yellow", "blue")
_SEVERITIES = {"block": "bold red", "major": "red", "minor": "yellow"}
_MARKS = {"completed": ("✓", "green"), "discarded": ("~", "yellow"), "failed": ("✗", "red")}


def play_one(
    config: Path,
    brief: str | None = None,
    *,
    console: Console | None = None,
    models: Mapping[str, BaseChatModel] | None = None,
) -> int:
    """Plays one dialogue of a config's graph, and shows it as it is spoken.

    Args:
        config: The config file.
        brief: The id of a brief, or the beginning of one; the first brief if not given.
        console: Where to print; stdout if not given.
        models: Models by role, instead of the config's.

    Returns:
        The exit code: 0 if the dialogue came to one of its own ends, 1 if it could not go on, 130 upon Ctrl-C.

    Raises:
        UserError: The config, a brief, a prompt or the graph does not hold.
        EndpointUnreachable: A model cannot be reached.
    """
    console = console or Console(highlight=False)
    try:
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            return runner.run(_play(config, brief, console, models))
    except KeyboardInterrupt:
        console.print(plain("   interrupted; nothing of it was kept", "dim"))
        return INTERRUPTED


async def _play(path: Path, wanted: str | None, console: Console, models: Mapping[str, BaseChatModel] | None) -> int:
    config = load_config(path)
    graph = load_graph(config.graph, config.folder)
    check_roles(config, graph)
    briefs = read_briefs(config.briefs, config.folder, make_graph=graph.make, check=brief_check(graph, config.folder))
    brief = _brief(briefs, wanted)
    async with cast_of(config, graph, prompt_library(config, graph), models=models) as casting:
        stage = _Stage(console, graph)
        stage.open(brief, casting)
        dialogue: Dialogue = {"id": f"play-{uuid4().hex[:8]}", "begun": time.time(), "brief": brief, "turns": []}
        started = time.monotonic()
        try:
            await _perform(stage, graph.graph, dialogue, casting.cast)
            outcome = stage.unanswered() or outcome_of(graph.graph, stage.dialogue, casting.cast.limits)
        except (EndpointUnreachable, AuthRefused, ModelNotServed):
            stage.hush()
            raise
        except CallError as error:
            stage.lost = [step for step in error.replies if isinstance(step, Step)]
            outcome = Outcome(status="failed", reason=error.reason, detail=str(error))
        except GraphRecursionError as error:
            outcome = Outcome(status="failed", reason="endless", detail=str(error))
        except asyncio.CancelledError:
            stage.hush()
            raise
        stage.close(outcome, time.monotonic() - started)
    return 1 if outcome.status == "failed" else 0


async def _perform(stage: "_Stage", graph: DialogueGraph, dialogue: Dialogue, cast: Cast) -> None:
    steps = 25 + cast.limits.messages * (cast.limits.revisions + 1) * len(graph.nodes)
    parts = graph.compile().astream(
        dialogue,
        {"recursion_limit": steps},
        context=cast,
        stream_mode=["messages", "updates", "values"],
        subgraphs=True,
        version="v2",
    )
    async with aclosing(parts):  # type: ignore[type-var]
        async for part in parts:
            stage.see(part["type"], part["data"], inner=bool(part["ns"]))


class _Stage:
    """What a person sees of a dialogue.

    Args:
        console: Where it is shown.
        graph: Whose dialogue it is.
    """

    def __init__(self, console: Console, graph: LoadedGraph) -> None:
        self._console = console
        self._graph = graph
        self._live = _live_speakers(graph.graph)
        self._words = LiveWords(console)
        self._colours = {role: _COLOURS[number % len(_COLOURS)] for number, role in enumerate(graph.roles)}
        self._drafts: list[Attempt] = []
        """Of the turn under way, those that were reviewed or are."""
        self._sent_back = 0
        self.dialogue: Dialogue = {}
        """Where the dialogue stands after the last step."""
        self.lost: list[Step] = []
        """Replies that the last step could not use, where it failed."""
        self._asked: Sequence[Interrupt] = ()

    def open(self, brief: Brief, casting: Casting) -> None:
        """Says what is played, and by whom."""
        about = brief.topic or brief.question or brief.id
        self._console.print(Rule(one_line(about, "bold"), style="dim", align="left"))
        kept = "nothing of it is kept"
        self._note(f"graph {self._graph.name} · brief {brief.id} · {kept}")
        if casting.embedded:
            self._note("played by the embedded model, which is for trying out: name your own under `models:`", "yellow")

    def see(self, kind: str, data: Any, *, inner: bool) -> None:
        """Shows a part of the stream.

        Args:
            kind: Which stream it is from.
            data: What came.
            inner: Whether it is from a graph within the graph.
        """
        if kind == "messages":
            message, metadata = data
            role = metadata.get("role")
            if role in self._live and "purpose" not in metadata:  # what it is asked for besides, it does not say aloud
                self._words.hear(Utterance.of(message, role, shaped=self._live[role]), self._heading)
        elif kind == "values":
            if not inner:
                self.dialogue = data
        elif "__interrupt__" in data:
            self._asked = data["__interrupt__"]
        else:
            for update in data.values():
                self._update(update if isinstance(update, dict) else {})

    def unanswered(self) -> Outcome | None:
        """How it ended, if the graph has asked something: there is nobody to answer here."""
        if not self._asked:
            return None
        asked = f"the graph asks, and nobody answers: {self._asked[0].value!r}"
        return Outcome(status="failed", reason="unanswered", detail=asked)

    def hush(self) -> None:
        """Ends the line that is under way."""
        self._words.end()

    def close(self, outcome: Outcome, seconds: float) -> None:
        """Says how it ended, and what it took."""
        self.hush()
        turns = self.dialogue.get("turns", [])
        mark, style = _MARKS[outcome.status]
        self._console.print()
        self._console.print(Rule(style="dim"))
        self._console.print(one_line(f"{mark} {outcome.status}: {outcome.reason}", f"bold {style}"))
        if outcome.detail:
            self._console.print(Aside(plain(outcome.detail), "  "))
        unfinished = Unfinished(
            attempts=self.dialogue.get("attempts", []), steps=[*self.dialogue.get("steps", []), *self.lost]
        )
        usage, sent_back = Usage.of(calls_of(turns, unfinished)), _count(self._sent_back, "draft")
        tokens = short_number(usage.prompt_tokens + usage.completion_tokens)
        cached = (
            f", {usage.cached_tokens / usage.prompt_tokens:.0%} of the prompts' cached" if usage.prompt_tokens else ""
        )
        self._note(
            f"{_count(len(turns), 'turn')}, {sent_back} sent back · {_count(usage.calls, 'call')}, {tokens} tokens"
            f"{cached} · {seconds:.1f} s · nothing of it was kept"
        )

    def _heading(self, role: str) -> Text:
        number = len(self.dialogue.get("turns", [])) + 1
        draft = f", draft {len(self._drafts) + 1}" if self._drafts else ""
        return plain(f"{number}  {role_name(role)}{draft}", f"bold {self._colours.get(role, '')}".strip())

    def _update(self, update: dict[str, Any]) -> None:
        for review in _items(update.get("reviews")):
            self._review(review)
        attempts = update.get("attempts")
        if isinstance(attempts, Overwrite):
            if attempts.value:  # a gate that accepts leaves none
                self._sent_back += 1
                self._note("sent back", "red")
        else:
            self._drafts += [attempt for attempt in _items(attempts) if attempt.status != "superseded"]
            for attempt in _items(attempts)[-1:]:
                self._said(update.get("speaker") or self.dialogue.get("speaker", ""), attempt.text)
        turns = update.get("turns")
        if isinstance(turns, Overwrite) and turns.value:
            self._judged(turns.value[-1])
            self._probed(turns.value[-1].steps, "after")
        self._probed(_items(update.get("steps")), "before")
        for turn in _items(turns):
            self._turn(turn)

    def _turn(self, turn: Turn) -> None:
        said = next((number for number, each in enumerate(self._drafts) if each.text == turn.text), None)
        if said is None:
            self._said(turn.role, turn.text)
        elif any(attempt.forced for attempt in turn.attempts):
            self._note(f"no revision was better: draft {said + 1} is said all the same", "bold yellow")
        elif said != len(self._drafts) - 1:
            self._note(f"draft {said + 1} is said")
        elif any(review.verdict == "revise" for review in turn.attempts[-1].reviews):
            self._note("none of this is serious and points at something: it is said")
        self._drafts = []

    def _said(self, role: str, text: str) -> None:
        """Shows what was said by someone whose words were not heard while they came."""
        if not self._words.was_heard(role, text):
            self._words.hear(Utterance(role=role, key=text, content=text, whole=True), self._heading)
        self.hush()

    def _review(self, review: Review) -> None:
        self.hush()
        mark, style = ("✓", "green") if review.verdict == "accept" else ("✗", "red")
        self._console.print(Aside(plain(f"{mark} {role_name(review.role)}: {review.verdict}", style), "   │ ", "dim"))
        for issue in review.issues:
            what = plain(issue.severity, _SEVERITIES[issue.severity])
            what.append(" · ").append_text(one_line(issue.dimension, "bold"))
            if issue.span:
                what.append(", at ").append_text(one_line(f"“{issue.span}”"))
            self._console.print(Aside(what, "   │     ", "dim", first="   │   • "))
            self._console.print(Aside(one_line(issue.instruction), "   │       ", "dim", first="   │     → "))

    def _judged(self, turn: Turn) -> None:
        """Shows what a role that assesses the dialogue has found after a turn."""
        self.hush()
        for step in [step for step in turn.steps[-1:] if step.kind == "assessment"]:
            found = turn.private.get(step.role, step.text)
            self._console.print(Aside(plain(f"{role_name(step.role)} finds", "italic"), "   │ ", "dim"))
            for key, value in found.items() if isinstance(found, dict) else [("", found)]:
                line = one_line(f"{key.replace('_', ' ')}: " if key else "", "dim").append(" " if key else "")
                self._console.print(Aside(line.append_text(one_line(value)), "   │     ", "dim", first="   │   "))

    def _probed(self, steps: Sequence[Step], when: str) -> None:
        """Says how often the student was right when it was asked beside the lesson."""
        if right := [bool(step.data.get("correct")) for step in steps if step.kind == f"probe_{when}"]:
            self._note(f"asked beside the lesson, {when} it: {sum(right)} of {len(right)} right")

    def _note(self, text: str, style: str = "dim") -> None:
        self.hush()
        self._console.print(Aside(plain(text, style), "   "))


def _items(value: Any) -> list[Any]:
    """What an update adds to a list of the state; what takes the place of a list adds nothing."""
    return value if isinstance(value, list) else []


def _live_speakers(graph: DialogueGraph) -> dict[str, bool]:
    """The roles whose words are shown as they come, those that speak; and whether their replies have a schema."""
    roles: dict[str, bool] = {}
    for action in actions_of(graph):
        # What is chosen from several candidates is shown when it has been.
        if isinstance(action, Speak | Draft) and getattr(action, "candidates", 1) == 1:
            roles[action.agent.role] = isinstance(action.agent.reply, type)
    return roles


def _brief(briefs: BriefIndex, wanted: str | None) -> Brief:
    ids = list(briefs)
    if wanted is None or wanted in ids:
        return briefs.brief(0 if wanted is None else ids.index(wanted))
    alike = [position for position, each in enumerate(ids) if each.startswith(wanted)]
    if len(alike) == 1:
        return briefs.brief(alike[0])
    some = ", ".join(clean(repr(ids[position])) for position in (alike or range(len(ids)))[:5])
    what = f"{len(alike)} briefs begin with {wanted!r}" if alike else f"there is no brief {wanted!r}"
    raise BriefError(f"{what}: name one by its id, as {some}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
