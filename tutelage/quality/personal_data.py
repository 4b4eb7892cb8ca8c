"""Personal data in a text: e-mail addresses, telephone numbers, IP addresses, cards, accounts, logins in addresses.

Only what has a form of its own is found: no names of people, no postal addresses. What can be computed is (the check
digits of cards and accounts), for lessons are full of numbers, and 3,600, 12.5 or 192 - 168 are nobody's.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

_REMEMBERED: Final = 8192
"""Texts: prompts share most of their messages."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """A placeholder that stands where personal data stood."""

    kind: str
    """email, phone, ip, card, iban or login."""
    start: int
    """Where the placeholder begins in the text as it is now, in characters."""

    @property
    def placeholder(self) -> str:
        return f"[{self.kind.upper()}]"


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    pattern: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool] = lambda _: True


@lru_cache(maxsize=_REMEMBERED)
def scrubbed(text: str) -> tuple[str, tuple[Replaced, ...]]:
    """A text with placeholders for personal data (`[EMAIL]`), and what they stand for, without the data itself."""
    found = _found(text) if _WORTH_A_LOOK.search(text) else []
    if not found:
        return text, ()
    parts: list[str] = []
    replaced: list[Replaced] = []
    end = length = 0
    for kind, start, stop in found:
        parts.append(text[end:start])
        replaced.append(Replaced(kind, length + start - end))
        parts.append(replaced[-1].placeholder)
        length += start - end + len(parts[-1])
        end = stop
    return "".join([*parts, text[end:]]), tuple(replaced)


def _found(text: str) -> list[tuple[str, int, int]]:
    """Kind, start and end of each find, in order; where two overlap, the kind that comes first in `_KINDS`."""
    found: list[tuple[str, int, int]] = []
    for kind in _KINDS:
        for match in kind.pattern.finditer(text):
            start, stop = match.span("data") if "data" in kind.pattern.groupindex else match.span()
            if kind.holds(match) and all(stop <= other or end <= start for _, other, end in found):
                found.append((kind.name, start, stop))
    return sorted(found, key=lambda each: each[1])


def _digits(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match.group())


def _is_card(match: re.Match[str]) -> bool:
    """A number of a card issuer's range and length, with the check digit of Luhn (ISO/IEC 7812-1)."""
    digits = _digits(match)
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return _ISSUED.fullmatch(digits) is not None and sum(sum(divmod(each, 10)) for each in doubled) % 10 == 0


def _is_iban(match: re.Match[str]) -> bool:
    """An account number with the check digits of ISO 13616: read as a number, one modulo 97."""
    account = match.group().replace(" ", "")
    if not 15 <= len(account) <= 34:
        return False
    return int("".join(str(int(each, 36)) for each in account[4:] + account[:4])) % 97 == 1


def _is_ipv4(match: re.Match[str]) -> bool:
    """Four bytes, one of which is 10 or more: 1.2.3.4 is a section or a version."""
    numbers = match.group().split(".")
    return all(int(each) < 256 and str(int(each)) == each for each in numbers) and any(
        int(each) > 9 for each in numbers
    )


def _is_ipv6(match: re.Match[str]) -> bool:
    try:
        ipaddress.IPv6Address(match.group())
    except ValueError:
        return False
    # 10:20:30 is a time, and `a::b` a name in C++.
    return match.group().count(":") >= 3 and re.search(r"[0-9a-f]{3}", match.group(), re.IGNORECASE) is not None


def _is_phone(match: re.Match[str]) -> bool:
    """As many digits as a telephone number has (ITU-T E.164: 15 at most), and not in groups as columns of numbers are."""
    groups = re.findall(r"\d+", match.group())
    if not 9 <= len("".join(groups)) <= 15 or set("".join(groups)) <= {"0", "1"}:
        return False
    if len(set(map(len, groups))) > 1 or len(groups) == 1:
        return True
    steps = {int(after) - int(before) for before, after in pairwise(groups)}
    return (
        len(groups) == 5 and len(groups[0]) == 2 and (len(steps) > 1 or max(steps) > 10)
    )  # as in France: 01 23 45 67 80


def _is_said_to_be_phone(match: re.Match[str]) -> bool:
    """Seven digits or more, or six without a space: "Tel. 123456"."""
    digits = re.sub(r"\D", "", match["data"])
    return len(digits) >= 7 or len(digits) == len(match["data"])


_WORTH_A_LOOK: Final = re.compile(r"@|\d{3}|\d[\s().:/-]{1,2}\d|::")
_ISSUED: Final = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
)
"""Visa, Mastercard (two ranges), American Express, Discover, JCB, Diners Club."""
_NO_SUM: Final = r"(?<![\d.,)=*/^<>+-])(?<![\d)=*/^<>+-]\s)(?<!\b[^\W\d]\s)"
"""What stands before a number that is not part of a calculation: no digit, no operator, no single letter."""
_ENDS: Final = r"(?![\w@]|[.,:/-]\d|\s*[=*/^<>+\u00d7\u00f7\u2212])(?!\s-\s)"
"""What follows one: no further digits, no operator."""
_KINDS: Final = (
    _Kind("login", re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://(?P<data>[^\s/@:]{1,64}:[^\s/@]{1,128})@", re.IGNORECASE)),
    _Kind(
        "email",
        re.compile(r"(?<![\w.+-])[\w.+'-]{0,63}[\w+]@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"),
    ),
    _Kind("iban", re.compile(r"\b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,3})?\b"), _is_iban),
    _Kind("card", re.compile(rf"{_NO_SUM}\d(?:[ -]?\d){{12,18}}{_ENDS}"), _is_card),
    _Kind("ip", re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)"), _is_ipv4),
    _Kind("ip", re.compile(r"(?<![\w:.])[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7}(?![\w:])", re.IGNORECASE), _is_ipv6),
    # With a country: +49 30 1234567, 0049 30 1234567.
    _Kind("phone", re.compile(rf"{_NO_SUM}(?:\+|00)[1-9]\d{{0,2}}(?:[ ./-]?\(?\d{{1,5}}\)?){{2,6}}{_ENDS}"), _is_phone),
    # Of North America: (555) 123-4567, 555-123-4567, 555.123.4567.
    _Kind("phone", re.compile(rf"{_NO_SUM}(?:\([2-9]\d\d\)\s?|[2-9]\d\d[.-])\d{{3}}[.-]\d{{4}}{_ENDS}")),
    # With an area's code: 030 1234567, 0171/234 56 78, 01 23 45 67 89.
    _Kind("phone", re.compile(rf"{_NO_SUM}\(?0[1-9]\d{{0,4}}\)?(?:[ /-]{{1,3}}\d{{2,8}}){{1,4}}{_ENDS}"), _is_phone),
    # Said to be one: "Tel. 123 45 67", "call me at 5551234".
    _Kind(
        "phone",
        re.compile(
            r"\b(?:tel(?:efon|ephone)?|phone|mobile|handy|fax|whatsapp|t\u00e9l(?:\u00e9phone)?|tel\u00e9fono|m\u00f3vil"
            r"|call me (?:at|on|under))(?:\s?(?:number|no\.?|nr\.?|nummer))?(?:\s(?:is|ist|est|es))?\s?[.:]?\s{0,3}"
            rf"(?P<data>\+?\(?\d(?:[ ./()-]{{0,2}}\d){{5,14}}){_ENDS}",
            re.IGNORECASE,
        ),
        _is_said_to_be_phone,
    ),
)
"""In the order of their precedence: an account's digits may look like a telephone number's."""
