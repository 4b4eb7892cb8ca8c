"""How much of a run's prompts its endpoints found in their prefix caches, and how much they could have found.

What they found is what they said (`cached_tokens` of each call). What they could have found is worked out from the prompts
themselves, which `messages.jsonl` keeps as hash chains: for each call, how far its prompt begins as an earlier one to the
same model and adapter did, the reply to that one included, where it stands in the prompt. That is what a single replica
would have found again that forgets nothing and knows all calls before: an upper bound, for

- a server caches whole blocks (vLLM 16 tokens, its CPU build 128), and counts none that is not full;
- it makes the last token of a prompt anew, even if it knows them all;
- calls that are under way at once cannot find each other's prompts yet;
- characters are made into tokens by each call's own ratio, as if all its text were equally dense.

The order in which calls are taken is that of the dialogues in the transcripts, of their turns, and within a turn from the
shorter prompt to the longer, for of a turn's drafts, reviews and steps a transcript does not say which came first.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, computed_field

from tutelage.dialogue.turn import Call
from tutelage.transcripts.calls import AskedCall, calls_by_turn
from tutelage.transcripts.messages import PromptPart, PromptParts, text_key
from tutelage.transcripts.transcript import Transcript

REMEMBERED_PARTS: Final = 65_536
REMEMBERED_BRANCHES: Final = 4_096
SIBLINGS: Final = 16
"""What is remembered of other dialogues, for each model: the parts used last, the places where prompts parted last, and how
they went on from there. System prompts come again all the time and stay; what was said in one dialogue does not."""

Player = tuple[str, str | None]
"""A model and the adapter on it: what is cached for one is of no use to another."""
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class CacheUse(BaseModel):
    """What the prefix cache did for the calls of one role to one model, and what it could have done."""

    model_config = ConfigDict(extra="forbid")

    role: str
    model: str
    adapter: str | None = None
    calls: int = 0
    unknown: int = 0
    """Calls whose prompt is not in `messages.jsonl`; the rest does not count them."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """What the endpoints say they found."""
    dialogue_tokens: int = 0
    """What they could have found if each had forgotten everything between two dialogues: what is to be won by sending
    all calls of a dialogue to one replica."""
    run_tokens: int = 0
    """What they could have found if one replica had seen all calls; never less than was found."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cached_share(self) -> float:
        """The hit rate: the share of the prompt tokens that was found, 0 to 1."""
        return self._share(self.cached_tokens)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def dialogue_share(self) -> float:
        """The share that could have been found within each dialogue alone."""
        return self._share(self.dialogue_tokens)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def run_share(self) -> float:
        """The share that could have been found."""
        return self._share(self.run_tokens)

    @property
    def player(self) -> str:
        """The model, and the adapter on it."""
        return f"{self.model} + {self.adapter}" if self.adapter else self.model

    def add(self, other: "CacheUse") -> None:
        """Counts another role's calls in."""
        for name in ("calls", "unknown", "prompt_tokens", "cached_tokens", "dialogue_tokens", "run_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def _share(self, tokens: int) -> float:
        return round(tokens / self.prompt_tokens, 4) if self.prompt_tokens else 0.0


class CacheTally:
    """Counts the transcripts of a run, in the order in which they were written, and keeps none of them.

    Args:
        parts: The parts of the run's prompts.
        block: Tokens of a cache block: of what could have been found, only whole blocks count. 1 counts every token.
    """

    def __init__(self, parts: PromptParts, *, block: int = 1) -> None:
        self._parts = parts
        self._block = block
        self._sums: dict[tuple[str, str, str | None], _Sums] = {}
        self._run: dict[tuple[str, str | None], _Cache] = {}

    def add(self, transcript: Transcript) -> None:
        """Counts the calls of a dialogue."""
        alone: dict[Player, _Cache] = {}
        prompts = []
        for asked in calls_by_turn(transcript):
            found = [(each, self._parts.last_of(each.call.prompt_sha256)) for each in asked]
            for each, prompt in sorted(found, key=lambda pair: pair[1].end if pair[1] else 0):
                if each.call.is_further_candidate:
                    continue
                sums = self._sums_of(each)
                sums.calls += 1
                if prompt is None:
                    sums.unknown += 1
                else:
                    prompts.append(prompt)
                    self._count(sums, each, prompt, alone)
            for each, prompt in found:  # of several candidates, the chosen one comes last: that is what was said
                if prompt is not None and each.call.candidate is not None and not each.is_misfit:
                    self._keep(each, prompt, alone)
        self._parts.let_go(prompts)

    def _count(self, sums: "_Sums", asked: AskedCall, prompt: PromptPart, alone: "dict[Player, _Cache]") -> None:
        call = asked.call
        found = [self._tokens(call, prompt, cache.found(prompt)) for cache in self._caches(call, alone)]
        self._keep(asked, prompt, alone)
        sums.prompt_tokens += call.prompt_tokens
        sums.cached_tokens += call.cached_tokens
        sums.dialogue_tokens += found[0]
        sums.run_tokens += max(*found, call.cached_tokens)

    def _keep(self, asked: AskedCall, prompt: PromptPart, alone: "dict[Player, _Cache]") -> None:
        for cache in self._caches(asked.call, alone):
            cache.keep(prompt, asked.reply)

    def _caches(self, call: Call, alone: "dict[Player, _Cache]") -> "tuple[_Cache, _Cache]":
        """What a model would have cached of this dialogue, and of the whole run."""
        player = call.model, call.adapter
        return alone.setdefault(player, _Cache()), self._run.setdefault(player, _Cache())

    def all(self) -> list[CacheUse]:
        """What was counted, in the order in which roles first called."""
        return [
            CacheUse(role=role, model=model, adapter=adapter, **asdict(sums))
            for (role, model, adapter), sums in self._sums.items()
        ]

    def _sums_of(self, asked: AskedCall) -> "_Sums":
        key = (asked.role, asked.call.model, asked.call.adapter)
        if key not in self._sums:
            self._sums[key] = _Sums()
        return self._sums[key]

    def _tokens(self, call: Call, prompt: PromptPart, characters: int) -> int:
        tokens = call.prompt_tokens * characters // prompt.end if prompt.end else 0
        return tokens - tokens % self._block


@dataclass(slots=True)
class _Sums:
    """What is counted up for a `CacheUse`, whose fields are dearer to change."""

    calls: int = 0
    unknown: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    dialogue_tokens: int = 0
    run_tokens: int = 0


class _Cache:
    """The prompts that one model was sent, as far as they are remembered."""

    def __init__(self) -> None:
        self._parts: OrderedDict[int, None] = OrderedDict()
        self._replies: OrderedDict[int, int] = OrderedDict()
        """By the last part of a prompt, the reply to it."""
        self._branches: OrderedDict[int | None, deque[tuple[str, str]]] = OrderedDict()
        """By the part before them (None at the beginning of a prompt), the parts that followed: header and text."""

    def found(self, prompt: PromptPart) -> int:
        """Characters at the beginning of a prompt that an earlier one, or the reply to it, has too."""
        after = None
        for part in prompt.backwards():
            if part.key in self._parts:
                return part.end + (self._partly(part.key, after) if after else 0)
            after = part
        return self._partly(None, after) if after else 0

    def keep(self, prompt: PromptPart, reply: str | None) -> None:
        """Remembers a prompt, and the reply to it."""
        for part in prompt.backwards():
            known = part.key in self._parts
            _put(self._parts, part.key, None, REMEMBERED_PARTS)
            if known:
                break  # and all before it, for it was kept with them
            above = part.parent.key if part.parent else None
            siblings = self._branches.get(above) or deque(maxlen=SIBLINGS)
            siblings.append((part.header, part.text))
            _put(self._branches, above, siblings, REMEMBERED_BRANCHES)
        if reply is not None:
            _put(self._replies, prompt.key, text_key(reply), REMEMBERED_BRANCHES)

    def _partly(self, known: int | None, part: PromptPart) -> int:
        """Characters that are found of the first part that is not known as a whole."""
        if known is not None and part.header == "assistant" and self._replies.get(known) == part.text_key:
            return len(part.text)
        siblings = self._branches.get(known, ())
        return max((_common(part.text, text) for header, text in siblings if header == part.header), default=0)


def _put(remembered: OrderedDict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Remembers something as the newest, and forgets the oldest where that makes too many."""
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > most:
        remembered.popitem(last=False)


def _common(one: str, other: str) -> int:
    """Characters at the beginning that two texts have in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
