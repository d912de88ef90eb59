"""Rows and keys as SQL expressions that a trigger can evaluate: JSON text and row ids. Pure.

Values are written by hand and not by json_object, which rounds REAL to 15 digits, writes Inf and takes 127 arguments.
Only functions of SQLite 3.14 are used, for the writer may be any program.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from rpc.capture.tables import UserTable

ARGUMENTS_MAX = 100
"""Of one printf; SQLite may be built with a limit of 100 including the format, so stay below."""
CHUNK = ARGUMENTS_MAX - 2


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def real_text(value: str) -> str:
    """SQL for a REAL as the JSON number that reads back as the same double.

    At most six decimals below 1e9 are what they look like: an exact quotient, tested by dividing again. All else needs
    17 digits. SQLite prints coarsely far from 1: 20 digits are exact beyond 1e80 up to SQLite 3.42, later ones may be
    off by one in the last binary digit there.
    """
    return (
        f"CASE WHEN abs({value}) < 1e9 AND round({value} * 1000000.0) / 1000000.0 = {value} THEN {value}"
        f" WHEN abs({value}) BETWEEN 1e-80 AND 1e80 THEN printf('%!.17g', {value})"
        f" ELSE replace(printf('%!.20g', {value}), 'Inf', '1e999') END"
    )


def json_text(value: str) -> str:
    """SQL for any value as JSON text. A BLOB is an object that only capture writes (rpc.capture.values)."""
    return (
        f"CASE typeof({value}) WHEN 'integer' THEN {value} WHEN 'text' THEN json_quote({value})"
        f" WHEN 'null' THEN 'null' WHEN 'real' THEN {real_text(value)}"
        f""" ELSE '{{"$blob":"' || hex({value}) || '"}}' END"""
    )


def row_json(table: UserTable, row: str) -> str:
    """SQL for a whole row (`NEW`, `OLD` or a table) as a JSON object."""
    fields = [
        (json_name(column).replace("%", "%%") + ":%s", json_text(f"{row}.{quoted(column)}")) for column in table.columns
    ]
    chunks = [fields[at : at + CHUNK] for at in range(0, len(fields), CHUNK)]
    parts = [_printf(chunk) for chunk in chunks]
    return "'{' || " + " || ',' || ".join(parts) + " || '}'"


def json_name(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def row_id(table: UserTable, row: str) -> str:
    """SQL for what names a row: its key as text, a JSON array when that has several columns, else its rowid."""
    number = f"{row}.{quoted(table.rowid)}" if table.rowid else "NULL"
    if table.key_is_rowid or not table.key:
        return f"CAST({number} AS TEXT)"
    values = [f"{row}.{quoted(column)}" for column in table.key]
    text = _key_text(values[0], is_mixed=table.key_is_mixed) if len(values) == 1 else _key_array(values)
    nullable = [value for value, column in zip(values, table.key, strict=True) if column not in table.not_null]
    if nullable:
        # SQLite lets many rows have NULL in their primary key; only the rowid tells them apart.
        test = " OR ".join(f"{value} IS NULL" for value in nullable)
        text = f"CASE WHEN {test} THEN 'rowid:' || {number} ELSE {text} END"
    return f"({text}) COLLATE BINARY"


def _key_text(value: str, *, is_mixed: bool) -> str:
    texts = ""
    if is_mixed:
        # What looks like a number or like bytes is in quotes, and what begins with one, so that no name is two rows.
        is_alike = f"""{value} GLOB '"*' OR {value} NOT GLOB '*[^0-9A-F.e+-]*'"""
        texts = f""" WHEN 'text' THEN CASE WHEN {is_alike} THEN '"' || {value} || '"' ELSE {value} END"""
    return (
        f"CASE typeof({value}) WHEN 'real' THEN {real_text(value)} WHEN 'blob' THEN hex({value}){texts}"
        f" ELSE CAST({value} AS TEXT) END"
    )


def _key_array(values: Iterable[str]) -> str:
    items = (f"CASE typeof({v}) WHEN 'blob' THEN json_quote(hex({v})) ELSE {json_text(v)} END" for v in values)
    return "'[' || " + " || ',' || ".join(items) + " || ']'"


def _printf(fields: list[tuple[str, str]]) -> str:
    return f"printf({literal(','.join(name for name, _ in fields))}, {', '.join(value for _, value in fields)})"
