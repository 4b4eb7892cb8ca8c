"""Which model is the teacher, and whether it can be: it must be a vLLM, and have the tokenizer of the model it teaches."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Literal

import structlog

from tutelage.config import Config, ModelConfig, RoleConfig
from tutelage.errors import AuthRefused, CallError, ConfigError, EndpointRefused, EndpointUnreachable, UserError
from tutelage.generation.endpoints import Reached, launch_servers, reach_model
from tutelage.generation.teacher import CONVERSATION, Fingerprint, Teacher, Unscorable
from tutelage.serving.fleet import Fleets
from tutelage.transcripts.transcript import Transcript

log = structlog.get_logger()

Likeness = Literal["the same model", "its tokenizer and chat template", "its tokenizer", "recorded token ids"]
"""What shows that the teacher takes text apart as the model that played the role does."""
DEPARTS: Final = 0.2
"""From which difference in a token's probability what is told is not what is drawn by; rounding comes to less."""
LOOKED_AT: Final = 20
"""Replies with recorded token ids that are decoded by a teacher's tokenizer, where its model cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachedTeacher:
    """A teacher that can be asked now."""

    teacher: Teacher
    fingerprint: Fingerprint
    likeness: Likeness
    at_once: int
    """How many turns it may be asked about at once."""


async def reach_teacher(
    config: Config,
    role: str,
    name: str | None,
    adapter: str | None,
    transcripts: Iterable[Transcript],
    stack: AsyncExitStack,
    *,
    k: int,
    samples: int | None,
    rendering: Mapping[str, Any],
) -> ReachedTeacher:
    """The teacher, which has shown that it gives what it is asked for.

    Args:
        config: Whose models there are.
        role: Whose words are scored.
        name: The teacher's name in the config; the model that plays the role if not given.
        adapter: The adapter on it; the role's own if not given and the teacher plays the role.
        transcripts: The run's completed dialogues, where recorded token ids may tell the tokenizer.
        stack: Keeps connections and servers until it is left.
        k: The likeliest tokens that are asked for in each place.
        samples: The tokens that are drawn in each place instead.
        rendering: What prompts are rendered with besides.

    Raises:
        ConfigError: There is no such model, it is no vLLM, or it has another tokenizer.
        EndpointUnreachable: No endpoint of it answers.
        EndpointRefused: It does not serve the model or the adapter, or wants another key.
    """
    student = _model_of(config, role)
    chosen = _chosen(config, role, name, student)
    if adapter is None and chosen == student:
        adapter = config.roles.get(role, RoleConfig()).adapter
    fleets = await stack.enter_async_context(Fleets(config.folder, config.folder / "logs"))
    reached = await _reach(config, chosen, adapter, fleets, stack)
    teacher = Teacher(pool=reached.pool, model=reached.model, adapter=adapter, k=k, samples=samples, seed=config.seed)
    fingerprint = await _examined(teacher, chosen, rendering)
    likeness: Likeness = "the same model"
    if chosen != student:
        likeness = await _likeness(config, role, student, teacher, fingerprint, transcripts)
    return ReachedTeacher(
        teacher=teacher,
        fingerprint=fingerprint,
        likeness=likeness,
        at_once=await _at_once(config, config.models[chosen], reached),
    )


async def _at_once(config: Config, model: ModelConfig, reached: Reached) -> int:
    """How many turns it may be asked about at once.

    Where adapters are loaded, vLLM 0.32 on a CPU dies of two prompts at once whose logprobs are asked for. What runs it
    cannot be seen from outside, so whoever knows better says so (`in_flight`).
    """
    has_adapters = any(entry.parent for entry in await reached.pool.models())
    return (model.in_flight or 1) if has_adapters else config.concurrency


def _model_of(config: Config, role: str) -> str | None:
    try:
        return config.model_of(role)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _chosen(config: Config, role: str, name: str | None, student: str | None) -> str:
    if name is not None and name not in config.models:
        there = ", ".join(map(repr, config.models)) or "none"
        raise ConfigError(f"--teacher: there is no model {name!r} under `models:`; there is {there}")
    chosen = name or student
    if chosen is None:
        raise ConfigError(
            f"the embedded model played {role!r}, and it does not tell how likely a text is: name a vLLM endpoint under "
            "`models:` in a config (--config), and say which is the teacher (--teacher)"
        )
    return chosen


async def _reach(config: Config, name: str, adapter: str | None, fleets: Fleets, stack: AsyncExitStack) -> Reached:
    servers = await launch_servers(config, [name], fleets)
    adapters = [adapter] if adapter else []
    return await reach_model(name, config, adapters, servers.get(name), stack, endless=False, on_request=None)


async def _examined(teacher: Teacher, name: str, rendering: Mapping[str, Any]) -> Fingerprint:
    """Its tokenizer's and chat template's marks, once it has scored a short conversation as it will have to.

    Raises:
        ConfigError: It cannot.
        CallError: It cannot be asked.
    """
    try:
        fingerprint = await teacher.fingerprint()
        tokens = await teacher.tokens(CONVERSATION[:-1], CONVERSATION[-1]["content"], rendering)
        if isinstance(tokens, Unscorable):
            raise ConfigError(f"a short conversation cannot be scored: {tokens.about}")
        await replace(teacher, samples=None).places(tokens)
        if teacher.adapter is not None and await teacher.departure(tokens) > DEPARTS:
            raise ConfigError(
                f"the logprobs of prompts under {teacher.adapter!r} are not those that it draws by: vLLM leaves what an "
                "adapter changes in the last layer (lm_head) out of them. Merge the adapter into the model, and serve that"
            )
    except AuthRefused:
        raise
    except (EndpointRefused, ConfigError) as error:
        raise ConfigError(
            f"models.{name} cannot be the teacher: {str(error).rstrip('.')}. It must be vLLM's server, with a chat template, "
            "and started with --max-logprobs for more than 20 tokens in each place"
        ) from None
    return fingerprint


async def _likeness(
    config: Config,
    role: str,
    student: str | None,
    teacher: Teacher,
    fingerprint: Fingerprint,
    transcripts: Iterable[Transcript],
) -> Likeness:
    """What shows that the teacher has the tokenizer of the model that played the role.

    Raises:
        ConfigError: It has another one, or nothing shows it.
    """
    theirs = await _asked(config, student)
    if theirs is not None:
        if theirs.tokenizer != fingerprint.tokenizer:
            raise ConfigError(
                f"the teacher {teacher.model!r} takes text apart otherwise than models.{student}, which played {role!r}: "
                "log-probabilities are of tokens, so it must be a model with the same tokenizer"
            )
        if theirs.chat_template == fingerprint.chat_template:
            return "its tokenizer and chat template"
        log.warning("chat_templates_differ", teacher=teacher.model, note="prompts are rendered by the teacher's")
        return "its tokenizer"
    recorded = list(islice(_recorded(transcripts, role), LOOKED_AT))
    if not recorded:
        raise ConfigError(
            f"whether the teacher {teacher.model!r} has the tokenizer of the model that played {role!r} cannot be told: have "
            f"that model answer under models.{student or 'NAME'} of the config, or record token ids in the run "
            f"(roles.{role}.token_ids)"
        )
    for ids, text in recorded:
        if text.strip() not in await teacher.text(ids):
            raise ConfigError(
                f"the teacher {teacher.model!r} has another tokenizer than the model that played {role!r}: to it, the token "
                f"ids of {text[:40]!r} are another text"
            )
    return "recorded token ids"


async def _asked(config: Config, student: str | None) -> Fingerprint | None:
    """The marks of the model that played the role, where it answers."""
    if student is None or not config.models[student].url:
        return None
    async with AsyncExitStack() as stack:
        fleets = await stack.enter_async_context(Fleets(config.folder, config.folder / "logs"))
        try:
            reached = await _reach(config, student, None, fleets, stack)
            return await Teacher(pool=reached.pool, model=reached.model).fingerprint()
        except (CallError, EndpointUnreachable, UserError) as error:
            log.info("tokenizer_not_asked", model=student, error=str(error))
            return None


def _recorded(transcripts: Iterable[Transcript], role: str) -> Iterator[tuple[list[int], str]]:
    """Token ids of a role's plain replies, with their texts."""
    for transcript in transcripts:
        for turn in transcript.turns:
            said = turn.accepted
            if turn.role == role and said is not None and said.call.token_ids and not said.private:
                yield list(said.call.token_ids), said.text
