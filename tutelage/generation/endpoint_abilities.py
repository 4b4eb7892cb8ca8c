"""Examines what an endpoint can beyond answering, for `tutelage doctor`: as far as the run at hand needs it or gains by it.

What a server ignores in silence (llama.cpp most of what is vLLM's own) is found by asking for what it would not say by
itself. What cannot be seen from outside is said to be so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal

import orjson
from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict, ValidationError

from tutelage.dialogue.shapes import Grammar, Matching, OneOf, Shape, request_options
from tutelage.errors import CallError
from tutelage.generation.findings import Level, Notes
from tutelage.generation.probing import Part, Probe, Wanted
from tutelage.serving.engine_load import parse_load
from tutelage.serving.served_models import ServedModel

SHAPE_TRIES: Final = 3
"""Replies that may miss a shape: where it is followed, a tiny model can still run out of tokens within the JSON."""


class Bird(BaseModel):
    """A reply that a model gives only if its endpoint makes it: what it is asked is something else."""

    model_config = ConfigDict(extra="forbid")

    bird: Literal["kestrel", "heron", "plover"]


_BIRDS: Final = ("kestrel", "heron", "plover")
_SHAPES: Final[Mapping[str, Shape]] = {
    "choice": OneOf(*_BIRDS),
    "regex": Matching(f"({'|'.join(_BIRDS)}) [0-9][0-9]"),
    "grammar": Grammar("root ::= " + " | ".join(f'"{bird}"' for bird in _BIRDS)),
}
"""By what vLLM's `structured_outputs` calls them, shapes that are tried where a role has one of the kind."""


async def examine_abilities(
    notes: Notes, probe: Probe, parts: Sequence[Part], served: Mapping[str, ServedModel]
) -> str | None:
    """Notes what the endpoint can, and gives the version of vLLM that it says it is; None where it says none.

    Args:
        notes: What is found is added here.
        probe: Asks the endpoint.
        parts: The roles that can be tried.
        served: What it serves, by name.
    """
    version = await _version(probe)
    abilities = _Abilities(notes, probe, parts, version)
    if parts:
        await abilities.follows_schemas()
        await abilities.follows_texts()
        await abilities.gives_candidates()
        await abilities.takes_priority()
        await abilities.isolates()
    await abilities.tells_its_load()
    await abilities.loads_adapters(served)
    return version


async def ignored_shapes(url: str, wanted: Wanted) -> list[str]:
    """What an endpoint does not do of the shapes that roles need, in the words of a finding; empty if it does all.

    One call for each kind of shape, up to three where a reply misses it.
    """
    notes = Notes(url, secret=wanted.secret)
    parts = [part for part in wanted.parts if part.shape is not None]
    async with Probe(url, wanted) as probe:
        abilities = _Abilities(notes, probe, parts, None)
        if any(isinstance(part.shape, type) for part in parts):
            await abilities.follows_schemas()
        await abilities.follows_texts()
    return [finding.text for finding in notes if finding.level is Level.PROBLEM]


async def examine_health(notes: Notes, probe: Probe) -> None:
    """Notes an endpoint that lists its models, and says of itself that it is not well."""
    answer = await probe.look("/health")
    if answer and answer[0] == HTTPStatus.SERVICE_UNAVAILABLE:
        notes.problem(
            "lists its models, but says that it is not well (/health: 503): vLLM's engine has died, or llama.cpp still loads "
            "its model; look into its log, and start it again"
        )


async def _version(probe: Probe) -> str | None:
    answer = await probe.look("/version")
    try:
        reply = orjson.loads(answer[1]) if answer and answer[0] == HTTPStatus.OK else {}
    except orjson.JSONDecodeError:
        return None
    version = reply.get("version") if isinstance(reply, dict) else None
    return version if isinstance(version, str) else None


@dataclass(frozen=True, slots=True)
class _Abilities:
    notes: Notes
    probe: Probe
    parts: Sequence[Part]
    version: str | None

    async def follows_schemas(self) -> None:
        shaped = [part for part in self.parts if isinstance(part.shape, type)]
        roles = ", ".join(part.role for part in shaped)
        # With the options of a role that will ask so: they may switch thinking off, upon which schemas depend.
        missed = await self._try((shaped or self.parts)[0], Bird)
        if missed is None:
            self.notes.fine("follows a schema")
        elif isinstance(missed, CallError):
            self.notes.problem(f"refuses a schema: {missed}")
        elif shaped:
            self.notes.problem(f"{_schema_missed(missed)}. These roles need it: {roles}")
        else:
            self.notes.warning(f"{_schema_missed(missed)}. No role needs it")

    async def follows_texts(self) -> None:
        """Of a choice, a regular expression and a grammar, those that a role asks for."""
        for kind, shape in _SHAPES.items():
            shaped = [part for part in self.parts if isinstance(part.shape, type(shape))]
            if not shaped:
                continue
            roles = ", ".join(part.role for part in shaped)
            missed = await self._try(shaped[0], shape)
            if missed is None:
                self.notes.fine(f"follows a {kind} ({roles})")
            elif isinstance(missed, CallError):
                self.notes.problem(f"refuses a {kind}, which these roles need: {roles}: {missed}")
            else:
                self.notes.problem(
                    f"takes no notice of a {kind} (it said {_shown(missed)!r}), which these roles need: {roles}. Serve the "
                    "model with vLLM (`structured_outputs`), or give those agents a pydantic class as `reply`"
                )

    async def _try(self, part: Part, shape: Shape) -> AIMessage | CallError | None:
        """None if a reply takes the shape; otherwise the last that did not, or why there is none."""
        options = {**part.sampling, "max_tokens": 64, **request_options(shape)}
        reply = None
        for seed in range(SHAPE_TRIES):
            try:
                reply = await self.probe.ask(part, **{**options, "seed": seed})
            except CallError as error:
                return error
            if _takes(shape, str(reply.text).strip()):
                return None
        return reply

    async def gives_candidates(self) -> None:
        many = [part for part in self.parts if part.candidates > 1]
        if not many:
            return
        roles = ", ".join(part.role for part in many)
        try:
            given = await self.probe.ask_for_many(many[0], 2, **{**many[0].sampling, "max_tokens": 1})
        except CallError as error:
            self.notes.problem(
                f"refuses to give several candidates at once, which these roles ask for: {roles}: {error}"
            )
            return
        if given > 1:
            self.notes.fine(f"gives several candidates at once ({roles})")
        else:
            self.notes.warning(
                f"gives one candidate where several are asked for (`n`), as these roles do: {roles}; each will be a call of "
                "its own"
            )

    async def takes_priority(self) -> None:
        if not self.probe.wanted.priority:
            return
        try:
            await self.probe.ask(self.parts[0], priority=1, max_tokens=1)
        except CallError as error:
            self.notes.problem(
                f"refuses a `priority` ({error}): start vLLM with --scheduling-policy priority, or take `priority: true` out"
            )
            return
        if self.version is None:
            self.notes.warning("takes a `priority`, but is no vLLM as far as it says (/version): it may well ignore it")
        else:
            self.notes.fine(
                "takes a `priority`; it goes by it if it was started with --scheduling-policy priority, which cannot be seen "
                "from here"
            )

    async def isolates(self) -> None:
        if not self.probe.wanted.isolate:
            return
        try:
            await self.probe.ask(self.parts[0], cache_salt="tutelage-doctor", max_tokens=1)
        except CallError as error:
            self.notes.problem(
                f"refuses a `cache_salt` ({error}): serve the model with vLLM, or take `isolate: true` out"
            )
            return
        if self.version is None:
            self.notes.warning(
                "takes a `cache_salt` (`isolate: true`), but is no vLLM as far as it says (/version), and others know none: "
                "prompts may share its cache with anyone's"
            )
        else:
            self.notes.fine("takes a `cache_salt`: as vLLM, it keeps this run's prompts to themselves")

    async def tells_its_load(self) -> None:
        """How many calls it gets at once follows what it says of its queue and its KV cache."""
        if self.probe.wanted.is_run_by_us:
            return
        answer = await self.probe.look("/metrics")
        load = parse_load(answer[1]) if answer and answer[0] == HTTPStatus.OK else None
        if load is not None:
            self.notes.fine(f"tells its load ({load.running} running, {load.waiting} waiting)")
        elif self.probe.wanted.in_flight is None:
            self.notes.warning(
                "does not tell its load (/metrics under the server's root names no requests that run and wait): how many "
                "calls it gets at once will follow how long it takes alone. vLLM has it; start llama.cpp with --metrics, "
                "SGLang with --enable-metrics, have a proxy pass it on, or set `in_flight`"
            )

    async def loads_adapters(self, served: Mapping[str, ServedModel]) -> None:
        """Adapters that the run will load: none is loaded now."""
        missing = {name: path for name, path in self.probe.wanted.adapters.items() if name not in served}
        if not missing:
            return
        listed = ", ".join(f"{name!r} from {path!r}" for name, path in missing.items())
        answer = await self.probe.post_nothing("/load_lora_adapter")
        if answer is None or answer[0] in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED):
            modules = " ".join(f"{name}={path}" for name, path in missing.items())
            self.notes.problem(
                f"lets no adapters be loaded while it runs ({listed}): start vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 "
                f"and --enable-lora, or have it load them itself: --enable-lora --lora-modules {modules}"
            )
        else:
            self.notes.fine(f"lets adapters be loaded: the run will load {listed}, as that server sees the folder")


def _takes(shape: Shape, text: str) -> bool:
    try:
        if isinstance(shape, type):
            shape.model_validate_json(text)
        elif isinstance(shape, Grammar):
            return text in _BIRDS
        else:
            shape.read(text)
    except (ValidationError, ValueError):
        return False
    return True


def _schema_missed(reply: AIMessage) -> str:
    text, thoughts = str(reply.text).strip(), reply.additional_kwargs.get("reasoning_content")
    if not text and thoughts:
        return (
            "does not follow a schema: it only thinks. Switch thinking off for those roles: extra: {chat_template_kwargs: "
            "{enable_thinking: false}}"
        )
    if reply.response_metadata.get("finish_reason") == "length" and (not text or text.startswith("{")):
        return (
            f"did not finish a reply by a schema within 64 tokens, in {SHAPE_TRIES} tries: if blanks fill it, start vLLM "
            """with --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'"""
        )
    return f"ignores schemas (it said {_shown(reply)!r}): use a server that follows response_format, as vLLM and llama.cpp do"


def _shown(reply: AIMessage) -> str:
    text = str(reply.text).strip()
    return text if len(text) <= 60 else text[:60] + "…"
