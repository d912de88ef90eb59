"""How a row of the settings' table is written: default, unit, why and, where some values cannot work, a check."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

HOST = re.compile(r"\*|\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\]")
MISTYPED_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/?[^/]")
"""As `s3:/bucket` is, and no folder anybody means."""
LARGEST = {"days": 36_500, "hours": 876_000, "ms": 9_000_000_000_000}
LARGEST_OF_ALL = 2**53 - 1
SECRET_CHARS_MIN = 32


def setting(default: Any, *, unit: str, why: str, check: Callable[[Any], bool] | None = None, wanted: str = "") -> Any:
    """One row of the table. `check` says whether a value can work, `wanted` says in words what would."""
    return field(default=default, metadata={"unit": unit, "why": why, "check": check, "wanted": wanted})


def at_least(low: int) -> Any:
    return {"check": lambda value: value >= low, "wanted": f"a whole number of at least {low}"}


def between(low: int, high: int) -> Any:
    return {"check": lambda value: low <= value <= high, "wanted": f"a whole number from {low} to {high}"}


def share() -> Any:
    return {"check": lambda value: 0 < value <= 1, "wanted": "a number above 0 and at most 1"}


def one_of(*names: str) -> Any:
    return {"check": lambda value: value in names, "wanted": f"one of {', '.join(names)}"}


def url_of(*schemes: str) -> Any:
    return {
        "check": lambda value: not value or value.startswith(tuple(f"{scheme}://" for scheme in schemes)),
        "wanted": f"nothing, or a URL beginning with {' or '.join(f'{scheme}://' for scheme in schemes)}",
    }


def broker() -> Any:
    """Any that Celery knows; a host alone would be a RabbitMQ of that name, which nobody meant."""
    return {
        "check": lambda value: not value or "://" in value,
        "wanted": "nothing, or a URL such as redis://host/0 or amqp://host",
    }


def database() -> Any:
    """A URL that names a database, or the file of one."""
    found = url_of("postgresql", "postgres", "sqlite")
    return {"check": lambda value: found["check"](value) and _names_a_database(value), "wanted": found["wanted"]}


def place(*schemes: str, empty: str) -> Any:
    """A folder, or a URL of one of these."""
    return {
        "check": lambda value: _is_place(value, schemes),
        "wanted": f"{empty}a folder, or a URL beginning with {' or '.join(f'{scheme}://' for scheme in schemes)}",
    }


def hosts() -> Any:
    return {
        "check": lambda value: all(HOST.fullmatch(item) for item in listed(value)),
        "wanted": "names without scheme and port, such as evodb.example.com,.example.com or *",
    }


def secret() -> Any:
    return {
        "check": lambda value: not value or len(value) >= SECRET_CHARS_MIN,
        "wanted": f"nothing, or at least {SECRET_CHARS_MIN} characters",
    }


def largest(unit: str) -> int:
    """No number is larger: it would not fit a moment, or the database."""
    return LARGEST.get(unit, LARGEST_OF_ALL)


def networks(*words: str) -> Any:
    """Networks by their CIDR, addresses, and these words."""
    return {
        "check": lambda value: all(_is_network(item) or item in words for item in listed(value)),
        "wanted": " or ".join(["nothing", *words, "networks and addresses such as 10.0.0.0/8,::1"]),
    }


def listed(text: str) -> list[str]:
    """The items of a comma-separated setting."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _names_a_database(value: str) -> bool:
    if not value:
        return True
    try:
        found = urlsplit(value)
        _ = found.port
    except ValueError:
        return False
    return bool(found.path.strip("/")) or "service=" in found.query


def _is_place(value: str, schemes: tuple[str, ...]) -> bool:
    scheme, is_url, rest = value.partition("://")
    return scheme in schemes and not rest.startswith("/") and rest != "" if is_url else not MISTYPED_URL.match(value)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
