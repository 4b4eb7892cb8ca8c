"""How a simulated vLLM endpoint is set up: the model it pretends to serve, how fast, how well, and with which faults."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.testing.faults import Fault


class Latency(BaseModel):
    """How long replies take. All zero, the default: at once, without simulating the engine's steps.

    The engine works in steps, as vLLM's does. Each step gives every running sequence one token and takes
    `output_token * (1 + running / doubling_batch) + prompt_token * tokens prefilled in it` seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_token: float = Field(default=0.0, ge=0)
    """Seconds before a request joins the queue."""
    prompt_token: float = Field(default=0.0, ge=0)
    """Seconds of prefill for each prompt token that is not in the prefix cache."""
    output_token: float = Field(default=0.0, ge=0)
    """Seconds from one token of a sequence that runs alone to the next."""
    doubling_batch: float = Field(default=128.0, gt=0)
    """How many sequences must run at once for each to take twice as long."""

    @property
    def is_zero(self) -> bool:
        """Whether replies take no time at all."""
        return not (self.first_token or self.prompt_token or self.output_token)

    def step(self, *, prefilled: int, running: int) -> float:
        """Seconds that one step takes with `prefilled` prompt tokens and `running` sequences."""
        return self.output_token * (1 + running / self.doubling_batch) + self.prompt_token * prefilled


class EndpointConfig(BaseModel):
    """Everything a simulated endpoint can be told; each field is a flag of `python -m tutelage.testing.endpoint` too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    """Where it listens. Beyond loopback it wants an `api_key`, for its `/simulated` routes as well."""
    port: int = Field(default=0, ge=0, le=65535)
    """0 takes a free one."""
    model: str = "simulated"
    """The name under which the base model is served."""
    adapters: tuple[str, ...] = ()
    """The names of the LoRA adapters on it."""
    api_key: str | None = Field(default=None, repr=False)
    """What `Authorization: Bearer` must carry on `/v1` routes."""
    max_model_len: int = Field(default=16_384, ge=1)
    """Tokens of a prompt and its completion together."""
    block_size: int = Field(default=16, ge=1)
    """Tokens in a KV block."""
    num_gpu_blocks: int = Field(default=16_384, ge=1)
    """KV blocks in all."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that run at once; others wait, in order of priority, then of arrival."""
    max_num_batched_tokens: int = Field(default=8192, ge=1)
    """Prompt tokens that one step prefills at most."""
    max_num_queued_reqs: int | None = Field(default=None, ge=0)
    """Sequences that may wait; more are refused with 503. None for no bound."""
    scheduling_policy: Literal["priority", "fcfs"] = "priority"
    """vLLM's own default is `fcfs`, under which it takes no notice of a request's `priority`."""
    allow_runtime_lora: bool = False
    """Whether adapters may be loaded and unloaded while it runs, as with VLLM_ALLOW_RUNTIME_LORA_UPDATING."""
    tool_parser: bool = True
    """Whether it was started with `--enable-auto-tool-choice` and `--tool-call-parser`: it refuses tools otherwise."""
    tool_rate: float = Field(default=0.5, ge=0, le=1)
    """How often a model that may call a tool does."""
    prompt_logprobs: bool = True
    """Whether it gives them where they are asked for. llama.cpp's server answers, and takes no notice."""
    max_logprobs: int = Field(default=20, ge=0)
    """How many a request may ask for at each token."""
    reasoning: bool = False
    """Whether the model thinks before it answers, and a reasoning parser keeps that apart. A request's
    `chat_template_kwargs: {"enable_thinking": …}` goes before it."""
    engine_dead: bool = False
    """Whether the engine has died behind the server: `/health` is 503, `/v1/models` still answers, requests fail."""
    latency: Latency = Latency()
    faults: tuple[Fault, ...] = ()
    completion_tokens: float = Field(default=64.0, ge=1)
    """The mean number of tokens of a plain reply, before `max_tokens` cuts it."""
    completion_spread: float = Field(default=0.5, ge=0, le=3)
    """Their spread: the sigma of a log-normal distribution with that mean. 0 makes every reply equally long."""
    accept_rate: float = Field(default=0.7, ge=0, le=1)
    """How often a shaped reply's `verdict`, where it may be accept or revise, is accept."""
    replies: str | None = None
    """`module:function` or `file.py:function` for scripted replies. It is called with the request's body (a dict) and a
    seeded `random.Random`, and returns the text, or None to leave the reply to the simulation."""
    seed: int = 0
    """Seeds the faults, and the replies to requests that bring no seed of their own."""
    journal: Path | None = None
    """A file to which every answer is appended before it is sent, one JSON object a line."""
    keep_requests: int = Field(default=20_000, ge=0)
    """How many of the latest requests are kept in memory, to be read back."""

    @property
    def served(self) -> tuple[str, ...]:
        """The names that a request may ask for."""
        return (self.model, *self.adapters)

    @model_validator(mode="after")
    def _context_fits_the_cache(self) -> Self:
        room = self.num_gpu_blocks * self.block_size
        if self.max_model_len > room:
            raise ValueError(
                f"max_model_len is {self.max_model_len}, but {self.num_gpu_blocks} blocks of {self.block_size} tokens hold"
                f" {room}: raise num_gpu_blocks or lower max_model_len"
            )
        return self

    @model_validator(mode="after")
    def _strangers_need_a_key(self) -> Self:
        if self.api_key is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host!r} can be reached from other machines: set api_key, or use 127.0.0.1")
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
