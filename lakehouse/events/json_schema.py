"""JSON Schema 2020-12 for events of one type: what may be one, and asking it. Pure.

Nobody who writes a schema is trusted. It has bounds of size and depth, and refers to nothing beyond itself. Patterns
are RE2's, and what is asked of a batch is counted (`json_keywords`): schemas that multiply themselves by `$ref` come to
the end of that count, and not of our patience.

150 µs an event of 7 members with a schema of 12 keywords; no event of a type without a schema comes here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
import re2
from jsonschema import Draft202012Validator, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from lakehouse.events.json_keywords import Steps, TooMuch, Validator, compiled, short, steps

DEPTH_MAX = 32
DIALECT = "https://json-schema.org/draft/2020-12/schema"
WORDS_WITHOUT = {
    **dict.fromkeys(("$id", "$anchor", "$dynamicRef", "$dynamicAnchor"), "only $ref to a place in the same schema"),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), "additionalProperties, or items"),
}
"""Keywords that are not taken, and what is instead."""


class BadSchema(ValueError):
    """`path: what was found, what was wanted`."""


class Wrong(NamedTuple):
    """Where an event is not as its schema says, as a JSON pointer, and how."""

    path: str
    message: str


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
        raise BadSchema(f"{_pointer(exc.absolute_path)}: {short(exc.message)}") from None
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
        token, self._steps.nested = steps.set(self._steps), 0
        try:
            error = next(self._validators[kind].iter_errors(loads(event)), None)
        except TooMuch:
            return Wrong("", MANY_STEPS)
        except RecursionError:
            return Wrong("", NO_END)
        except (ArithmeticError, ValueError) as exc:
            return Wrong("", short(f"cannot be checked: {exc}"))
        finally:
            steps.reset(token)
        return None if error is None else Wrong(_pointer(error.absolute_path), short(error.message))


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
            compiled(pattern)
        except (re2.error, ValueError) as exc:
            why = exc.args[0].decode("utf-8", "replace") if isinstance(exc.args[0], bytes) else str(exc)
            said = f"is {pattern[:60]!r}, wanted one of RE2, without look-around and back-references: {short(why)}"
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


def _pointer(path: Any) -> str:
    """A JSON pointer (RFC 6901)."""
    return short("".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path))
