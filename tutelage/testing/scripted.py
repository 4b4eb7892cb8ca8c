"""A chat model that says what a test tells it to."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import BaseModel, PrivateAttr

Said: TypeAlias = str | BaseModel | Mapping[str, Any] | Exception
"""A reply: a text, an object that is sent as JSON, or an error that is raised."""
Script: TypeAlias = Sequence[Said] | Callable[[list[BaseMessage]], Said]
"""What a role says: replies in order, the last one again and again, or a function of the messages."""


class ScriptedModel(BaseChatModel):
    """Plays every role from a script, with no endpoint.

    `ScriptedModel({"tutor": ["What is 1/2 + 1/3?"], "critic": [{"verdict": "accept", "issues": []}]})`

    Every call is kept in `calls`, so that a test can see what each role was shown.
    """

    script: dict[str, Any]
    """By role, a `Script`."""
    _calls: list[tuple[str, list[BaseMessage], dict[str, Any]]] = PrivateAttr(default_factory=list)
    _said: dict[str, int] = PrivateAttr(default_factory=dict)

    def __init__(self, script: Mapping[str, Script]) -> None:
        values: dict[str, Any] = {"script": dict(script)}
        super().__init__(**values)

    @property
    def calls(self) -> list[tuple[str, list[BaseMessage], dict[str, Any]]]:
        """The calls so far: role, messages, and options such as seed and response_format."""
        return self._calls

    def prompts(self, role: str) -> list[list[tuple[str, str]]]:
        """The prompts that a role was given, each as (type, content) pairs."""
        return [[(m.type, str(m.content)) for m in messages] for who, messages, _ in self._calls if who == role]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._answer(messages, run_manager.metadata if run_manager else {}, kwargs)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._answer(messages, run_manager.metadata if run_manager else {}, kwargs)

    def _answer(self, messages: list[BaseMessage], metadata: dict[str, Any], options: dict[str, Any]) -> ChatResult:
        role = metadata.get("role", "default")
        self._calls.append((role, list(messages), options))
        said = self._next(role, messages)
        if isinstance(said, Exception):
            raise said
        text = said if isinstance(said, str) else _as_json(said)
        prompt_tokens = sum(len(str(message.content).split()) for message in messages)
        completion_tokens = len(text.split())
        message = AIMessage(
            text,
            usage_metadata={
                "input_tokens": prompt_tokens,
                "output_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
            response_metadata={"model_name": "scripted", "finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _next(self, role: str, messages: list[BaseMessage]) -> Said:
        if role not in self.script:
            raise KeyError(f"the script has nothing for the role {role!r}; it has {', '.join(self.script)}")
        script: Script = self.script[role]
        if callable(script):
            return script(messages)
        turn = self._said.get(role, 0)
        self._said[role] = turn + 1
        return script[min(turn, len(script) - 1)]


def _as_json(said: BaseModel | Mapping[str, Any]) -> str:
    return said.model_dump_json() if isinstance(said, BaseModel) else json.dumps(said)
