"""What a registered schema says of the documents of a table: names and types, read from JSON. Pure.

    {"id": "long not null", "price": "decimal(12,2)", "tags": ["string"], "address": {"street": "string"}}

An array of one type is a list, an object a struct. What a type holds is known to `flush.scalars`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from lakehouse.flush.names import COLUMNS_MAX, NAME_BYTES_MAX, in_files, is_possible

SIMPLE = ("boolean", "long", "double", "string", "date", "timestamptz", "json")
WANTED = f'one of {", ".join(SIMPLE)}, decimal(P,S), a list such as ["long"] or an object of fields'
DEPTH_MAX = 8
NOT_NULL = " not null"

_DECIMAL = re.compile(r"decimal\(\s*([0-9]{1,2})\s*,\s*([0-9]{1,2})\s*\)")


@dataclass(frozen=True, slots=True)
class Simple:
    name: str


@dataclass(frozen=True, slots=True)
class Decimals:
    precision: int
    scale: int


@dataclass(frozen=True, slots=True)
class ListOf:
    element: Kind


@dataclass(frozen=True, slots=True)
class StructOf:
    fields: Mapping[str, Kind]


Kind: TypeAlias = Simple | Decimals | ListOf | StructOf


@dataclass(frozen=True, slots=True)
class Declared:
    """The columns of a table, and those that a row has to have."""

    kinds: Mapping[str, Kind]
    required: frozenset[str]


def read(fields: object) -> Declared:
    """Raises ValueError saying what was found, where, and what was wanted."""
    if not isinstance(fields, dict):
        raise ValueError(f"found {type(fields).__name__}, wanted an object of names and types")
    if len(fields) > COLUMNS_MAX:
        raise ValueError(f"found {len(fields)} fields, wanted at most {COLUMNS_MAX}")
    _check_names(fields, "", is_possible)
    required = {name for name, kind in fields.items() if isinstance(kind, str) and kind.endswith(NOT_NULL)}
    kinds = {
        name: _kind(kind.removesuffix(NOT_NULL) if isinstance(kind, str) else kind, name, 0)
        for name, kind in fields.items()
    }
    return Declared(kinds, frozenset(required))


def one(text: str) -> Kind:
    """A simple type or a decimal. Raises ValueError."""
    return _kind(text, "type", 0)


def shown(kind: Kind) -> str:
    """As it is declared."""
    if isinstance(kind, Simple):
        return kind.name
    if isinstance(kind, Decimals):
        return f"decimal({kind.precision},{kind.scale})"
    if isinstance(kind, ListOf):
        return f"a list of {shown(kind.element)}"
    return "an object of its fields"


def _kind(found: Any, path: str, depth: int) -> Kind:
    if depth > DEPTH_MAX:
        raise ValueError(f"{path}: found more than {DEPTH_MAX} levels, wanted fewer; declare what is below as json")
    if isinstance(found, str):
        return _simple(found, path, is_inner=depth > 0)
    if isinstance(found, list) and len(found) == 1:
        return ListOf(_kind(found[0], f"{path}[]", depth + 1))
    if isinstance(found, dict) and found:
        _check_names(found, f"{path}.", is_field)
        return StructOf({name: _kind(kind, f"{path}.{name}", depth + 1) for name, kind in found.items()})
    raise ValueError(f"{path}: found {found!r:.100}, wanted {WANTED}")


def _simple(found: str, path: str, *, is_inner: bool) -> Kind:
    if found in SIMPLE and not (is_inner and found == "json"):
        return Simple(found)
    match = _DECIMAL.fullmatch(found)
    if match is None or is_inner:
        inner = ", and neither decimals nor json within lists and objects" if is_inner else ""
        raise ValueError(f"{path}: found {found!r:.100}, wanted {WANTED}{inner}")
    precision, scale = int(match[1]), int(match[2])
    if not 1 <= precision <= 38 or scale > precision:
        raise ValueError(f"{path}: found {found!r}, wanted 1 to 38 digits, and no more of them behind the point")
    return Decimals(precision, scale)


def is_field(name: str) -> bool:
    """Whether a struct may have this field. A point would make two columns of one path."""
    try:
        return bool(name) and "." not in name and min(name) >= " " and len(name.encode()) <= NAME_BYTES_MAX
    except UnicodeEncodeError:
        return False


def _check_names(fields: Mapping[str, Any], path: str, may_be: Any) -> None:
    seen: dict[str, str] = {}
    in_use: dict[str, str] = {}
    for name in fields:
        if not may_be(name):
            raise ValueError(
                f"{path}{name!r:.100}: found a name that no column may have, wanted 1 to {NAME_BYTES_MAX} bytes, no "
                "control characters, no '_' before a column and no '.' in what is within one"
            )
        if (other := seen.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"{path}{name}: found {other!r} too, wanted names that differ in more than case")
        if (other := in_use.setdefault(in_files(name), name)) != name:
            raise ValueError(f"{path}{name}: found {other!r} too, wanted names that are two in Avro as well")
