"""Lines as entries, one by one, in the memory of one row. Knows neither where they come from nor where to."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rpc.commands.lines import LINE_BYTES_MAX, BadLineError, Lines
from rpc.entries import DELETE, U16_MAX, RawEntry, dump_value, load_value
from rpc.outbox_rows import ENTRY_BYTES_MAX

SHOWN_BYTES = 40
"""What is shown of a line that cannot be read."""
DELIMITERS = {";": "';'", "\t": r"$'\t'", "|": "'|'"}
"""What else separates columns, and how a shell takes it."""
Row = tuple[int, dict[str, Any], bytes]
"""The number of its first line, its columns, and its text as JSON."""


class Shape(NamedTuple):
    """What the lines are. `keys` are the columns that name a row; `delimiter` is None for lines of JSON."""

    table: str
    operation: int = 0
    keys: Sequence[str] | None = None
    delimiter: str | None = None


def read(lines: Lines, shape: Shape, *, first: int = 1) -> Iterator[RawEntry]:
    """The entries of these lines, from line `first` on. Raises BadLineError where they end to make sense."""
    found = _json_lines(lines, first) if shape.delimiter is None else _csv(lines, shape, first)
    table = shape.table.encode()
    for number, row, text in found:
        try:
            named = _row_id(row, shape.keys)
        except KeyError as exc:
            raise BadLineError(number, f"has no column {exc.args[0]!r}, which --key names") from None
        if len(named) > U16_MAX or len(text) > ENTRY_BYTES_MAX - U16_MAX:
            raise BadLineError(
                number, f"is too large: {len(text)} bytes and a key of {len(named)}",
                hint=f"shorten it, or pass it over with --from-line {number + 1}",
            )  # fmt: skip
        before, after = (text, b"") if shape.operation == DELETE else (b"", text)
        yield RawEntry(0, time.time_ns() // 1_000_000, shape.operation, table, named, before, after)


def _json_lines(lines: Lines, first: int) -> Iterator[Row]:
    for line in lines:
        text = line.strip()
        if not text or lines.number < first:
            continue
        try:
            row = load_value(text)
        except (ValueError, RecursionError) as exc:
            raise BadLineError(lines.number, f"is not JSON: {_reason(exc)} {_shown(text)}", hint=_meant(text)) from None
        if not isinstance(row, dict):
            complaint = f"is a JSON {type(row).__name__}, wanted an object of columns {_shown(text)}"
            raise BadLineError(lines.number, complaint, hint=_meant(text))
        yield lines.number, row, text


def _csv(lines: Lines, shape: Shape, first: int) -> Iterator[Row]:
    csv.field_size_limit(LINE_BYTES_MAX)
    reader = csv.reader(_texts(lines), strict=True, delimiter=shape.delimiter or ",")
    names: list[str] | None = None
    number = 1
    try:
        for values in reader:
            if values and names is None:
                names = _names(values, number, shape.keys)
            elif values and names and number >= first:
                if len(values) != len(names):
                    raise BadLineError(number, f"has {len(values)} values, wanted {len(names)} as in the first line")
                row = dict(zip(names, values, strict=True))
                yield number, row, dump_value(row)
            number = lines.number + 1
    except csv.Error as exc:
        raise BadLineError(number, f"is not CSV: {exc}") from None


def _names(values: list[str], number: int, keys: Sequence[str] | None) -> list[str]:
    """The columns of a CSV file, from its first line."""
    if len(values) == 1:
        for sign in filter(values[0].__contains__, DELIMITERS):
            raise BadLineError(number, f"is one column {values[0]!r}", hint=f"type --delimiter {DELIMITERS[sign]}")
    for name in values:
        if values.count(name) > 1:
            raise BadLineError(number, f"names the column {name!r} twice")
    for key in keys or ():
        if key not in values:
            raise BadLineError(number, f"has no column {key!r}, which --key names, but {', '.join(values)}")
    return values


def _texts(lines: Lines) -> Iterator[str]:
    for line in lines:
        try:
            yield line.decode()
        except UnicodeDecodeError as exc:
            raise BadLineError(lines.number, f"is not UTF-8: {exc.reason} at byte {exc.start}") from None


def _row_id(row: dict[str, Any], keys: Sequence[str] | None) -> bytes:
    """As capture names a row: the value of its key as text, a JSON array of several."""
    if keys is None:
        return _text(row["id"]) if "id" in row else b""
    if len(keys) == 1:
        return _text(row[keys[0]])
    return dump_value([row[key] for key in keys])


def _text(value: Any) -> bytes:
    return value.encode("utf-8", "replace") if isinstance(value, str) else dump_value(value)


def _reason(exc: Exception) -> str:
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at character {exc.pos + 1}"
    if isinstance(exc, UnicodeDecodeError):
        return "not UTF-8"
    return str(exc)


def _shown(text: bytes) -> str:
    return f"(it begins with {text[:SHOWN_BYTES].decode(errors='backslashreplace')!r})"


def _meant(text: bytes) -> str:
    """What to type, for what often is handed over instead of lines of JSON."""
    if text.startswith(b"["):
        return "jq -c '.[]' FILE | evodb send ... makes a line of each object in a list"
    if text == b"{":
        return "jq -c . FILE | evodb send ... puts each object on a line of its own"
    if re.match(rb"[^{]*[,;\t]", text):
        return "type --format csv if this is CSV"
    return ""
