"""A null list of structs stays null. pyiceberg 0.12 makes an empty list of it, where it writes and where it reads.

https://github.com/apache/iceberg-python/issues/3833; a test says when this is not needed any more.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.io.pyarrow import ArrowProjectionVisitor

original = ArrowProjectionVisitor.list


def mend() -> None:
    """For this process."""
    ArrowProjectionVisitor.list = _list  # type: ignore[method-assign]


def _list(self: ArrowProjectionVisitor, list_type: Any, list_array: Any, value_array: Any) -> Any:
    found: Any = original(self, list_type, list_array, value_array)
    if found is None or not list_array.null_count or found.null_count:
        return found
    return pc.if_else(list_array.is_valid(), found, pa.scalar(None, found.type))
