"""The settings of the store in pyiceberg's words. Knows no catalog, so that whoever only reads can have them."""

from __future__ import annotations

from pyiceberg.catalog import WAREHOUSE_LOCATION
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

from lakehouse.conf import Settings

FILE_IO = "lakehouse.catalog.files.DurableFileIO"


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
