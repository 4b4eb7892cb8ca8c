"""Splits text into tokens for the simulated endpoint: words and punctuation, cheap and the same in every process.

No vocabulary stands behind it. A word of more than seven characters falls into several tokens, so that English comes to
about 1.3 tokens a word, as with the usual byte-pair vocabularies. Joined, the tokens of a text give the text again.
"""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

VOCABULARY = 2**31
"""So large that hardly any two tokens share a number."""
_TOKEN = re.compile(r"\s*(?:\w{1,7}|[^\w\s])|\s+")
_START, _END, _NEWLINE = "<|im_start|>", "<|im_end|>", "\n"


@lru_cache(maxsize=1024)
def tokenize(text: str) -> tuple[str, ...]:
    """The tokens of `text`, each with the white space before it.

    Conversations send the same messages again with each turn, hence the cache.
    """
    return tuple(_TOKEN.findall(text))


def token_ids(tokens: Iterable[str]) -> list[int]:
    """A number for each token, below `VOCABULARY`."""
    return [_token_id(token) for token in tokens]


def tokens_of(ids: Iterable[int]) -> tuple[str, ...]:
    """The tokens with these numbers: those that this process has numbered, and for any other its number as a word."""
    return tuple(_NUMBERED.get(id_, f" {id_}") for id_ in ids)


_NUMBERED: dict[int, str] = {}


@lru_cache(maxsize=65_536)
def _token_id(token: str) -> int:
    id_ = zlib.crc32(token.encode()) % VOCABULARY
    _NUMBERED[id_] = token
    return id_


def content_text(content: Any) -> str:
    """The text of a message's `content`: a string, a list of text parts, or nothing.

    Raises:
        ValueError: a part that is not text.
    """
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_part_text(part) for part in content)
    raise ValueError(f"a message's content is {type(content).__name__}; send a string or a list of parts")


def _part_text(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    raise ValueError(f"a part of a message's content is {part!r}; the simulated model reads text parts only")


def chat_tokens(
    messages: Sequence[Mapping[str, Any]], *, generation_prompt: bool = True, continue_final: bool = False
) -> tuple[str, ...]:
    """The tokens of a conversation under a ChatML-like template, which costs four tokens a message.

    Args:
        messages: each with a `role` and a `content`.
        generation_prompt: end with the head of an assistant's message (three tokens).
        continue_final: leave the last message open, to be continued.

    Raises:
        ValueError: a message without a role, or with content that is not text.
    """
    tokens: list[str] = []
    for message in messages:
        role = message.get("role")
        if not isinstance(role, str):
            raise ValueError(f"a message has no role: {message!r}")
        tokens += (_START, role, _NEWLINE)
        tokens += tokenize(content_text(message.get("content")))
        tokens.append(_END)
    if continue_final and tokens:
        tokens.pop()
    elif generation_prompt:
        tokens += (_START, "assistant", _NEWLINE)
    return tuple(tokens)
