"""Where the lake lies and how it is reached, as rows of the settings' table (lakehouse.conf); docs/object-stores.md."""

from __future__ import annotations

from dataclasses import dataclass

from lakehouse.setting import at_least, place, setting, url_of

AZURE = ("abfss", "abfs")
SCHEMES = ("s3", "gs", *AZURE)
HTTP = ("https", "http")


def scheme_of(warehouse: str) -> str:
    """Empty for a folder."""
    scheme, found, _ = warehouse.partition("://")
    return scheme if found else ""


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    warehouse: str = setting(
        "",
        unit="path or URL",
        why="Where tables are written. Empty: data_dir/lake; else a folder, s3://bucket/prefix, gs://bucket/prefix or "
        "abfss://container@account.dfs.core.windows.net/prefix (docs/object-stores.md).",
        **place(*SCHEMES, empty=""),
    )
    s3_endpoint: str = setting(
        "", unit="URL", why="The object store when it is not AWS: R2, MinIO, rclone.", **url_of("https", "http")
    )
    s3_region: str = setting("auto", unit="name", why="Region of the bucket; R2 wants auto.")
    clients_s3_endpoint: str = setting(
        "",
        unit="URL",
        why="Told to clients of the catalog in place of s3_endpoint, when they reach the store at another address.",
        **url_of(*HTTP),
    )
    s3_access_key_id: str = setting("", unit="text", why="Empty: the usual AWS environment and profile are asked.")
    s3_secret_access_key: str = setting("", unit="text", why="Belongs to s3_access_key_id.")
    reader_s3_access_key_id: str = setting(
        "",
        unit="text",
        why="Lent by the catalog to who may read all namespaces; let it read only. Empty: they bring their own.",
    )
    reader_s3_secret_access_key: str = setting("", unit="text", why="Belongs to reader_s3_access_key_id.")
    writer_s3_access_key_id: str = setting(
        "", unit="text", why="Lent instead to those that may write. Empty: the reader's, or their own."
    )
    writer_s3_secret_access_key: str = setting("", unit="text", why="Belongs to writer_s3_access_key_id.")
    azure_account_name: str = setting("", unit="text", why="Empty: the one in the URL of the warehouse.")
    azure_account_key: str = setting(
        "", unit="text", why="Empty, and none of those below: what Azure's libraries find, as a managed identity."
    )
    azure_sas_token: str = setting("", unit="text", why="Instead of a key.")
    azure_tenant_id: str = setting("", unit="text", why="Instead of a key, with azure_client_id and its secret.")
    azure_client_id: str = setting("", unit="text", why="Belongs to azure_tenant_id.")
    azure_client_secret: str = setting("", unit="text", why="Belongs to azure_tenant_id.")
    azure_endpoint: str = setting("", unit="URL", why="The store when it is not Azure: Azurite.", **url_of(*HTTP))
    gcs_endpoint: str = setting("", unit="URL", why="The object store when it is not Google's.", **url_of(*HTTP))
    gcs_token: str = setting(
        "", unit="text", why="OAuth2, for a drill. Empty: what Google's libraries find, as a service account's file."
    )
    gcs_token_expires_ms: int = setting(
        0, unit="ms", why="When gcs_token ends, since 1970; it is not made anew.", **at_least(0)
    )


def complaint(found: StoreConfig) -> str | None:
    """Why these cannot work together, or None. Tells no key."""
    if scheme_of(found.warehouse) in AZURE and "@" not in found.warehouse and not found.azure_account_name:
        return (
            f"EVODB_WAREHOUSE is {found.warehouse!r}, which names no account, wanted abfss://container@account."
            "dfs.core.windows.net/prefix, or EVODB_AZURE_ACCOUNT_NAME"
        )
    for who in ("S3", "READER_S3", "WRITER_S3"):
        key, secret = (getattr(found, f"{who}_{what}".lower()) for what in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"))
        if bool(key) != bool(secret):
            return f"EVODB_{who}_ACCESS_KEY_ID and EVODB_{who}_SECRET_ACCESS_KEY are wanted together"
    app = (found.azure_tenant_id, found.azure_client_id, found.azure_client_secret)
    if any(app) and not all(app):
        return "EVODB_AZURE_TENANT_ID, EVODB_AZURE_CLIENT_ID and EVODB_AZURE_CLIENT_SECRET are wanted together"
    if sum(map(bool, (found.azure_account_key, found.azure_sas_token, any(app)))) > 1:
        return "EVODB_AZURE_ has more than one of a key, a SAS token and a client, wanted one of them"
    if bool(found.gcs_token) != bool(found.gcs_token_expires_ms):
        return "EVODB_GCS_TOKEN and EVODB_GCS_TOKEN_EXPIRES_MS are wanted together"
    return None


def can_be_a_folder(name: str) -> bool:
    """Whether a table, or a level of a namespace, may have this name."""
    return bool(name.strip()) and name not in {".", ".."} and not set(name) & {"/", "\\"} and min(name) >= " "
