"""What vLLM's OpenAI-compatible server answers, as version 0.32 writes it: whole replies, and the events of a stream."""

from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Any, Literal

import orjson

from tutelage.testing.likelihoods import likeliest, logprob_and_rank
from tutelage.testing.tokenizer import token_ids
from tutelage.testing.vllm_requests import Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a completion that a reply has in a place of its own."""

    kind: Literal["reasoning", "content", "call"]
    tokens: tuple[str, ...]
    """Of a call, its arguments."""
    name: str = ""
    """The tool that is called."""
    id: str = ""
    """And the call's id."""

    @property
    def text(self) -> str:
        return "".join(self.tokens)


@dataclass(slots=True, kw_only=True)
class Choice:
    """One completion of a call."""

    tokens: tuple[str, ...]
    finish_reason: str
    stop_reason: str | None = None
    logprob: float | None = None
    """Of its one token, where that was drawn by how likely it is."""
    pieces: tuple[Piece, ...] = ()
    """Where it is not all content; their tokens are those of the choice."""
    hides_reasoning: bool = False
    """Whether what it thought is kept out of the reply; it was generated all the same."""

    @property
    def text(self) -> str:
        """What it says, without reasoning and calls."""
        if not self.pieces:
            return "".join(self.tokens)
        return "".join(piece.text for piece in self.pieces if piece.kind == "content")

    def cut(self, tokens: int, finish_reason: str) -> None:
        """Keeps only its first tokens."""
        self.tokens, self.finish_reason, self.stop_reason = self.tokens[:tokens], finish_reason, None
        kept = []
        for piece in self.pieces:
            if tokens > 0:
                kept.append(Piece(kind=piece.kind, tokens=piece.tokens[:tokens], name=piece.name, id=piece.id))
            tokens -= len(piece.tokens)
        self.pieces = tuple(kept)


def usage(call: Call, choices: list[Choice], cached_tokens: int) -> dict[str, Any]:
    """The token counts of a reply."""
    completion = sum(len(choice.tokens) for choice in choices)
    counts: dict[str, Any] = {
        "prompt_tokens": len(call.prompt),
        "total_tokens": len(call.prompt) + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
    if call.reasons:
        thought = sum(len(piece.tokens) for choice in choices for piece in choice.pieces if piece.kind == "reasoning")
        counts["completion_tokens_details"] = {"reasoning_tokens": thought}
    return counts


def reply_body(call: Call, choices: list[Choice], cached_tokens: int) -> bytes:
    """A whole reply."""
    body = {
        "id": call.id,
        "object": "chat.completion" if call.api == "chat" else "text_completion",
        "created": call.created,
        "model": call.model,
        "choices": [_choice_body(call, index, choice) for index, choice in enumerate(choices)],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": usage(call, choices, cached_tokens),
        "prompt_logprobs": _prompt_logprobs(call) if call.api == "chat" else None,
        "prompt_token_ids": token_ids(call.prompt) if call.return_token_ids and call.api == "chat" else None,
        "kv_transfer_params": None,
    }
    return orjson.dumps(body, option=orjson.OPT_NON_STR_KEYS)


def _choice_body(call: Call, index: int, choice: Choice) -> dict[str, Any]:
    body = {
        "index": index,
        "logprobs": _logprobs(call, choice.tokens) if choice.logprob is None else _drawn_logprobs(call, choice),
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": token_ids(choice.tokens) if call.return_token_ids else None,
    }
    if call.api == "completions":
        ids = token_ids(call.prompt) if call.return_token_ids else None
        return {**body, "text": choice.text, "prompt_logprobs": _prompt_logprobs(call), "prompt_token_ids": ids}
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    if choice.pieces:
        _place(choice, message)
    return {**body, "message": message}


def _place(choice: Choice, message: dict[str, Any]) -> None:
    pieces = choice.pieces
    kinds = [piece.kind for piece in pieces]
    if "reasoning" in kinds and not choice.hides_reasoning:
        message["reasoning"] = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    if "content" not in kinds:
        message["content"] = None
    if "call" in kinds:
        message["tool_calls"] = [
            {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": piece.text}}
            for piece in pieces
            if piece.kind == "call"
        ]


def opening_chunk(call: Call, index: int) -> bytes:
    """The first event of a chat's choice, which gives the role, and the prompt's tokens where they are wanted."""
    body = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ids = {"prompt_token_ids": token_ids(call.prompt)} if call.return_token_ids else {}
    return _event(call, choices=[body], **ids)


def token_chunk(call: Call, index: int, choice: Choice, position: int) -> bytes:
    """The event that brings one token of a choice."""
    token = choice.tokens[position]
    body: dict[str, Any] = {
        "index": index,
        "logprobs": _logprobs(call, (token,)),
        "finish_reason": None,
        "stop_reason": None,
        "token_ids": token_ids((token,)) if call.return_token_ids else None,
    }
    if call.api == "completions":
        body["text"] = token
    elif choice.pieces:
        body["delta"] = _delta(choice, position)
    else:
        body["delta"] = {"content": token}
    return _event(call, choices=[body])


def closing_chunk(call: Call, index: int, choice: Choice) -> bytes:
    """The last event of a choice, which says how it finished."""
    body: dict[str, Any] = {
        "index": index,
        "logprobs": None,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
        "token_ids": None,
    }
    if call.api == "completions":
        body["text"] = ""
    else:
        body["delta"] = {"content": ""}
    return _event(call, choices=[body])


def _delta(choice: Choice, position: int) -> dict[str, Any]:
    calls = 0
    for piece in choice.pieces:
        if position < len(piece.tokens):
            break
        position -= len(piece.tokens)
        calls += piece.kind == "call"
    token = piece.tokens[position]
    if piece.kind == "reasoning" and choice.hides_reasoning:
        return {}
    if piece.kind != "call":
        return {piece.kind: token}
    if position:
        return {"tool_calls": [{"index": calls, "function": {"arguments": token}}]}
    function = {"name": piece.name, "arguments": token}
    return {"tool_calls": [{"index": calls, "id": piece.id, "type": "function", "function": function}]}


def usage_chunk(call: Call, choices: list[Choice], cached_tokens: int) -> bytes:
    """The event after the last choice, for `stream_options.include_usage`."""
    return _event(call, choices=[], usage=usage(call, choices, cached_tokens))


def error_chunk(error: bytes) -> bytes:
    """The event of an error in mid-stream, which has the body of an error reply."""
    return b"data: " + error + b"\n\n"


def _event(call: Call, **more: Any) -> bytes:
    kind = "chat.completion.chunk" if call.api == "chat" else "text_completion"
    return (
        b"data: "
        + orjson.dumps({"id": call.id, "object": kind, "created": call.created, "model": call.model, **more})
        + b"\n\n"
    )


DONE = b"data: [DONE]\n\n"


def _logprobs(call: Call, tokens: tuple[str, ...]) -> dict[str, Any] | None:
    if call.top_logprobs is None:
        return None
    ranked = [_ranked(token, call.top_logprobs) for token in tokens]
    if call.api == "chat":
        return {"content": [{**top[0], "top_logprobs": top[: call.top_logprobs]} for top in ranked]}
    starts = [0]
    for token in tokens:
        starts.append(starts[-1] + len(token))
    return {
        "text_offset": starts[:-1],
        "token_logprobs": [top[0]["logprob"] for top in ranked],
        "tokens": list(tokens),
        "top_logprobs": [{one["token"]: one["logprob"] for one in top} for top in ranked],
    }


def _prompt_logprobs(call: Call) -> list[dict[int, dict[str, Any]] | None] | None:
    """By the ids of tokens, the token itself first; for the first one there is nothing to be told."""
    if call.prompt_logprobs is None:
        return None
    return [None, *(_told(call, before, token) for before, token in pairwise(call.prompt))]


def _told(call: Call, before: str, token: str) -> dict[int, dict[str, Any]]:
    logprob, rank = logprob_and_rank(call.model, before, token)
    told = {token: {"logprob": logprob, "rank": rank, "decoded_token": token}}
    for place, (common, likely) in enumerate(likeliest(call.model, before)[: call.prompt_logprobs], start=1):
        told.setdefault(common, {"logprob": likely, "rank": place, "decoded_token": common})
    return dict(zip(token_ids(told), told.values(), strict=True))


def _drawn_logprobs(call: Call, choice: Choice) -> dict[str, Any]:
    (token,), logprob = choice.tokens, choice.logprob
    top = {**dict(likeliest(call.model, call.prompt[-1])[: call.top_logprobs or 0]), token: logprob}
    if call.body.get("return_tokens_as_token_ids"):
        token = f"token_id:{token_ids((token,))[0]}"
        top = {f"token_id:{id_}": each for id_, each in zip(token_ids(top), top.values(), strict=True)}
    return {"text_offset": [0], "token_logprobs": [logprob], "tokens": [token], "top_logprobs": [top]}


def _ranked(token: str, alternatives: int) -> list[dict[str, Any]]:
    rng = Random(token)
    logprob, ranked = 0.0, []
    for place in range(max(1, alternatives)):
        logprob -= rng.uniform(0.01, 2.0)
        text = token if place == 0 else f"{token}~{place}"
        ranked.append({"token": text, "logprob": round(logprob, 6), "bytes": list(text.encode())})
    return ranked
