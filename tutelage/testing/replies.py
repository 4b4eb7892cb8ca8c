"""What the simulated model says: scripted, of the shape asked for, or plain text; the same for the same seed."""

import hashlib
import importlib
import importlib.util
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, cast

import orjson

from tutelage.dialogue.prompt import JOINT
from tutelage.dialogue.view import DRAFT
from tutelage.errors import ConfigError
from tutelage.testing import prose
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.faults import Fault
from tutelage.testing.likelihoods import banned_by, draw_next
from tutelage.testing.schema_filler import Draw, SchemaError, violation
from tutelage.testing.tokenizer import content_text, tokenize
from tutelage.testing.tool_calling import Offer
from tutelage.testing.vllm_replies import Choice, Piece
from tutelage.testing.vllm_requests import Call, bad_request

ReplyHook = Callable[[dict[str, Any], Random], str | None]
"""Given a request's body and a seeded generator: the text to answer, or None to leave it to the simulation."""


def load_hook(name: str) -> ReplyHook:
    """Imports `module:function` or `path/to/file.py:function`.

    Raises:
        ConfigError: there is no such function.
    """
    source, _, function = name.rpartition(":")
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(source).stem, source)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
        return cast(ReplyHook, getattr(module, function))
    except (ImportError, OSError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"cannot load the replies hook {name!r} ({error}): give it as module:function or file.py:function"
        ) from error


class Replier:
    """Draws the replies.

    As with vLLM, the seed, the prompt and the sampling parameters decide the text; at temperature 0 the seed plays no
    part; `max_tokens` only cuts; a request without a seed gets a new text each time.

    Args:
        config: the length of plain replies, the accept rate, the hook, and the endpoint's own seed.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self._hook = load_hook(config.replies) if config.replies else None
        self._unseeded = count()

    def choices(self, call: Call, fault: Fault | None) -> list[Choice]:
        """The `n` completions of a call, spoilt where `fault` says so.

        Raises:
            Refusal: nothing fits the shape that was asked for.
        """
        if call.greedy:
            source: object = None
        elif call.seed is not None:
            source = call.seed
        else:
            source = ("unseeded", self.config.seed, next(self._unseeded))
        digest = hashlib.blake2b(call.messages + call.sampling, digest_size=8)
        digest.update(f"{call.model}/{source}".encode())
        key = int.from_bytes(digest.digest())
        if call.draws_next and self._hook is None and self._spoilt(call, fault) is None:
            banned = banned_by(call.body.get("logit_bias"))
            drawn = draw_next(call.model, call.prompt[-1], Random(key), banned, call.n)
            return [Choice(tokens=(token,), finish_reason="length", logprob=logprob) for token, logprob in drawn]
        return [self._choice(call, Random(key + index), fault) for index in range(call.n)]

    def _choice(self, call: Call, rng: Random, fault: Fault | None) -> Choice:
        text = self._spoilt(call, fault)
        if text is None and self._hook is not None:
            text = self._hook(call.body, rng)
        thought = prose.write(rng, self._length(call, rng)) if call.reasons else None
        offer = self._called(call, rng) if text is None else None
        if offer is not None:
            arguments = offer.arguments(Draw(rng=rng, accept_rate=self.config.accept_rate))
            called = Piece(
                kind="call", tokens=tokenize(arguments), name=offer.name, id=f"chatcmpl-tool-{rng.getrandbits(64):016x}"
            )
            return _in_pieces(call, thought, called)
        if text is None:
            text = self._shaped(call, rng) if call.shape else prose.write(rng, self._length(call, rng))
        if thought is None:
            return _cut(call, text)
        return _in_pieces(call, thought, Piece(kind="content", tokens=tokenize(text) or ("",)))

    def _called(self, call: Call, rng: Random) -> Offer | None:
        if call.calling == "none" or (call.calling == "auto" and rng.random() >= self.config.tool_rate):
            return None
        return rng.choice(call.offers)

    def _spoilt(self, call: Call, fault: Fault | None) -> str | None:
        if fault is not None and fault.kind == "empty":
            return ""
        if fault is not None and fault.kind == "wrong_shape":
            return orjson.dumps(violation(call.schema)).decode()
        return None

    def _shaped(self, call: Call, rng: Random) -> str:
        assert call.shape is not None
        try:
            return call.shape(Draw(rng=rng, accept_rate=self.config.accept_rate, quotable=_draft(call)))
        except SchemaError as error:
            raise bad_request(f"Grammar error: {error}") from error

    def _length(self, call: Call, rng: Random) -> int:
        if call.ignore_eos:
            return call.max_tokens
        mean, sigma = self.config.completion_tokens, self.config.completion_spread
        length = rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma) if sigma else mean
        return max(1, call.min_tokens, round(length))


def draft_in(text: str) -> str:
    """The first paragraph of the draft that a reviewer is shown with a message; empty if there is none."""
    _, found, draft = text.rpartition(f"{DRAFT}{JOINT}")
    return draft.partition(JOINT)[0] if found else ""


def _draft(call: Call) -> str:
    messages = call.body.get("messages")
    return draft_in(content_text(messages[-1].get("content"))) if messages else ""


def _cut(call: Call, text: str) -> Choice:
    stop = min((end for end in call.stop if end in text), key=text.index, default=None)
    if stop is not None:
        text = text[: text.index(stop)]
    # A model that says nothing has still generated the token that ends its turn.
    tokens = tokenize(text) or ("",)
    if len(tokens) > call.max_tokens or (call.ignore_eos and len(tokens) == call.max_tokens):
        return Choice(tokens=tokens[: call.max_tokens], finish_reason="length")
    return Choice(tokens=tokens, finish_reason="stop", stop_reason=stop)


def _in_pieces(call: Call, thought: str | None, said: Piece) -> Choice:
    """A reply that thinks first, or calls a tool; stop texts are not looked for in it."""
    pieces = (said,) if thought is None else (Piece(kind="reasoning", tokens=tokenize(thought)), said)
    # As in OpenAI's API, a tool that was called by name does not count as one that the model chose to call.
    reason = "tool_calls" if said.kind == "call" and call.calling != "named" else "stop"
    choice = Choice(
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        finish_reason=reason,
        pieces=pieces,
        hides_reasoning=not call.shows_reasoning,
    )
    if len(choice.tokens) > call.max_tokens:
        choice.cut(call.max_tokens, "length")
    return choice
