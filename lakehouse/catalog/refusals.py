"""A table that cannot be written, whatever its rows: its rows wait, and the other tables of their flush go on.

Other writers bring a table there in more ways than anybody lists: a format that the library does not write, a type or a
transform it does not know, a schema its partitions do not fit. A store that is away is none of these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyarrow.fs import FileType

from lakehouse.catalog.upkeep.reading import STRANGE
from lakehouse.errors import SchemaMismatch, StoreUnavailable, TableRefused

if TYPE_CHECKING:
    from pyiceberg.typedef import Identifier

    from lakehouse.catalog.catalog import DjangoCatalog

log = logging.getLogger(__name__)
WORDS_MAX = 500


@contextmanager
def told(catalog: DjangoCatalog, identifier: Identifier, where: Callable[[], str | None]) -> Iterator[None]:
    """Raises TableRefused for what the table does not take, StoreUnavailable for a store that cannot be reached.

    `where` says which its metadata file is.
    """
    *namespace, name = identifier
    try:
        with of(".".join(namespace), name), of_missing(catalog, identifier, where):
            yield
    except OSError as exc:
        raise StoreUnavailable(f"the warehouse cannot be read or written: {exc}") from exc


@contextmanager
def of(namespace: str, table: str) -> Iterator[None]:
    """Raises TableRefused for whatever the library says of this table but that its files cannot be reached."""
    try:
        yield
    except SchemaMismatch as exc:
        raise TableRefused(f"{namespace}.{table} takes no rows: {exc}", table=table) from exc
    except STRANGE as exc:
        log.warning("%s.%s takes no rows", namespace, table, exc_info=exc)
        said = f"{type(exc).__name__}: {str(exc)[:WORDS_MAX]}"
        raise TableRefused(
            f"{namespace}.{table} takes no rows ({said}); undo what was changed in it last, or drop it, and a flush "
            "makes it anew",
            table=table,
        ) from exc


@contextmanager
def of_missing(catalog: DjangoCatalog, identifier: Identifier, where: Callable[[], str | None]) -> Iterator[None]:
    """Raises TableRefused when a file of the table is gone and its folder is there, so that it is not the store."""
    try:
        yield
    except FileNotFoundError as exc:
        location = where()
        if location is None or not _is_there(catalog, location.rpartition("/")[0]):
            raise
        raise TableRefused(
            f"{'.'.join(identifier)} takes no rows, for a file of it is gone ({exc}); put it back, or drop the table, "
            "and a flush makes it anew",
            table=identifier[-1],
        ) from exc


def _is_there(catalog: DjangoCatalog, folder: str) -> bool:
    io = catalog._files.fresh()
    scheme, netloc, path = io.parse_location(folder, io.properties)
    found: FileType = io.fs_by_scheme(scheme, netloc).get_file_info(path).type
    return found is FileType.Directory
