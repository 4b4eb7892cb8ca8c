"""Where the sentences of a text are. Where it is not sure it does not split: half a sentence says something else.

Made for what models write in chat: lists, headings, code blocks and formulas beside prose, in English and German; other
languages that end a sentence with a mark and a space are split by that alone.
"""

import re
from collections.abc import Iterator
from typing import Final

_CODE = re.compile(r"^ {0,3}(```|~~~).*?(^ {0,3}\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_LINE = re.compile(r"[^\n]+")
_MARKER = re.compile(r"\s*(?:(?:[-*+•>]|#{1,6}|\(?\d{1,2}[.)]|\(?[a-z]\))\s+)*")
"""What stands before the words of a list's item, a heading or a quotation."""
_CLOSING = "\"'\u201d\u2019\u00bb\u00ab)\\]*_"
_ENDING = re.compile(rf"[.!?\u2026\u3002\uff01\uff1f]+[{_CLOSING}]*(?=\s)|[\u3002\uff01\uff1f]")
"""The marks that may end a sentence, and what closes behind them. Chinese and Japanese ones need no space."""
_LAST_WORD = re.compile(r"([\w.&'-]*\w)\W*$")
_ABBREVIATIONS: Final = frozenset(
    """
    mr mrs ms dr prof st mt vs eg ie e.g i.e cf ca approx no nos fig figs eq eqs vol ch sec pp ed eds al inc ltd jr sr rev gen
    z.b d.h u.a i.d.r v.a s.o s.u u.ä o.ä bzw vgl nr abb bspw evtl ggf inkl exkl geb gest hl hrsg jh jhd mio mrd sog str tel
    ungef usf zzgl dt engl frz lat griech max min v.chr n.chr
    """.split()  # noqa: SIM905 - a list of them would be a screen long
)
"""After which a text goes on in the same sentence, whatever letter follows."""
_ORDINAL = re.compile(
    r"\b(?:der|die|das|den|dem|des|am|im|vom|zum|zur|beim|ein|eine|einen|einem|einer|jede[rsnm]?|seit|ab|bis|vor|nach)\s+\d{1,2}$",
    re.IGNORECASE,
)
"""German ordinals: am 14. Juli, im 19. Jahrhundert."""
_REGNAL = re.compile(r"\b(?:I{1,3}|IV|VI{0,3}|IX|XI{0,3}|XIV|XVI{0,3})$")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """The sentences of a text, as start and end, without the space around them and the markers of lists.

    Code blocks have none.
    """
    for start, end in _blocks(text):
        yield from _within(text, start, end)


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Lines that belong together: a line goes on in the next one that begins in lower case, if it has not ended."""
    prose = _CODE.sub(lambda code: re.sub(r"[^\n]", "\0", code[0]), text)
    lines = [line.span() for line in _LINE.finditer(prose) if line[0].strip(" \t\0")]
    while lines:
        start, end = lines.pop(0)
        while lines and _goes_on(prose[start:end], prose[end : lines[0][1]]):
            end = lines.pop(0)[1]
        yield start, end


def _goes_on(line: str, following: str) -> bool:
    between = len(following) - len(following.lstrip("\n"))
    return between == 1 and following.lstrip()[:1].islower() and line.rstrip()[-1:] not in ".!?…:"


def _within(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin = _MARKER.match(text, start, end).end()  # type: ignore[union-attr]
    for ending in _ENDING.finditer(text, begin, end):
        if _ends(text[begin : ending.start()], ending[0], text[ending.end() : end].lstrip()):
            yield _trimmed(text, begin, ending.end())
            begin = ending.end()
    if text[begin:end].strip():
        yield _trimmed(text, begin, end)


def _ends(before: str, mark: str, after: str) -> bool:
    """Whether a mark ends the sentence before it."""
    if after[:1].islower():
        return False
    if mark[0] != ".":
        return True
    word = _LAST_WORD.search(before)
    last = word[1].casefold() if word else ""
    initial = re.search(r"(?:^|[\s(.])[^\W\d_]$", before) and not re.search(r"\d\s*\w$", before)
    return not (initial or last in _ABBREVIATIONS or _REGNAL.search(before) or _ORDINAL.search(before))


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
