"""Values on their way into JSON, none of them less exact than it was. Pure.

DuckDB itself writes what JSON has no kind for (decimals, times, intervals), by a cast in front of the query; what JSON
has a kind for comes as it is. The column says the type, so a reader can turn text back.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

from lakehouse.query.quoting import identifier

NATIVE = {
    *("boolean", "tinyint", "smallint", "integer", "bigint", "hugeint"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint", "float", "double", "varchar", "blob"),
}
TIMES = {"timestamp", "timestamp with time zone", "timestamp_s", "timestamp_ms", "timestamp_ns"}
NOT_IN_ARROW = {"uhugeint", "bignum", "bit", "time with time zone", "variant"}
"""Arrow has no such type, or DuckDB puts something else into it."""
SAFE_INTEGER = 2**53 - 1
"""Beyond it readers of JSON round, so an integer is text."""

Convert = Callable[[Any], Any]


def select(sql: str, types: Sequence[Any], *, is_arrow: bool = False) -> str:
    """The query with every column as a type that comes out exactly."""
    names = [f"c{at}" for at in range(len(types))]
    wanted = [_cast(one, _is_in_arrow if is_arrow else _is_native) for one in types]
    casts = [
        name if cast == str(one) else f"CAST({name} AS {cast})"
        for name, one, cast in zip(names, types, wanted, strict=True)
    ]
    return f"SELECT {', '.join(casts)} FROM (\n{sql}\n) AS answer({', '.join(names)})"  # noqa: S608 - checked before


def converter(kind: Any) -> Convert:
    """From what DuckDB gives for a column of this type, cast, to what JSON is made of."""
    inner = _converter(kind)
    return lambda value: None if value is None else inner(value)


def _is_native(kind: Any) -> bool:
    return kind.id in NATIVE


def _is_in_arrow(kind: Any) -> bool:
    return kind.id not in NOT_IN_ARROW


def _cast(kind: Any, stays: Callable[[Any], bool]) -> str:
    if kind.id in ("list", "array"):
        child, *size = kind.children
        return f"{_cast(child[1], stays)}[{size[0][1] if size else ''}]"
    if kind.id == "struct" and all(name for name, _ in kind.children):
        return "STRUCT(" + ", ".join(f"{identifier(name)} {_cast(one, stays)}" for name, one in kind.children) + ")"
    if kind.id == "map":
        (_, key), (_, value) = kind.children
        return f"MAP({_cast(key, stays)}, {_cast(value, stays)})"
    return str(kind) if stays(kind) else "VARCHAR"


def _converter(kind: Any) -> Convert:
    if kind.id in ("float", "double"):
        return _float
    if kind.id in ("bigint", "hugeint", "ubigint", "uhugeint"):
        return _integer
    if kind.id == "blob":
        return lambda value: b64encode(value).decode()
    if kind.id in TIMES:
        return _time
    if kind.id in ("list", "array"):
        child = converter(kind.children[0][1])
        return lambda value: [child(one) for one in value]
    if kind.id == "struct" and all(name for name, _ in kind.children):
        fields = {name: converter(one) for name, one in kind.children}
        return lambda value: {name: convert(value[name]) for name, convert in fields.items()}
    if kind.id == "map":
        (_, key), (_, value) = kind.children
        return _pairs(converter(key), converter(value), by_columns=key.id in ("list", "array", "struct", "map"))
    return lambda value: value


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _integer(value: int) -> int | str:
    return value if abs(value) <= SAFE_INTEGER else str(value)


def _time(value: str) -> str:
    """As ISO 8601 has it, but for what ISO does not know (infinity, before Christ)."""
    if not value[:1].isdigit() or "(" in value:
        return value
    whole = value.replace(" ", "T", 1)
    return whole[:-3] + "Z" if whole.endswith("+00") else whole


def _pairs(key: Convert, value: Convert, *, by_columns: bool) -> Convert:
    """A map as pairs, for a key need not be text. Keys that Python cannot hash come in a column of their own."""

    def convert(found: dict[Any, Any]) -> list[list[Any]]:
        pairs = zip(found["key"], found["value"], strict=True) if by_columns else found.items()
        return [[key(one), value(other)] for one, other in pairs]

    return convert
