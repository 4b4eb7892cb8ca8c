"""Examines the models of a config for `tutelage doctor`: each endpoint, and the replicas beside each other."""

import asyncio
from collections.abc import Mapping, Sequence, Set
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any, Final
from urllib.parse import urlsplit

from tutelage.config import Config, ModelConfig
from tutelage.errors import ConfigError, EmbeddedError
from tutelage.generation.endpoint_examination import Examined, examine_endpoint
from tutelage.generation.endpoints import EMBEDDED_SLOTS
from tutelage.generation.findings import Finding, Notes
from tutelage.generation.probing import Part, Wanted
from tutelage.generation.serve_examination import examine_serve
from tutelage.serving.addresses import DNS, Addresses
from tutelage.serving.embedded import EmbeddedServer

SHOWN_REPLICAS: Final = 3
"""Replicas that are named as being of one kind, where there are several kinds."""


async def examine_models(config: Config, played: Mapping[str, Sequence[Part]]) -> list[Finding]:
    """Examines all models at once.

    Args:
        config: The config.
        played: By model, the roles that it plays.
    """
    launched = await examine_serve(config)
    each = (
        _examine_model(name, model, config, played[name], launched.urls.get(name))
        for name, model in config.models.items()
        if model.url or name in launched.urls
    )
    return [*launched.findings, *chain.from_iterable(await asyncio.gather(*each))]


async def examine_embedded(parts: Sequence[Part], config: Config) -> list[Finding]:
    """Starts the embedded model, and examines it."""
    notes = Notes("Embedded model").warning(
        "it plays all roles: its data is for trying out, not for training; name your own under `models:`"
    )
    async with AsyncExitStack() as stack:
        try:
            server = await stack.enter_async_context(EmbeddedServer(slots=EMBEDDED_SLOTS))
        except EmbeddedError as error:
            return [*notes.problem(" ".join(str(error).split()))]
        wanted = Wanted(
            model=server.model,
            secret=None,
            parts=parts,
            # A run keeps to its context by itself, and nobody can make it longer.
            token_limit=min(config.limits.tokens, server.context),
            is_run_by_us=True,
        )
        found = await examine_endpoint(group=notes.group, url=server.url, wanted=wanted)
    return [*notes, *found.findings]


async def _examine_model(
    name: str, model: ModelConfig, config: Config, parts: Sequence[Part], urls: Sequence[str] | None
) -> list[Finding]:
    """Examines all replicas of a model at once.

    Args:
        name: The model's name in the config.
        model: The model.
        config: The config.
        parts: The roles that it plays.
        urls: Where its servers run that a `tutelage serve` has launched.
    """
    notes = Notes(f"models.{name}")
    try:
        secret = model.secret()
    except ConfigError as error:
        return [*notes.problem(f"{error}. Its endpoints were not asked")]
    wanted = Wanted(
        model=model.name,
        secret=secret,
        parts=parts,
        token_limit=config.limits.tokens,
        adapters=model.adapters,
        priority=bool(model.priority),
        isolate=model.isolate,
        in_flight=model.in_flight,
    )
    places = await _places(notes, model.url if urls is None else urls)
    examinations = (
        examine_endpoint(group=f"models.{name}, {shown}", url=url, wanted=wanted) for url, shown in places.items()
    )
    examined = dict(zip(places, await asyncio.gather(*examinations), strict=True))
    _compare(notes, examined, {part.adapter for part in parts if part.adapter})
    return [*notes, *chain.from_iterable(each.findings for each in examined.values())]


async def _places(notes: Notes, urls: Sequence[str]) -> dict[str, str]:
    """Where there are replicas, and how each is called: of a name in the DNS, one at each of its addresses."""
    addresses, places = Addresses(), dict[str, str]()
    for url in dict.fromkeys(urls):
        if not url.startswith(DNS):
            places[url] = url
            continue
        named, name = url.removeprefix(DNS), urlsplit(url.removeprefix(DNS)).hostname
        wrong = await addresses.look_up([url])
        found = addresses.of([url])
        if not found:
            said = wrong.get(url)
            notes.problem(
                f"the name {name!r} has no address here ({said or 'it is empty'}): check {url}", unreachable=True
            )
            continue
        count = f"{name!r} has {len(found)} address{'es' * (len(found) > 1)}"
        if named.startswith("https://"):
            # A certificate is made out to the name, so it is by the name that one of them is asked.
            notes.fine(f"{count}; one is examined, by the name that its certificate has")
            places[named] = named
        else:
            notes.fine(count)
            places |= {each: f"{each} ({name})" for each in found}
    return places


def _compare(notes: Notes, examined: Mapping[str, Examined], adapters: Set[str]) -> None:
    """Notes in what the replicas differ that ought to be alike."""
    answering = {url: each for url, each in examined.items() if each.served}
    differences: dict[str, tuple[dict[str, Any], str]] = {
        "how long their contexts are": (
            {url: each.context for url, each in answering.items()},
            "the run keeps to the shortest: serve all with the same --max-model-len",
        ),
        "their versions of vLLM": (
            {url: each.version for url, each in answering.items()},
            "what one answers the other may not, and a conversation may move: install the same everywhere",
        ),
        "the adapters that roles are played by": (
            {url: ", ".join(sorted(adapters & each.served)) or "none" for url, each in answering.items()},
            "a conversation that moves needs the same there: load them everywhere",
        ),
    }
    for what, (values, mend) in differences.items():
        kinds: dict[Any, list[str]] = {}
        for url, value in values.items():
            kinds.setdefault("not said" if value is None else value, []).append(url)
        if len(kinds) > 1:
            told = "; ".join(f"{value} at {_some(urls)}" for value, urls in kinds.items())
            notes.warning(f"its replicas differ in {what} ({told}): {mend}")


def _some(urls: Sequence[str]) -> str:
    more = len(urls) - SHOWN_REPLICAS
    return ", ".join(urls[:SHOWN_REPLICAS]) + (f" and {more} more" if more > 0 else "")
