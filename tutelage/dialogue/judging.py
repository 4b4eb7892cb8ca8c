"""What keeps a judge honest: what decorates a text is not shown to it, and a model's family is known by its name.

Judges prefer what is set in bold and what is polite: in a study of current judges style weighed far more than position
(arXiv 2604.23178). What is judged is therefore shown without markdown, and without greetings and compliments that say
nothing of the matter. Praise of an answer ("Correct!", "Well done!") does say something, which may be false: it stays.
"""

import re
from functools import lru_cache
from typing import Final

_MAY_HAVE_MARKS = re.compile(r"(?m)[*_`#>~\[•]|^[ \t]*[-+]")
_FENCE = re.compile(r"[ \t]*(?:```|~~~)")
_CODE = re.compile(r"`([^`]+)`")
_RULE = re.compile(r"[ \t]*(?:[-*_][ \t]*){3,}")
_LIST_MARK = r"(?:#{1,6}|[-*+•])[ \t]+"
_LINE_MARKS = re.compile(rf"[ \t]*(?:(?:>[ \t]?)+(?:{_LIST_MARK})?|{_LIST_MARK})(?=\S)")
"""Of quotations, headings and lists. A list's numbers stay, for they may be meant."""
# A mark that has space on its inner side, or a word on its outer one, is a sign of the text: 2 * 3 * 4, snake_case. Lengths
# are bounded, for a text of thousands of marks would take seconds otherwise.
_INLINE_MARKS: Final = (
    (re.compile(r"!?\[([^\]]{1,200})\]\([^)\s]{1,500}\)"), r"\1"),  # links
    (re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])(.{0,300}?[^\s*])\1(?![\w*])"), r"\2"),
    (re.compile(r"(?<!\w)___?(?!\w+__)(?=\S)(.{1,300}?)(?<=\S)___?(?!\w)"), r"\1"),
    (re.compile(r"(?<!\w)_(?=[^\s_])([^_]{0,300}?[^\s_])_(?!\w)"), r"\1"),
    (re.compile(r"~~(?=\S)(.{1,300}?)(?<=\S)~~"), r"\1"),
)

_NAMED = r"(?:[ ,]+(?:there|again|everyone|all|dear|my friend|class|[A-Z][\w'\u2019-]*)){0,2}"
_GREETING = (
    r"(?:(?i:hi|hello|hey|hiya|greetings|welcome(?: back)?|dear|good (?:morning|afternoon|evening|day)"
    r"|nice to (?:meet|see) you|hallo|servus|guten (?:morgen|tag|abend)|bonjour|bonsoir|salut|hola"
    r"|buen[oa]s (?:d[ií]as|tardes|noches)|ciao|buongiorno|ol[áa])"
    rf"{_NAMED}[ ]*(?:[!.,:…\u2013\u2014-]+|\n)[\s!]*)"
)
_FINE = (
    r"(?i:great|good|excellent|wonderful|fantastic|amazing|awesome|brilliant|lovely|nice|terrific|interesting|super)"
)
_COMPLIMENT = (
    rf"(?:(?i:what an?|that(?:['\u2019]s| is)(?: such)? an?|such an?)?[ ]*(?i:really|truly|very)?[ ]*{_FINE}"
    r"(?:[ ]+(?i:and)[ ]+\w+)?[ ]+(?i:question)"
    r"|(?i:i (?:really |just )?(?:love|like|admire|appreciate) (?:your|how) "
    r"(?:curiosity|enthusiasm|energy|curious you are|eager you are)[^.!?\n,]*)"
    r"|(?i:you(?:['\u2019]re| are) (?:so |such a |a )?(?:very |really )?"
    r"(?:smart|clever|bright|brilliant|amazing|gifted|talented)(?: student| learner| thinker)?)"
    r"|(?i:thank you(?: so much)?|thanks(?: a lot| so much)?) (?i:for (?:asking|your question|the question))"
    r")[ ]*[!.,…\u2013\u2014-]+[\s!]*"
)
_DECORATION = re.compile(rf"\s*(?:{_GREETING}|{_COMPLIMENT})")


@lru_cache(maxsize=4096)
def as_judged(text: str) -> str:
    """A text as a judge is shown it: without markdown, and without the greetings and compliments that it begins with.

    Code keeps its letters, and a text that is nothing but a greeting stays what it is.
    """
    plain = text.strip()
    if _MAY_HAVE_MARKS.search(plain):
        plain = _without_markdown(plain)
    return _without_decoration(plain) or plain


def _without_markdown(text: str) -> str:
    lines, in_code = [], False
    for line in text.splitlines():
        if _FENCE.match(line):
            in_code = not in_code
        elif in_code:
            lines.append(line)
        elif not _RULE.fullmatch(line):
            lines.append(_without_marks(line))
    return "\n".join(lines).strip()


def _without_marks(line: str) -> str:
    marks = _LINE_MARKS.match(line)
    parts = _CODE.split(line[marks.end() :] if marks else line)
    for prose in range(0, len(parts), 2):  # what stands between is code
        for pattern, kept in _INLINE_MARKS:
            parts[prose] = pattern.sub(kept, parts[prose])
    return "".join(parts).rstrip()


def _without_decoration(text: str) -> str:
    while match := _DECORATION.match(text):
        text = text[match.end() :]
    return text.strip()


_FAMILIES: Final = (
    ("qwen", r"qwen|qwq|qvq"),
    ("gpt-oss", r"gpt-oss"),
    ("gemma", r"gemma|shieldgemma"),
    ("mistral", r"mistral|mixtral|ministral|magistral|codestral|devstral|pixtral|mathstral|zephyr-7b"),
    ("phi", r"(?<![a-z])phi-?\d"),
    ("smollm", r"smollm|smolvlm"),
    ("olmo", r"olmo"),
    ("granite", r"granite"),
    ("falcon", r"falcon"),
    ("glm", r"(?<![a-z])(?:chat)?glm-?\d"),
    ("internlm", r"internlm"),
    ("yi", r"(?<![a-z])yi-\d"),
    ("exaone", r"exaone"),
    ("command", r"command-[ar]|(?<![a-z])aya-"),
    ("minicpm", r"minicpm"),
    ("kimi", r"kimi|moonlight"),
    ("hunyuan", r"hunyuan"),
    ("ernie", r"ernie-"),
    ("lfm", r"(?<![a-z])lfm-?\d"),
    ("llama", r"llama|vicuna"),
    # Names that stand beside the family whose weights were trained further, so they count only where they stand alone.
    ("nemotron", r"nemotron"),
    ("deepseek", r"deepseek"),
    ("gpt", r"(?<![a-z])gpt-?\d|(?<![a-z])o[134](?:-|$)"),
    ("claude", r"claude"),
    ("gemini", r"gemini"),
)
"""By family, what its models' names hold. The first that is found counts: `DeepSeek-R1-Distill-Qwen-7B` is a Qwen."""
_BY_FAMILY: Final = tuple((name, re.compile(pattern)) for name, pattern in _FAMILIES)


def family(model: str) -> str | None:
    """The family that a model is of, as far as its name shows: of a fine-tuned one, that of its base.

    Args:
        model: A name as an endpoint serves it, such as `Qwen/Qwen3-32B`.

    Returns:
        Such as `qwen`, or None where the name does not tell.
    """
    name = model.lower()
    return next((found for found, pattern in _BY_FAMILY if pattern.search(name)), None)
