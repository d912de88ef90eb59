"""Whether two Arrow tables hold the same bits: a NaN is itself, 0.0 is not -0.0, an empty struct is no null."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

BITS = {pa.float16(): pa.int16(), pa.float32(): pa.int32(), pa.float64(): pa.int64()}


def same(left: Any, right: Any) -> bool:
    """For tables of the same columns."""
    return bool(left.schema.equals(right.schema)) and all(
        _same(one.combine_chunks(), other.combine_chunks())
        for one, other in zip(left.columns, right.columns, strict=True)
    )


def _same(left: Any, right: Any) -> bool:
    kind = left.type
    if len(left) != len(right) or not left.is_null().equals(right.is_null()):
        return False
    if kind in BITS:
        return bool(left.view(BITS[kind]).equals(right.view(BITS[kind])))
    if pa.types.is_struct(kind):
        return all(_same(one, other) for one, other in zip(left.flatten(), right.flatten(), strict=True))
    if pa.types.is_map(kind):
        return _same_lists(left.cast(_as_list(kind)), right.cast(_as_list(kind)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _same_lists(left, right)
    return bool(left.equals(right))


def _same_lists(left: Any, right: Any) -> bool:
    lengths = pc.list_value_length
    return bool(lengths(left).equals(lengths(right))) and _same(left.flatten(), right.flatten())


def _as_list(kind: Any) -> Any:
    return pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)]))
