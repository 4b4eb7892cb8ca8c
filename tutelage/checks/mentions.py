"""Where a text mentions one of some forms, and whether it claims it or only uses the same word.

`3` in "Here are 3 hints" and `none` in "None of us was there" are not an answer. Small numbers and words that stand in
any talk are therefore *weak*: a mention of them is certain only where it is claimed, behind "is" or "prints", in quotes,
or alone. What code cannot tell is left to a judge.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, Literal

from tutelage.checks.forms import OPERATORS, quantities, quantity
from tutelage.checks.number_words import vocabulary
from tutelage.checks.quantity import Quantity, same
from tutelage.checks.tokens import Token, language_code, tokens
from tutelage.checks.wording import (
    COMMON,
    CONDITIONS,
    CUES,
    EITHER_OR,
    ENDINGS,
    FILLERS,
    HOW_MANY,
    NEGATIONS,
    PERCENT,
    QUESTION_WORDS,
)

How = Literal["exact", "value", "word"]
PRONOUNS: Final = frozenset({"it", "they", "she", "he", "es", "sie", "er"})
BEING: Final = frozenset({"is", "are", "was", "were", "'", "s", "re", "ist", "sind"})
_WORDS: Final = re.compile(r"[a-z]+")
_DIGIT: Final = re.compile(r"\d")
_STEM: Final = 4
"""Letters that an inflected word keeps."""
_ENDS: Final = frozenset(".!?;")
_QUOTING: Final = "'\"`*\u201c\u201d\u2018\u2019\u201e\u00ab\u00bb"
_APART: Final = 12
"""Tokens between two answers that are offered together."""
_AS_FAR_AS: Final = 7
"""Tokens before a mention in which a "not" denies it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to give an answer."""

    text: str
    """As the brief has it."""
    tokens: tuple[Token, ...]
    value: Quantity | None
    """Its value, where it is a number; otherwise it is found word for word."""
    weak: bool
    """Whether it is words that stand in any talk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A form in a text."""

    form: str
    how: How
    start: int
    end: int
    first: int
    last: int
    weak: bool
    worked_out: bool
    """Whether it would have to be worked out first: 60 * 60."""
    certain: bool
    """Whether it gives the form as an answer, as far as code can tell."""
    denied: bool
    """Whether a "not" stands before it."""


@lru_cache(maxsize=4096)
def forms(texts: tuple[str, ...], language: str | None = None) -> tuple[Form, ...]:
    """Accepted forms, as they are looked for.

    A number without a unit is left out beside the same number with one: 40 beside 40 km/h would also be 40 minutes.
    """
    whole = [(text, tokens(text, language_code(language))) for text in texts]
    made = [_form(text, part, language) for text, read in whole for part in _parts(_trimmed(read))]
    united = {form.value.value for form in made if form.value is not None and form.value.unit is not None}
    return tuple(form for form in made if not _is_bare(form.value, united))


def _is_bare(value: Quantity | None, united: set[Fraction]) -> bool:
    return value is not None and value.unit is None and value.kind == "number" and value.value in united


def _trimmed(read: tuple[Token, ...]) -> tuple[Token, ...]:
    while read and read[-1].text in {".", "!"}:
        read = read[:-1]
    return read


def _parts(read: tuple[Token, ...]) -> Iterator[tuple[Token, ...]]:
    """A form, and what is left of a whole sentence without "it" and "is": *it stays the same*, *she is expecting a baby*."""
    if read:
        yield read
    rest = read[1:] if read and read[0].text in PRONOUNS else ()
    while rest and rest[0].text in BEING:
        rest = rest[1:]
    if len(rest) > 1 or (rest and rest[0].kind == "number"):
        yield rest


def _form(text: str, read: tuple[Token, ...], language: str | None) -> Form:
    if len(read) > 2 and read[0].kind == "word" and read[1].text == "=":
        value = quantity(text[read[2].start : read[-1].end], language)
    else:
        value = quantity(text[read[0].start : read[-1].end], language)
    if value is not None and value.kind == "calculation":
        value = None  # 2*3 is asked for as a product
    words = [token.text for token in read if token.kind == "word"]
    common = bool(words) and all(word in COMMON or len(word) == 1 for word in words) and len(words) >= len(read) - 2
    return Form(text=text, tokens=read, value=value, weak=value is None and common)


@lru_cache(maxsize=1024)
def mentions(
    text: str,
    wanted: tuple[str, ...],
    wrong: tuple[str, ...] = (),
    question: str | None = None,
    language: str | None = None,
) -> tuple[Mention, ...]:
    """Where a text mentions one of some forms, in order.

    Args:
        text: What was said.
        wanted: The forms that are looked for.
        wrong: Forms of other answers. A mention within a longer one of these is theirs, and one beside them with an
            "or" between claims neither.
        question: What was asked: its words show what is counted or called.
        language: As a brief names it.
    """
    looked_for = forms(wanted, language)
    if not _may_hold(text, looked_for, language_code(language)):
        return ()
    return tuple(_Finder(text, question, language).all(looked_for, forms(wrong, language)))


def _may_hold(text: str, looked_for: Sequence[Form], code: str) -> bool:
    """Whether a closer look is worth its time: most often nothing in a text is anything like the answer."""
    if not text.isascii():
        return True
    plain = text.casefold()
    words = frozenset(_WORDS.findall(plain))
    if _DIGIT.search(plain) or not words.isdisjoint(vocabulary(code).words):
        return True
    heads = [form.tokens[0] for form in looked_for if form.value is None]
    return any(head.kind != "word" or head.text[:_STEM] in plain for head in heads)


@dataclass(frozen=True, slots=True)
class _Place:
    form: Form
    first: int
    last: int
    how: How
    weak: bool
    worked_out: bool = False


class _Finder:
    """Looks for forms in one text."""

    def __init__(self, text: str, question: str | None, language: str | None) -> None:
        self.text, self.question, self.language = text, question, language
        self.code = language_code(language)
        self.tokens = tokens(text, self.code)
        self.others: set[int] = set()
        """Tokens of other answers."""

    def all(self, wanted: Sequence[Form], wrong: Sequence[Form]) -> Iterator[Mention]:
        places = _apart(self._places(wanted))
        theirs = list(self._places(wrong)) if places else []
        self.others = {here for each in theirs for here in range(each.first, each.last)}
        own = {(place.first, place.last) for place in places} & {(each.first, each.last) for each in theirs}
        for place in places:
            span = range(place.first, place.last)
            if self.others.issuperset(span) and (place.first, place.last) not in own:
                continue
            yield Mention(
                form=place.form.text,
                how=place.how,
                start=self.tokens[place.first].start,
                end=self.tokens[place.last - 1].end,
                first=place.first,
                last=place.last,
                weak=place.weak,
                worked_out=place.worked_out,
                certain=self._is_certain(place),
                denied=self._is_denied(place),
            )

    def _places(self, wanted: Sequence[Form]) -> Iterator[_Place]:
        values = [form for form in wanted if form.value is not None]
        if values:
            for said in quantities(self.text, self.language):
                for form in values:
                    if form.value is not None and (same(form.value, said) or self._is_percentage(form.value, said)):
                        written = self.text[said.start : said.end].casefold() == form.text.casefold()
                        how: How = "exact" if written else "value"
                        yield _Place(form, said.first, said.last, how, said.is_small, said.kind == "calculation")
                        break
        for form in wanted:
            if form.value is None:
                yield from self._phrases(form)

    def _is_percentage(self, value: Quantity, said: Quantity) -> bool:
        """Whether 30 % is the 30 that the question asks for."""
        if value.unit is not None or said.unit is None or said.unit.dimension != "share":
            return False
        asked = {token.text for token in tokens(self.question or "", self.code)}
        return not asked.isdisjoint(PERCENT) and same(value, replace(said, unit=None))

    def _phrases(self, form: Form) -> Iterator[_Place]:
        size, head = len(form.tokens), form.tokens[0]
        for first in range(len(self.tokens) - size + 1):
            if not self._alike(head, self.tokens[first]):
                continue
            if all(self._alike(each, self.tokens[first + n]) for n, each in enumerate(form.tokens)):
                last = first + size
                if self._stands_alone(form, first, last):
                    written = all(each.text == self.tokens[first + n].text for n, each in enumerate(form.tokens))
                    yield _Place(form, first, last, "exact" if written else "word", form.weak)

    def _alike(self, form: Token, said: Token) -> bool:
        if form.text == said.text:
            return True
        if form.kind == "symbol" or said.kind == "symbol":
            return False
        if form.kind == "word" == said.kind and self._same_word(form.text, said.text):
            return True
        cardinals = vocabulary(self.code).cardinals
        one = form.value if form.kind == "number" else cardinals.get(form.text)
        return one is not None and one == (said.value if said.kind == "number" else cardinals.get(said.text))

    def _same_word(self, one: str, other: str) -> bool:
        shorter, longer = sorted((one, other), key=len)
        if len(shorter) < 4 or not longer.startswith(shorter):
            return False
        return longer[len(shorter) :] in ENDINGS.get(self.code, ENDINGS["en"])

    def _stands_alone(self, form: Form, first: int, last: int) -> bool:
        """Whether nothing joins it on either side to something else: 6x + 9 in 6x + 9y, air in air-dried."""
        before = self.tokens[first - 1] if first else None
        after = self.tokens[last] if last < len(self.tokens) else None
        start, end = self.tokens[first], self.tokens[last - 1]
        if before is not None and before.end == start.start and _is_letter(before) and start.kind != "symbol":
            return _is_unspaced(before) or _is_unspaced(start)
        if after is not None and after.start == end.end and _is_letter(after) and end.kind != "symbol":
            return _is_unspaced(after) or _is_unspaced(end)
        joins = any(token.text in OPERATORS and token.kind == "symbol" for token in form.tokens)
        if joins:
            return not self._operand(first - 1, first - 2) and not self._operand(last, last + 1)
        hyphens = after is not None and after.text == "-" and after.start == end.end and self._touches_word(last)
        return not hyphens

    def _operand(self, sign: int, operand: int) -> bool:
        if not (0 <= sign < len(self.tokens) and 0 <= operand < len(self.tokens)):
            return False
        if self.tokens[sign].text not in {"+", "-", "*", "/", "^"}:
            return False
        token = self.tokens[operand]
        return token.kind == "number" or token.text in "()" or (token.kind == "word" and len(token.text) == 1)

    def _touches_word(self, here: int) -> bool:
        following = self.tokens[here + 1] if here + 1 < len(self.tokens) else None
        return following is not None and following.kind == "word" and following.start == self.tokens[here].end

    def _is_certain(self, place: _Place) -> bool:
        begin, end = self._sentence(place)
        if self._is_one_of_two(place, begin, end):
            return False
        if place.worked_out or not place.weak:
            return not place.worked_out
        if self._is_conditional(begin, place.first):
            return False
        if self._is_quoted(place) or self._is_whole_clause(place):
            return True
        if self._asks(begin, end):
            return False
        is_sentence = any(token.text in CUES for token in place.form.tokens[:-1])  # it is the same
        return is_sentence or self._is_behind_cue(place.first, begin) or self._is_about_question(place)

    def _is_one_of_two(self, place: _Place, begin: int, end: int) -> bool:
        """Whether another answer stands beside it, with an "or" between them."""
        behind = range(place.last, min(end, place.last + _APART))
        before = range(place.first - 1, max(begin, place.first - _APART) - 1, -1)
        return self._meets_other(behind) or self._meets_other(before)

    def _meets_other(self, on_the_way: Iterable[int]) -> bool:
        seen_or = False
        for here in on_the_way:
            if seen_or and here in self.others:
                return True
            seen_or = seen_or or self.tokens[here].text in EITHER_OR
        return False

    @cached_property
    def _sentences(self) -> list[tuple[int, int]]:
        """For each token the first of its sentence and the one after its last."""
        ends = [n + 1 for n, token in enumerate(self.tokens) if token.text in _ENDS]
        bounds = pairwise(sorted({0, len(self.tokens), *ends}))
        return [(begin, end) for begin, end in bounds for _ in range(begin, end)]

    def _sentence(self, place: _Place) -> tuple[int, int]:
        return self._sentences[place.first][0], self._sentences[place.last - 1][1]

    def _asks(self, begin: int, end: int) -> bool:
        return self.tokens[end - 1].text == "?" or self.tokens[begin].text in QUESTION_WORDS

    def _is_conditional(self, begin: int, first: int) -> bool:
        return self._text(first - 1) != "=" and any(token.text in CONDITIONS for token in self.tokens[begin:first])

    def _is_behind_cue(self, first: int, begin: int) -> bool:
        here = first - 1
        while here >= begin and self.tokens[here].text in FILLERS:
            here -= 1
        return here >= begin and self.tokens[here].text in CUES

    def _is_quoted(self, place: _Place) -> bool:
        start, end = self.tokens[place.first].start, self.tokens[place.last - 1].end
        is_factor = self._text(place.first - 1) == "*" and self.text[: start - 1].rstrip()[-1:].isalnum()
        return (
            self.text[start - 1 : start] in _QUOTING
            and self.text[end : end + 1] in _QUOTING
            and start > 0
            and not is_factor
        )

    def _is_whole_clause(self, place: _Place) -> bool:
        """Neither! Three, then."""
        begins = place.first == 0 or self.tokens[place.first - 1].text in ".!?;:"
        return begins and (place.last == len(self.tokens) or self.tokens[place.last].text in ".!?;,:")

    def _is_about_question(self, place: _Place) -> bool:
        """Whether a word of the question stands beside it: its verb, or, where it asks how many, what it counts."""
        asked, counts = _asked(self.question or "", self.code)
        before = self.tokens[place.first - 1].text if place.first else ""
        after = self.tokens[place.last].text if place.last < len(self.tokens) else ""
        if place.form.value is not None:
            return counts and any(self._same_word_or_equal(after, word) for word in asked)
        return any(self._same_word_or_equal(side, word) for side in (before, after) for word in asked)

    def _same_word_or_equal(self, one: str, other: str) -> bool:
        return one == other or self._same_word(one, other)

    def _is_denied(self, place: _Place) -> bool:
        begin, end = self._sentence(place)
        if self.tokens[end - 1].text == "?" and self._text(begin + 1) == "'":  # isn't it 5/6?
            return False
        for here in range(place.first - 1, max(begin, place.first - _AS_FAR_AS) - 1, -1):
            word = self.tokens[here].text
            if word in {",", ":", "but", "sondern", "sino", "mais", "only"}:
                return False
            if word in NEGATIONS:
                return True
        return False

    def _text(self, here: int) -> str:
        return self.tokens[here].text if 0 <= here < len(self.tokens) else ""


def _apart(places: Iterable[_Place]) -> list[_Place]:
    """Without those that lie in a longer one, and without calculations round one that is written down; in order."""
    kept: list[_Place] = []
    taken: set[int] = set()
    for place in sorted(places, key=lambda each: (each.worked_out, each.first - each.last)):
        held = range(place.first, place.last)
        if taken.isdisjoint(held):
            kept.append(place)
            taken.update(held)
    return sorted(kept, key=lambda each: each.first)


def _is_letter(token: Token) -> bool:
    return token.kind != "symbol"


def _is_unspaced(token: Token) -> bool:
    """Whether it is of a script that is written without spaces, where words touch."""
    return "\u3040" <= token.text[:1] <= "\ud7af"


@lru_cache(maxsize=1024)
def _asked(question: str, code: str) -> tuple[frozenset[str], bool]:
    """The question's words that are not in every talk, and whether it asks how many there are of something."""
    read = [token.text for token in tokens(question, code)]
    counts = any(tuple(read[n : n + len(each)]) == each for each in HOW_MANY for n in range(len(read)))
    return frozenset(word for word in read if word.isalpha() and len(word) > 2 and word not in COMMON), counts
