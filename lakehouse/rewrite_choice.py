"""What EVODB_REWRITE_ENGINE may say, and what it needs to be installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
PACKAGES = ("daft", "ray")


def engines() -> Any:
    """The check, as a row of the settings' table has it."""
    return {"check": lambda value: value in ENGINES, "wanted": " or ".join(ENGINES)}


def complaint(engine: str) -> str | None:
    """Why this engine cannot work here, or None."""
    missing = [name for name in PACKAGES if engine == RAY and find_spec(name) is None]
    if not missing:
        return None
    return (
        f"EVODB_REWRITE_ENGINE is {engine} and {' and '.join(missing)} cannot be imported; "
        f"type: pip install 'evodb[server,ray]', or say {LOCAL}"
    )
