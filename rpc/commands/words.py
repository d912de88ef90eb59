"""What went wrong, for somebody in a shell: what was found, and what to type.

A message of the library ends with what to do, behind its last "; ". Where it says that in Python, the words of a shell
take its place.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from rpc.errors import AccessDeniedError, BufferOverflowError, ConnectionError, LakehouseRpcError

KEY_HINT = "type --token KEY or set EVODB_TOKEN (`evodb up` prints a key, the admin makes more)"
PARENT_HINT = "`evodb up` starts a parent and prints its address"

_IN_A_SHELL = (
    (r"pass (the )?token=\S*", "type --token KEY or set EVODB_TOKEN"),
    (r"\. Rename it, or name the tables", "; rename it, or name the tables"),
    (r"name the tables to capture with tables=\[\.\.\.\]", "type --tables A,B to name those to capture"),
    (r"let them drain first, or give them up with detach\(force=True\)",
     "let `evodb capture` send them first, or type --detach --force to give them up"),
    (r"give the outbox a file of its own, or capture this database with SqliteCapture",
     "type another --outbox FILE, or capture this database by evodb capture"),
    (r"open it with keep_corrupt_aside=True, which renames it and begins with an empty one",
     "type another --outbox FILE"),
    (r"stop that one first, or give this child an outbox of its own",
     "stop that one first, or let it go on: it sends what this one would"),
)  # fmt: skip
_PYTHON = re.compile(r"\b[a-z_]+=\S|\b\w+\(")
"""What only somebody who writes Python can do."""
_SYSTEM = re.compile(r"(Multiple exceptions: )?\[Errno (\d+)\] .*")
"""How Python says that a call of the system failed, per address it tried."""


class Complaint(NamedTuple):
    error: str
    hint: str


def of(exc: BaseException) -> Complaint:
    """What this error says, and what to do about it."""
    if isinstance(exc, OSError):
        hint = f"let this user read it: chmod u+r {exc.filename}" if isinstance(exc, PermissionError) else ""
        return Complaint(f"{exc.filename or 'a file'}: {(exc.strerror or str(exc)).lower()}", hint)
    text = str(exc)
    if isinstance(exc, LakehouseRpcError):
        for python, shell in _IN_A_SHELL:
            text = re.sub(python, shell, text)
    error, _, hint = text.rpartition("; ")
    error, hint = (error, hint) if error else (hint, "")
    if isinstance(exc, LakehouseRpcError):
        hint = ", or ".join(way for way in hint.split(", or ") if not _PYTHON.search(way))
    if isinstance(exc, AccessDeniedError):
        hint = KEY_HINT
    elif isinstance(exc, ConnectionError):
        hint = hint or PARENT_HINT
    elif isinstance(exc, BufferOverflowError):
        hint = "let the parent take what waits, or free some space, and type the same again"
    return Complaint(plain(error), hint)


def plain(text: str) -> str:
    """A reason without what only Python says: its numbers, and the addresses a name stands for."""
    text = _SYSTEM.sub(lambda found: os.strerror(int(found[2])).lower(), text)
    return re.sub(r"\[Errno -\d+\] ", "", text)  # of looking up a name


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
