"""How many tokens a call will take: estimated, for there is no tokenizer here.

A role's last prompt is known by the endpoint's own count, and what it held can be made again from the dialogue: that gives
the tokens for each character, and what was added since is counted by it, with a margin.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from tutelage.dialogue.agent import Agent
from tutelage.dialogue.asking import REPAIRS
from tutelage.dialogue.cast import Cast
from tutelage.dialogue.prompt import JOINT, Prompt, PromptLibrary
from tutelage.dialogue.state import Dialogue
from tutelage.dialogue.stopping import room_for_reply, tokens_said
from tutelage.dialogue.turn import Attempt, Call, Turn
from tutelage.dialogue.view import drafts, judge_prompt, shortening, speaker_prompt

MARGIN: Final = 1.15
"""On what is new in a prompt: another text has another number of tokens for each character."""
UNMEASURED: Final = 1 / 6
"""Tokens for each character where no call has said any yet: few, so that nothing is refused that would have fitted."""
_MOST_PER_CHARACTER: Final = 4
"""A tokenizer falls back on bytes, of which a character has at most four in UTF-8, and one in ASCII."""
_MOST_PER_MESSAGE: Final = 16
"""Tokens that a chat template puts round a message."""
_COMPLAINT: Final = 60
"""Characters of what is said of a reply that did not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a call is thought to take, in tokens."""

    tokens: float
    """Of its prompt, or of a longer one that another role is shown in the same turn."""
    reply: float
    limit: int
    rate: float
    """Tokens for each character."""

    @property
    def outgrown(self) -> bool:
        """Whether it is more than the limit."""
        return self.tokens + self.reply > self.limit

    def goal(self, share: float) -> float:
        """How many tokens the prompt may have once it is shortened to a share of the limit."""
        return min(self.limit * share, self.limit - self.reply, self.tokens * share)

    def refused(self, prompt: Prompt) -> "Need":
        """The same, where the endpoint has said that it is too much: then it is at least the limit."""
        least = max(1.0, self.limit - self.reply)
        rate = max(self.rate, least / max(1, length_of(prompt)))
        return replace(self, tokens=max(self.tokens, least), rate=rate)

    def said_of(self, role: str) -> str:
        """What there is to say where it does not fit."""
        return (
            f"the role {role!r} would need about {self.tokens:.0f} tokens for its prompt and {self.reply:.0f} for its "
            f"reply, and `limits.tokens` (or the model's context) is {self.limit}: raise it, ask for shorter replies "
            "(`max_tokens`), or have dialogues shortened (`limits.outgrown: drop`)"
        )


def surely_fits(agent: Agent, dialogue: Dialogue, prompt: Prompt, cast: Cast) -> bool:
    """Whether a call fits, whatever its tokenizer: so it is for most calls, and costs little to know."""
    repairs = _length_of_repairs(cast.prompts)
    most = sum(_most_tokens(part) for message in prompt.messages for part in message.parts)
    most += _MOST_PER_MESSAGE * len(prompt.messages) + repairs
    if most + (_max_tokens(agent, cast) or 0) > cast.limits.tokens:
        return False
    return cast.limits.outgrown == "end" or _judged_after(agent, dialogue, cast) + repairs <= cast.limits.tokens


def need_of(agent: Agent, dialogue: Dialogue, prompt: Prompt, cast: Cast) -> Need:
    """What a call is thought to take.

    A speaker looks ahead, at what the judges of its turn will be shown: so a dialogue is shortened before the turn, and
    all who take part in it are shown the same.
    """
    # Where a dialogue ends, nothing is gained by ending it too early: the endpoint may say so itself.
    margin = 1.0 if cast.limits.outgrown == "end" else MARGIN
    tokens, rate = _estimate(agent, dialogue, prompt, cast.prompts, margin)
    reply = _max_tokens(agent, cast)
    if reply is None:
        reply = max((call.completion_tokens for _, call in _past_calls(agent, dialogue)), default=0)
    if cast.limits.outgrown != "end":
        tokens = max(tokens, _judged_after(agent, dialogue, cast) - reply) + rate * _length_of_repairs(cast.prompts)
    return Need(tokens=tokens, reply=reply, limit=cast.limits.tokens, rate=rate)


def length_of(prompt: Prompt) -> int:
    """The characters of a prompt's texts."""
    return sum(len(part) for message in prompt.messages for part in message.parts)


@lru_cache(maxsize=16)
def _length_of_repairs(prompts: PromptLibrary) -> int:
    """The characters that the notes of repairs may add to a prompt."""
    return REPAIRS * (len(prompts.render("repair", error="x" * _COMPLAINT)) + len(JOINT))


def _most_tokens(text: str) -> int:
    return len(text) if text.isascii() else _MOST_PER_CHARACTER * len(text)


def _max_tokens(agent: Agent, cast: Cast) -> int | None:
    sampling: Mapping[str, Any] = {**agent.sampling, **cast.player(agent.role).sampling}
    given = sampling.get("max_tokens", sampling.get("max_completion_tokens"))
    return None if given is None else int(given)


def _judged_after(agent: Agent, dialogue: Dialogue, cast: Cast) -> float:
    """What the longest call of those who will judge a speaker's turn may take, by their calls of the last round."""
    shortened = shortening(dialogue)
    recent = dialogue.get("turns", [])[shortened.at + 1 if shortened else 0 :][-2:]
    if agent.task is not None or not recent:
        return 0
    reviews = [review for turn in recent for attempt in turn.attempts for review in attempt.reviews]
    judged = [review.call for review in reviews if review.call]
    judged += [step.call for turn in recent for step in turn.steps if step.kind == "assessment"]
    longest = max((call.prompt_tokens + room_for_reply(call) for call in judged), default=0)
    if not longest:
        return 0
    heard = sum(tokens_said(turn) for turn in recent if turn.role != agent.role)
    drafted = _max_tokens(agent, cast) or max(tokens_said(turn) for turn in recent)
    return longest + MARGIN * heard + drafted


def _estimate(
    agent: Agent, dialogue: Dialogue, prompt: Prompt, prompts: PromptLibrary, margin: float
) -> tuple[float, float]:
    """The tokens of a prompt, and of each of its characters."""
    length = length_of(prompt)
    for before, call in _past_calls(agent, dialogue):
        if call.prompt_tokens:
            past = length_of((judge_prompt if agent.task else speaker_prompt)(agent, before, prompts))
            rate, added = call.prompt_tokens / past, length - past
            return call.prompt_tokens + rate * added * (margin if added > 0 else 1), rate
    shortened = shortening(dialogue)
    rate = shortened.rate if shortened else _rate_of_replies(dialogue.get("turns", []))
    return rate * length, rate


def _rate_of_replies(turns: Sequence[Turn]) -> float:
    """Tokens for each character by what was said, where nothing else was: for a role that has not spoken yet."""
    drafted = [attempt for turn in turns for attempt in turn.attempts]
    said = [attempt for attempt in drafted if not attempt.private and attempt.call.reasoning is None]
    tokens = sum(attempt.call.completion_tokens for attempt in said)
    characters = sum(len(attempt.text) for attempt in said)
    return tokens / characters if tokens and characters else UNMEASURED


def _past_calls(agent: Agent, dialogue: Dialogue) -> Iterator[tuple[Dialogue, Call]]:
    """A role's calls since the dialogue was last shortened, latest first, each with the dialogue as it stood."""
    turns, shortened = dialogue.get("turns", []), shortening(dialogue)
    since = shortened.at + 1 if shortened else 0
    if len(turns) >= since:
        yield from _calls_for_turn(agent, dialogue, turns, dialogue.get("speaker", ""), dialogue.get("attempts", ()))
    for index in reversed(range(since, len(turns))):
        turn = turns[index]
        for step in reversed(turn.steps):
            if step.kind == "assessment" and step.role == agent.role:
                yield {**dialogue, "turns": turns[: index + 1], "attempts": []}, step.call
        yield from _calls_for_turn(agent, dialogue, turns[:index], turn.role, turn.attempts)


def _calls_for_turn(
    agent: Agent, dialogue: Dialogue, turns: list[Turn], speaker: str, attempts: Sequence[Attempt]
) -> Iterator[tuple[Dialogue, Call]]:
    drafted = drafts(attempts)
    for number in reversed(range(len(drafted))):
        then: Dialogue = {**dialogue, "turns": turns, "speaker": speaker}
        for review in drafted[number].reviews:
            if review.role == agent.role and review.call and agent.task is not None:
                yield {**then, "attempts": drafted[: number + 1]}, review.call
        if speaker == agent.role and agent.task is None:
            yield {**then, "attempts": drafted[:number]}, _with_tokens(drafted[number].call, attempts)


def _with_tokens(call: Call, attempts: Sequence[Attempt]) -> Call:
    """Of several candidates from one request, the call of that one which has the tokens."""
    alike = (attempt.call for attempt in attempts if attempt.call.prompt_sha256 == call.prompt_sha256)
    return max(alike, key=lambda each: each.prompt_tokens, default=call)
