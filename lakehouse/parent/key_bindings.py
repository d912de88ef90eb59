"""What an operator decides about a key, checked before anything is stored, whichever way it comes in.

Every check says what was found and what was wanted, and returns the value as its column keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.core.exceptions import ValidationError

from lakehouse.key_limits import KeyLimits
from lakehouse.models.access import KeyPriority, patterns_of, validate_patterns
from lakehouse.parent.grants import SCOPES

NAME_CHARS_MAX = 100


def bindings(
    *,
    name: str,
    scopes: Iterable[str],
    source_pattern: str | Iterable[str],
    parents: str | Iterable[str],
    namespaces: str | Iterable[str],
    priority: str,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    """The columns of a key that an operator decides about, checked. Raises ValueError."""
    return {
        "name": _checked_name(name),
        "scopes": checked_scopes(scopes),
        "source_pattern": _checked_patterns("source", source_pattern),
        "parents": _checked_patterns("parent", parents),
        "namespaces": _checked_patterns("namespace", namespaces),
        "priority": checked_priority(priority),
        "limits": _checked_limits(limits),
    }


def _checked_name(name: str) -> str:
    found = name.strip()
    if not 0 < len(found) <= NAME_CHARS_MAX or not found.isprintable():
        raise ValueError(f"the name is {name[:60]!r}, wanted 1 to {NAME_CHARS_MAX} printable characters")
    return found


def checked_scopes(scopes: Iterable[str]) -> list[str]:
    found = list(scopes)
    if not found or (unknown := sorted(set(found) - set(SCOPES))):
        raise ValueError(f"scopes are {unknown if found else found}, wanted some of {', '.join(SCOPES)}")
    return list(dict.fromkeys(found))


def _checked_patterns(what: str, patterns: str | Iterable[str]) -> str:
    """As the column keeps them. A single text may hold several, one in each line; one of a list may not."""
    listed = patterns_of(patterns) if isinstance(patterns, str) else tuple(patterns)
    if broken := [pattern for pattern in listed if len(pattern.splitlines()) > 1]:
        raise ValueError(f"{what} pattern {broken[0][:60]!r} has a line break, which no name can have")
    text = "\n".join(listed)
    try:
        validate_patterns(text)
    except ValidationError as exc:
        raise ValueError(f"{what} patterns: {exc.messages[0]}") from None
    return "\n".join(patterns_of(text))


def checked_priority(priority: str) -> str:
    if priority not in KeyPriority.values:
        raise ValueError(f"priority is {priority!r}, wanted {' or '.join(KeyPriority.values)}")
    return str(priority)


def _checked_limits(limits: Mapping[str, Any]) -> dict[str, Any]:
    KeyLimits.of(limits)
    return {name: value for name, value in limits.items() if value is not None}
