"""What a model says that no speaker would: labels, template tokens, talk about the reply itself, a sentence broken off.

Each detector gives the words that it found, or None. Code is not looked at: a lesson may be about such tokens.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tutelage.checks.lexicon import ABOUT_ITSELF, ANNOUNCED, ECHOED, UNFINISHED
from tutelage.checks.roles import LEARNING, TEACHING

_DOUBTFUL: Final = frozenset({"ai", "bot", "human", "model", "professor", "system", "user"})
"""What may be the heading of a list as well: "Human: 46 chromosomes". A label only where there is another one."""
_LABELS: Final = tuple(sorted(TEACHING | LEARNING | {"system"}))

_CODE: Final = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_TEMPLATE_TOKEN: Final = re.compile(
    r"<[|\uff5c][\w\u2581]+[|\uff5c]>"  # <|im_end|>, and DeepSeek's with full-width bars
    r"|\[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
    r"|</?(?:start_of_turn|end_of_turn|bos|eos|eot|pad|unk|think|thinking|tool_call|tool_response|function_call)>"
    r"|^<s>|</s>\s*$"
    r"|(?m:^###\s*(?:instruction|response|human|user|assistant|system|input)s?\s*\d*\s*:)",
    re.IGNORECASE,
)
_ANNOUNCING: Final = re.compile(
    r"\A\W*(?:(?:revised|final|updated|improved|corrected|rewritten|new)\s+(?:draft|response|reply|utterance|version|message)"
    r"|(?:tutor|teacher|student|pupil)(?:['\u2019]s)?\s+(?:response|reply|utterance|turn)|response|utterance|output|reply"
    r"|überarbeitete[rs]?\s+(?:antwort|fassung|version|entwurf|nachricht)|äußerung)\W*:",
    re.IGNORECASE,
)
_STAGE_DIRECTION: Final = re.compile(
    r"[\[(*]\s*(?:(?:the )?(?:tutor|teacher|student|pupil)\s+)?"
    r"(?:wait(?:s|ing)? (?:for|patiently)|wartet (?:auf|geduldig)|pauses?\b(?! (?:at|the|and))|conversation ends"
    r"|end of (?:the )?(?:conversation|dialogue|session|lesson|transcript|turn|response)"
    r"|ende (?:des|der) (?:gesprächs|dialogs|sitzung|stunde))\b[^\])*\n]{0,60}[\])*]",
    re.IGNORECASE,
)
_NOTE: Final = re.compile(
    r"[\[(]\s*(?:note|anmerkung|hinweis)\s*:[^\])]{0,400}\b"
    r"(?:assistant|instructions?|tutor|tutoring|response|reply|user|prompt|anweisung|antwort)\b",
    re.IGNORECASE,
)
_PLACEHOLDER: Final = re.compile(
    r"\[(?:insert|fill in|your|the student['\u2019]s|(?:student|teacher|tutor)(?:['\u2019]?s)?|name(?: des| der)?)\b"
    r"[^\]\n]{0,60}\](?!\()"  # [text](address) is a link
    r"|\{\{[^}\n]{1,40}\}\}|\{(?:student|tutor|teacher|name|topic|question|answer|user|brief)[\w.]*\}",
    re.IGNORECASE,
)
_STRUCTURE: Final = re.compile(
    r"\A\s*(?:```(?:json)?\s*)?\{\s*\"\w+\"\s*:|\A\s*```json|\"(?:utterance|student_claim|error_type|will_reveal)\"\s*:"
    r"|(?m:^\W{0,3}(?:thoughts?|(?:inner|internal) (?:monologue|thoughts?|notes?)|private (?:plan|notes?)|scratchpad"
    r"|utterance|student_claim|error_type|will_reveal)\W{0,2}:)",
    re.IGNORECASE,
)
FEWEST_WORDS: Final = 8
"""Of a turn that can be seen to have broken off."""


def label(text: str, speaker: str, roles: Iterable[str] = ()) -> tuple[str, bool] | None:
    """A speaker's label in a turn, `Student:`, and whether it is another's than the speaker's; another's goes first.

    Args:
        text: The turn.
        speaker: The role that says it.
        roles: Of the dialogue, beside the usual names for those who teach and who learn.
    """
    if ":" not in text and ">" not in text and "]" not in text:  # most often
        return None
    own = _names_of(speaker)
    found = [
        (match["name"].casefold(), match.group().strip()) for match in _labels(frozenset(roles)).finditer(_said(text))
    ]
    if len({name for name, _ in found}) == 1 and found[0][0] in _DOUBTFUL:
        return None
    others = [span for name, span in found if name not in own]
    return (others[0], True) if others else (found[0][1], False) if found else None


def template_token(text: str) -> str | None:
    """A token of a chat template: `<|im_end|>`, `[INST]`, `</s>` at the end, `### Response:`."""
    if "<" not in text and "[" not in text and "#" not in text:
        return None
    return _found(_TEMPLATE_TOKEN, _said(text))


def meta_text(text: str) -> str | None:
    """Talk about the reply instead of the reply: "Here is the response:", a note on it, a stage direction, a placeholder.

    An assistant that speaks of itself ("As an AI, I …"), instructions that are said aloud, and a reply that stands in JSON
    are found as well.
    """
    if structure := _found(_STRUCTURE, text):
        return structure
    said = _said(text)
    return (
        _found(_ANNOUNCING, said)
        or _found(ANNOUNCED, said)
        or _found(ABOUT_ITSELF, said)
        or _found(ECHOED, said)
        or _found(_STAGE_DIRECTION, said)
        or _found(_PLACEHOLDER, said)
        or _found(_NOTE, said)
    )


def broken_off(text: str, finish_reason: str | None = None) -> str | None:
    """The end of a turn that was cut off: by `max_tokens`, or in the middle of a sentence."""
    words = text.split()
    end = " ".join(words[-5:])
    if finish_reason == "length":
        return end
    if len(words) < FEWEST_WORDS or not UNFINISHED.fullmatch(words[-1]):
        return None
    return end


def _found(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return match.group().strip() if match else None


def _said(text: str) -> str:
    return _CODE.sub(" ", text) if "`" in text else text


def _names_of(speaker: str) -> frozenset[str]:
    """What a speaker may be called."""
    plain = speaker.replace("_", " ").casefold()
    alike = TEACHING if plain in TEACHING else LEARNING if plain in LEARNING else frozenset[str]()
    return alike | {plain}


@lru_cache(maxsize=256)
def _labels(roles: frozenset[str]) -> re.Pattern[str]:
    names = "|".join(sorted({*_LABELS, *(re.escape(role.replace("_", " ")) for role in roles)}, key=len, reverse=True))
    # At the start of a line, or after a sentence; as a heading, in bold, in brackets, or as a tag.
    return re.compile(
        r"(?:\A|\n|(?<=[.!?\u2026\"\u201d')\]*])\s)[ \t]*(?:[*_#>~\-]+[ \t]*)?"
        rf"(?:\[?(?P<name>{names})(?:['\u2019]s)?(?:\s+(?:says|said|replies|responds|response|reply|sagt|antwortet|fragt))?"
        r"(?:\s*\([^)\n]{1,30}\))?[*_\]]*\s?:(?!:))",
        re.IGNORECASE,
    )
