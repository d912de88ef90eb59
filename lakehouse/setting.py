"""How a row of the settings' table is written: default, unit, why and, where some values cannot work, a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from ipaddress import ip_network
from typing import Any


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


def networks(*words: str) -> Any:
    """Networks by their CIDR, addresses, and these words."""
    return {
        "check": lambda value: all(_is_network(item) or item in words for item in listed(value)),
        "wanted": " or ".join(["nothing", *words, "networks and addresses such as 10.0.0.0/8,::1"]),
    }


def listed(text: str) -> list[str]:
    """The items of a comma-separated setting."""
    return [item.strip() for item in text.split(",") if item.strip()]


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True
