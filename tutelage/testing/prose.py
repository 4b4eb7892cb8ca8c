"""Writes the plain text that the simulated endpoint answers: sentences of a lesson, of exactly as many tokens as asked."""

from itertools import product
from random import Random

from tutelage.testing.tokenizer import tokenize

_OPENERS = (
    "",
    "Good question:",
    "Let us go step by step:",
    "In other words,",
    "Notice that",
    "Before we go on, remember that",
    "If we look closely,",
    "As you said,",
    "Here is the key point:",
    "Put simply,",
)
_CLAUSES = (
    "it holds",
    "this is the rule",
    "both sides are equal",
    "the pieces must have the same size",
    "a fraction counts parts of one whole",
    "the denominator says how many equal parts there are",
    "heat flows from the warm body to the cold one",
    "the loop stops when its condition is false",
    "the index starts at zero and not at one",
    "mass stays the same although weight may change",
    "each step keeps the equation balanced",
    "the treaty ended one war and prepared the next",
    "a verb agrees with its subject in number",
    "we compare like with like",
    "the slope tells how fast the value grows",
    "an experiment can show a claim to be wrong",
    "plants take most of their mass from the air",
    "the sum of the angles is one hundred and eighty degrees",
    "a list can be changed and a tuple cannot",
    "the current is the same everywhere in a simple circuit",
    "you can check the answer by putting it back into the question",
    "a larger denominator makes each part smaller",
    "the two events happened in the same year",
    "an estimate first keeps us from large mistakes",
)
_TAILS = (
    ".",
    "?",
    ", as the picture shows.",
    ", so try it with small numbers.",
    ", and that is why the first guess fails.",
    "; what would you expect next?",
    ", which we can test with an example.",
    ", whatever the units are.",
    ", so can you say in your own words why?",
)
_SHORT = ("Yes", "Yes.", "Try it.", "Why is that?", "Now it fits.")
_LONGEST = 24
"""Sentences of up to this many tokens can end a text; of each length there is at least one."""


def _sentences() -> dict[int, list[str]]:
    by_length: dict[int, list[str]] = {}
    written = (f"{opener} {clause}{tail}".strip() for opener, clause, tail in product(_OPENERS, _CLAUSES, _TAILS))
    for sentence in (*_SHORT, *(text[0].upper() + text[1:] for text in written)):
        # A sentence within a text has a space before it, which belongs to its first token.
        by_length.setdefault(len(tokenize.__wrapped__(sentence)), []).append(sentence)
    return by_length


_BY_LENGTH = _sentences()
_ALL = tuple(sentence for length in sorted(_BY_LENGTH) if length >= 6 for sentence in _BY_LENGTH[length])
_LENGTHS = {sentence: length for length, sentences in _BY_LENGTH.items() for sentence in sentences}


def write(rng: Random, tokens: int) -> str:
    """Sentences that come to exactly `tokens` tokens (none for zero or less)."""
    sentences: list[str] = []
    # `random() * n` is a third of the cost of `choice`, and a reply draws a dozen of them.
    while tokens > _LONGEST:
        sentence = _ALL[int(rng.random() * len(_ALL))]
        length = _LENGTHS[sentence]
        if length > tokens:
            continue
        sentences.append(sentence)
        tokens -= length
    if tokens > 0:
        last = _BY_LENGTH[tokens]
        sentences.append(last[int(rng.random() * len(last))])
    return " ".join(sentences)


def write_between(rng: Random, shortest: int, longest: int | None, tokens: int) -> str:
    """Text of about `tokens` tokens whose length in characters lies between the two bounds, both included."""
    text = write(rng, tokens)
    while len(text) < shortest:
        text = f"{text} {write(rng, tokens)}" if text else write(rng, max(tokens, 1))
    if longest is None or len(text) <= longest:
        return text
    at_word = text[: longest + 1].rsplit(" ", 1)[0]
    return at_word if shortest <= len(at_word) <= longest else text[:longest]


def quote(rng: Random, text: str) -> str:
    """Three to eight words of a text that follow one another in it; fewer only of a shorter text."""
    words = text.split()
    first = rng.randrange(max(1, len(words) - 2))
    return " ".join(words[first : first + rng.randint(3, 8)])
