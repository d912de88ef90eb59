"""Rows of a file as entries, one by one, in the memory of one line. Knows neither where they come from nor where to."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from rpc.entries import U16_MAX, RawEntry, dump_value, load_value
from rpc.outbox_rows import ENTRY_BYTES_MAX

DELETE = 2


class BadLineError(Exception):
    """A line that is no row. The message begins with its number."""


def read(
    stream: BinaryIO, *, is_csv: bool, table: str, operation: int, keys: Sequence[str] | None
) -> Iterator[RawEntry]:
    """The entries of a stream. Raises BadLineError where it ends to make sense."""
    for number, row, text in _csv(stream) if is_csv else _json_lines(stream):
        try:
            named = _row_id(row, keys)
        except KeyError as exc:
            raise BadLineError(f"line {number} has no column {exc.args[0]!r}, which --key names") from None
        if len(named) > U16_MAX or len(text) > ENTRY_BYTES_MAX - U16_MAX:
            raise BadLineError(f"line {number} is too large: {len(text)} bytes and a key of {len(named)}")
        before, after = (text, b"") if operation == DELETE else (b"", text)
        yield RawEntry(0, time.time_ns() // 1_000_000, operation, table.encode(), named, before, after)


def _json_lines(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    for number, line in enumerate(stream, 1):
        text = line.strip()
        if not text:
            continue
        try:
            row = load_value(text)
        except (ValueError, RecursionError) as exc:
            raise BadLineError(f"line {number} is not JSON: {exc}") from None
        if not isinstance(row, dict):
            raise BadLineError(f"line {number} is a JSON {type(row).__name__}, wanted an object of columns")
        yield number, row, text


def _csv(stream: BinaryIO) -> Iterator[tuple[int, dict[str, Any], bytes]]:
    reader = csv.reader(_lines(stream), strict=True)
    names: list[str] | None = None
    try:
        for values in reader:
            if names is None:
                names = values
            elif values and len(values) != len(names):
                raise BadLineError(f"line {reader.line_num} has {len(values)} values, wanted {len(names)} as in line 1")
            elif values:
                row = dict(zip(names, values, strict=True))
                yield reader.line_num, row, dump_value(row)
    except csv.Error as exc:
        raise BadLineError(f"line {reader.line_num} is not CSV: {exc}") from None


def _lines(stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise BadLineError(f"line {number} is not UTF-8: {exc.reason} at byte {exc.start}") from None


def _row_id(row: dict[str, Any], keys: Sequence[str] | None) -> bytes:
    """As capture names a row: the value of its key as text, a JSON array of several."""
    if keys is None:
        return _text(row["id"]) if "id" in row else b""
    if len(keys) == 1:
        return _text(row[keys[0]])
    return dump_value([row[key] for key in keys])


def _text(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else dump_value(value)
