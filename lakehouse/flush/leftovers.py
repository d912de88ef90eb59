"""What Arrow documents have beside the columns of their table, put together as the JSON of `_rest`.

A boolean comes as a bit and leaves as a key and a word, in each row: so nothing here is an object of Python for longer
than one column takes. 2 million of them take a worker 190 MB for a moment, and took 400 as tuples of a key and a word.
Knows keys and JSON texts, and nothing of types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rpc.entries import dump_value

ROW = pa.int32()


class Leftovers:
    """The members of `_rest`, in the order they are added."""

    def __init__(self) -> None:
        self._rows: list[Any] = []
        self._members: list[Any] = []

    def add(self, key: str, rows: Any, texts: Any) -> None:
        """JSON texts under a key, null where there is none, and the row of each, null where it has none."""
        present = pc.and_(texts.is_valid(), rows.is_valid())
        values = texts.filter(present).cast(pa.string())
        self._rows.append(rows.filter(present).cast(ROW))
        self._members.append(pc.binary_join_element_wise(f"{dump_value(key).decode()}:", values, ""))

    def add_members(self, found: Mapping[int, Iterable[tuple[str, bytes]]]) -> None:
        """Keys and JSON texts by row."""
        joined = {
            row: ",".join(f"{dump_value(key).decode()}:{value.decode()}" for key, value in members)
            for row, members in found.items()
        }
        self._rows.append(pa.array([row for row, text in joined.items() if text], ROW))
        self._members.append(pa.array([text for text in joined.values() if text], pa.string()))

    def texts(self, length: int) -> Any:
        """The objects of so many rows, null for a row of which nothing is left."""
        rows = pa.concat_arrays([pa.array([], ROW), *self._rows])
        if not len(rows):
            return pa.nulls(length, pa.string())
        members = pa.concat_arrays(self._members)
        self._rows, self._members = [], []
        in_rows = pc.sort_indices(rows)  # stable, so the members of a row stay in order
        counts = pc.value_counts(rows.take(in_rows))
        ends = pa.array(accumulate(counts.field("counts").to_pylist(), initial=0), pa.int32())
        joined = pc.binary_join(pa.ListArray.from_arrays(ends, members.take(in_rows)), ",")
        objects: Any = pc.call_function("binary_join_element_wise", ["{", joined, "}", ""])
        return objects.take(pc.index_in(pa.array(range(length), ROW), value_set=counts.field("values")))
