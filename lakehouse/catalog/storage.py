"""Where the lake lies: the catalog our settings describe, and how its files are reached.

A folder is named by its plain absolute path, which every reader understands; an object store by its URL.
"""

from __future__ import annotations

import os

from pyiceberg.catalog import WAREHOUSE_LOCATION, Catalog, load_catalog
from pyiceberg.io import (
    ADLS_ACCOUNT_KEY,
    ADLS_ACCOUNT_NAME,
    ADLS_BLOB_STORAGE_AUTHORITY,
    ADLS_BLOB_STORAGE_SCHEME,
    ADLS_CLIENT_ID,
    ADLS_CLIENT_SECRET,
    ADLS_DFS_STORAGE_AUTHORITY,
    ADLS_DFS_STORAGE_SCHEME,
    ADLS_SAS_TOKEN,
    ADLS_TENANT_ID,
    GCS_SERVICE_HOST,
    GCS_TOKEN,
    GCS_TOKEN_EXPIRES_AT_MS,
    S3_ACCESS_KEY_ID,
    S3_ENDPOINT,
    S3_REGION,
    S3_SECRET_ACCESS_KEY,
)
from pyiceberg.typedef import Properties

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.conf import Settings
from lakehouse.errors import StoreUnavailable

FILE_IO = "lakehouse.catalog.files.DurableFileIO"
NAME = "evodb"


def foreign(settings: Settings) -> Catalog:
    """The catalog of EVODB_CATALOG, opened. Raises StoreUnavailable. After a worker has forked, as ours."""
    found = foreign_properties(settings)
    if found.get(S3_ENDPOINT):
        _send_checksums_before_the_body()
    try:
        return load_catalog(NAME, **found)
    except Exception as exc:
        raise StoreUnavailable(
            f"the {settings.catalog} catalog of EVODB_CATALOG cannot be opened: {type(exc).__name__}: {exc}"
        ) from exc


def from_settings(settings: Settings) -> DjangoCatalog:
    """Our own catalog. Make it after a worker has forked: connections to a store do not survive that."""
    if settings.s3_endpoint:
        _send_checksums_before_the_body()
    return DjangoCatalog(NAME, **properties(settings))


def foreign_properties(settings: Settings) -> Properties:
    """What EVODB_CATALOG_PROPERTIES says, and before it what the other settings say of the store.

    To a REST catalog a warehouse is a name it knows, to all others the place where tables are made.
    """
    ours = properties(settings)
    if settings.catalog == "rest":
        del ours[WAREHOUSE_LOCATION]
    return ours | settings.resolved_catalog_properties | {"type": settings.catalog}


def properties(settings: Settings) -> Properties:
    """What the catalog is made of, in pyiceberg's words and with the keys; what is empty is left to the environment."""
    region = settings.s3_region
    if region == "auto" and not settings.s3_endpoint:
        region = ""  # AWS knows no region of this name; left out, it is asked from the bucket.
    given = {
        "py-io-impl": FILE_IO,
        WAREHOUSE_LOCATION: settings.resolved_warehouse,
        S3_ENDPOINT: settings.s3_endpoint,
        S3_REGION: region,
        S3_ACCESS_KEY_ID: settings.s3_access_key_id,
        S3_SECRET_ACCESS_KEY: settings.s3_secret_access_key,
        **_azure(settings),
        GCS_SERVICE_HOST: settings.gcs_endpoint,
        GCS_TOKEN: settings.gcs_token,
        GCS_TOKEN_EXPIRES_AT_MS: str(settings.gcs_token_expires_ms or ""),
    }
    return {name: value for name, value in given.items() if value}


def _azure(settings: Settings) -> dict[str, str]:
    scheme, _, authority = settings.azure_endpoint.rstrip("/").partition("://")
    return {
        ADLS_ACCOUNT_NAME: settings.azure_account_name,
        ADLS_ACCOUNT_KEY: settings.azure_account_key,
        ADLS_SAS_TOKEN: settings.azure_sas_token,
        ADLS_TENANT_ID: settings.azure_tenant_id,
        ADLS_CLIENT_ID: settings.azure_client_id,
        ADLS_CLIENT_SECRET: settings.azure_client_secret,
        ADLS_BLOB_STORAGE_SCHEME: scheme,
        ADLS_BLOB_STORAGE_AUTHORITY: authority,
        ADLS_DFS_STORAGE_SCHEME: scheme,
        ADLS_DFS_STORAGE_AUTHORITY: authority,
    }


def _send_checksums_before_the_body() -> None:
    """By itself the AWS library behind PyArrow sends them after it, in chunks, and stores that are not AWS answer 411
    Length Required. It can be told so by the environment only."""
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
