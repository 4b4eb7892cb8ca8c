"""Values that are valid against a JSON schema, a regular expression or a choice: what structured outputs would answer.

A schema is compiled once into a sampler, which is then drawn from with a seeded generator. Covered is what pydantic
writes and what vLLM's grammar backends accept of JSON Schema 2020-12: objects, arrays, enums, const, $ref and $defs,
anyOf, oneOf, allOf, bounds, formats and patterns. What cannot be compiled or has no value raises `SchemaError`, as vLLM
answers 400.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import orjson

from tutelage.testing import prose


class SchemaError(ValueError):
    """A schema or a regular expression that cannot be followed."""


@dataclass(slots=True, kw_only=True)
class Draw:
    """One drawing of a value."""

    rng: Random
    accept_rate: float
    """How often a `verdict` that may be accept or revise is accept."""
    quotable: str = ""
    """What a `span` is quoted from, as a reviewer quotes the draft; other texts are made up."""
    depth: int = 0


Sampler = Callable[[Draw], Any]

_DEEP = 6
"""Nesting from which optional parts are left out, so that recursive schemas come to an end."""
_BOTTOMLESS = 64
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment",
     "$defs", "definitions", "discriminator"}
)  # fmt: skip
_TYPES = frozenset({"object", "array", "string", "integer", "number", "boolean", "null"})


def compile_schema(schema: Any) -> Sampler:
    """A sampler of values valid against `schema`; equal schemas share one.

    Raises:
        SchemaError: the schema is malformed, or uses what is not covered.
    """
    if not isinstance(schema, dict | bool):
        raise SchemaError(f"a schema is an object, not {type(schema).__name__}")
    return _compiled(orjson.dumps(schema))


@lru_cache(maxsize=256)
def _compiled(schema: bytes) -> Sampler:
    return _Compiler(orjson.loads(schema)).sampler()


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Callable[[Random], str]:
    """A sampler of strings that `pattern` matches in full.

    Raises:
        SchemaError: the pattern is malformed, or looks ahead or behind.
    """
    try:
        parsed = _parser.parse(pattern)
    except Exception as error:
        raise SchemaError(f"invalid regular expression {pattern!r}: {error}") from error
    _check_regex(parsed, pattern)
    return lambda rng: _from_regex(parsed, rng, {})


def violation(schema: Any) -> Any:
    """A JSON value that does not fit `schema`, as far as a schema of objects or arrays is concerned."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "object" and not schema.get("required"):
        return ["unexpected"]
    return {"unexpected": "shape"}


class _Compiler:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._refs: dict[str, Sampler] = {}

    def sampler(self) -> Sampler:
        return self._compile(self._root)

    def _compile(self, schema: Any) -> Sampler:
        if schema is True or schema == {}:
            return _sentence(0, None)
        if not isinstance(schema, dict):
            raise SchemaError(f"{schema!r} is no schema that a value can fit")
        if "$ref" in schema:
            return self._reference(schema)
        if "const" in schema:
            return lambda draw: schema["const"]
        if "enum" in schema:
            return _enum(schema["enum"])
        if "allOf" in schema:
            return self._compile(self._merged(schema))
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._branches(schema, key)
        return self._typed(schema)

    def _reference(self, schema: dict[str, Any]) -> Sampler:
        ref, target = schema["$ref"], self._resolve(schema["$ref"])
        rest = {key: value for key, value in schema.items() if key != "$ref" and key not in _ANNOTATIONS}
        if rest:
            return self._compile(_merge(target, rest))
        if ref not in self._refs:
            # Stands in while the target is compiled, which may refer to itself.
            self._refs[ref] = lambda draw: self._refs[ref](draw)
            self._refs[ref] = self._compile(target)
        return lambda draw: _deeper(self._refs[ref], draw)

    def _resolve(self, ref: Any) -> Any:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise SchemaError(f"cannot resolve $ref {ref!r}: only references into the same schema are followed")
        target = self._root
        for part in ref.lstrip("#").strip("/").split("/") if ref != "#" else ():
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                raise SchemaError(f"cannot resolve $ref {ref!r}: no {key!r}")
            target = target[key]
        return target

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in _list_of(schema, "allOf"):
            target = self._resolve(part["$ref"]) if isinstance(part, dict) and "$ref" in part else part
            merged = _merge(merged, target)
        return merged

    def _branches(self, schema: dict[str, Any], key: str) -> Sampler:
        rest = {name: value for name, value in schema.items() if name != key and name not in _ANNOTATIONS}
        branches = _list_of(schema, key)
        samplers = [self._compile(_merge(branch, rest) if rest else branch) for branch in branches]
        shallow = samplers[min(range(len(branches)), key=lambda position: _depth(branches[position]))]

        def sample(draw: Draw) -> Any:
            if draw.depth > _DEEP:
                return shallow(draw)
            return draw.rng.choice(samplers)(draw)

        return sample

    def _typed(self, schema: dict[str, Any]) -> Sampler:
        kind = schema.get("type", _implied_type(schema))
        if isinstance(kind, list):
            return self._branches({"anyOf": [{**schema, "type": one} for one in kind]}, "anyOf")
        if kind not in _TYPES:
            raise SchemaError(f"unknown type {kind!r}")
        if kind == "object":
            return self._object(schema)
        if kind == "array":
            return self._array(schema)
        if kind == "string":
            return _string(schema)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return lambda draw: draw.rng.random() < 0.5
        return lambda draw: None

    def _object(self, schema: dict[str, Any]) -> Sampler:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise SchemaError("properties must be an object, and required a list")
        samplers = {name: self._property(name, value) for name, value in properties.items()}
        extra = schema.get("additionalProperties", True)
        for name in required:
            if name not in samplers:
                if extra is False:
                    raise SchemaError(f"{name!r} is required but is no property")
                samplers[name] = self._compile(extra)
        more = self._more(schema, extra, fixed=len(samplers))
        verdict = self._is_verdict(properties.get("verdict"))
        no_issues, some_issues = self._issues(properties.get("issues"))

        def sample(draw: Draw) -> dict[str, Any]:
            accepts = draw.rng.random() < draw.accept_rate if verdict else None
            value = {}
            for name, sampler in samplers.items():
                if draw.depth > _DEEP and name not in required:
                    continue
                if accepts is not None and name == "verdict":
                    value[name] = "accept" if accepts else "revise"
                elif accepts is not None and name == "issues":
                    value[name] = _deeper(no_issues if accepts else some_issues, draw)
                else:
                    value[name] = _deeper(sampler, draw)
            value.update(more(draw))
            return value

        return sample

    def _property(self, name: str, schema: Any) -> Sampler:
        sampler = self._compile(schema)
        free = isinstance(schema, dict) and schema.keys() <= {"type", *_ANNOTATIONS} and schema.get("type") == "string"
        if name != "span" or not free:
            return sampler
        return lambda draw: prose.quote(draw.rng, draw.quotable) if draw.quotable else sampler(draw)

    def _more(self, schema: dict[str, Any], extra: Any, *, fixed: int) -> Callable[[Draw], dict[str, Any]]:
        least, most = _bounds(schema, "minProperties", "maxProperties", fixed, max(fixed, 2))
        patterns = schema.get("patternProperties") or {}
        values = next(iter(patterns.values()), extra)
        if (fixed and least <= fixed) or values is False:
            return lambda draw: {}
        name = compile_regex(next(iter(patterns))) if patterns else _regex_of_names(schema)
        value = self._compile(values)

        def sample(draw: Draw) -> dict[str, Any]:
            wanted = max(0, least if draw.depth > _DEEP else draw.rng.randint(least, max(least, most)))
            return {f"{name(draw.rng)}": _deeper(value, draw) for _ in range(wanted - fixed)}

        return sample

    def _is_verdict(self, schema: Any) -> bool:
        if isinstance(schema, dict) and "$ref" in schema:
            schema = self._resolve(schema["$ref"])
        return isinstance(schema, dict) and {"accept", "revise"} == set(map(str, schema.get("enum") or ()))

    def _issues(self, schema: Any) -> tuple[Sampler, Sampler]:
        """What goes with accept, and what with revise; where the schema leaves no choice, it wins."""
        if not isinstance(schema, dict) or schema.get("type") != "array":
            either = self._compile(schema) if schema is not None else _sentence(0, None)
            return either, either
        least, most = schema.get("minItems", 0), schema.get("maxItems", 1)
        return (
            self._array({**schema, "maxItems": least}),
            self._array({**schema, "minItems": max(least, min(most, 1))}),
        )

    def _array(self, schema: dict[str, Any]) -> Sampler:
        first = [self._compile(item) for item in schema.get("prefixItems", ())]
        rest = schema.get("items", not first)
        least, most = _bounds(schema, "minItems", "maxItems", len(first), None)
        most = max(least, 3) if most is None else most
        if rest is False and least > len(first):
            raise SchemaError(f"minItems is {least}, but only {len(first)} items are allowed")
        item = None if rest is False else self._compile(rest)
        unique = bool(schema.get("uniqueItems"))

        def sample(draw: Draw) -> list[Any]:
            length = least if draw.depth > _DEEP else draw.rng.randint(least, most)
            items = [_deeper(sampler, draw) for sampler in first[:length]]
            for _ in range(4 * length + 100):
                if item is None or len(items) >= length:
                    break
                value = _deeper(item, draw)
                if not unique or value not in items:
                    items.append(value)
            if len(items) < least:
                raise SchemaError(f"cannot find {least} different items")
            return items

        return sample


def _deeper(sampler: Sampler, draw: Draw) -> Any:
    if draw.depth > _BOTTOMLESS:
        raise SchemaError("the schema refers to itself without end")
    draw.depth += 1
    try:
        return sampler(draw)
    finally:
        draw.depth -= 1


def _merge(first: Any, second: Any) -> dict[str, Any]:
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise SchemaError("only schemas that are objects can be combined")
    merged = {**first, **second}
    if "properties" in first and "properties" in second:
        merged["properties"] = {**first["properties"], **second["properties"]}
    if "required" in first and "required" in second:
        merged["required"] = [*first["required"], *second["required"]]
    return merged


def _list_of(schema: dict[str, Any], key: str) -> list[Any]:
    value = schema[key]
    if not isinstance(value, list) or not value:
        raise SchemaError(f"{key} must be a list of schemas, not empty")
    return value


def _depth(schema: Any) -> int:
    order = ("null", "boolean", "integer", "number", "string", "array", "object")
    kind = schema.get("type") if isinstance(schema, dict) else None
    return order.index(kind) if kind in order else len(order)


def _implied_type(schema: dict[str, Any]) -> str:
    keys_of = {
        "object": ("properties", "required", "additionalProperties", "patternProperties"),
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    return next((kind for kind, keys in keys_of.items() if any(key in schema for key in keys)), "string")


def _bounds(schema: dict[str, Any], low: str, high: str, least: int, most: int | None) -> tuple[int, Any]:
    low_value, high_value = schema.get(low, least if high not in schema else 0), schema.get(high, most)
    for key, value in ((low, low_value), (high, high_value)):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise SchemaError(f"{key} must be a whole number, not {value!r}")
    if high in schema and low_value > high_value:
        raise SchemaError(f"{low} {low_value} is above {high} {high_value}")
    return low_value, high_value


def _enum(values: Any) -> Sampler:
    if not isinstance(values, list) or not values:
        raise SchemaError("enum must be a list of values, not empty")
    return lambda draw: draw.rng.choice(values)


def _sentence(shortest: int, longest: int | None) -> Sampler:
    return lambda draw: prose.write_between(draw.rng, shortest, longest, draw.rng.randint(6, 18))


def _string(schema: dict[str, Any]) -> Sampler:
    shortest, longest = _bounds(schema, "minLength", "maxLength", 0, None)
    if "pattern" in schema:
        return _patterned(schema["pattern"], shortest, longest)
    if schema.get("format") in _FORMATS:
        of_format = _FORMATS[schema["format"]]
        return lambda draw: of_format(draw.rng)
    return _sentence(shortest, longest)


def _patterned(pattern: Any, shortest: int, longest: int | None) -> Sampler:
    sampler = compile_regex(str(pattern))

    def sample(draw: Draw) -> str:
        for _ in range(500):
            text = sampler(draw.rng)
            if shortest <= len(text) and (longest is None or len(text) <= longest):
                return text
        raise SchemaError(f"cannot find a string of {shortest} to {longest} characters that matches {pattern!r}")

    return sample


def _clock(rng: Random) -> str:
    return f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}Z"


def _date(rng: Random) -> str:
    return f"{rng.randint(1990, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _uuid(rng: Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


_FORMATS: dict[str, Callable[[Random], str]] = {
    "date": _date,
    "time": _clock,
    "date-time": lambda rng: f"{_date(rng)}T{_clock(rng)}",
    "duration": lambda rng: f"PT{rng.randint(1, 59)}M",
    "uuid": _uuid,
    "email": lambda rng: f"student{rng.randrange(1000)}@example.org",
    "uri": lambda rng: f"https://example.org/{rng.randrange(1000)}",
    "ipv4": lambda rng: f"192.0.2.{rng.randrange(256)}",
}


def _number(schema: dict[str, Any], *, whole: bool) -> Sampler:
    step = schema.get("multipleOf", 1 if whole else 0.01)
    edges = [schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")]
    if any(not isinstance(edge, int | float) for edge in (step, *edges) if edge is not None) or step <= 0:
        raise SchemaError("the bounds of a number must be numbers, and multipleOf above 0")
    low = max((edge for edge in edges[:2] if edge is not None), default=None)
    high = min((edge for edge in edges[2:] if edge is not None), default=None)
    low = low if low is not None else min(0, high - 100 if high is not None else 0)
    high = high if high is not None else max(100 * max(step, 1), low + 100 * max(step, 1))
    first, last = math.ceil(low / step), math.floor(high / step)
    first += edges[1] is not None and first * step <= edges[1]
    last -= edges[3] is not None and last * step >= edges[3]
    if first <= last:
        return lambda draw: _multiple(draw.rng.randint(first, last), step, whole)
    if whole or "multipleOf" in schema or low > high or (low == high and low in (edges[1], edges[3])):
        raise SchemaError(f"no {'integer' if whole else 'number'} lies between {low} and {high}")
    return lambda draw: (low + high) / 2


def _multiple(times: int, step: float, whole: bool) -> int | float:
    value = times * step
    return int(value) if whole else round(value, 10)


_PRINTABLE = [chr(code) for code in range(32, 127)]
_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdigit,
    "CATEGORY_NOT_DIGIT": lambda char: not char.isdigit(),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": lambda char: not char.isspace(),
    "CATEGORY_WORD": lambda char: char.isalnum() or char == "_",
    "CATEGORY_NOT_WORD": lambda char: not (char.isalnum() or char == "_"),
}
_MANY = 8
"""How often more than the least an open repetition in a regular expression is repeated at most."""


def _regex_of_names(schema: dict[str, Any]) -> Callable[[Random], str]:
    names = schema.get("propertyNames")
    pattern = names.get("pattern") if isinstance(names, dict) else None
    return compile_regex(str(pattern or "[a-z]{4,8}_[0-9]{1,3}"))


def _check_regex(parsed: Any, pattern: str) -> None:
    for operation, argument in parsed:
        if str(operation) in ("ASSERT", "ASSERT_NOT", "GROUPREF_EXISTS"):
            raise SchemaError(f"regular expression {pattern!r} looks ahead or behind, which is not supported")
        for part in argument if isinstance(argument, tuple) else (argument,):
            if isinstance(part, _parser.SubPattern):
                _check_regex(part, pattern)
            elif isinstance(part, list):
                for branch in part:
                    if isinstance(branch, _parser.SubPattern):
                        _check_regex(branch, pattern)


def _from_regex(parsed: Any, rng: Random, groups: dict[int, str]) -> str:
    return "".join(_from_operation(str(operation), argument, rng, groups) for operation, argument in parsed)


def _from_operation(operation: str, argument: Any, rng: Random, groups: dict[int, str]) -> str:
    match operation:
        case "LITERAL":
            return chr(argument)
        case "NOT_LITERAL":
            return rng.choice([char for char in _PRINTABLE if ord(char) != argument])
        case "ANY":
            return rng.choice(_PRINTABLE)
        case "IN":
            return rng.choice(_characters(argument))
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, body = argument
            times = rng.randint(least, min(int(most), least + _MANY))
            return "".join(_from_regex(body, rng, groups) for _ in range(times))
        case "SUBPATTERN":
            text = _from_regex(argument[3], rng, groups)
            if argument[0] is not None:
                groups[argument[0]] = text
            return text
        case "ATOMIC_GROUP":
            return _from_regex(argument, rng, groups)
        case "BRANCH":
            return _from_regex(rng.choice(argument[1]), rng, groups)
        case "GROUPREF":
            return groups[argument]
    # What is left, anchors and word boundaries, takes no characters.
    return ""


def _characters(items: Any) -> list[str]:
    negated = bool(items) and str(items[0][0]) == "NEGATE"
    chosen: set[str] = set()
    for operation, argument in items:
        match str(operation):
            case "LITERAL":
                chosen.add(chr(argument))
            case "RANGE":
                chosen.update(map(chr, range(argument[0], min(argument[1], argument[0] + 1000) + 1)))
            case "CATEGORY":
                chosen.update(filter(_CATEGORIES[str(argument)], _PRINTABLE))
    characters = [char for char in _PRINTABLE if char not in chosen] if negated else sorted(chosen)
    if not characters:
        raise SchemaError("a character class of the regular expression has no printable member")
    return characters
