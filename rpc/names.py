"""Which names and texts travel: one rule for the child that would send and the parent that would refuse them. Pure."""

from __future__ import annotations

import re

TABLE = re.compile(rb"(?!\.+\Z)[A-Za-z0-9_.\-]{1,255}\Z")
NAME_CHARS_MAX = 500


def is_table(name: bytes) -> bool:
    """Whether a table can have this name in the lake."""
    return TABLE.match(name) is not None


def is_name(value: str) -> bool:
    """Whether a child or a shard can be stored under this name.

    U+FFFD stands for something that could not be read (`surrogates`): two children might become one by it.
    """
    return 0 < len(value) <= NAME_CHARS_MAX and value.isprintable() and "\ufffd" not in value


def is_unicode(text: str) -> bool:
    """Not so is half a surrogate pair, which JSON writes as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def table_complaint(name: bytes) -> str:
    shown = name[:100].decode("utf-8", "backslashreplace")
    return f"table name {shown!r}, wanted 1 to 255 letters, digits, '_', '-' or '.'"
