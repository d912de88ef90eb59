"""What a subscription may ask for: which pattern, which target, how many at once.

A complaint says what was found and what was wanted, by the name of the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from lakehouse.subscriptions import guard, patterns
from lakehouse.subscriptions.guard import Network

NAME_CHARS_MAX = 100
TARGET_CHARS_MAX = 2000
TABLE_CHARS_MAX = 500
BATCH_EVENTS_MAX = 1000
BATCH_MS_MAX = 10_000
ATTEMPTS_MAX = 20
OURS = ("lakehouse", "celery", "evodb_site")
"""Tasks that begin like this are never a target: they would be done with words of strangers."""
LOCAL = ("127.0.0.1", "::1")
"""Where `localhost` is, without asking anybody."""
_GROUP = re.compile(r"[A-Za-z0-9._-]{1,60}\Z")
_UNFIT = re.compile("[\0\ud800-\udfff]")
_TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\Z")
_NUMBERS = {"attempts_max": (1, ATTEMPTS_MAX), "batch_events": (1, BATCH_EVENTS_MAX), "batch_ms": (1, BATCH_MS_MAX)}


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows: networks that are not public, and Celery tasks by name, * for any text."""

    networks: tuple[Network, ...] = ()
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, networks: Iterable[str], tasks: Iterable[str]) -> Allowed:
        return cls(guard.networks(networks), tuple(tasks))


def complaints(fields: Mapping[str, Any], allowed: Allowed) -> dict[str, str]:
    """What is wrong, by field. What is not among the fields is not asked about."""
    found: dict[str, str | None] = {}
    if "name" in fields:
        found["name"] = _of_name(fields["name"])
    if "pattern" in fields:
        found["pattern"] = patterns.complaint(fields["pattern"])
    if "table" in fields:
        found["table"] = _of_table(fields["table"])
    if "target" in fields:
        found["target"] = of_target(fields.get("target_kind", "webhook"), fields["target"], allowed)
    for name, (low, high) in _NUMBERS.items():
        value = fields.get(name)
        if value is not None and not low <= value <= high:
            found[name] = f"{name} is {value}, wanted {low} to {high}"
    return {name: text for name, text in found.items() if text is not None}


def of_target(kind: str, target: str, allowed: Allowed) -> str | None:
    if len(target) > TARGET_CHARS_MAX:
        return f"target has {len(target)} characters, wanted at most {TARGET_CHARS_MAX}"
    if kind == "webhook":
        return _of_url(target, allowed)
    if kind == "celery":
        return _of_task(target, allowed)
    if kind == "channels":
        return None if _GROUP.match(target) else f"target is {target[:60]!r}, wanted 1 to 60 letters, digits, . - or _"
    return f"target kind is {kind[:60]!r}, wanted webhook, celery or channels"


def _of_name(name: str) -> str | None:
    if 1 <= len(name) <= NAME_CHARS_MAX and name.isprintable() and name.strip():
        return None
    return f"name is {name[:60]!r}, wanted 1 to {NAME_CHARS_MAX} printable characters"


def is_storable(text: str) -> bool:
    """Whether every database takes it."""
    return _UNFIT.search(text) is None


def _of_table(table: str) -> str | None:
    if len(table) <= TABLE_CHARS_MAX and is_storable(table):
        return None
    return f"table is {table[:60]!r}, wanted at most {TABLE_CHARS_MAX} characters, none of them NUL or half a pair"


def _of_url(target: str, allowed: Allowed) -> str | None:
    shown = repr(target[:100])
    if not target.isascii() or not target.isprintable() or " " in target:
        return f"target is {shown}, wanted a URL of printable ASCII characters"
    try:
        parts = urlsplit(target)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        return f"target is {shown}, which is no URL: {exc}"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return f"target is {shown}, wanted a URL such as https://example.com/hook"
    if parts.username is not None or parts.password is not None:
        return "target has a user in its URL; put what proves you into its path or query"
    known = LOCAL if host == "localhost" else (host,) if guard.is_address(host) else ()
    if known and not any(guard.is_allowed(one, allowed.networks) for one in known):
        return f"target is at {known[0]}, which is no public address; {guard.how_to_allow(known[0])}"
    return None


def _of_task(target: str, allowed: Allowed) -> str | None:
    if not _TASK.match(target):
        return f"target is {target[:60]!r}, wanted the name of a Celery task such as shop.tasks.on_event"
    if target.partition(".")[0] in OURS or not any(fnmatchcase(target, pattern) for pattern in allowed.tasks):
        return (
            f"target is the task {target!r}, which is not allowed; an operator allows tasks by EVODB_SUBSCRIPTION_TASKS"
        )
    return None
