"""Names in manifests are Avro's: letters of ASCII, digits, underscores. pyiceberg 0.12 takes any letter for one.

A partition field may be called `Straße`, or made of a column that is. Fields are known by their ids, so nobody misses
the name; but DuckDB 1.5.5 ends its process over a header with one that is none. A test says when this is not needed.
"""

from __future__ import annotations

from pyiceberg.schema import make_compatible_name as original
from pyiceberg.utils import schema_conversion


def mend() -> None:
    """For this process."""
    schema_conversion.make_compatible_name = _compatible  # type: ignore[attr-defined]


def _compatible(name: str) -> str:
    return "".join(sign if sign.isascii() else f"_x{ord(sign):X}" for sign in original(name))
