"""Tables: made, staged, listed, loaded, registered, renamed, dropped."""

from __future__ import annotations

import zlib
from gzip import BadGzipFile
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from pyiceberg.catalog.rest import CreateTableRequest
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationError,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.serializers import Compressor
from pyiceberg.table import StagedTable
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER

from lakehouse.catalog import neighbours, pointers
from lakehouse.catalog.folders import join
from lakehouse.catalog.identifiers import check_table_name, namespace_key, table_key
from lakehouse.catalog.rest import credentials, models
from lakehouse.catalog.rest.calls import Call, check_name, read
from lakehouse.catalog.rest.pages import Page
from lakehouse.catalog.rest.places import Places, paths_of_metadata, paths_of_properties
from lakehouse.catalog.rest.problems import NOTHING, Answer, Problem, answer, bad_request
from lakehouse.catalog.rest.swaps import Moved, Prepared, insert, publish
from lakehouse.catalog.rest.updates import FORMAT_VERSION
from lakehouse.models import IcebergTable, Namespace

TORN = (EOFError, zlib.error, BadGzipFile)
"""What comes of a file that is called `.gz.metadata.json` and is not whole."""


def listed(call: Call) -> Answer:
    if not call.catalog.namespace_exists(call.namespace):
        raise NoSuchNamespaceError(f"Namespace does not exist: {'.'.join(call.namespace)}")
    page = Page(call.query)
    rows = IcebergTable.objects.filter(namespace__name=namespace_key(call.namespace)).order_by("name")
    if page.after:
        rows = rows.filter(name__gt=page.after)
    names = list(rows.values_list("name", flat=True)[: None if page.size is None else page.size + 1])
    shown, token = page.cut(names, names)
    tables = [{"namespace": call.namespace, "name": name} for name in shown]
    return answer({"identifiers": tables, "next-page-token": token})


def create(call: Call) -> Answer:
    """At once, or staged: then nothing is stored, and a commit that asserts the creation makes the table."""
    request = models.create_table(call)
    identifier = (*call.namespace, request.name)
    check_new(call, identifier)
    if pointers.find(*table_key(identifier)) is not None:
        raise TableAlreadyExistsError(f"Table already exists: {'.'.join(identifier)}")
    places = Places(call)
    location = request.location or default_location(places, identifier)
    location = places.check(location, namespace=call.namespace)
    places.check_all(paths_of_properties(request.properties), namespace=call.namespace)
    staged = _staged(call, identifier, request, location)
    _make_folders(location)
    if request.stage_create:
        return _loaded(call, None, staged.metadata.model_dump_json().encode())
    # The metadata of who died over it is of this table, and not of one that nobody knows and may register.
    uuid = pointers.uuid_to_make(*table_key(identifier))
    staged.metadata = staged.metadata.model_copy(update={"table_uuid": uuid})
    try:
        publish(call.catalog, [Prepared(identifier, None, staged)])
    except Moved:
        raise TableAlreadyExistsError(f"Table already exists: {'.'.join(identifier)}") from None
    return _loaded(call, staged.metadata_location, staged.metadata.model_dump_json().encode())


def _staged(call: Call, identifier: tuple[str, ...], request: CreateTableRequest, location: str) -> StagedTable:
    try:
        staged = call.catalog._create_staged_table(
            identifier,
            request.table_schema,
            location,
            request.partition_spec or UNPARTITIONED_PARTITION_SPEC,
            request.write_order or UNSORTED_SORT_ORDER,
            dict(request.properties),
        )
        staged.metadata.model_dump_json()  # what cannot be written is the client's mistake as well
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise Problem(400, "ValidationException", f"the table cannot be made: {exc}"[:500]) from None
    return staged


def load(call: Call) -> Answer:
    """The metadata as its file has it: what pyiceberg does not know is not lost on the way."""
    location = pointers.find(*table_key(call.identifier))
    if location is None:
        raise NoSuchTableError(f"Table does not exist: {'.'.join(call.identifier)}")
    mark = _mark(call, location)
    if mark in {known.strip().removeprefix("W/") for known in call.headers.get("if-none-match", "").split(",")}:
        return Answer(304, headers={"etag": mark})
    raw = _metadata_of(call, location)
    if call.query.get("snapshots") == "refs":
        raw = _of_references(raw)
    found = _loaded(call, location, raw)
    return Answer(found.status, found.body, {**found.headers, "etag": mark})


def exists(call: Call) -> Answer:
    if pointers.find(*table_key(call.identifier)) is None:
        raise NoSuchTableError(f"Table does not exist: {'.'.join(call.identifier)}")
    return NOTHING


def register(call: Call) -> Answer:
    request = models.register_table(call)
    identifier = (*call.namespace, request.name)
    check_new(call, identifier)
    places = Places(call)
    location = places.check(request.metadata_location, namespace=call.namespace)
    try:
        metadata = call.catalog._read(location)
    except FileNotFoundError:
        raise bad_request(f"found no metadata file at {location}") from None
    except (ValidationError, ValueError, TypeError, KeyError, AttributeError, *TORN) as exc:
        raise bad_request(f"{location} holds no metadata of a table: {exc}"[:300]) from None
    if metadata.format_version > FORMAT_VERSION:
        raise NotImplementedError(f"found format version {metadata.format_version}, wanted at most {FORMAT_VERSION}")
    places.check_all(paths_of_metadata(metadata), namespace=call.namespace)
    neighbours.check(identifier, metadata, location)
    _point_at(identifier, location, overwrite=request.overwrite)
    return _loaded(call, location, _metadata_of(call, location))


def rename(call: Call) -> Answer:
    request = read(models.RenameTableRequest, call.document())
    source, target = models.identifier_of(request.source), models.identifier_of(request.destination)
    call.check(source[:-1])
    call.check(target[:-1])
    check_new(call, target)
    call.catalog.rename_table(source, target)
    return NOTHING


def credentials_of(call: Call) -> Answer:
    location = pointers.find(*table_key(call.identifier))
    if location is None:
        raise NoSuchTableError(f"Table does not exist: {'.'.join(call.identifier)}")
    return answer({"storage-credentials": credentials.lent(call, _metadata_of(call, location))})


def report(call: Call) -> Answer:
    """Metrics of a client are taken and not kept: our own are counted where they happen."""
    exists(call)
    if not isinstance(call.document().get("report-type"), str):
        raise bad_request("found no report-type, wanted scan-report or commit-report")
    return NOTHING


def check_new(call: Call, identifier: tuple[str, ...]) -> None:
    """A table may be made here. A level above a namespace becomes one of its own by its first table."""
    namespace = identifier[:-1]
    key = namespace_key(namespace)
    check_name(identifier[-1])
    check_table_name(identifier[-1])
    if not call.catalog.namespace_exists(namespace):
        raise NoSuchNamespaceError(f"Namespace does not exist: {'.'.join(namespace)}")
    Namespace.objects.get_or_create(name=key)


def default_location(places: Places, identifier: tuple[str, ...]) -> str:
    """In the folder of its namespace, and never in one that another table has, were it renamed meanwhile."""
    location = join(places.home(identifier[:-1]), identifier[-1:])
    if IcebergTable.objects.filter(metadata_location__startswith=f"{location}/").exists():
        return f"{location}-{uuid4().hex}"
    return location


def _point_at(identifier: tuple[str, ...], location: str, *, overwrite: bool) -> None:
    """A table that exists is pointed elsewhere only when that was asked for."""
    namespace, name = table_key(identifier)
    current = pointers.find(namespace, name)
    if current is None and insert(namespace, name, location):
        return
    if not overwrite:
        raise TableAlreadyExistsError(f"Table already exists: {'.'.join(identifier)}")
    if current is None or not pointers.move(namespace, name, expected=current, location=location):
        raise CommitFailedException(f"Table was moved by another writer: {'.'.join(identifier)}")


def _make_folders(location: str) -> None:
    """On a disk, for clients that make none (DuckDB); an object store has none."""
    if location.startswith("/"):
        for name in ("data", "metadata"):
            Path(location, name).mkdir(parents=True, exist_ok=True)


def _loaded(call: Call, location: str | None, metadata: bytes) -> Answer:
    document: dict[str, Any] = {
        "metadata-location": location,
        "metadata": orjson.Fragment(metadata),
        "config": credentials.told(call),
    }
    if lent := credentials.lent(call, metadata):
        document["storage-credentials"] = lent
    return answer({name: value for name, value in document.items() if value is not None})


def _mark(call: Call, location: str) -> str:
    """What a client has who was answered with this mark, lent keys included."""
    said = orjson.dumps([location, call.query.get("snapshots"), credentials.told(call)])
    return f'"{sha256(said).hexdigest()[:32]}"'


def _metadata_of(call: Call, location: str) -> bytes:
    content = BytesIO(call.catalog._files.read(location))
    with Compressor.get_compressor(location).stream_decompressor(content) as stream:
        return stream.read()


def _of_references(metadata: bytes) -> bytes:
    """Without the snapshots that no branch and no tag names."""
    document = orjson.loads(metadata)
    named = {reference["snapshot-id"] for reference in (document.get("refs") or {}).values()}
    named.add(document.get("current-snapshot-id"))
    document["snapshots"] = [one for one in document.get("snapshots") or [] if one["snapshot-id"] in named]
    return orjson.dumps(document)
