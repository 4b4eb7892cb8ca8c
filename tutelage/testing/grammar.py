"""Texts that follow a small grammar: rules of quoted texts, character classes, alternatives, groups and repetitions.

It is the part of GBNF, the notation that vLLM's grammar backends and llama.cpp share, that is needed to try a grammar out:

    root ::= verdict " because " [a-z]+
    verdict ::= "accept" | "revise"
"""

import re
from collections.abc import Callable
from functools import lru_cache
from random import Random

from tutelage.testing.schema_filler import SchemaError, compile_regex

_RULE = re.compile(r"^\s*([A-Za-z][\w-]*)\s*::=", re.MULTILINE)
_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|[A-Za-z][\w-]*|[()|*+?])')
_ESCAPED = re.compile(r"\\(.)")
_DEEPEST = 40


@lru_cache(maxsize=64)
def compile_grammar(grammar: str) -> Callable[[Random], str]:
    """A sampler of texts that follow the rule `root`.

    Raises:
        SchemaError: A rule is missing, refers to itself, or uses what is not covered.
    """
    parts = _RULE.split(grammar)
    rules = dict(zip(parts[1::2], parts[2::2], strict=True))
    if "root" not in rules:
        raise SchemaError("the grammar has no rule `root ::= …`")
    return compile_regex(_Rules(rules).as_regex("root", 0))


class _Rules:
    def __init__(self, rules: dict[str, str]) -> None:
        self._rules = rules

    def as_regex(self, name: str, depth: int) -> str:
        """The rule as a regular expression, which it is as long as no rule refers to itself."""
        if name not in self._rules:
            raise SchemaError(f"the grammar refers to a rule {name!r} that it does not have")
        if depth > _DEEPEST:
            raise SchemaError(
                f"the grammar's rule {name!r} refers to itself, which the simulated endpoint does not follow"
            )
        text, parts, position = self._rules[name].strip(), list[str](), 0
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise SchemaError(f"the grammar's rule {name!r} has something unknown at {text[position:][:20]!r}")
            parts.append(self._part(token[1], depth))
            position = token.end()
        return f"(?:{''.join(parts)})"

    def _part(self, token: str, depth: int) -> str:
        if token.startswith('"'):
            return f"(?:{re.escape(_ESCAPED.sub(_unescaped, token[1:-1]))})"
        if token == "(":
            return "(?:"
        if token.startswith("[") or token in ")|*+?":
            return token
        return self.as_regex(token, depth + 1)


def _unescaped(escaped: re.Match[str]) -> str:
    return {"n": "\n", "t": "\t", "r": "\r"}.get(escaped[1], escaped[1])
