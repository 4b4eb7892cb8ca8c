"""Examines one endpoint for `tutelage doctor`: whether it answers, and does what a run will ask of it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessage

from tutelage.dialogue.shapes import request_options
from tutelage.errors import CallError, ContextExceeded, EndpointUnreachable, SchemaRefused
from tutelage.generation import probing
from tutelage.generation.endpoint_abilities import examine_abilities, examine_health
from tutelage.generation.findings import Finding, Notes
from tutelage.generation.first_answer import first_answer, no_answer
from tutelage.generation.probing import SAY_HELLO, Part, Probe, Wanted
from tutelage.serving.served_models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What there is to say of an endpoint."""

    findings: Sequence[Finding]
    context: int | None = None
    """The tokens of one call, where it says."""
    version: str | None = None
    """Of vLLM, where it is one."""
    served: frozenset[str] = frozenset()
    """Models and adapters."""


async def examine_endpoint(*, group: str, url: str, wanted: Wanted) -> Examined:
    """Everything that can be found out about one endpoint.

    Args:
        group: What the findings are headed by.
        url: The endpoint's base URL.
        wanted: What a run will want of it.
    """
    notes = Notes(group, secret=wanted.secret)
    seconds = probing.ANSWER_SECONDS
    try:
        took = await asyncio.wait_for(first_answer(url, wanted.secret), seconds)
    except TimeoutError:
        notes.problem(no_answer(f"does not answer within {seconds:g} s"), unreachable=True)
        return Examined(findings=[*notes])
    except CallError as error:
        notes.problem(str(error), unreachable=isinstance(error, EndpointUnreachable))
        return Examined(findings=[*notes])
    notes.fine(f"answers in {1000 * took:.0f} ms")
    async with Probe(url, wanted) as probe:
        try:
            served = {entry.name: entry for entry in await probe.pool.models()}
            return await _Examination(notes, probe, wanted, served).run()
        except CallError as error:
            notes.problem(str(error))
    return Examined(findings=[*notes])


@dataclass(frozen=True, slots=True)
class _Examination:
    """Of an endpoint that answers."""

    notes: Notes
    probe: Probe
    wanted: Wanted
    served: Mapping[str, ServedModel]

    async def run(self) -> Examined:
        parts = list(self._playable())
        context = self._context()
        await examine_health(self.notes, self.probe)
        if parts:
            answers = [answer for part in parts if (answer := await self._first_call(part, context))]
            answers += await self._repeats(parts[0])
            self._counts(answers)
        version = await examine_abilities(self.notes, self.probe, parts, self.served)
        return Examined(findings=[*self.notes], context=context, version=version, served=frozenset(self.served))

    def _playable(self) -> Iterator[Part]:
        """The roles that can be played, for their model and adapter are served."""
        names = ", ".join(map(repr, self.served)) or "nothing"
        if self.wanted.model not in self.served:
            self.notes.problem(f"does not serve {self.wanted.model!r}, but {names}: correct `model`, or the URL")
            return
        self.notes.fine(f"serves {self.wanted.model!r}")
        for adapter in dict.fromkeys(part.adapter for part in self.wanted.parts if part.adapter):
            roles = ", ".join(part.role for part in self.wanted.parts if part.adapter == adapter)
            if adapter in self.served:
                self.notes.fine(f"serves the adapter {adapter!r} ({roles})")
            elif adapter not in self.wanted.adapters:
                self.notes.problem(
                    f"does not serve the adapter {adapter!r} ({roles}), but {names}: correct `adapter`, or load it "
                    "(vLLM: --lora-modules)"
                )
        for part in self.wanted.parts:
            if part.adapter is None or part.adapter in self.served:
                yield part
            elif part.adapter in self.wanted.adapters:  # it will be loaded: until then, the base model shows the rest
                yield replace(part, adapter=None)

    def _context(self) -> int | None:
        """The tokens that one call may have here, prompt and completion together."""
        entry = self.served.get(self.wanted.model)
        if entry is None:
            return None
        if entry.max_model_len is None:
            self.notes.warning("does not say how long its context is: keep limits.tokens within it")
        elif entry.max_model_len < self.wanted.token_limit:
            self.notes.warning(
                f"limits.tokens is {self.wanted.token_limit}, its context {entry.max_model_len}: the run will keep to "
                f"{entry.max_model_len}; serve it with a longer one (vLLM: --max-model-len) for longer dialogues"
            )
        return entry.max_model_len

    async def _first_call(self, part: Part, context: int | None) -> AIMessage | None:
        """Makes the role's first call with its own options, and sees whether a whole reply would fit after it."""
        options: dict[str, Any] = {**part.sampling, "max_tokens": 1, **request_options(part.shape)}
        try:
            answer = await self.probe.ask(part, part.prompt or SAY_HELLO, **options)
        except ContextExceeded as error:
            self.notes.problem(f"{part.role}: its longest first prompt does not fit: {error}")
        except SchemaRefused as error:
            self.notes.problem(f"{part.role}: {error}")
        except CallError as error:
            self.notes.problem(f"{part.role}: its first call fails: {error}")
        else:
            self._keeps(part, answer)
            if part.prompt and answer.usage_metadata:
                self._fits(part, answer.usage_metadata["input_tokens"], context)
            return answer
        return None

    def _keeps(self, part: Part, answer: AIMessage) -> None:
        """Whether it gives what the role keeps besides the text."""
        for option, key, name in (("logprobs", "logprobs", "logprobs"), ("return_token_ids", "token_ids", "token_ids")):
            if part.sampling.get(option) and not answer.response_metadata.get(key):
                self.notes.warning(
                    f"{part.role}: roles.{part.role}.{name} asks for what it does not give: transcripts will have none; "
                    "vLLM gives it"
                )

    def _fits(self, part: Part, prompt: int, context: int | None) -> None:
        reply = part.sampling.get("max_tokens")
        most = min(self.wanted.token_limit, context or self.wanted.token_limit)
        of = f"of {most} tokens (limits.tokens)" if most != context else f"of {most} tokens"
        if reply is None:
            self.notes.warning(
                f"{part.role}: its longest first prompt takes {prompt} {of}; no max_tokens is set, so one reply may take "
                f"all the rest: set roles.{part.role}.max_tokens"
            )
            return
        sum_of = f"its longest first prompt and max_tokens take {prompt} + {reply} = {prompt + reply} {of}"
        if prompt + reply <= most:
            self.notes.fine(f"{part.role}: {sum_of}")
        elif context and prompt + reply > context:
            self.notes.problem(
                f"{part.role}: {sum_of}, so its calls are refused: lower roles.{part.role}.max_tokens, or serve the "
                "model with a longer context (vLLM: --max-model-len)"
            )
        else:
            self.notes.warning(
                f"{part.role}: {sum_of}, so dialogues end after their first turns: raise limits.tokens, or lower "
                f"roles.{part.role}.max_tokens"
            )

    async def _repeats(self, part: Part) -> list[AIMessage]:
        """Asks the same twice with one seed. The second answer's prompt is in the prefix cache."""
        options = {**part.sampling, "temperature": 1.0, "max_tokens": 24, "seed": 7}
        try:
            answers = [await self.probe.ask(part, part.prompt or SAY_HELLO, **options) for _ in range(2)]
        except CallError as error:
            self.notes.problem(f"{part.role}: a call with a seed fails: {error}")
            return []
        if answers[0].text == answers[1].text:
            self.notes.fine("gives one reply for one seed")
        else:
            self.notes.warning(
                "gives two replies for one seed: a run made again will differ (in bfloat16 also where others are served "
                "at once)"
            )
        return answers

    def _counts(self, answers: Sequence[AIMessage]) -> None:
        usages = [answer.usage_metadata for answer in answers if answer.usage_metadata]
        if answers and not usages:
            self.notes.warning("does not count tokens (no `usage`): transcripts and limits.tokens will know of none")
        elif any("cache_read" in usage.get("input_token_details", {}) for usage in usages):
            self.notes.fine("counts tokens, cached ones too")
        elif usages:
            self.notes.warning(
                "counts tokens, but not the cached ones: start vLLM with --enable-prompt-tokens-details to see them"
            )
