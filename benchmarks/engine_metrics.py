"""What a vLLM server says of itself on /metrics: read once, or followed while something runs.

Read without the product's own reader: a harness that shared it would share its mistakes.
"""

import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

EVERY: Final = 0.2
"""Seconds between two looks. A look costs the server some milliseconds of CPU, whoever is being measured."""
WINDOW: Final = (0.1, 0.9)
"""The part of the tokens of a round that counts: start and ramp-up are left out, and so is the tail of the last
dialogues, in which there is less to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What servers have done: counters, in tokens."""

    prompt: int
    """Looked up in the prefix cache; more than were asked for where a request was preempted and came again."""
    cached: int
    """Found there."""
    generated: int

    @classmethod
    def of(cls, *urls: str) -> "Work":
        """By all servers together, since their start."""
        said = [read(url) for url in urls]
        names = ("prefix_cache_queries_total", "prefix_cache_hits_total", "generation_tokens_total")
        prompt, cached, generated = (round(sum(each[f"vllm:{name}"] for each in said)) for name in names)
        return cls(prompt=prompt, cached=cached, generated=generated)

    def __sub__(self, before: "Work") -> "Work":
        return Work(
            prompt=self.prompt - before.prompt,
            cached=self.cached - before.cached,
            generated=self.generated - before.generated,
        )

    @property
    def cached_share(self) -> float:
        return self.cached / self.prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at a server."""

    at: float
    """Seconds on the monotonic clock."""
    generated: float
    """Tokens since the server's start."""


def read(url: str) -> Mapping[str, float]:
    """The values by name, those of several label sets added up.

    Args:
        url: The server's, with the `/v1`.
    """
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as response:
        text = response.read().decode()
    values: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.split("{")[0].split(" ")[0], float(line.rpartition(" ")[2])
            values[name] = values.get(name, 0.0) + value
    return values


def pace(looks: Sequence[Look], window: tuple[float, float] = WINDOW) -> float:
    """How many tokens came in a second while the middle part of them came.

    Args:
        looks: In order of time; the first before anything was asked, the last after everything was answered.
        window: From which share of the tokens to which.
    """
    first, last = looks[0].generated, looks[-1].generated
    begin, end = (_when(looks, first + share * (last - first)) for share in window)
    return (window[1] - window[0]) * (last - first) / (end - begin)


def _when(looks: Sequence[Look], generated: float) -> float:
    """When so many tokens had been generated, on a line between two looks."""
    after = next(index for index, look in enumerate(looks) if look.generated >= generated and index > 0)
    one, two = looks[after - 1], looks[after]
    share = (generated - one.generated) / ((two.generated - one.generated) or 1)
    return one.at + share * (two.at - one.at)


class Follow:
    """Looks at a server again and again, from a thread, while the context lasts.

    Args:
        url: The server's, with the `/v1`.
    """

    def __init__(self, url: str) -> None:
        self.looks: list[Look] = []
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._look()

    def _follow(self) -> None:
        while not self._over.wait(EVERY):
            self._look()

    def _look(self) -> None:
        generated = read(self._url)["vllm:generation_tokens_total"]
        self.looks.append(Look(at=time.monotonic(), generated=generated))
