"""What was said in a dialogue, and how it came to be said: the records that a transcript is made of."""

from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from operator import not_
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator


class Record(BaseModel):
    """A record of a transcript: made by the engine, never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_post_init(self, context: Any) -> None:
        if context is not STORED:
            _share_fields_set(self)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic does it."""
        copied = super().model_copy(update=update, deep=deep)
        _share_fields_set(copied)
        return copied


STORED: Final = object()
"""The validation context of records that are read one dialogue at a time: it does not pay to have them take less memory."""
_FIELDS: dict[type[BaseModel], set[str]] = {}
"""By type, the names of all fields."""
_SAMPLINGS: dict[bytes, dict[str, Any]] = {}
"""By what they are as JSON."""
_MANY_SAMPLINGS = 1000


def _share_fields_set(record: Record) -> None:
    """Which fields were given is of no use here, and a set of them for each record was a quarter of a dialogue's memory."""
    kind = type(record)
    if kind not in _FIELDS:
        _FIELDS[kind] = set(kind.model_fields)
    object.__setattr__(record, "__pydantic_fields_set__", _FIELDS[kind])


def _is_absent(value: object) -> bool:
    return value is None


def _packed(typecode: Literal["I", "d"], values: Any) -> Any:
    try:
        return array(typecode, values)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"no list of numbers: {error}") from error


# Four or eight bytes each instead of an int's or a float's thirty: thousands of dialogues hold them at once.
TokenIds = Annotated[
    Sequence[int],
    PlainValidator(partial(_packed, "I"), json_schema_input_type=list[int]),
    PlainSerializer(list, return_type=list[int]),
]
Numbers = Annotated[
    Sequence[float],
    PlainValidator(partial(_packed, "d"), json_schema_input_type=list[float]),
    PlainSerializer(list, return_type=list[float]),
]


class Logprobs(Record):
    """How likely the tokens of a reply were: natural logarithms of probabilities."""

    tokens: list[str]
    """As the endpoint spells them."""
    logprobs: Numbers
    """Of each token."""
    top: list[list[tuple[str, float]]] | None = Field(default=None, exclude_if=_is_absent)
    """For each token the likeliest ones in its place, where they were asked for."""


def player_name(model: str, adapter: str | None) -> str:
    """What a player is called: the model, or `model+adapter`."""
    return f"{model}+{adapter}" if adapter else model


class Call(Record):
    """One call of a model: what was asked for, where, and what it took.

    What may be absent is not there in a transcript, rather than null.
    """

    model: str
    adapter: str | None = None
    """The LoRA adapter on the model, if any."""
    adapter_sha256: str | None = Field(default=None, exclude_if=_is_absent)
    """The hash of the adapter's weights, where they are known."""
    endpoint: str | None = None
    """The URL that answered."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Temperature, max_tokens and the like, as they were sent."""
    seed: int | None = None
    """A hash of run seed, dialogue, role, turn, attempt and candidate."""
    candidate: int | None = Field(default=None, exclude_if=_is_absent)
    """Which of several candidates, from 0. Where one request gave all of them, the first has the tokens of all."""
    prompt_sha256: str
    """The prompt's hash: `messages.jsonl` rebuilds the messages from it, byte for byte."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that the endpoint found in its prefix cache."""
    completion_tokens: int = 0
    finish_reason: str | None = None
    seconds: float = 0.0
    """From sending the request to having the whole reply, retries included."""
    reasoning: str | None = Field(default=None, exclude_if=_is_absent)
    """What the model thought before its reply, where the endpoint tells it. No prompt ever holds it."""
    logprobs: Logprobs | None = Field(default=None, exclude_if=_is_absent)
    """Where the role's `logprobs` asked for them."""
    token_ids: TokenIds | None = Field(default=None, exclude_if=_is_absent)
    """Of the reply, where the role's `token_ids` asked for them."""
    prompt_token_ids: TokenIds | None = Field(default=None, exclude_if=_is_absent)

    @property
    def player(self) -> str:
        """Who answered: the model, or `model+adapter`."""
        return player_name(self.model, self.adapter)

    @property
    def is_further_candidate(self) -> bool:
        """Whether it was no call of its own: the first candidate of the same request has what all of them took."""
        return bool(self.candidate) and not self.prompt_tokens

    def model_post_init(self, context: Any) -> None:
        if context is STORED:
            return
        super().model_post_init(context)
        # The calls of a role are sampled alike: thousands of dialogues share one dict.
        if len(_SAMPLINGS) > _MANY_SAMPLINGS:
            _SAMPLINGS.clear()
        as_json = orjson.dumps(self.sampling, default=repr, option=orjson.OPT_NON_STR_KEYS)
        self.__dict__["sampling"] = _SAMPLINGS.setdefault(as_json, self.sampling)


class Issue(BaseModel):
    """One thing that is wrong with a draft. Part of a reply's schema.

    Its texts have no bounded length: xgrammar, which vLLM follows schemas with, allows neither quotes nor backslashes in a
    string that has one, and so no quoted words, no LaTeX and no code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimension: str
    """What it is about: correctness, leak, clarity, tone, …"""
    severity: Literal["block", "major", "minor"]
    """How much is wrong: after the last revision, the draft with the fewest blocking issues is kept, then major, then
    minor."""
    span: str = ""
    """The words of the draft that are meant."""
    evidence: str = ""
    """What shows it: a fact, a rule, a calculation."""
    instruction: str
    """What the speaker should do about it."""


class Verdict(BaseModel):
    """What a reviewer says of a draft: the schema of its reply. Subclass it to ask for more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["accept", "revise"]
    issues: list[Issue] = Field(default_factory=list, max_length=3)


class Claim(Record):
    """Something that a draft says is so, and what was found out about it."""

    text: str
    span: str
    """The words of the draft, as they stand there."""
    verdict: Literal["supported", "contradicted", "not_found"]
    source: str | None = Field(default=None, exclude_if=_is_absent)
    """The id of the fact or the passage that says so."""
    quote: str | None = Field(default=None, exclude_if=_is_absent)
    """The words of the source, as they stand there."""


class Review(Record):
    """A reviewer's verdict on one attempt; a check in code made it if it has no call."""

    role: str
    """The reviewer's role, or the check's name."""
    verdict: Literal["accept", "revise"]
    issues: list[Issue] = Field(default_factory=list)
    scores: dict[str, float] = Field(default_factory=dict)
    claims: list[Claim] = Field(default_factory=list, exclude_if=not_)
    """What the draft claims, from a reviewer that looks for evidence."""
    reply: str | None = Field(default=None, exclude_if=_is_absent)
    """What the model replied, word for word, where its schema was another than `Verdict`: the fields above do not hold all
    of it."""
    call: Call | None = Field(default=None, exclude_if=_is_absent)


class Attempt(Record):
    """One draft of a turn."""

    text: str
    status: Literal["accepted", "rejected", "superseded", "pending"]
    """Rejected: sent back. Superseded: a candidate that was not chosen. Pending: still under review when the dialogue
    failed, so found only under `unfinished`."""
    forced: bool = False
    """Accepted only because no revision was better: the best draft, not a good one."""
    private: dict[str, Any] = Field(default_factory=dict)
    """What a reply with a shape held besides the utterance."""
    mind: dict[str, Any] = Field(default_factory=dict, exclude_if=not_)
    """What was in the role's mind when it spoke: what its agent's `mind` gave."""
    call: Call
    reviews: list[Review] = Field(default_factory=list)


class Step(Record):
    """Any other call made for a turn.

    A plan, a judgement, a choice between candidates, a summary of what is no longer shown, a reply that did not fit.
    """

    kind: str
    role: str
    text: str
    data: dict[str, Any] = Field(default_factory=dict, exclude_if=not_)
    """What code made of the reply."""
    call: Call


class Turn(Record):
    """What one role said, with every draft of it."""

    index: int
    """Counted from 0 over the dialogue's public turns."""
    role: str
    text: str
    """The text of the one accepted attempt."""
    private: dict[str, Any] = Field(default_factory=dict)
    """What no other role is shown: what was in the speaker's mind, what its reply held besides the utterance, and what
    judges have said of the turn, each by its role."""
    attempts: list[Attempt]
    steps: list[Step] = Field(default_factory=list)

    @property
    def accepted(self) -> Attempt | None:
        """The attempt that was said; None for a turn that no model made, a person's."""
        return next((attempt for attempt in self.attempts if attempt.status == "accepted"), None)


class Shortening(Record):
    """The oldest turns of a dialogue are no longer shown to anyone: it had outgrown `limits.tokens`."""

    turns: int
    """So many turns, from the first one, are shown no more."""
    at: int
    """The index of the turn that was under way."""
    rate: float
    """Tokens for each character of a prompt, as they were measured until then."""
    summary: str | None = None
    """What stands in their place."""


class Outcome(Record):
    """How a dialogue ended, and why."""

    status: Literal["completed", "discarded", "failed"]
    """Completed: by one of the graph's own endings. Discarded: refused by a check. Failed: it could not go on."""
    reason: str
    detail: str | None = None
    """What there is to say beyond the reason: an error's message."""
    cut: int | None = Field(default=None, exclude_if=_is_absent)
    """So many turns at the end say nothing any more; the transcript keeps them apart."""
