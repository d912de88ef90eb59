"""From what a trigger can write to what may travel. Pure.

A trigger writes a BLOB as {"$blob": hex} and copies any bytes that a TEXT holds. On the wire a BLOB is base64 text and
the metadata names its columns, and apart from those the columns of `after` where only `before` has bytes in some; text
is UTF-8; a key longer than the wire allows is its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re

from rpc.entries import U16_MAX, RawEntry, dump_value

MARKER = b'{"$blob":"'
SNAPSHOT = b'{"snapshot": true}'
"""Metadata of the rows that a snapshot writes, as triggers would."""
_BLOB = re.compile(rb'(?<=:)\{"\$blob":"([0-9A-F]*)"\}')
"""As a value: a row of one text in a column of this name looks alike."""
NOT_OURS = b"{}"
"""Metadata that keeps `travelling` away from an entry no trigger wrote."""


def travelling(entries: list[RawEntry]) -> list[RawEntry]:
    """These entries as they travel. Those with metadata not ours come from somewhere else and stay as they are."""
    if all(map(_is_clean, entries)):
        return entries
    return [entry if not _is_ours(entry) or _is_clean(entry) else _mended(entry) for entry in entries]


def protected(entry: RawEntry) -> RawEntry:
    """An entry no trigger wrote, so that `travelling` leaves it alone."""
    return entry if entry.metadata else entry._replace(metadata=NOT_OURS)


def short_name(row_id: bytes) -> bytes:
    """The name of a row as the wire allows it."""
    return row_id if len(row_id) <= U16_MAX else b"sha256:" + hashlib.sha256(row_id).hexdigest().encode()


def _is_ours(entry: RawEntry) -> bool:
    return not entry.metadata or entry.metadata == SNAPSHOT


def _is_clean(entry: RawEntry) -> bool:
    if MARKER in entry.after or MARKER in entry.before or len(entry.row_id) > U16_MAX:
        return False
    try:
        b"\n".join((entry.row_id, entry.before, entry.after)).decode()
    except UnicodeDecodeError:
        return False
    return True


def _mended(entry: RawEntry) -> RawEntry:
    texts = (entry.row_id, entry.before, entry.after)
    row_id, before, after = (text.decode(errors="replace").encode() for text in texts)
    metadata: dict[str, object] = json.loads(entry.metadata) if entry.metadata else {}
    before_blobs, after_blobs = _blob_columns(before), _blob_columns(after)
    if blobs := list(dict.fromkeys(before_blobs + after_blobs)):
        metadata["blobs"] = blobs
    if after and _are_texts(after, set(blobs) - set(after_blobs)):
        metadata["blobs_after"] = after_blobs
    return entry._replace(
        row_id=short_name(entry.row_id) if len(row_id) > U16_MAX else row_id,
        before=_BLOB.sub(_base64, before),
        after=_BLOB.sub(_base64, after),
        metadata=dump_value(metadata) if metadata else b"",
    )


def _blob_columns(text: bytes) -> list[str]:
    if MARKER not in text:
        return []
    return [column for column, value in json.loads(text).items() if isinstance(value, dict)]


def _are_texts(text: bytes, columns: set[str]) -> bool:
    """Whether any of these columns is a text here, which nobody may take for bytes."""
    return bool(columns) and any(isinstance(json.loads(text).get(column), str) for column in columns)


def _base64(match: re.Match[bytes]) -> bytes:
    return b'"' + base64.b64encode(bytes.fromhex(match[1].decode())) + b'"'
