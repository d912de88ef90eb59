"""What the parent and the process of one query say to each other: length and msgpack, one after the other.

    parent  Job ───────────▶ ◀──── Wanted  process          ◀──── Failure, whenever it ends here
            Found ─────────▶ ◀──── Answer

The process is told what it may have and where the tables are, for it knows no catalog.
"""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import msgspec

LENGTH = struct.Struct(">I")
TALK_BYTES_MAX = 4 * 1024 * 1024
"""A message of either side without the bytes of an answer."""

COMMAND = struct.Struct(">cI")
FORK, KILL = b"F", b"K"
"""To the fork server: serve a query at the socket that comes with this; kill this process."""
READY = b"."
"""From it, once."""
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

T = TypeVar("T")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    timeout_ms: int
    memory_bytes_max: int
    temp_bytes_max: int
    temp_folder: str
    threads: int
    rows_max: int
    bytes_max: int


class Job(msgspec.Struct, frozen=True, kw_only=True):
    sql: str
    parameters: list[Any] | dict[str, Any]
    namespace: str
    """Of tables that are named without one."""
    as_of: str
    """A time or the id of a snapshot, for all tables that name none themselves; empty: now."""
    format: str
    limits: Limits


class Name(msgspec.Struct, frozen=True):
    """A table as the query calls it."""

    namespace: str
    table: str


class Rows(msgspec.Struct, frozen=True):
    """A table that is no files: its columns with DuckDB's types, and a JSON array of objects. Moments are in ms."""

    columns: dict[str, str]
    json: str


class Place(msgspec.Struct, frozen=True):
    """A table as the catalog calls it, and its newest metadata file; or what it holds."""

    namespace: str
    table: str
    metadata_location: str
    rows: Rows | None = None


class Hello(msgspec.Struct, frozen=True, tag=True):
    pid: int


class Wanted(msgspec.Struct, frozen=True, tag=True):
    names: list[Name]


class Column(msgspec.Struct, frozen=True):
    name: str
    type: str


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    columns: list[Column]
    rows: int
    cut_at: str
    """What the answer had too many of, `rows` or `bytes`; empty: it is whole."""
    elapsed_ms: int
    body: bytes
    """The rows: a JSON array, CSV or an Arrow stream."""


class Failure(msgspec.Struct, frozen=True, tag=True):
    code: str
    text: str
    detail: str = ""
    """For the log."""


Said = Hello | Wanted | Answer | Failure
_encoder = msgspec.msgpack.Encoder()
said = msgspec.msgpack.Decoder(Said)


def framed(message: Any) -> bytes:
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


def read(data: bytes, kind: type[T]) -> T:
    return msgspec.msgpack.decode(data, type=kind)
