"""Where things lie in a warehouse: folders named like namespaces and tables, and paths that stay inside. Pure.

A path that two readers understand differently is refused: dots, empty levels, and what a URL gives a meaning to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

ORDINARY = re.compile(r"[\w.@+=, -]+")
FOLDER_BYTES_MAX = 200
SHOWN_CHARS = 60
STRANGE = re.compile(r"[\x00-\x1f\x7f?#\\]")


def folder_of(name: str) -> str:
    """The folder of a namespace's level or of a table: its name, unless a URL or a disk would trip over it."""
    if ORDINARY.fullmatch(name) and name.strip(". ") and len(name.encode()) <= FOLDER_BYTES_MAX:
        return name
    readable = re.sub(r"[^\w.-]", "_", name)[: FOLDER_BYTES_MAX // 8]
    return f"{readable}-{sha256(name.encode()).hexdigest()[:16]}"


def join(base: str, names: Iterable[str]) -> str:
    return "/".join([base.rstrip("/"), *(folder_of(name) for name in names)])


def plain(location: str) -> str:
    """The one form of a location that can be compared. Raises ValueError, saying what is wrong with it."""
    path = re.sub(r"^file:(//)?(?=/(?!/))", "", location).rstrip("/")
    scheme, separator, rest = path.rpartition("://")
    levels = rest.split("/") if separator else rest.split("/")[1:]
    if not separator and not path.startswith("/"):
        raise ValueError(f"location {shown(location)} has no scheme and is no absolute path")
    if STRANGE.search(path) or "://" in scheme or any(level in {"", ".", ".."} for level in levels):
        raise ValueError(f"location {shown(location)} has an empty level, dots or characters no path should have")
    return path


def is_within(path: str, folder: str) -> bool:
    """Whether a plain path is this plain folder or lies below it."""
    return path == folder or path.startswith(f"{folder}/")


def overlap(one: str, other: str) -> bool:
    return is_within(one, other) or is_within(other, one)


def shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "...")
