"""A chat model that replies at random, within the shape it is asked for, with a canary in each text of its own.

It repeats what it was shown only where its role may say so aloud: the words that it speaks are noted in `spoken`. So a
canary that turns up in a prompt was put there by the engine, never by the model's own chatter.
"""

from dataclasses import dataclass
from random import Random
from typing import Any

import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from tutelage.dialogue.prompt import Prompt
from tutelage.dialogue.view import DRAFT
from tutelage.testing import prose
from tutelage.testing.schema_filler import compile_regex

from .canaries import WORD, Canaries, found_in

PUBLIC_FIELD = "utterance"
POINTING = frozenset({"span", "quote"})
"""Fields that are to hold words of what the role was shown."""
MISFITS = 0.03
"""How often a reply does not take the shape that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call: who was shown which canaries."""

    role: str
    view: str
    shape: str
    """The name of the schema that was asked for; empty for plain text."""
    prompt: str
    """The prompt's hash."""
    shown: frozenset[str]


class FuzzingModel(BaseChatModel):
    """Plays every role of one dialogue."""

    _canaries: Canaries = PrivateAttr()
    _seed: str = PrivateAttr()
    _expected: dict[str, str] = PrivateAttr(default_factory=dict)
    """By its text, the hash of each prompt."""
    _asked: list[Asked] = PrivateAttr(default_factory=list)
    _spoken: dict[str, set[str]] = PrivateAttr(default_factory=dict)

    def __init__(self, canaries: Canaries, seed: str) -> None:
        super().__init__()
        self._canaries, self._seed = canaries, seed

    def expect(self, prompt: Prompt) -> None:
        """Is told of each prompt that it is about to be sent."""
        self._expected["\n".join(message.content for message in prompt.messages)] = prompt.sha256

    @property
    def asked(self) -> list[Asked]:
        """Every call of the dialogue."""
        return self._asked

    @property
    def spoken(self) -> set[str]:
        """The canaries that it has put into drafts, to be said aloud."""
        return set().union(*self._spoken.values())

    def spoken_by(self, role: str) -> set[str]:
        """Those that it has put into drafts of one role."""
        return self._spoken.get(role, set())

    @property
    def _llm_type(self) -> str:
        return "fuzzing"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        raise NotImplementedError("dialogues are played asynchronously")

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        metadata: dict[str, Any] = run_manager.metadata if run_manager else {}
        prompt = "\n".join(str(message.content) for message in messages)
        asked = Asked(
            role=metadata["role"],
            view=metadata["view"],
            shape=kwargs.get("response_format", {}).get("json_schema", {}).get("name", ""),
            prompt=self._expected.get(prompt, ""),
            shown=frozenset(found_in(prompt)),
        )
        # Who judges at the same time is asked in any order, and each draws for itself all the same.
        earlier = sum((each.role, each.view) == (asked.role, asked.view) for each in self._asked)
        rng = Random(f"{self._seed}/{asked.role}/{asked.view}/{earlier}")
        self._asked.append(asked)
        text = _Reply(self, asked, prompt, rng).to(kwargs)
        message = AIMessage(
            text,
            usage_metadata={
                "input_tokens": len(prompt) // 4,
                "output_tokens": 20,
                "total_tokens": len(prompt) // 4 + 20,
            },
            response_metadata={"model_name": "fuzzing", "finish_reason": "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


class _Reply:
    """One reply, drawn at random."""

    def __init__(self, model: FuzzingModel, asked: Asked, prompt: str, rng: Random) -> None:
        self._model, self._asked, self._prompt, self._rng = model, asked, prompt, rng
        self._canaries = model._canaries

    def to(self, options: dict[str, Any]) -> str:
        """The reply to a request with these options."""
        if response_format := options.get("response_format"):
            schema = response_format["json_schema"]["schema"]
            if self._rng.random() < MISFITS:
                return self._private("no JSON")
            return orjson.dumps(self._value(schema, schema, "")).decode()
        if shape := options.get("structured_outputs"):
            choices = shape.get("choice")
            return str(self._rng.choice(choices)) if choices else compile_regex(shape["regex"])(self._rng)
        if self._asked.view == "summary":  # for everybody, of what everybody has heard
            return f"{prose.write(self._rng, 12)} {' '.join(self._heard())}"
        return self._spoken()

    def _value(self, schema: dict[str, Any], root: dict[str, Any], name: str) -> Any:
        if "$ref" in schema:
            return self._value(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._rng.choice(schema["enum"])
        if "anyOf" in schema:
            return self._value(self._rng.choice(schema["anyOf"]), root, name)
        match schema["type"]:
            case "object":
                return {key: self._value(each, root, key) for key, each in schema.get("properties", {}).items()}
            case "array":
                least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
                return [self._value(schema["items"], root, name) for _ in range(self._rng.randint(least, most))]
            case "string" if "pattern" in schema:
                return compile_regex(schema["pattern"])(self._rng)
            case "string":
                return self._text(name)[: schema.get("maxLength")]
            case "integer" | "number":
                return self._rng.randint(schema.get("minimum", 0), schema.get("maximum", 5))
            case "boolean":  # mostly false: what ends a dialogue is true
                return self._rng.random() < 0.2
            case _:
                return None

    def _text(self, name: str) -> str:
        if name == PUBLIC_FIELD:
            return self._spoken()
        if name in POINTING and self._rng.random() < 0.7:
            return self._words_shown()
        return self._private(prose.write(self._rng, 6))

    def _private(self, text: str) -> str:
        return f"{text} {self._canaries.new('reply', self._asked.role)}"

    def _spoken(self) -> str:
        """Something to be said aloud: sometimes what the role was told, as a weak model would."""
        words = [self._canaries.new("draft", self._asked.role), *self._heard()]
        self._model._spoken.setdefault(self._asked.role, set()).update(words)
        return f"{prose.write(self._rng, 12)} {' '.join(words)}"

    def _heard(self) -> list[str]:
        """Mostly the last canaries in the prompt: what a student is told to say stands there."""
        shown = WORD.findall(self._prompt)
        if not shown or self._rng.random() < 0.3:
            return []
        return [self._rng.choice(shown)] if self._rng.random() < 0.2 else shown[-2:]

    def _words_shown(self) -> str:
        """Some words of the draft, as a reviewer points at; where there is none, of what stands near the end."""
        lines = [line for line in self._prompt.splitlines() if line.strip()]
        drafts = [number for number, line in enumerate(lines) if line.endswith(DRAFT)]
        near = lines[drafts[-1] + 1] if drafts and self._rng.random() < 0.7 else self._rng.choice(lines[-12:])
        words = [word for word in near.split() if not found_in(word)]
        start = self._rng.randrange(len(words)) if words else 0
        return " ".join(words[start : start + 4])
