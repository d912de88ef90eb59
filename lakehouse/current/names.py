"""What a table of now is called: beside the namespace of its changes there is one of the same name below `current`.

Of `lake`, which need not be named, it is `current` alone. Pure.
"""

from __future__ import annotations

ROOT = "current"
DEFAULT = "lake"


def current_of(namespace: str) -> str:
    """`lake` has its tables of now in `current`, `eu` in `current.eu`."""
    return ROOT if namespace == DEFAULT else f"{ROOT}.{namespace}"


def changes_of(namespace: str) -> str | None:
    """The namespace whose tables of now are here; None when there are none."""
    if namespace == ROOT:
        return DEFAULT
    root, _, rest = namespace.partition(".")
    return rest if root == ROOT and rest and rest != DEFAULT else None
