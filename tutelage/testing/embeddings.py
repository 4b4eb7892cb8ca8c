"""Embeddings of the simulated endpoint: a text's words, each counted in a place of its own. The same in every process."""

import math
import re
import zlib
from typing import Any

from tutelage.testing.endpoint_config import EndpointConfig
from tutelage.testing.tokenizer import tokenize
from tutelage.testing.vllm_requests import Refusal, bad_request

DIMENSIONS = 256


def embeddings_reply(body: dict[str, Any], config: EndpointConfig) -> dict[str, Any]:
    """What vLLM answers to `POST /v1/embeddings`, of an `input` that is a text or a list of texts.

    Raises:
        Refusal: The model is not served, or the input is neither.
    """
    model = body.get("model") or config.model
    if model not in config.served:
        raise Refusal(404, "NotFoundError", f"The model `{model}` does not exist.", param="model")
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise bad_request("input must be a text or a list of texts", param="input")
    tokens = sum(len(tokenize(text)) for text in texts)
    data = [{"object": "embedding", "index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def vector(text: str) -> list[float]:
    """The bag of a text's words, hashed into `DIMENSIONS` places, of length 1: texts that share words point the same way."""
    counts = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.casefold()):
        counts[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    length = math.hypot(*counts) or 1.0
    return [count / length for count in counts]
