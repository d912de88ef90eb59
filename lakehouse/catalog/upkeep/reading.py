"""What goes wrong with a table's files, as errors of ours: what is away comes back, what is damaged does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyiceberg.exceptions import ResolveError, ValidationError
from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException

from lakehouse.errors import DamagedTable, StoreUnavailable

STRANGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    ResolveError,
    TypeError,
    UnsupportedPyArrowTypeException,
    ValidationError,
    ValueError,
)
"""What pyiceberg and pyarrow raise over bytes that are no Avro, Parquet or metadata, and over properties."""


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raises StoreUnavailable or DamagedTable with these words."""
    try:
        yield
    except OSError as exc:
        raise StoreUnavailable(f"{what}: {exc}") from exc
    except STRANGE as exc:
        raise DamagedTable(f"{what}: {type(exc).__name__}: {str(exc)[:500]}") from exc
