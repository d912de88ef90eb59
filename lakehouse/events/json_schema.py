"""JSON Schema 2020-12 for events of one type. Pure: `jsonschema` knows the keywords, this knows what they may cost.

Nobody who writes a schema is trusted. It has bounds of size and depth, and refers to nothing beyond itself. Patterns
are RE2's, which takes time by the length of a text and never by a power of it. And what is asked of a batch is counted:
schemas that multiply themselves by `$ref` come to the end of that count, and not of our patience.

150 µs an event of 7 members with a schema of 12 keywords; no event of a type without a schema comes here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple

import orjson
import re2
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

DEPTH_MAX, PATTERN_CHARS_MAX = 32, 512
PATTERN_BYTES_MAX = 128 * 1024
"""What RE2 may take for one."""
PATTERNS_KEPT = 512
STEPS_OF_A_BATCH, STEPS_OF_AN_EVENT = 20_000, 500
"""A step is a keyword asked of a value, or one of its members; an event of 10 members takes about 100."""
CHARS_OF_A_STEP = 64
SAID_CHARS_MAX, SEEN_CHARS_MAX = 200, 60
DIALECT = "https://json-schema.org/draft/2020-12/schema"
WORDS_WITHOUT = {
    **dict.fromkeys(("$id", "$anchor", "$dynamicRef", "$dynamicAnchor"), "only $ref to a place in the same schema"),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), "additionalProperties, or items"),
}
"""Keywords that are not taken, and what is instead."""

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class BadSchema(ValueError):
    """`path: what was found, what was wanted`."""


class Wrong(NamedTuple):
    """Where an event is not as its schema says, as a JSON pointer, and how."""

    path: str
    message: str


class TooMuch(Exception):
    """More steps than a batch may take."""


class Steps:
    """What is left of them."""

    __slots__ = ("left",)

    def __init__(self, events: int) -> None:
        self.left = STEPS_OF_A_BATCH + STEPS_OF_AN_EVENT * events

    def take(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuch


def read(data: bytes) -> Any:
    """The schema that a text holds. Raises BadSchema; ValueError and RecursionError when it is no JSON."""
    schema = loads(data.decode())
    if not isinstance(schema, dict):
        raise BadSchema(": wanted an object")
    try:
        orjson.dumps(schema)
    except TypeError as exc:  # half a surrogate pair, an integer of more than 64 bits
        raise BadSchema(f": cannot be kept: {exc}") from None
    for path, node in _nodes(schema):
        _check(path, node)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as exc:
        raise BadSchema(f"{_pointer(exc.absolute_path)}: {_short(exc.message)}") from None
    _check_references(schema)
    if (wrong := Checker({"": schema}, events=1).wrong("", b"{}")) and wrong.message in ENDLESS:
        raise BadSchema(f": {wrong.message}")
    return schema


class Checker:
    """Asks the events of one batch, each of the schema of its type."""

    def __init__(self, schemas: Mapping[str, Any], *, events: int) -> None:
        self._schemas = schemas
        self._steps = Steps(events)
        self._validators: dict[str, Any] = {}

    def wrong(self, kind: str, event: bytes) -> Wrong | None:
        """The first that is wrong with an event of a type that has a schema."""
        if kind not in self._validators:
            self._validators[kind] = Validator(self._schemas[kind], registry=Registry())
        token = _steps.set(self._steps)
        try:
            error = next(self._validators[kind].iter_errors(loads(event)), None)
        except TooMuch:
            return Wrong("", MANY_STEPS)
        except RecursionError:
            return Wrong("", NO_END)
        except (ArithmeticError, ValueError) as exc:
            return Wrong("", _short(f"cannot be checked: {exc}"))
        finally:
            _steps.reset(token)
        return None if error is None else Wrong(_pointer(error.absolute_path), _short(error.message))


MANY_STEPS = "the schemas ask too much of these events; send fewer at once, or make them simpler"
NO_END = "the schema refers to itself without end"
ENDLESS = (MANY_STEPS, NO_END)


def _check(path: str, node: dict[str, Any]) -> None:
    """Raises BadSchema."""
    for word, instead in WORDS_WITHOUT.items():
        if isinstance(node.get(word), str) or (word.startswith("unevaluated") and word in node):
            raise BadSchema(f"{path}/{word}: is not supported, wanted {instead}")
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise BadSchema(f"{path}/$ref: is {reference[:60]!r}, wanted a place in the same schema, such as #/$defs/x")
    dialect = node.get("$schema")
    if isinstance(dialect, str) and dialect.rstrip("#") != DIALECT:
        raise BadSchema(f"{path}/$schema: is {dialect[:60]!r}, wanted {DIALECT}")
    patterns = [node["pattern"]] if isinstance(node.get("pattern"), str) else []
    several = node.get("patternProperties")
    for pattern in [*patterns, *(several if isinstance(several, dict) else ())]:
        try:
            _pattern(pattern)
        except (re2.error, ValueError) as exc:
            why = exc.args[0].decode("utf-8", "replace") if isinstance(exc.args[0], bytes) else str(exc)
            said = f"is {pattern[:60]!r}, wanted one of RE2, without look-around and back-references: {_short(why)}"
            raise BadSchema(f"{path}/pattern: {said}") from None


def _check_references(schema: dict[str, Any]) -> None:
    """Each leads to a schema. Raises BadSchema."""
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    known = {id(schema)}  # a thousand may refer to all of it
    for path, node in _nodes(schema):
        if isinstance(node.get("$ref"), str):
            try:
                found = resolver.lookup(node["$ref"]).contents
                if id(found) not in known:
                    Draft202012Validator.check_schema(found)
                    known.add(id(found))
            except (Unresolvable, SchemaError, ValueError, LookupError, TypeError, AttributeError):
                raise BadSchema(f"{path}/$ref: {node['$ref'][:60]!r} leads to no schema") from None


def _nodes(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All objects, with their places. Raises BadSchema for one too deep."""
    waiting: list[tuple[str, Any, int]] = [("", schema, 1)]
    while waiting:
        path, node, depth = waiting.pop()
        if depth > DEPTH_MAX:
            raise BadSchema(f": is deeper than {DEPTH_MAX} levels")
        if isinstance(node, dict):
            yield path, node
            waiting += [(f"{path}/{name[:60]}", inner, depth + 1) for name, inner in node.items()]
        elif isinstance(node, list):
            waiting += [(f"{path}/{index}", inner, depth + 1) for index, inner in enumerate(node)]


def _number(text: str) -> int | float:
    """1.0 is 1, as JSON Schema has it; so values may be compared as texts."""
    found = float(text)
    return int(found) if found.is_integer() else found


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def loads(data: bytes | str) -> Any:
    return json.loads(data, parse_float=_number, parse_constant=_no_constant)


@lru_cache(maxsize=PATTERNS_KEPT)
def _pattern(text: str) -> Any:
    """Raises re2.error or ValueError."""
    if len(text) > PATTERN_CHARS_MAX:
        raise ValueError(f"it has {len(text)} characters, at most {PATTERN_CHARS_MAX} are taken")
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES_MAX, False
    return re2.compile(text, options)


def _fits(pattern: str, text: str) -> bool:
    return _pattern(pattern).search(text) is not None


def _text(value: Any) -> bytes:
    """Equal values have equal texts."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(value, sort_keys=True).encode()


def _is_in(_: Any, values: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    text = _text(instance)
    if all(_text(value) != text for value in values):
        yield ValidationError(f"{_seen(instance)} is not one of {values!r}")


def _is_it(_: Any, value: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if _text(instance) != _text(value):
        yield ValidationError(f"{value!r} was expected")


def _are_unique(_: Any, wanted: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(instance, list) and len({_text(item) for item in instance}) < len(instance):
        yield ValidationError(f"{_seen(instance)} has non-unique elements")


def _has_pattern(_: Any, pattern: Any, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _fits(pattern, instance):
        yield ValidationError(f"{_seen(instance)} does not match {pattern!r}")


def _by_pattern(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[ValidationError]:
    for pattern, schema in patterns.items() if isinstance(instance, dict) else ():
        for name, value in instance.items():
            if _fits(pattern, name):
                yield from validator.descend(value, schema, path=name, schema_path=pattern)


def _beyond(validator: Any, schema: Any, instance: Any, whole: Any) -> Iterator[ValidationError]:
    """additionalProperties: of those that neither `properties` names nor a pattern fits."""
    if not isinstance(instance, dict):
        return
    known, patterns = whole.get("properties", {}), whole.get("patternProperties", {})
    for name, value in instance.items():
        if name in known or any(_fits(pattern, name) for pattern in patterns):
            continue
        if schema is False:
            yield ValidationError(f"{_seen(name)} is not expected")
        else:
            yield from validator.descend(value, schema, path=name)


def _counted(word: str, keyword: Keyword) -> Keyword:
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        steps = _steps.get()
        steps.take(_cost(word, value, instance, schema))
        for error in keyword(validator, value, instance, schema) or ():
            steps.take(len(error.message) // CHARS_OF_A_STEP)
            yield error

    return check


def _cost(word: str, value: Any, instance: Any, schema: Any) -> int:
    members = len(instance) if isinstance(instance, dict | list) else 0
    if word == "patternProperties":
        return 1 + members * len(value)
    if word == "additionalProperties":
        return 1 + members * (1 + len(schema.get("patternProperties", ())))
    if word in ("enum", "const", "uniqueItems"):
        members += sum(len(_text(one)) for one in (value, instance)) // CHARS_OF_A_STEP
    chars = len(instance) // CHARS_OF_A_STEP if isinstance(instance, str) else 0
    return 1 + members + chars + (len(value) // 4 if isinstance(value, dict | list) else 0)


def _pointer(path: Any) -> str:
    """A JSON pointer (RFC 6901)."""
    return _short("".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path))


def _short(text: str, chars_max: int = SAID_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."


def _seen(value: Any) -> str:
    return _short(repr(value), SEEN_CHARS_MAX)


OURS: dict[str, Keyword] = {
    "enum": _is_in,
    "const": _is_it,
    "uniqueItems": _are_unique,
    "pattern": _has_pattern,
    "patternProperties": _by_pattern,
    "additionalProperties": _beyond,
}
KEYWORDS = {word: _counted(word, OURS.get(word, known)) for word, known in Draft202012Validator.VALIDATORS.items()}
Validator: Any = extend(Draft202012Validator, KEYWORDS)
_steps: ContextVar[Steps] = ContextVar("steps")
