"""The keywords of JSON Schema, and what each costs: patterns of RE2, values compared as texts, steps counted. Pure.

`jsonschema` knows what a keyword means. Ours are those that would take a time by a power of what is asked: they say the
same, in time by its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import orjson
import re2
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

PATTERN_CHARS_MAX = 512
PATTERN_BYTES_MAX = 128 * 1024
"""What RE2 may take for one."""
PATTERNS_KEPT = 512
STEPS_OF_A_BATCH, STEPS_OF_AN_EVENT = 20_000, 500
"""A step is a keyword asked of a value, or one of its members; an event of 10 members takes about 100."""
CHARS_OF_A_STEP = 64
NESTED_MAX = 150
"""Keywords within keywords: before Python's stack ends, for `rpds` panics where it does."""
SAID_CHARS_MAX, SEEN_CHARS_MAX = 200, 60

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class TooMuch(Exception):
    """More steps than a batch may take."""


class Steps:
    """What is left of them, and within how many keywords we are."""

    __slots__ = ("left", "nested")

    def __init__(self, events: int) -> None:
        self.left = STEPS_OF_A_BATCH + STEPS_OF_AN_EVENT * events
        self.nested = 0

    def take(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuch


@lru_cache(maxsize=PATTERNS_KEPT)
def compiled(text: str) -> Any:
    """Raises re2.error or ValueError."""
    if len(text) > PATTERN_CHARS_MAX:
        raise ValueError(f"it has {len(text)} characters, at most {PATTERN_CHARS_MAX} are taken")
    options = re2.Options()
    options.max_mem, options.log_errors = PATTERN_BYTES_MAX, False
    return re2.compile(text, options)


def _fits(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text) is not None


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
        left = steps.get()
        left.take(_cost(word, value, instance, schema))
        if left.nested >= NESTED_MAX:
            raise RecursionError
        left.nested += 1
        try:
            for error in keyword(validator, value, instance, schema) or ():
                left.take(len(error.message) // CHARS_OF_A_STEP)
                yield error
        finally:
            left.nested -= 1

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


def short(text: str, chars_max: int = SAID_CHARS_MAX) -> str:
    return text if len(text) <= chars_max else f"{text[:chars_max]}..."


def _seen(value: Any) -> str:
    return short(repr(value), SEEN_CHARS_MAX)


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
steps: ContextVar[Steps] = ContextVar("steps")
"""Of the batch that is asked about."""
