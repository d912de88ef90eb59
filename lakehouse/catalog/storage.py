"""Where the lake lies: the catalog our settings describe, and how its files are reached.

A folder is named by its plain absolute path, which every reader understands; an object store by its URL.
"""

from __future__ import annotations

import os

from pyiceberg.catalog import WAREHOUSE_LOCATION, Catalog, load_catalog
from pyiceberg.io import PY_IO_IMPL, S3_ENDPOINT, FileIO
from pyiceberg.typedef import EMPTY_DICT, Properties

from lakehouse.catalog import patience
from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.store_properties import properties
from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable

NAME = "evodb"


def foreign(settings: Settings) -> Catalog:
    """The catalog of EVODB_CATALOG, opened. Raises StoreUnavailable. After a worker has forked, as ours."""
    found = foreign_properties(settings)
    if found.get(S3_ENDPOINT):
        _send_and_check_no_checksums_unasked()
    patience.mend()
    try:
        return _calling_no_code_of_tables(load_catalog(NAME, **found))
    except Exception as exc:
        raise StoreUnavailable(
            f"the {settings.catalog} catalog of EVODB_CATALOG cannot be opened: {type(exc).__name__}: {exc}"
        ) from exc


def from_settings(settings: Settings) -> DjangoCatalog:
    """Our own catalog. Make it after a worker has forked: connections to a store do not survive that."""
    if settings.s3_endpoint:
        _send_and_check_no_checksums_unasked()
    return DjangoCatalog(NAME, **properties(settings))


def foreign_properties(settings: Settings) -> Properties:
    """What EVODB_CATALOG_PROPERTIES says, and before it what the other settings say of the store.

    To a REST catalog a warehouse is a name it knows, to all others the place where tables are made.
    """
    ours = properties(settings)
    if settings.catalog == "rest":
        del ours[WAREHOUSE_LOCATION]
    return ours | settings.resolved_catalog_properties | {"type": settings.catalog}


def _calling_no_code_of_tables(catalog: Catalog) -> Catalog:
    """How files are reached is for our settings to say: of a table's properties, too, pyiceberg imports and calls what
    `py-io-impl` names, which would be code of who may write properties, with our keys."""
    reached = catalog._load_file_io

    def reach(properties: Properties = EMPTY_DICT, location: str | None = None) -> FileIO:
        return reached({name: value for name, value in properties.items() if name != PY_IO_IMPL}, location)

    catalog._load_file_io = reach  # type: ignore[method-assign]
    return catalog


def _send_and_check_no_checksums_unasked() -> None:
    """By itself the AWS library behind PyArrow sends them after the body, in chunks, and stores that are not AWS answer
    411 Length Required; and rclone answers for a part of an object with the checksum of all of it, where its writer
    (Polars) had sent one. The library can be told so by the environment only."""
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
