"""DuckDB as the reader of the lake, without a network: its extensions come with the Python packages next to it.

A table is read by the location of its metadata file, which the catalog knows; DuckDB asks no catalog. Connections are
in memory and hold nothing but, for an object store, the keys to it. Which rows to ask for is the caller's business.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import duckdb

from lakehouse.conf import Settings
from lakehouse.query.quoting import quoted
from lakehouse.storing import scheme_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

EXTENSIONS = ("avro", "httpfs", "iceberg")
"""In this order: iceberg needs the two before it."""
LOCKED = ("SET autoinstall_known_extensions = false", "SET allow_unsigned_extensions = false")
"""Whatever a caller runs, it brings in no more code."""
UNASKED = {"allow_unsigned_extensions": "true"}
"""Who signed our own three. To ask, DuckDB reads all 84 MB of them, which takes each process 0.42 s of CPU (2 slow
cores); they come in packages as DuckDB itself does, which nobody asks, and who may change the one may change the other.
"""
ASKED_ONCE = "SET enable_http_metadata_cache = true"
"""How long a file in a bucket is, for it is written once: a query makes 13 requests instead of 16."""
READ = ("", "file", "s3")
"""Where DuckDB reads by itself."""


def connect(settings: Settings | None = None) -> duckdb.DuckDBPyConnection:
    """A connection that reads the lake of these settings; without them, one in a folder."""
    loads = tuple(f"LOAD {quoted(str(_extension(name)))}" for name in EXTENSIONS)
    connection = duckdb.connect(config=UNASKED)
    store = _store(_reached(settings)) if settings and _is_in_a_bucket(settings) else []
    for statement in (*loads, *LOCKED, "SET TimeZone = 'UTC'", ASKED_ONCE, *store):
        connection.execute(statement)
    if settings and _is_read_by_arrow(settings):
        connection.register_filesystem(_arrow_files(settings))
    return connection


def scan(metadata_location: str) -> str:
    """The rows of a table, to be put after FROM."""
    return f"iceberg_scan({quoted(metadata_location)})"


def sign_in(connection: duckdb.DuckDBPyConnection, settings: Settings, *, session_token: str) -> None:
    """With keys for the bucket, where the settings of the connection had none."""
    for statement in _store(settings, session_token):
        connection.execute(statement)


def shell_command(metadata_location: str) -> str:
    """What a user types to look at a table: DuckDB's first rows, in one line of a shell.

    A store is reached by the EVODB_ variables of that shell; the line tells no key.
    """
    known, what = "", f"FROM {scan(metadata_location)} LIMIT 20"
    program = "from lakehouse.query import duck; "
    if "://" in metadata_location:
        known, program = "load(os.environ)", f"import os; from lakehouse.conf import load; {program}"
    program += f"duck.connect({known}).sql({what!r}).show()"
    return shlex.join([sys.executable, "-c", program])


def shell_script(metadata_location: str) -> str:
    """The same as SQL for DuckDB's own shell, which fetches its extensions itself."""
    return f"INSTALL iceberg; LOAD iceberg; FROM {scan(metadata_location)} LIMIT 20;"


def _is_read_by_arrow(settings: Settings) -> bool:
    """Where the tables of a foreign catalog lie is said by their own metadata."""
    return bool(settings.catalog) or scheme_of(settings.resolved_warehouse) not in READ


def _arrow_files(settings: Settings) -> AbstractFileSystem:
    # Only here, for pyiceberg and fsspec take a second to load.
    from lakehouse.catalog.store_properties import properties
    from lakehouse.query.arrow_files import ArrowFiles

    return ArrowFiles({**properties(settings), **settings.resolved_catalog_properties})


def _is_in_a_bucket(settings: Settings) -> bool:
    """Where the tables of a foreign catalog lie is said by their own metadata; keys say that it is a bucket."""
    known = _reached(settings)
    return known.resolved_warehouse.startswith("s3://") or bool(settings.catalog and known.s3_access_key_id)


def _reached(settings: Settings) -> Settings:
    """What is said of the store in the words of pyiceberg counts as if it were said in ours."""
    said = settings.resolved_catalog_properties
    return replace(
        settings,
        s3_endpoint=said.get("s3.endpoint", settings.s3_endpoint),
        s3_region=said.get("s3.region", settings.s3_region),
        s3_access_key_id=said.get("s3.access-key-id", settings.s3_access_key_id),
        s3_secret_access_key=said.get("s3.secret-access-key", settings.s3_secret_access_key),
    )


def _extension(name: str) -> Path:
    """The extension's file inside its package, which carries one file for the version it belongs to."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    path = folder / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.exists():
        raise ModuleNotFoundError(
            f"found no {name} extension for DuckDB {duckdb.__version__}, wanted the package duckdb-extension-{name} of "
            "that version; type: pip install 'evodb[query]'"
        )
    return path


def _store(settings: Settings, session_token: str = "") -> list[str]:
    """How the bucket of the warehouse is reached.

    Keys of the settings become a secret, which nobody can read back. Without them httpfs has already taken AWS_... of
    the environment as its settings, and a secret without keys would hide those.
    """
    options = {}
    if settings.s3_endpoint:
        place = urlsplit(settings.s3_endpoint)
        options = {"ENDPOINT": quoted(place.netloc), "URL_STYLE": "'path'", "USE_SSL": str(place.scheme == "https")}
    if settings.s3_region and (settings.s3_endpoint or settings.s3_region != "auto"):
        options["REGION"] = quoted(settings.s3_region)
    if not settings.s3_access_key_id:
        return [f"SET s3_{name.lower()} = {value}" for name, value in options.items()]
    options |= {"KEY_ID": quoted(settings.s3_access_key_id), "SECRET": quoted(settings.s3_secret_access_key)}
    if session_token:
        options["SESSION_TOKEN"] = quoted(session_token)
    if not settings.catalog:
        options["SCOPE"] = quoted("s3://" + urlsplit(settings.resolved_warehouse).netloc)
    return ["CREATE SECRET lake (TYPE s3, " + ", ".join(f"{name} {value}" for name, value in options.items()) + ")"]
