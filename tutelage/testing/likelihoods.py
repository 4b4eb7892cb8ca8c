"""How likely the simulated model finds tokens: a distribution of its own after each beginning, the same in every process.

`prompt_logprobs` tell it, and what is drawn after a prompt of token ids, one token at a time, is drawn from it.
"""

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from random import Random

from tutelage.testing import prose
from tutelage.testing.tokenizer import token_ids, tokenize

_COMMON = tuple(token for token, _ in Counter(tokenize(prose.write(Random(0), 4000))).most_common(100))
"""The tokens that its plain replies are mostly made of."""
_OTHERS = 0.02
"""How likely it is that none of the common tokens comes."""
_SHARPNESS = 2.0
"""The spread of the common tokens' logits: the likeliest one has a third or so."""


@lru_cache(maxsize=8192)
def likeliest(model: str, before: str) -> tuple[tuple[str, float], ...]:
    """The common tokens with their logprobs, likeliest first.

    Args:
        model: The model's or the adapter's name: each finds other things likely.
        before: The token before: nothing else counts.
    """
    rng = Random(zlib.crc32(f"{model}\0{before}".encode()))
    logits = {token: rng.gauss(0.0, _SHARPNESS) for token in _COMMON}
    total = math.log(sum(map(math.exp, logits.values()))) - math.log1p(-_OTHERS)
    return tuple(sorted(((token, logit - total) for token, logit in logits.items()), key=lambda each: -each[1]))


def logprob_and_rank(model: str, before: str, token: str) -> tuple[float, int]:
    """How likely a token is after another, and how many are no less likely."""
    ranked = likeliest(model, before)
    for rank, (common, logprob) in enumerate(ranked, start=1):
        if common == token:
            return logprob, rank
    unlikely = Random(zlib.crc32(f"{model}\0{before}\0{token}".encode())).uniform(6.0, 12.0)
    return math.log(_OTHERS) - unlikely, len(ranked) + 1


def draw_next(model: str, before: str, rng: Random, banned: Iterable[int], times: int) -> Sequence[tuple[str, float]]:
    """Tokens that may come next with their logprobs, drawn by what they are without the ban."""
    ids, left_out = _ids(model, before), set(banned)
    ranked = [each for each, id_ in zip(likeliest(model, before), ids, strict=True) if id_ not in left_out]
    return rng.choices(ranked, [math.exp(logprob) for _, logprob in ranked], k=times)


def banned_by(logit_bias: Mapping[str, float] | None) -> frozenset[int]:
    """The ids that a request's `logit_bias` all but forbids."""
    return frozenset(int(id_) for id_, bias in (logit_bias or {}).items() if bias <= -100)


@lru_cache(maxsize=8192)
def _ids(model: str, before: str) -> tuple[int, ...]:
    return tuple(token_ids(token for token, _ in likeliest(model, before)))
