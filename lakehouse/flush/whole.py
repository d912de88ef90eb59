"""A column in one piece. pyarrow's combine_chunks copies even what is one piece, which is the usual case here."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def whole(column: Any) -> Any:
    """The array of a column, copied only when it has several chunks."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
