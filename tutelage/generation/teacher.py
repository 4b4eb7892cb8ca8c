"""A model that says how likely it finds what was said: what it is asked, and how its answers are read.

It stands at a vLLM endpoint. Tokens are made there, too (`/tokenize`), so that nothing here guesses at a tokenizer or a chat
template. One prefill of the whole text gives the likeliest tokens of each place (`prompt_logprobs`).
"""

import asyncio
import hashlib
import math
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from random import Random
from secrets import token_hex
from typing import Any, Final

import orjson

from tutelage.errors import ConfigError, ContextExceeded
from tutelage.exports.logprobs import CLOSES_WITHIN, Place, tail_of
from tutelage.serving.endpoint_pool import EndpointPool

Messages = Sequence[Mapping[str, str]]

# vLLM has them under the server's root, and not under the base URL of OpenAI's API.
TOKENIZE: Final = "/../tokenize"
DETOKENIZE: Final = "/../detokenize"
COMPLETIONS: Final = "/completions"

PROBE: Final = (
    "The 1,234.5 quick\tfoxes' naïve café — «Straße» said:\n\n    def f(x):  return x**2 != 3e-7  # ½ + ⅓ = ⅚\r\n"
    "Привет, мир! Ελληνικά שלום مرحبا हिन्दी ไทย 你好世界。日本語テスト 한국어 🦊👩‍🔬 \u200b\\frac{1}{2} <b>&amp;</b> "
    "http://example.org/?q=a%20b aaaaaaaaaaaaaaaaaaaaaaaa 0000000011111111 ZzZ"
)
"""What two tokenizers that are not the same hardly take apart alike: words, numbers, blanks, code, eight scripts."""
INSERTED: Final = 16
"""How many tokens of its own a chat template may put before a reply: `<think>`, two line breaks, `</think>` and the like."""
CONVERSATION: Final = (
    {"role": "user", "content": "What is a half?"},
    {"role": "assistant", "content": "One of two equal parts."},
    {"role": "user", "content": "And a third?"},
    {"role": "assistant", "content": "One of three."},
)


@dataclass(frozen=True, slots=True)
class At:
    """Whose tokens a request is about."""

    id: str = ""
    """The turn's."""
    dialogue: str | None = None
    """What is said of one dialogue is asked of one replica, for the sake of its prefix cache."""
    order: float = 0.0
    """Of the requests that wait, the one with the lowest goes first."""


NOWHERE: Final = At()


class Unscorable(StrEnum):
    """Why a turn that might have been scored is not."""

    TEMPLATE_DIFFERS = "template differs"
    WORDS_CHANGED = "words changed"
    NO_STOP_TOKEN = "no stop token"
    TOO_LONG = "too long"
    REFUSED = "refused"
    FAILED = "failed"

    @property
    def about(self) -> str:
        """What it means, as the summary says it."""
        return _ABOUT[self]


_ABOUT: Final = {
    Unscorable.TEMPLATE_DIFFERS: "with the reply behind it, the chat template renders the prompt otherwise",
    Unscorable.WORDS_CHANGED: "the chat template makes something else of the reply than its words",
    Unscorable.NO_STOP_TOKEN: "the chat template ends a reply with no token of its own",
    Unscorable.TOO_LONG: "prompt and reply do not fit the teacher's context",
    Unscorable.REFUSED: "the endpoint refused it; the log says why",
    Unscorable.FAILED: "the endpoint gave no answer after all retries",
}


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt and a reply as the teacher sees them, up to the token that ends the reply."""

    ids: Sequence[int]
    begin: int
    """How many are the prompt's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What tells tokenizers and chat templates apart, as far as can be seen from outside."""

    tokenizer: str
    chat_template: str


def aligned(prompt: Sequence[int], opened: Sequence[int], closed: Sequence[int]) -> Tokens | Unscorable:
    """Where in a rendered conversation the reply is.

    Args:
        prompt: The tokens of what was before it, with the beginning of an assistant's message.
        opened: Those of all, where the last message is left open.
        closed: Those of all, where it is ended.
    """
    begin, end = len(prompt), len(opened)
    if not begin or list(opened[:begin]) != list(prompt):
        return Unscorable.TEMPLATE_DIFFERS
    if end == begin:
        return Unscorable.WORDS_CHANGED
    if len(closed) <= end or list(closed[:end]) != list(opened):
        return Unscorable.NO_STOP_TOKEN
    # A template may go on behind it, with a line break: a model that stops never writes that.
    return Tokens([*closed[: end + 1]], begin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A model, or an adapter on it, at its endpoints."""

    pool: EndpointPool
    model: str
    adapter: str | None = None
    k: int = 20
    """How many of the likeliest tokens it is asked for in each place."""
    samples: int | None = None
    """How many tokens are drawn in each place by its probabilities, instead; None to keep the likeliest."""
    seed: int = 0
    """Of the tokens that are drawn here."""
    salt: str = field(default_factory=lambda: token_hex(16))
    """Its requests find in the prefix cache what they have computed themselves, and nothing else: vLLM 0.32 on a CPU leaves
    wrong keys and values there where it has computed prompts of several adapters at once."""

    # --- tokens -------------------------------------------------------------------------------------------------------

    async def fingerprint(self) -> Fingerprint:
        """What its tokenizer and its chat template make of fixed texts.

        Raises:
            CallError: The endpoint does not say.
        """
        ids = await self._tokenize({"prompt": PROBE, "add_special_tokens": False})
        rendered = await self._tokenize({"messages": CONVERSATION, "add_generation_prompt": False})
        begun = await self._tokenize({"messages": CONVERSATION[:-1], "add_generation_prompt": True})
        return Fingerprint(tokenizer=_sha256(ids), chat_template=_sha256([rendered, begun]))

    async def tokens(
        self, prompt: Messages, reply: str, rendering: Mapping[str, Any], at: At = NOWHERE
    ) -> Tokens | Unscorable:
        """The tokens of a reply behind its prompt, and of the token that ends it.

        Args:
            prompt: The messages before it.
            reply: Its text.
            rendering: What the prompt was rendered with besides, as `chat_template_kwargs`.
            at: Whose tokens they are.

        Raises:
            EndpointRefused: Its chat template does not take these messages, for one.
            CallError: The endpoint failed.
        """
        whole = [*prompt, {"role": "assistant", "content": reply}]
        asked = (
            {"messages": prompt, "add_generation_prompt": True},
            {"messages": whole, "add_generation_prompt": False, "continue_final_message": True},
            {"messages": whole, "add_generation_prompt": False},
        )
        rendered = await asyncio.gather(*(self._tokenize({**each, **rendering}, at) for each in asked))
        tokens = aligned(*rendered)
        if isinstance(tokens, Unscorable):
            return tokens
        # Templates take blanks off both ends.
        said = await self.text(tokens.ids[tokens.begin : -1], at)
        return tokens if said.strip() == reply.strip() else await self._behind_insertion(tokens, reply, at)

    async def _behind_insertion(self, tokens: Tokens, reply: str, at: At) -> Tokens | Unscorable:
        """The tokens where the template puts something of its own before a reply, an empty thought: to us, it is prompt."""
        for begin in range(tokens.begin + 1, min(tokens.begin + 1 + INSERTED, len(tokens.ids) - 1)):
            if await self.text(tokens.ids[begin:-1], at) in (reply, reply.strip()):
                return Tokens(tokens.ids, begin)
        return Unscorable.WORDS_CHANGED

    async def text(self, ids: Sequence[int], at: At = NOWHERE) -> str:
        """The text that tokens stand for.

        Raises:
            CallError: The endpoint failed.
        """
        reply, endpoint = await self._post(DETOKENIZE, {"tokens": list(ids)}, at)
        if not isinstance(text := reply.get("prompt"), str):
            raise ConfigError(_no_vllm(endpoint, "answers /detokenize with something else than text"))
        return text

    async def _tokenize(self, asked: dict[str, Any], at: At = NOWHERE) -> list[int]:
        reply, endpoint = await self._post(TOKENIZE, asked, at)
        ids = reply.get("tokens")
        if not isinstance(ids, list) or not all(isinstance(id_, int) for id_ in ids):
            raise ConfigError(_no_vllm(endpoint, "answers /tokenize with something else than token ids"))
        return ids

    # --- likelihoods --------------------------------------------------------------------------------------------------

    async def places(self, tokens: Tokens, at: At = NOWHERE) -> list[Place] | Unscorable:
        """What it says of each place of a reply.

        Args:
            tokens: Prompt and reply.
            at: Whose tokens they are: with the seed, it decides which are drawn here.

        Raises:
            ConfigError: The endpoint takes no notice of what only vLLM knows.
            CallError: The endpoint failed.
        """
        try:
            told = await self._told(tokens, at)
        except ContextExceeded:
            return Unscorable.TOO_LONG
        if self.samples is None:
            return [each.place(self.k) for each in told]
        rng = Random(f"{self.seed}/{at.id}")
        ends = range(tokens.begin, len(tokens.ids))
        sampled = [
            self._sampled(tokens.ids[:end], each, each.draw(rng, self.samples), at)
            for end, each in zip(ends, told, strict=True)
        ]
        return list(await asyncio.gather(*sampled))

    async def departure(self, tokens: Tokens) -> float:
        """By how much what it says of a reply departs from what it would draw there: the largest difference in probability.

        Of an adapter that changes the last layer, vLLM 0.32 tells what is likely without that change.

        Raises:
            ConfigError: The endpoint takes no notice of what only vLLM knows.
            CallError: The endpoint failed.
        """
        told = await self._told(tokens, NOWHERE)
        looked_at = range(0, len(told), max(1, len(told) // 3))
        drawn = await asyncio.gather(*(self._next(tokens.ids[: tokens.begin + number]) for number in looked_at))
        pairs = zip((told[number] for number in looked_at), drawn, strict=True)
        return max(difference for place, likely in pairs for difference in _differences(place, likely))

    async def _next(self, before: Sequence[int]) -> dict[int, float]:
        """How likely the likeliest tokens are that may come next, by their ids."""
        asked = {**self._next_token(before), "logprobs": self.k, "return_tokens_as_token_ids": True}
        reply, endpoint = await self._post(COMPLETIONS, asked, NOWHERE)
        try:
            top = reply["choices"][0]["logprobs"]["top_logprobs"][0]
            return {int(name.removeprefix("token_id:")): logprob for name, logprob in top.items()}
        except (KeyError, TypeError, IndexError, ValueError, AttributeError):
            raise ConfigError(_no_vllm(endpoint, "does not tell the ids of the tokens that it draws")) from None

    async def _told(self, tokens: Tokens, at: At) -> list["_Told"]:
        """What it tells of each place of a reply in one prefill."""
        asked = {**self._next_token(tokens.ids), "prompt_logprobs": self.k}
        reply, endpoint = await self._post(COMPLETIONS, asked, at)
        entries = _prompt_logprobs(reply)
        # Of the very first token nothing can be told, and no prompt is empty.
        if entries is None or len(entries) != len(tokens.ids) or None in entries[tokens.begin :]:
            raise ConfigError(_no_vllm(endpoint, "takes no notice of `prompt_logprobs`"))
        said = zip(tokens.ids[tokens.begin :], entries[tokens.begin :], strict=True)
        told = [_Told.of(id_, entry) for id_, entry in said]
        if any(math.fsum(map(math.exp, each.logprobs)) > 1 + CLOSES_WITHIN for each in told):
            raise ConfigError(
                f"{endpoint} gives numbers that are no logarithms of probabilities: start vLLM with --logprobs-mode "
                "raw_logprobs, its default"
            )
        return told

    async def _sampled(self, before: Sequence[int], told: "_Told", drawn: Sequence[int], at: At) -> Place:
        """A place with the tokens that were drawn in it, each as often as it was."""
        assert self.samples is not None
        pairs = [(told.ids[rank], told.logprobs[rank]) for rank in drawn]
        if len(pairs) < self.samples:
            pairs += await self._others(before, told, self.samples - len(pairs), at)
        distinct = dict(pairs)
        return Place(
            ids=[id_ for id_, _ in pairs],
            logprobs=[logprob for _, logprob in pairs],
            logprob=told.logprob,
            tail=tail_of(distinct.values()),
        )

    async def _others(self, before: Sequence[int], told: "_Told", wanted: int, at: At) -> list[tuple[int, float]]:
        """Tokens that were not told, drawn by the endpoint.

        A place where one is needed is rare, and a request for it is a prompt that the prefix cache has, and one step.
        """
        asked = {
            **self._next_token(before),
            "n": wanted,
            "logprobs": 0,
            "return_token_ids": True,
            # No seed: it would kill vLLM's engine on a CPU where a prompt is split over two steps.
            # What was told never comes with a logit so much lower; logprobs are of the logits before that.
            "logit_bias": {str(id_): -100 for id_ in told.ids},
        }
        reply, endpoint = await self._post(COMPLETIONS, asked, at)
        try:
            drawn = [(choice["token_ids"][0], choice["logprobs"]["token_logprobs"][0]) for choice in reply["choices"]]
        except (KeyError, TypeError, IndexError):
            raise ConfigError(_no_vllm(endpoint, "does not tell the ids of the tokens that it draws")) from None
        if len(drawn) != wanted or any(id_ in told.ids for id_, _ in drawn):
            raise ConfigError(_no_vllm(endpoint, "takes no notice of `n` or `logit_bias`"))
        return drawn

    def _next_token(self, before: Sequence[int]) -> dict[str, Any]:
        return {"prompt": list(before), "max_tokens": 1, "temperature": 1.0, "cache_salt": self.salt}

    async def _post(self, path: str, asked: dict[str, Any], at: At) -> tuple[dict[str, Any], str]:
        body = orjson.dumps({"model": self.adapter or self.model, **asked})
        return await self.pool.post(path, body, key=at.dialogue, order=at.order)


@dataclass(frozen=True, slots=True)
class _Told:
    """What `prompt_logprobs` tell of one place: the likeliest tokens and the one that stands there, likeliest first."""

    ids: list[int]
    logprobs: list[float]
    logprob: float
    """Of the token that stands there."""

    @classmethod
    def of(cls, token: int, entry: Mapping[str, Mapping[str, Any]]) -> "_Told":
        ranked = sorted(((each["logprob"], int(id_)) for id_, each in entry.items()), reverse=True)
        own = entry[str(token)]["logprob"]
        return cls([id_ for _, id_ in ranked], [logprob for logprob, _ in ranked], own)

    def place(self, k: int) -> Place:
        """The `k` likeliest: the token that stands there comes on top of them where it is none of them."""
        ids, logprobs = self.ids[:k], self.logprobs[:k]
        return Place(ids=ids, logprobs=logprobs, logprob=self.logprob, tail=tail_of(logprobs))

    def draw(self, rng: Random, samples: int) -> list[int]:
        """Ranks drawn by their probabilities; fewer than asked for, by as many as fell on tokens that were not told."""
        sums = list(accumulate(map(math.exp, self.logprobs)))
        whole = max(1.0, sums[-1])
        ranks = (bisect(sums, rng.random() * whole) for _ in range(samples))
        return [rank for rank in ranks if rank < len(sums)]


def _differences(told: "_Told", drawn: Mapping[int, float]) -> Iterator[float]:
    """In probability, of the tokens that both know; 1 where there is none."""
    common = [(logprob, drawn[id_]) for id_, logprob in zip(told.ids, told.logprobs, strict=True) if id_ in drawn]
    yield from (abs(math.exp(one) - math.exp(other)) for one, other in common) if common else (1.0,)


def _prompt_logprobs(reply: Mapping[str, Any]) -> list[Any] | None:
    try:
        told = reply["choices"][0]["prompt_logprobs"]
    except (KeyError, TypeError, IndexError):
        return None
    return told if isinstance(told, list) else None


def _no_vllm(endpoint: str, what: str) -> str:
    return f"{endpoint} {what}, so it is no vLLM, or an old one: only vLLM's server can be the teacher"


def _sha256(ids: Any) -> str:
    return hashlib.sha256(orjson.dumps(ids)).hexdigest()
