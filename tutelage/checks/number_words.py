"""Numbers in words: three thousand six hundred, five sixths, two and a half, three point five, eighteenth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Final

from tutelage.checks.tokens import Token


def _counted(words: str, start: int = 0, step: int = 1) -> dict[str, int]:
    """Words for numbers in order; those with a bar between them stand for the same one."""
    groups = enumerate(words.split())
    return {word: start + step * place for place, group in groups for word in group.split("|")}


def _german() -> dict[str, int]:
    small = _counted(
        "null eins|ein|eine|einen|einem|einer zwei|zwo drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn "
        "vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn"
    )
    tens = _counted("zwanzig dreissig vierzig fünfzig sechzig siebzig achtzig neunzig", 20, 10)
    joined = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
    both = {f"{one}und{ten}": n + tens[ten] for n, one in enumerate(joined, 1) for ten in tens}
    below = {**small, **tens, **both}
    # Casefolding turns ß into ss. Compounds beyond these, zweihundertfünf, are rare in a lesson's talk.
    hundreds = {f"{one}hundert": 100 * n for n, one in enumerate(joined, 1)}
    thousands = {f"{one}tausend": 1000 * n for n, one in enumerate(joined, 1)}
    mixed = {f"{word}hundert{rest}": 100 * n + below[rest] for n, word in enumerate(joined, 1) for rest in below}
    return {**below, **hundreds, **thousands, **mixed}


CARDINALS: Final[dict[str, dict[str, int]]] = {
    "en": {
        **_counted(
            "zero|nought one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
            "sixteen seventeen eighteen nineteen"
        ),
        **_counted("twenty thirty forty fifty sixty seventy eighty ninety", 20, 10),
        "dozen": 12,
    },
    "de": _german(),
    "es": {
        **_counted(
            "cero uno|un|una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
            "dieciséis|dieciseis diecisiete dieciocho diecinueve veinte veintiuno|veintiún veintidós veintitrés "
            "veinticuatro veinticinco veintiséis veintisiete veintiocho veintinueve"
        ),
        **_counted("treinta cuarenta cincuenta sesenta setenta ochenta noventa", 30, 10),
        **_counted("cien|ciento doscientos trescientos cuatrocientos quinientos seiscientos", 100, 100),
    },
    "fr": {
        **_counted("zéro un|une deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize"),
        **_counted("vingt trente quarante cinquante soixante", 20, 10),
    },
}
SCALES: Final[dict[str, dict[str, int]]] = {
    "en": {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12},
    "de": {
        "hundert": 100,
        "tausend": 1000,
        "million": 10**6,
        "millionen": 10**6,
        "milliarde": 10**9,
        "milliarden": 10**9,
    },
    "es": {"mil": 1000, "millón": 10**6, "millones": 10**6},
    "fr": {"cent": 100, "cents": 100, "mille": 1000, "million": 10**6, "millions": 10**6, "milliard": 10**9},
}
ORDINALS: Final[dict[str, dict[str, int]]] = {
    "en": {
        **_counted(
            "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
            "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth",
            1,
        ),
        "thirtieth": 30,
        "hundredth": 100,
    },
    "de": {},
    "es": {},
    "fr": {},
}
_DENOMINATORS_DE: Final = (
    "halb|halbe|halber|halbes|hälfte drittel viertel fünftel sechstel siebtel achtel neuntel zehntel"
)
FRACTIONS: Final[dict[str, dict[str, int]]] = {
    "en": {
        **_counted(
            "half|halves third|thirds quarter|quarters|fourth|fourths fifth|fifths sixth|sixths seventh|sevenths "
            "eighth|eighths ninth|ninths tenth|tenths eleventh|elevenths twelfth|twelfths",
            2,
        ),
        "twentieths": 20,
        "hundredth": 100,
        "hundredths": 100,
    },
    "de": {**_counted(_DENOMINATORS_DE, 2), "hundertstel": 100},
    "es": _counted(
        "medio|media|medios|mitad tercio|tercios cuarto|cuartos quinto|quintos sexto|sextos séptimo|séptimos octavo|octavos",
        2,
    ),
    "fr": _counted("demi|demie|moitié tiers quart|quarts cinquième|cinquièmes sixième|sixièmes", 2),
}
"""Denominators: five *sixths*. `half` alone is a number, the others are not."""
HALVES: Final = frozenset({"half", "halb", "hälfte", "mitad", "moitié"})
ONES: Final = frozenset({"a", "an", "one", "ein", "eine", "un", "une", "una"})
"""What may stand before a denominator or a scale for one: a third, a hundred."""
BEHIND_A_FRACTION: Final = frozenset({"of", "is", "as", "and", "or", "off", "more", "less"})
"""A third *of* it is 1/3, a third friend is not."""
SPOKEN_POINTS: Final = frozenset({"point", "komma", "coma", "virgule"})
JOINTS: Final = frozenset({"and", "und", "y", "et"})


@dataclass(frozen=True, slots=True)
class Said:
    """A number in words, and the token after it."""

    value: Fraction
    last: int
    is_ordinal: bool = False


@dataclass(frozen=True)
class Spoken:
    """The words for numbers in the language of a lesson, and in English."""

    cardinals: Mapping[str, int]
    scales: Mapping[str, int]
    ordinals: Mapping[str, int]
    fractions: Mapping[str, int]

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """The words that a number may begin with, but for articles."""
        return frozenset({*self.cardinals, *self.ordinals, *self.scales, *HALVES}) - (ONES - self.cardinals.keys())

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of which every number in words has one."""
        return self.beginnings | self.behind_articles

    @cached_property
    def behind_articles(self) -> frozenset[str]:
        """The words that make a number of an article before them: a *third*, a *hundred*, a *dozen*."""
        return frozenset({*self.fractions, *self.scales, "dozen"})

    def scale(self, word: str | None) -> int | None:
        """What a word multiplies the number before it with: 3.6 *thousand*."""
        return self.scales.get(word) if word is not None else None

    def read(self, tokens: Sequence[Token], here: int) -> Said | None:
        """The number that begins with a token."""
        word = tokens[here].text
        if word in ONES and (said := self._one(tokens, here)) is not None:
            return said
        if word in HALVES:
            return Said(Fraction(1, 2), here + 1)
        counted = self._cardinal(tokens, here)
        if counted is None:
            return Said(Fraction(self.ordinals[word]), here + 1, True) if word in self.ordinals else None
        return self._continued(tokens, counted)

    def rest(self, tokens: Sequence[Token], here: int) -> Said | None:
        """A fraction behind a whole number: *and a half*, *and three quarters*."""
        if _text(tokens, here) not in JOINTS or here + 1 >= len(tokens) or tokens[here + 1].kind != "word":
            return None
        said = self.read(tokens, here + 1)
        return said if said is not None and not said.is_ordinal and 0 < said.value < 1 else None

    def _continued(self, tokens: Sequence[Token], counted: Said) -> Said:
        """What may stand behind a whole number: a denominator, an ordinal, a fraction, digits behind a spoken point."""
        here = counted.last + (1 if _text(tokens, counted.last) == "-" else 0)
        word, whole = _text(tokens, here), int(counted.value)
        below_ten = self.ordinals.get(word, 10) < 10
        if below_ten and whole >= 20 and whole % 10 == 0:
            return Said(counted.value + self.ordinals[word], here + 1, True)  # twenty-first
        if word in self.fractions and (whole > 1 or word not in self.ordinals or word in HALVES) and whole > 0:
            return Said(Fraction(whole, self.fractions[word]), here + 1)
        if word in self.fractions and tokens[counted.last - 1].text == "one":
            return Said(Fraction(1, self.fractions[word]), here + 1)
        if (rest := self.rest(tokens, counted.last)) is not None:
            return Said(counted.value + rest.value, rest.last)
        if word in SPOKEN_POINTS:
            return self._decimals(tokens, counted)
        return counted

    def _decimals(self, tokens: Sequence[Token], counted: Said) -> Said:
        digits, here = "", counted.last + 1
        while (digit := self.cardinals.get(_text(tokens, here), 10)) < 10:
            digits, here = digits + str(digit), here + 1
        if not digits:
            return counted
        return Said(counted.value + Fraction(int(digits), 10 ** len(digits)), here)

    def _one(self, tokens: Sequence[Token], here: int) -> Said | None:
        """A third, a hundred and ninety-two, a dozen; not the article alone, nor a third friend."""
        word, after = _text(tokens, here + 1), _text(tokens, here + 2)
        if word in self.fractions:
            is_next_one = word in self.ordinals and tokens[here].text != "one"
            if is_next_one and after.isalpha() and after not in BEHIND_A_FRACTION:
                return None
            return Said(Fraction(1, self.fractions[word]), here + 2)
        if word in self.scales or (word == "dozen" and tokens[here].text in {"a", "one"}):
            return self._cardinal(tokens, here + 1)
        return None

    def _cardinal(self, tokens: Sequence[Token], here: int) -> Said | None:
        total, current, smallest = 0, -1, 10**15
        begun = here
        while True:
            word = _text(tokens, here)
            if (scale := self.scales.get(word)) is not None and (current > 0 or here == begun):
                if scale == 100 and current < 100:
                    current = max(current, 1) * 100
                elif scale > 100 and scale < smallest:
                    total, current, smallest = total + max(current, 1) * scale, -1, scale
                else:
                    break
            elif (number := self.cardinals.get(word)) is not None and _may_join(number, current):
                current = max(current, 0) + number
            elif self._goes_on(tokens, here, total, current):
                current = max(current, 0) + self.cardinals[_text(tokens, here + 1)]
                here += 1
            else:
                break
            here += 1
        return Said(Fraction(total + max(current, 0)), here) if here > begun else None

    def _goes_on(self, tokens: Sequence[Token], here: int, total: int, current: int) -> bool:
        """Whether a hyphen or an `and` stands between two words of one number."""
        word, following = _text(tokens, here), self.cardinals.get(_text(tokens, here + 1))
        if following is None or (current < 0 and total == 0):
            return False
        if current < 0 or (current >= 100 and current % 100 == 0):
            return word in JOINTS and following < 100
        return current % 10 == 0 and current % 100 >= 10 and following < 10 and word in {"-", "y", "et"}


def _may_join(number: int, current: int) -> bool:
    if current < 0:
        return True
    if current >= 100 and current % 100 == 0:
        return number < 100
    return current >= 20 and current % 10 == 0 and 0 < number < 10


@lru_cache(maxsize=8)
def vocabulary(language: str) -> Spoken:
    """The words for numbers in a language and in English; in English alone, where the language has no table."""

    def joined(tables: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
        return {**tables["en"], **tables.get(language, {})}

    return Spoken(joined(CARDINALS), joined(SCALES), joined(ORDINALS), joined(FRACTIONS))


def _text(tokens: Sequence[Token], here: int) -> str:
    return tokens[here].text if 0 <= here < len(tokens) else ""
