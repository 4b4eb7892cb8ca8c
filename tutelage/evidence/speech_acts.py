"""What a sentence does: whether it says that something is so, or asks, greets, praises, or tells somebody to do something.

The words that it goes by are English and German. In other languages only questions, and what is too short, claim nothing. In
doubt a sentence is a claim: one too many is found nowhere, one too few is never looked at.
"""

import re
from collections.abc import Iterable
from typing import Final

FEWEST_WORDS: Final = 3
"""A sentence of fewer words claims nothing, unless it has a number: "Exactly!", "Well done."."""


def says_what_is_so(sentence: str) -> bool:
    """Whether a sentence, in one line, claims something."""
    words = re.findall(r"\w+", sentence)
    if is_question(sentence) or not words:
        return False
    if len(words) < FEWEST_WORDS and not any(map(str.isdigit, sentence)):
        return False
    if _FACTUAL.search(sentence):
        return True
    if _TALK.search(sentence) or _INSTRUCTION.search(sentence) or _LABEL.search(sentence):
        _, colon, rest = sentence.partition(": ")
        return bool(colon) and says_what_is_so(rest)
    return not sentence.endswith(":")


def is_question(sentence: str) -> bool:
    """Whether a sentence ends as a question does."""
    return sentence.rstrip("\"'\u201d\u2019\u00bb\u00ab)]*_ ").endswith(("?", "\uff1f", "\u061f"))


def points_back(sentence: str) -> bool:
    """Whether a sentence is about what the one before it is about: it begins with a pronoun."""
    return _POINTS_BACK.match(sentence) is not None


def _any(words: str) -> str:
    """One of some words or phrases, divided by commas; `_` stands for a space."""
    return "(?:" + "|".join(each.strip().replace("_", r"\s+") for each in words.split(",")) + r")\b"


def _first(*patterns: str) -> re.Pattern[str]:
    """One of some patterns at the beginning of a sentence, after the words that may stand before what it is about."""
    return re.compile(rf"^(?:{_LEAD}\b[,.:;!\u2013-]*\s*)*(?:{'|'.join(patterns)})", re.IGNORECASE)


def _alternatives(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_LEAD = _any(
    "yes, no, ok, okay, oh, ah, hmm?, wow, well, so, now, then, first, next, finally, great, good, right, exactly, indeed,"
    "sure, actually, and, but, also, please, ja, nein, gut, super, toll, klar, genau, nun, jetzt, dann, zuerst, und, aber,"
    "bitte"
)
_ALL = r"[^,;:]*$"
"""To the end of the sentence: what follows a comma may well be a claim."""

_FACTUAL = _alternatives(
    [
        r"\b(?:remember|recall|notice|note|know|keep in mind|bear in mind|be aware|the fact|shows?|means?) that\b",
        r"\b(?:remember|recall|notice|note|merke? dir),",
        r"\b(?:denke? daran|beachte|merke? dir|erinnere dich(?: daran)?|bedenke|zeigt|heißt), dass\b",
        r"\b(?:because|weil|denn)\b",
        r"=",
    ]
)
"""What makes even an instruction say what is so."""
_NO_NOUN = (
    r"(?!\s+"
    + _any("is, are, was, were, has, have, had, can, does, of, means, equals, ist, sind, war, waren, hat, haben")
    + ")"
)
"""What would make a noun of the word before it: "Work is force times distance."."""
_INSTRUCTION = _first(
    _any(
        "let's, let_us, let_me, just, try, think, look, consider, imagine, remember, recall, notice, note, tell, show, write,"
        "draw, count, begin, start, take, check, compare, explain, find, use, read, suppose, picture, ask, give, say, see_if,"
        "keep, focus, list, name, describe, work, calculate, add, multiply, divide, subtract, go, make, do, don't, put, pick,"
        "choose, guess, have_a, feel_free"
    )
    + _NO_NOUN,
    _any(
        "lasst?_uns, versuche?, denke?, schaue?, überlege?, stelle?_dir, erinnere_dich, rechne, probiere?, sieh, zähle?,"
        "nenne, erkläre?, vergleiche?, sage?, schreibe?, zeichne, finde, lies, beginne, betrachte, nimm, beachte, merke?_dir,"
        "rate_mal, wähle?, beschreibe?, zeige?"
    )
    + _NO_NOUN,
)
_LABEL = re.compile(r"^(?:step|hint|tip|note|example|schritt|tipp|hinweis|beispiel)\s*\d*:", re.IGNORECASE)
_GOOD = (
    "close, not_quite, great, good, nice, excellent, wonderful, fantastic, interesting, lovely, clever, perfect, correct,"
    "right, wrong"
)
_GUT = (
    "toll, tolle, toller, gut, gute, guter, super, prima, klasse, schön, schöne, schöner, richtig, falsch, interessant"
)
_DONE = (
    "job, work, question, thinking, point, try, idea, start, observation, done, frage, idee, gedanke, arbeit, ansatz"
)
_TALK = _first(
    r"[.!]*$",
    _any(
        "hello, hi, hey, welcome, good_(?:morning|afternoon|evening), goodbye, bye, thanks, thank_you, see_you, sorry"
    ),
    _any("hallo, guten_(?:morgen|tag|abend), willkommen, danke, tschüss, auf_wiedersehen, bis_bald, entschuldigung"),
    _any(
        "i'm, i'd, i'll, i_can_see,"
        "i_(?:am|would|will|see|like|love|hope|wonder|understand|appreciate|want|noticed?|agree)"
    ),
    _any("ich_(?:bin|sehe|mag|hoffe|frage_mich|verstehe|freue_mich|möchte|würde)"),
    r"you(?:'re|\s+are)\s+(?:\w+\s+)?"
    + _any("right, close, correct, wrong, welcome, on_the, doing, getting, almost, there"),
    r"you(?:'ve|\s+have)?\s+(?:\w+\s+)?"
    + _any("said, say, mentioned, found, got, gave, told, asked, did, wrote, noticed, seem"),
    _any("du_(?:hast|bist|sagst|sagtest|meinst|meintest)"),
    r"(?:that|this|what|das)(?:'s|\s+(?:is|was|ist|war))?\s+(?:an?\s+|eine?\s+)?(?:\w+\s+)?"
    + _any(f"{_GOOD}, it, {_GUT}")
    + _ALL,
    _any(f"{_GOOD}, well, {_GUT}") + r"\s+(?:\w+\s+)?" + _any(_DONE) + _ALL,
    _any(f"{_GOOD}, {_GUT}") + r",?\s+" + _any("to, that_you, dass"),
)
_POINTS_BACK = _first(
    _any("it, its, this, that, these, those, they, their, he, she, his, her, there, therefore"),
    _any("er, sie, es, sein, ihr, das, dies, diese[rsnm]?, dort, dadurch, dabei, deshalb"),
)
