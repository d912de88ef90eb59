"""What a parent cannot work without, each asked once and cheaply. A check returns, or raises whatever was wrong.

The object store is asked without the lake's libraries, whose 60 MiB this process never needs.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.recorder import MigrationRecorder

from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError, StoreUnavailable
from lakehouse.flush import fuse_box
from lakehouse.models import IcebergTable, Parent
from lakehouse.moving import seal
from lakehouse.storing import AZURE, SCHEMES

Check = Callable[[], None]
CONNECT_S = 1
WHY_NOT = {
    301: "it is in another region; say which in EVODB_S3_REGION",
    403: "it is not for these keys; look at EVODB_S3_ACCESS_KEY_ID and its secret",
    404: "it is not there; make it, or name another in EVODB_WAREHOUSE",
}
"""What S3 means by its answers to who asks for a bucket."""


def checks_of(settings: Settings) -> dict[str, Check]:
    return {
        "database": _with_connection(database),
        "broker": broker,
        "object_store": partial(object_store, settings),
        "catalog": partial(foreign_catalog, settings) if settings.catalog else _with_connection(_own_catalog),
        "fuses": _with_connection(fuse_box.look),
    }


class HouseMoved(LakehouseError):
    """The house was closed by `manage.py move`."""

    code = "HOUSE_MOVED"


class NotMigrated(LakehouseError):
    """The database is older than this version; type manage.py migrate."""

    code = "NOT_MIGRATED"


def database() -> None:
    """A row of the parents. Children would be acked without a table that only flushes need, so all have to be there."""
    Parent.objects.exists()
    newest = _newest_migrations()
    there = set(MigrationRecorder.Migration.objects.filter(app__in=newest).values_list("app", "name"))
    lacking = [f"{app}.{name}" for app, name in newest.items() if (app, name) not in there]
    if lacking:
        raise NotMigrated(f"the database is older than this version ({', '.join(lacking)}); type manage.py migrate")
    if moved := seal.found(DEFAULT_DB_ALIAS):
        raise HouseMoved(moved)


@cache
def _newest_migrations() -> dict[str, str]:
    """Of each app of ours, by the names of its files."""
    folders = {label: Path(apps.get_app_config(label).path, "migrations") for label in ("lakehouse", "subscriptions")}
    return {label: max(path.stem for path in folder.glob("[0-9]*.py")) for label, folder in folders.items()}


def broker() -> None:
    """A connection is made and given back; the one of a laptop is a folder, which has to take files."""
    from celery import current_app

    from lakehouse.folder_broker import SCHEME

    with current_app.connection_for_write() as connection:
        if connection.transport_cls == SCHEME:
            _write_into(Path((connection.transport_options or {})["data_folder_out"]))
        else:
            connection.connect()


def foreign_catalog(settings: Settings) -> None:
    """One of REST says something, if only that it wants a key; other kinds are asked by flushes, which have clients."""
    said = settings.resolved_catalog_properties
    uri = said.get("uri", "")
    if settings.catalog == "rest" and uri.startswith(("http://", "https://")):
        _answers(f"{uri.rstrip('/')}/v1/config", _trusting(said["ssl"]) if "ssl" in said else None)


def _trusting(said: Mapping[str, Any]) -> ssl.SSLContext:
    """Whom pyiceberg trusts, and as whom it comes."""
    context = ssl.create_default_context(cafile=said.get("cabundle"))
    client = said.get("client", {})
    if "cert" in client:
        context.load_cert_chain(client["cert"], client.get("key"))
    return context


def _answers(url: str, trusted: ssl.SSLContext | None = None) -> None:
    """Whatever it thinks of who asks."""
    try:
        urlopen(url, timeout=CONNECT_S, context=trusted).close()  # noqa: S310 - http and https only
    except HTTPError as exc:
        if exc.code >= 500:
            raise


def object_store(settings: Settings) -> None:
    """A folder takes a file without a name; a bucket of S3 says whether it is there for our keys, which costs one read.
    Of others it is asked whether they answer, for whose keys are good is known to the lake's libraries only.

    Where a foreign catalog puts its tables is its own to know, unless EVODB_WAREHOUSE says it.
    """
    if settings.catalog and not settings.warehouse:
        return
    warehouse = settings.resolved_warehouse
    scheme, found, rest = warehouse.partition("://")
    if not found:
        _write_into(next(folder for folder in (Path(warehouse), *Path(warehouse).parents) if folder.exists()))
    elif scheme == "s3":
        _find_bucket(settings, rest.partition("/")[0])
    else:
        _answers(_address(settings, scheme, rest))


def _address(settings: Settings, scheme: str, rest: str) -> str:
    bucket, _, host = rest.partition("/")[0].partition("@")
    if scheme == "gs":
        return f"{settings.gcs_endpoint.rstrip('/') or 'https://storage.googleapis.com'}/storage/v1/b/{bucket}"
    if scheme not in AZURE:
        raise ValueError(f"EVODB_WAREHOUSE begins with {scheme}://, wanted a folder or one of {', '.join(SCHEMES)}")
    account = settings.azure_account_name or host.partition(".")[0]
    if settings.azure_endpoint:
        return f"{settings.azure_endpoint.rstrip('/')}/{account}/{bucket}?restype=container"
    return f"https://{account}.blob.core.windows.net/{bucket}?restype=container"


def _find_bucket(settings: Settings, bucket: str) -> None:
    from botocore.exceptions import ClientError  # type: ignore[import-untyped]

    try:
        _s3(settings).head_bucket(Bucket=bucket)
    except ClientError as exc:
        status = exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status not in WHY_NOT:
            raise
        raise StoreUnavailable(f"bucket {bucket}: HTTP {status}, {WHY_NOT[status]}") from exc


@cache
def _s3(settings: Settings) -> Any:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    region = settings.s3_region if settings.s3_endpoint or settings.s3_region != "auto" else None
    style = "path" if settings.s3_endpoint else "auto"
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint or None,
        region_name=region,
        aws_access_key_id=settings.s3_access_key_id or None,
        aws_secret_access_key=settings.s3_secret_access_key or None,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=CONNECT_S,
            retries={"max_attempts": 0},
            s3={"addressing_style": style},
        ),
    )


def _own_catalog() -> None:
    IcebergTable.objects.values("metadata_location").first()


def _write_into(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"1")
        file.flush()
        os.fstat(file.fileno())


def _with_connection(look: Callable[[], object]) -> Check:
    """For a thread of its own, which keeps nothing open."""

    def check() -> None:
        try:
            look()
        finally:
            connections.close_all()

    return check
