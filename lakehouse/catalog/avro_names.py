"""Names in manifests are Avro's: ASCII letters, digits, underscores, and no type's twice. pyiceberg 0.12 makes others.

A partition field may be called `Straße`, or made of a column that is; and two partitions by decimals of one kind, or by
UUIDs, would be two types of one name. Iceberg knows fields by their ids, so nobody misses the names; but DuckDB 1.5.5
ends its process over such a header. A test says when this is not needed.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pyiceberg.schema import Schema
from pyiceberg.schema import make_compatible_name as original
from pyiceberg.utils import schema_conversion
from pyiceberg.utils.schema_conversion import AvroSchemaConversion

from lakehouse.catalog.made_once import MadeOnce

NAMED = ("record", "fixed", "enum")
NESTED = ("type", "fields", "items", "values")
original_schema = AvroSchemaConversion.iceberg_to_avro


def mend() -> None:
    """For this process."""
    schema_conversion.make_compatible_name = _compatible  # type: ignore[attr-defined]
    AvroSchemaConversion.iceberg_to_avro = _schema  # type: ignore[method-assign]


def named_once(kind: Any, seen: Counter[str]) -> Any:
    """An Avro schema in which what has the name of another is called otherwise."""
    if isinstance(kind, list):
        return [named_once(one, seen) for one in kind]
    if not isinstance(kind, dict):
        return kind
    found = {key: named_once(value, seen) if key in NESTED else value for key, value in kind.items()}
    if found.get("type") in NAMED:
        seen[name := str(found.get("name"))] += 1
        found |= {"name": f"{name}_again_{seen[name]}"} if seen[name] > 1 else {}
    return found


def _compatible(name: str) -> str:
    return "".join(sign if sign.isascii() else f"_x{ord(sign):X}" for sign in original(name))


_known: MadeOnce[Schema, dict[str | None, Any]] = MadeOnce(lambda _: {})


def _schema(self: AvroSchemaConversion, schema: Schema, schema_name: str | None = None) -> Any:
    known = _known(schema)
    if schema_name not in known:
        known[schema_name] = named_once(original_schema(self, schema, schema_name), Counter())
    return known[schema_name]
