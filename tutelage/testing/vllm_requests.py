"""Requests to vLLM's OpenAI-compatible server, read and refused as version 0.32 does.

What vLLM ignores is ignored here too: unknown keys, and the `guided_*` fields that were removed from it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import orjson

from tutelage.testing import grammar, schema_filler
from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.faults import RequestKind
from tutelage.testing.schema_filler import Draw, SchemaError
from tutelage.testing.tokenizer import chat_tokens, content_text, tokenize, tokens_of
from tutelage.testing.tool_calling import Calling, Offer, ToolError, read_tools

Api = Literal["chat", "completions", "embeddings"]
Shape = Callable[[Draw], str]
"""Draws a text that fits what a request asked for."""
_PREFIX: dict[Api, str] = {"chat": "chatcmpl-", "completions": "cmpl-", "embeddings": "embd-"}


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """The reply's body, in vLLM's envelope."""
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return orjson.dumps({"error": error})


def bad_request(message: str, *, param: str | None = None) -> Refusal:
    """What vLLM answers to a request that it cannot follow."""
    return Refusal(400, "BadRequestError", message, param=param)


def context_exceeded(limit: int, requested: int) -> Refusal:
    """What vLLM answers where the prompt and `requested` more tokens exceed `limit`.

    It stops counting the prompt where it is sure to be too long, hence "at least".
    """
    prompt = limit - requested + 1
    return bad_request(
        f"This model's maximum context length is {limit} tokens. However, you requested {requested} output tokens and your"
        f" prompt contains at least {prompt} input tokens, for a total of at least {limit + 1} tokens. Please reduce the"
        f" length of the input prompt or the number of requested output tokens."
        f" (parameter=input_tokens, value={prompt})",
        param="input_tokens",
    )


@dataclass(slots=True, kw_only=True)
class Call:
    """A request for completions, read and checked."""

    api: Api
    id: str
    body: dict[str, Any]
    model: str
    messages: bytes
    """The messages or the prompt as JSON with sorted keys: what identifies what was asked."""
    prompt: tuple[str, ...]
    n: int
    seed: int | None
    greedy: bool
    sampling: bytes
    """The other sampling parameters, as JSON: they change what a seed gives."""
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stop: list[str]
    stream: bool
    include_usage: bool
    priority: int
    cache_salt: str | None
    schema: Any
    shape: Shape | None
    top_logprobs: int | None
    """None where no logprobs are asked for."""
    return_token_ids: bool
    prompt_logprobs: int | None
    draws_next: bool
    """Whether it asks for no more than the token after a prompt of token ids: such are drawn by how likely they are."""
    offers: tuple[Offer, ...]
    """The tools that may be called."""
    calling: Calling
    """Whether one must be."""
    reasons: bool
    """Whether the model thinks before it answers, and the server tells the one from the other."""
    shows_reasoning: bool
    created: int = field(default_factory=lambda: int(time.time()))


def kinds_of(api: Api, body: Mapping[str, Any]) -> frozenset[RequestKind]:
    """What kinds of request this is, judged before it is checked."""
    shaped = _mapping(body, "response_format").get("type", "text") != "text" or bool(body.get("structured_outputs"))
    return frozenset((api, "shaped" if shaped else "plain", "stream" if body.get("stream") else "whole"))


def read_body(raw: bytes) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        Refusal: it is none.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request(
            f"[{{'type': 'json_invalid', 'loc': ('body',), 'msg': 'JSON decode error: {error}'}}]"
        ) from error
    if not isinstance(body, dict):
        raise bad_request("[{'type': 'model_attributes_type', 'loc': ('body',), 'msg': 'Input should be an object'}]")
    return body


def read_call(api: Api, body: dict[str, Any], headers: Mapping[str, str], config: EndpointConfig) -> Call:
    """Checks a request in the order that vLLM does: model, parameters, schema, length.

    Raises:
        Refusal: what vLLM would answer instead of a completion.
    """
    model = body.get("model") or config.model
    if model not in config.served:
        raise Refusal(404, "NotFoundError", f"The model `{model}` does not exist.", param="model")
    messages, prompt = _read_prompt(api, body)
    offers, calling = _read_tools(api, body, config)
    greedy = _number(body, "temperature", 1.0, 0, 2) == 0
    n = int(_number(body, "n", 1, 1, 16_384))
    if greedy and n > 1:
        raise bad_request(f"n must be 1 when using greedy sampling, got {n}.")
    schema, shape = _read_shape(body)
    if body.get("structured_outputs") and calling == "named":
        raise bad_request("You can only either use constraints for structured outputs or tools, not both.")
    logprobs = body.get("logprobs")
    top = (body.get("top_logprobs") or 0) if api == "chat" else logprobs
    seed = body.get("seed")
    if seed is not None and not isinstance(seed, int):
        raise _invalid("seed", "Input should be a valid integer")
    stop = body.get("stop") or []
    return Call(
        api=api,
        id=_PREFIX[api] + (headers.get("X-Request-Id") or body.get("request_id") or uuid4().hex),
        body=body,
        model=model,
        messages=messages,
        prompt=prompt,
        n=n,
        seed=seed,
        greedy=greedy,
        sampling=_sampling(body),
        max_tokens=_read_max_tokens(api, body, len(prompt), config.max_model_len),
        min_tokens=int(_number(body, "min_tokens", 0, 0, config.max_model_len)),
        ignore_eos=bool(body.get("ignore_eos")),
        stop=[stop] if isinstance(stop, str) else list(stop),
        stream=bool(body.get("stream")),
        include_usage=bool(_mapping(body, "stream_options").get("include_usage")),
        priority=_read_priority(body, headers) if config.scheduling_policy == "priority" else 0,
        cache_salt=body.get("cache_salt"),
        schema=schema,
        shape=shape,
        top_logprobs=int(top or 0) if logprobs not in (None, False) else None,
        return_token_ids=bool(body.get("return_token_ids")),
        prompt_logprobs=_read_prompt_logprobs(body, config),
        draws_next=api == "completions" and not greedy and body.get("max_tokens") == 1 and _is_ids(body.get("prompt")),
        offers=offers,
        calling=calling,
        reasons=api == "chat" and bool(_mapping(body, "chat_template_kwargs").get("enable_thinking", config.reasoning)),
        shows_reasoning=bool(body.get("include_reasoning", True)),
    )


def _read_prompt_logprobs(body: dict[str, Any], config: EndpointConfig) -> int | None:
    asked = body.get("prompt_logprobs")
    if asked is None or not config.prompt_logprobs:
        return None
    if not isinstance(asked, int) or asked < 0:
        raise bad_request(f"`prompt_logprobs` must be a positive value, got {asked}.", param="prompt_logprobs")
    if body.get("stream") and asked:
        raise bad_request("`prompt_logprobs` are not available when `stream=True`.", param="prompt_logprobs")
    if asked > config.max_logprobs:
        limit = config.max_logprobs
        raise bad_request(
            f"Requested prompt logprobs of {asked}, which is greater than max allowed: {limit}"
            f" (parameter=prompt_logprobs, value={asked})",
            param="prompt_logprobs",
        )
    return asked


def _read_tools(api: Api, body: dict[str, Any], config: EndpointConfig) -> tuple[tuple[Offer, ...], Calling]:
    if api != "chat" or not (body.get("tools") or body.get("tool_choice")):
        return (), "none"
    try:
        return read_tools(body, with_parser=config.tool_parser)
    except ToolError as error:
        raise bad_request(str(error), param=error.param) from error
    except SchemaError as error:
        raise bad_request(f"Grammar error: {error}") from error


def _read_prompt(api: Api, body: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    if api == "chat":
        return orjson.dumps(body.get("messages"), option=orjson.OPT_SORT_KEYS), read_messages(body)
    asked = body.get("prompt")
    try:
        return orjson.dumps(asked), _prompt_tokens(asked)
    except ValueError as error:
        raise _invalid("prompt", str(error)) from error


def read_messages(body: dict[str, Any]) -> tuple[str, ...]:
    """The tokens of a request's messages, and of its tools.

    Raises:
        Refusal: there are none, or they are no messages.
    """
    asked = body.get("messages")
    try:
        if not isinstance(asked, list) or not asked or not all(isinstance(message, dict) for message in asked):
            raise ValueError("send a list of messages, not empty")
        tokens = chat_tokens(
            asked,
            generation_prompt=body.get("add_generation_prompt", True),
            continue_final=body.get("continue_final_message", False),
        )
    except ValueError as error:
        raise _invalid("messages", str(error)) from error
    return (*tokenize(orjson.dumps(body["tools"]).decode()), *tokens) if body.get("tools") else tokens


def _prompt_tokens(prompt: Any) -> tuple[str, ...]:
    if _is_ids(prompt):
        return tokens_of(prompt)
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("send one text or one list of token ids, not empty")
    return tokenize(content_text(prompt))


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(token, int) for token in prompt)


def _read_max_tokens(api: Api, body: dict[str, Any], prompt: int, limit: int) -> int:
    asked = body.get("max_completion_tokens", body.get("max_tokens")) if api == "chat" else body.get("max_tokens", 16)
    if asked is not None and (not isinstance(asked, int) or asked < 1):
        raise bad_request(f"max_tokens must be at least 1, got {asked}.", param="max_tokens")
    if prompt + (asked or 1) > limit:
        raise context_exceeded(limit, asked or 0)
    return asked or limit - prompt


def _read_priority(body: dict[str, Any], headers: Mapping[str, str]) -> int:
    priority = headers.get("X-Vllm-Priority", body.get("priority"))
    try:
        return int(priority or 0)
    except (TypeError, ValueError) as error:
        raise _invalid("priority", "Input should be a valid integer") from error


def _read_shape(body: dict[str, Any]) -> tuple[Any, Shape | None]:
    """The schema, if any, and what draws a text that fits."""
    asked = _mapping(body, "response_format")
    outputs = _mapping(body, "structured_outputs")
    _check_outputs(outputs)
    try:
        if asked.get("type") == "json_schema":
            schema = _mapping(asked, "json_schema").get("schema")
            return schema, _json_shape(schema)
        if asked.get("type") == "json_object" or outputs.get("json_object"):
            return {"type": "object"}, _json_shape({"type": "object", "properties": {"answer": {"type": "string"}}})
        if outputs.get("json") is not None:
            schema = orjson.loads(outputs["json"]) if isinstance(outputs["json"], str) else outputs["json"]
            return schema, _json_shape(schema)
        if outputs.get("regex") is not None:
            sampler = schema_filler.compile_regex(outputs["regex"])
            return None, lambda draw: sampler(draw.rng)
        if outputs.get("choice") is not None:
            return None, _choice_shape(outputs["choice"])
        if outputs.get("grammar") is not None:
            drawn = grammar.compile_grammar(outputs["grammar"])
            return None, lambda draw: drawn(draw.rng)
        if outputs:
            raise SchemaError(
                f"the simulated endpoint follows json, regex, choice and grammar, not {', '.join(outputs)}"
            )
    except (SchemaError, orjson.JSONDecodeError) as error:
        raise bad_request(f"Grammar error: {error}") from error
    return None, None


_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


def _check_outputs(outputs: Mapping[str, Any]) -> None:
    asked = [name for name in _CONSTRAINTS if outputs.get(name) is not None]
    if len(asked) > 1:
        raise bad_request(
            f"You can only use one kind of structured outputs constraint but multiple are specified: {outputs}"
        )
    if outputs.get("choice") == []:
        raise bad_request("Choice '[]' cannot be an empty list")
    if isinstance(outputs.get("grammar"), str) and not outputs["grammar"].strip():
        raise bad_request("structured_outputs.grammar cannot be an empty string")


def _json_shape(schema: Any) -> Shape:
    sampler = schema_filler.compile_schema(schema)
    return lambda draw: orjson.dumps(sampler(draw)).decode()


def _choice_shape(choices: Any) -> Shape:
    if not isinstance(choices, list) or not choices:
        raise SchemaError("choice must be a list of texts, not empty")
    return lambda draw: str(draw.rng.choice(choices))


_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")


def _sampling(body: dict[str, Any]) -> bytes:
    return orjson.dumps([body.get(name) for name in _SAMPLING])


def _number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or not low <= value <= high:
        raise bad_request(f"{name} must be in [{low}, {high}], got {value}.", param=name)
    return value


def _mapping(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name) or {}
    if not isinstance(value, dict):
        raise _invalid(name, "Input should be a valid dictionary")
    return value


def _invalid(name: str, message: str) -> Refusal:
    return bad_request(f"[{{'type': 'value_error', 'loc': ('body', '{name}'), 'msg': '{message}'}}]")
