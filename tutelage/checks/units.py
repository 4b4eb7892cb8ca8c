"""Units of measurement: which one stands behind a number, and how many of its dimension's first unit it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from tutelage.checks.tokens import Token


def _units(dimension: str, *units: tuple[str, Fraction | int]) -> dict[str, tuple[str, Fraction]]:
    return {word: (dimension, Fraction(factor)) for words, factor in units for word in words.split()}


UNITS: Final[dict[str, tuple[str, Fraction]]] = {
    **_units(
        "length",
        ("km kilometre kilometres kilometer kilometers kilómetros kilomètre kilomètres", 1000),
        ("m metre metres meter meters metern metro metros mètre mètres", 1),
        ("cm centimetre centimetres centimeter centimeters zentimeter zentimetern", Fraction(1, 100)),
        ("mm millimetre millimetres millimeter millimeters", Fraction(1, 1000)),
        ("mi mile miles meile meilen", Fraction(1609344, 1000)),
        ("ft foot feet", Fraction(3048, 10000)),
        ("inch inches", Fraction(254, 10000)),
    ),
    **_units(
        "time",
        ("s sec secs second seconds sekunde sekunden segundo segundos seconde secondes", 1),
        ("ms millisecond milliseconds", Fraction(1, 1000)),
        ("min mins minute minutes minuten minuto minutos", 60),
        ("h hr hrs hour hours stunde stunden std hora horas heure heures", 3600),
        ("day days tag tage tagen día días jour jours", 86400),
        ("week weeks woche wochen semana semanas semaine semaines", 604800),
        ("year years jahr jahre jahren año años ans année années", 31557600),
    ),
    **_units(
        "mass",
        ("kg kilogram kilograms kilogramm kilo kilos", 1000),
        ("g gram grams gramm gramos grammes", 1),
        ("mg milligram milligrams", Fraction(1, 1000)),
        ("t tonne tonnes tonnen", 10**6),
    ),
    **_units(
        "volume",
        ("l litre litres liter liters litro litros", 1),
        ("ml millilitre millilitres milliliter milliliters", Fraction(1, 1000)),
        ("cl centilitre centilitres", Fraction(1, 100)),
    ),
    **_units("degree", ("° °c degree degrees grad grado grados degré degrés", 1)),
    **_units("fahrenheit", ("°f", 1)),
    **_units("kelvin", ("k kelvin", 1)),
    **_units("euro", ("€ eur euro euros", 1), ("cent cents ct", Fraction(1, 100))),
    **_units("dollar", ("$ usd dollar dollars", 1)),
    **_units("pound", ("£ gbp", 1)),
    **_units("share", ("% percent prozent pct", Fraction(1, 100)), ("‰", Fraction(1, 1000))),
    **_units("newton", ("n newton newtons", 1)),
    **_units("joule", ("j joule joules", 1), ("kj kilojoule kilojoules", 1000)),
    **_units("watt", ("w watt watts", 1), ("kw kilowatt kilowatts", 1000)),
    **_units("volt", ("v volt volts", 1)),
    **_units("ampere", ("amp amps ampere amperes", 1)),
    **_units("ohm", ("ω ohm ohms", 1)),
    **_units("hertz", ("hz hertz", 1), ("khz", 1000)),
}
"""By word, the dimension and how many of its first unit it is."""
SHORT_FOR: Final = {"kmh": ("km", "h"), "kph": ("km", "h"), "mph": ("mi", "h")}
TWO_WORD_PERCENT: Final = frozenset({("per", "cent"), ("por", "ciento"), ("pour", "cent")})
POWERS: Final = {"square": 2, "cubic": 3, "quadrat": 2, "kubik": 3}
AREAS: Final = {"quadratmeter": ("m", 2), "quadratmetern": ("m", 2), "qm": ("m", 2), "quadratzentimeter": ("cm", 2)} | {
    "kubikmeter": ("m", 3),
    "kubikzentimeter": ("cm", 3),
    "sqm": ("m", 2),
}
PER: Final = frozenset({"/", "per", "pro", "par", "por", "an", "a"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit: 1 km/h is 1000/3600 of the dimension length/time's first unit, m/s."""

    dimension: str
    factor: Fraction


def unit_at(tokens: Sequence[Token], here: int) -> tuple[Unit, int] | None:
    """The unit that begins with a token, and the token after it; None if no unit does."""
    if _text(tokens, here) == "-" and _simple(tokens, here + 1):  # a 3-hour walk
        here += 1
    if (_text(tokens, here), _text(tokens, here + 1)) in TWO_WORD_PERCENT:
        return Unit(dimension="share", factor=Fraction(1, 100)), here + 2
    read = _powered(tokens, here)
    if read is None:
        return None
    unit, here = read
    if _text(tokens, here) in PER and (below := _powered(tokens, here + 1)) is not None:
        over = below[0]
        if _text(tokens, here) not in {"a", "an"} or over.dimension == "time":
            return Unit(dimension=f"{unit.dimension}/{over.dimension}", factor=unit.factor / over.factor), below[1]
    return unit, here


def _powered(tokens: Sequence[Token], here: int) -> tuple[Unit, int] | None:
    word = _text(tokens, here)
    if word in SHORT_FOR:
        above, below = (UNITS[each] for each in SHORT_FOR[word])
        return Unit(dimension=f"{above[0]}/{below[0]}", factor=above[1] / below[1]), here + 1
    if word in AREAS:
        name, power = AREAS[word]
        return _raised(UNITS[name], power), here + 1
    if word in POWERS and (base := _simple(tokens, here + 1)) is not None:
        return _raised(base[0], POWERS[word]), base[1]
    if len(word) in {2, 3} and word[-1] in "23" and word[:-1] in UNITS:  # m2
        return _raised(UNITS[word[:-1]], int(word[-1])), here + 1
    base = _simple(tokens, here)
    if base is None:
        return None
    unit, here = base
    if _text(tokens, here) == "^" and _text(tokens, here + 1) in {"2", "3"}:
        return _raised(unit, int(_text(tokens, here + 1))), here + 2
    return Unit(dimension=unit[0], factor=unit[1]), here


def _simple(tokens: Sequence[Token], here: int) -> tuple[tuple[str, Fraction], int] | None:
    word = _text(tokens, here)
    if word == "°" and (next_word := _text(tokens, here + 1)) and (both := UNITS.get(word + next_word)) is not None:
        return both, here + 2
    unit = UNITS.get(word)
    return (unit, here + 1) if unit is not None else None


def _raised(unit: tuple[str, Fraction], power: int) -> Unit:
    return Unit(dimension=f"{unit[0]}^{power}", factor=unit[1] ** power)


def _text(tokens: Sequence[Token], here: int) -> str:
    return tokens[here].text if 0 <= here < len(tokens) else ""
