"""Whether a text is in the language it should be in: by its script and its commonest words.

It is no general identification of languages, and is made to stay silent when in doubt: it sees that a model has slipped
into another script, or from one of a few European languages into another.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Final


def word_set(words: str) -> frozenset[str]:
    """The words of a text that lists them."""
    return frozenset(words.split())


FUNCTION_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "en": word_set(
        "a about after again all also am an and any are as at be because been before being but by can "
        "could did do does doing don't down each for from had has have having he her here him his how i "
        "i'm if in into is it it's its just let let's me more most my no not now of off on once only or "
        "other our out over own she should so some such than that that's the their them then there these "
        "they this those to too under until up us very was we were what what's when where which while who "
        "why will with would you you're your"
    ),
    "de": word_set(
        "aber als also am an auch auf aus bei beim bin bis bist da dabei dafür damit dann das dass dein "
        "deine dem den denn der des dich die dies diese diesem diesen dieser dieses dir du durch ein eine "
        "einem einen einer eines er es etwas euch für gegen habe haben hast hat hatte ich ihm ihn ihr im "
        "in ins ist ja jede jeder jetzt kann kannst kein keine können man mehr mein meine mich mir mit "
        "muss musst nach nicht noch nun nur ob oder ohne schon sehr sein seine sich sie sind so um und "
        "uns unter vom von vor war warum was weil welche wenn wer wie wieder wir wird wo zu zum zur "
        "zwischen über"
    ),
    "fr": word_set(
        "alors au aussi aux avec avoir bien c'est ce cela ces cette comme comment d'un d'une dans de des "
        "deux donc du elle en est et il ils j'ai je l'on la le les leur lui mais me mon même n'est ne "
        "nous on ou où par parce pas peut plus pour pourquoi qu'est qu'il quand que quel quelle qui s'il "
        "sa sans se ses si son sont sur ta te tes ton tous tout très tu un une vos votre vous être"
    ),
    "es": word_set(
        "al algo así aunque como con cual cuando cuál cómo de del desde donde dos el ella en entonces "
        "entre es esa ese eso esta este esto estoy está hay he la las le les lo los me mi muy más nada ni "
        "no nos o para pero por porque puede que qué se ser si sin sobre son su sus sí también te tengo "
        "tiene todo tu tú un una uno y ya yo"
    ),
    "it": word_set(
        "agli ai al alla alle allora anche che chi ci come con cosa così cui da dal dalla degli dei del "
        "della delle di dove due e gli ha hai hanno ho i il in io la le lei lo loro ma mi mia mio molto "
        "ne nel nella non o per perché più può quale quando quello questa questo se sei si sono su sul "
        "sulla tra tu tutto un una uno è"
    ),
    "pt": word_set(
        "a ao aos as até com como da das de dela dele depois do dois dos e ela ele eles em entre então "
        "era essa esse esta este está eu foi há isso isto já mais mas me mesmo meu minha muito na nas nem "
        "no nos não o os ou para pela pelo por porque quando que quem se sem ser seu sua são também te "
        "tem um uma você é"
    ),
    "nl": word_set(
        "aan al als ben bij daar dan dat de deze die dit doen door dus een en er geen goed had heb hebben "
        "heeft hem het hier hij hoe hun ik in is ja je jij jouw kan kunnen maar me meer met mij mijn moet "
        "na naar niet nog nu of om ons ook op over te toch toen tot u uit van veel voor waar waarom was "
        "wat we wel wij wil wordt ze zich zij zijn zo"
    ),
}
"""The commonest words of a language, as they compare: in small letters, ss for ß."""

_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "en": ("english", "englisch", "anglais", "inglés", "inglese"),
    "de": ("german", "deutsch", "allemand", "alemán"),
    "fr": ("french", "französisch", "français", "francais"),
    "es": ("spanish", "spanisch", "español", "castellano"),
    "it": ("italian", "italienisch", "italiano"),
    "pt": ("portuguese", "portugiesisch", "português"),
    "nl": ("dutch", "niederländisch", "nederlands"),
    "pl": ("polish", "polnisch", "polski"),
    "cs": ("czech", "tschechisch", "čeština"),
    "sv": ("swedish", "schwedisch", "svenska"),
    "tr": ("turkish", "türkisch", "türkçe"),
    "vi": ("vietnamese", "vietnamesisch", "tiếng việt"),
    "id": ("indonesian", "indonesisch", "bahasa indonesia"),
    "la": ("latin", "latein"),
    "ru": ("russian", "russisch", "русский"),
    "uk": ("ukrainian", "ukrainisch", "українська"),
    "bg": ("bulgarian", "bulgarisch", "български"),
    "el": ("greek", "griechisch", "ελληνικά"),
    "ar": ("arabic", "arabisch", "العربية"),
    "fa": ("persian", "farsi", "persisch", "فارسی"),
    "he": ("hebrew", "hebräisch", "עברית"),
    "hi": ("hindi", "हिन्दी", "हिंदी"),
    "th": ("thai", "ไทย"),
    "zh": ("chinese", "mandarin", "chinesisch", "中文", "汉语"),
    "ja": ("japanese", "japanisch", "日本語"),
    "ko": ("korean", "koreanisch", "한국어"),
}
_SCRIPTS: Final[Mapping[str, frozenset[str]]] = {
    **{code: frozenset({"CYRILLIC"}) for code in ("ru", "uk", "bg")},
    **{code: frozenset({"ARABIC"}) for code in ("ar", "fa")},
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ko": frozenset({"HANGUL", "CJK"}),
}
"""By language, its scripts, as Unicode names their characters; a language that is not here is written in Latin letters."""
_LETTERS_OF: Final[Mapping[str, str]] = {
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "GREEK": "el",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "THAI": "th",
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "LATIN": "en",
}
"""By script, a language that is written in it."""

FEWEST_LETTERS: Final = 12
"""Of another script, for a text to be in it: a Greek letter in a formula makes no Greek."""
FEWEST_WORDS: Final = 6
"""Of a text whose language its words can show."""

# What may stand in another language: code, formulas, quoted words, and what is set off as an example.
_SET_OFF: Final = re.compile(
    r"```.*?(?:```|$)|`[^`\n]*`|\$[^$\n]*\$|\\\(.*?\\\)|\\\[.*?\\\]|https?://\S+"
    r"|\"[^\"\n]*\"|\u201c[^\u201d\n]*\u201d|\u201e[^\u201c\u201d\n]*[\u201c\u201d]|\u00ab[^\u00bb\n]*\u00bb|\*[^*\n]+\*"
    r"|(?<!\w)'[^'\n]*'(?!\w)|\u300c[^\u300d\n]*\u300d",
    re.DOTALL,
)
_ALPHABETIC: Final = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


def _code_of(language: str | None) -> str | None:
    """The two-letter code of a language that a brief names, `de-AT` or `German`; None for one that is not known here."""
    if not language:
        return None
    plain = language.strip().casefold()
    code = re.split(r"[-_ ]", plain, maxsplit=1)[0]
    if code in _NAMES:
        return code
    return next((code for code, names in _NAMES.items() if any(name in plain for name in names)), None)


def slipped_into(text: str, language: str | None, about: str = "") -> str | None:
    """The code of the language that a text is in instead of the one it should be in; None if all is well, or in doubt.

    Args:
        text: What was said. Code, formulas and quoted words in it may be in any language.
        language: The one it should be in, as a brief names it. Where it is None or not known here, only a text in a script
            that `about` does not use is called a slip.
        about: What the dialogue is about: a language that is named in it may be spoken, too.
    """
    code, plain = _code_of(language), _SET_OFF.sub(" ", text)
    other = _other_script(plain, code, about) or (_other_words(plain, code) if code else None)
    return None if other is None or _is_about(other, about) else other


def _other_script(text: str, code: str | None, about: str) -> str | None:
    if text.isascii() and code not in _SCRIPTS:  # most often
        return None
    letters = Counter(_script(letter) for letter in text if letter.isalpha())
    expected = (
        _SCRIPTS.get(code, frozenset({"LATIN"})) if code else {_script(letter) for letter in about if letter.isalpha()}
    )
    if not expected or not letters:
        return None
    foreign = {script: count for script, count in letters.items() if script in _LETTERS_OF and script not in expected}
    if sum(foreign.values()) < FEWEST_LETTERS or 2 * sum(foreign.values()) < letters.total():
        return None
    return _LETTERS_OF[max(foreign, key=foreign.__getitem__)]


def _other_words(text: str, code: str) -> str | None:
    if code not in FUNCTION_WORDS:
        return None
    said = [word.replace("\u2019", "'") for word in _ALPHABETIC.findall(text.casefold())]
    if len(said) < FEWEST_WORDS:
        return None
    for other, common in FUNCTION_WORDS.items():
        if other == code:
            continue
        theirs = sum(word in common and word not in FUNCTION_WORDS[code] for word in said)
        ours = sum(word in FUNCTION_WORDS[code] and word not in common for word in said)
        if theirs >= 3 and theirs > 5 * ours and 5 * theirs >= len(said):
            return other
    return None


def _is_about(code: str, about: str) -> bool:
    plain = about.casefold()
    return any(name in plain for name in _NAMES.get(code, ()))


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0]
