"""Compiles graphs for LangGraph's dev server and its Studio, with a cast of their own.

A run is given its cast in code; the dev server hands over plain JSON or nothing, of which the cast is made here. One
model plays all roles: the one at the endpoint that the environment names (`TUTELAGE_STUDIO_URL`, `TUTELAGE_STUDIO_MODEL`,
and `TUTELAGE_STUDIO_KEY` if it wants a key), else the embedded one, which starts when it is first called.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema

from tutelage.dialogue.cast import Cast, Limits, Player
from tutelage.dialogue.nodes import agents_of
from tutelage.dialogue.prompt import PromptLibrary
from tutelage.errors import ConfigError, EmbeddedError
from tutelage.serving.chat_vllm import ChatVLLM
from tutelage.serving.embedded import EmbeddedServer

SLOTS: Final = 4
"""Requests that the embedded model answers at once."""

_PROMPTS: Final = PromptLibrary()
_STEPS: Final = 1000
"""More than any dialogue takes; LangGraph's own default ends some after a few turns."""


class Settings(BaseModel):
    """What a run may be given as its context: the form that Studio shows."""

    model_config = ConfigDict(extra="forbid")

    messages: int = Field(default=6, ge=1, description="Public turns of a dialogue.")
    revisions: int = Field(default=1, ge=0, description="Drafts sent back for one turn.")
    tokens: int = Field(default=4096, ge=64, description="Prompt and completion of one call together.")
    seed: int = 0


class StudioCast(Cast):
    """A cast made of plain values, as LangGraph makes it of a run's context: `StudioCast(messages=4)`."""

    __slots__ = ()

    def __init__(self, **settings: Any) -> None:
        chosen = Settings(**settings)
        super().__init__(
            players={"default": Player(model=model_for_all())},
            prompts=_PROMPTS,
            limits=Limits(messages=chosen.messages, revisions=chosen.revisions, tokens=chosen.tokens),
            seed=chosen.seed,
        )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[Any], handler: GetCoreSchemaHandler) -> CoreSchema:
        """The dev server asks for the context's JSON schema, and drops whatever is not in it."""
        return handler(Settings)


class Twin(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph that runs without a context, too."""

    def astream(self, *args: Any, context: Any = None, **options: Any) -> AsyncIterator[Any]:
        """Like that of any compiled graph, upon which its other asynchronous ways to run are built."""
        return super().astream(*args, context={} if context is None else context, **options)


class EmbeddedModel(BaseChatModel):
    """The embedded model, started by the first call of this process and there until the process ends."""

    @property
    def _llm_type(self) -> str:
        return "embedded"

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        model = await asyncio.to_thread(_embedded_model)
        return await model._agenerate(messages, stop, run_manager, **options)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **options: Any,
    ) -> ChatResult:
        return _embedded_model()._generate(messages, stop, run_manager, **options)


def model_for_all() -> BaseChatModel:
    """The model that plays all roles.

    Raises:
        ConfigError: The environment names a URL and no model.
    """
    url, model = os.environ.get("TUTELAGE_STUDIO_URL"), os.environ.get("TUTELAGE_STUDIO_MODEL")
    if not url:
        return EmbeddedModel()
    if not model:
        raise ConfigError("TUTELAGE_STUDIO_URL is set: set TUTELAGE_STUDIO_MODEL, too, to the model that it serves")
    return _model_at(url, model, os.environ.get("TUTELAGE_STUDIO_KEY"))


@cache
def _model_at(url: str, model: str, key: str | None) -> ChatVLLM:
    # Kept, so that all runs of a process share their connections.
    return ChatVLLM(url=url, model=model, api_key=SecretStr(key) if key else None)


_starting = threading.Lock()


def _embedded_model() -> ChatVLLM:
    with _starting:
        _, url, model = embedded_server()
    return _model_at(url, model, None)


@cache
def embedded_server() -> tuple[subprocess.Popen[str], str, str]:
    """The process that holds the embedded server (kept, for it ends with its stdin), the URL and the model.

    The server is started within an event loop, where the dev server allows no file to be opened: so not within this
    process.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tutelage.generation.studio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)},
        start_new_session=True,  # Ctrl-C is the dev server's, upon whose end our stdin ends
    )
    assert process.stdout
    started = process.stdout.readline()
    if not started:
        raise EmbeddedError(
            f"the embedded model did not start (exit code {process.wait()}): what the dev server printed says why"
        )
    url, model = json.loads(started)
    return process, url, model


async def _hold_embedded_server() -> None:
    """Tells stdout where the embedded server is, and keeps it until stdin ends."""
    async with EmbeddedServer(slots=SLOTS) as server:
        sys.stdout.write(json.dumps([server.url, server.model]) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def twin(make: Callable[[], StateGraph[Any, Any, Any, Any]]) -> Twin:
    """Compiles a graph for LangGraph's dev server, with a cast of its own."""
    graph = make()
    graph.context_schema = StudioCast
    for agent in agents_of(graph):
        # Read now: a file that is read while a run is under way would hold up the dev server, which forbids it.
        for template in (agent.template, agent.task or "revision", "repair"):
            _PROMPTS.template(template)
    compiled = graph.compile(name=make.__name__)
    return Twin(**vars(compiled)).with_config(recursion_limit=_STEPS)


if __name__ == "__main__":
    asyncio.run(_hold_embedded_server())
