"""How a client reaches the files: what it may know of the store, and the keys that the settings lend.

Such a key opens the whole bucket. So it is lent to who may see all namespaces, and to nobody bound to some of them. An
open house lends the writer's to everybody.
"""

from __future__ import annotations

from typing import Any

import orjson
from pyiceberg.catalog import WAREHOUSE_LOCATION
from pyiceberg.io import S3_ACCESS_KEY_ID, S3_ENDPOINT, S3_REGION, S3_SECRET_ACCESS_KEY

from lakehouse.catalog.rest.calls import Call
from lakehouse.parent.grants import ADMIN, ANY
from lakehouse.storing import scheme_of

DELEGATION = "x-iceberg-access-delegation"
VENDED = "vended-credentials"


def config(call: Call) -> dict[str, str]:
    """Where the store is, in the words of Iceberg's clients. Nothing of it is a secret."""
    if not _is_in_a_bucket(call):
        return {}
    known = call.catalog.properties
    found = {name: known[name] for name in (S3_ENDPOINT, S3_REGION) if name in known}
    if call.settings.clients_s3_endpoint:
        found[S3_ENDPOINT] = call.settings.clients_s3_endpoint
    if S3_REGION in found:
        found["client.region"] = found[S3_REGION]
    if S3_ENDPOINT in found:
        found["s3.path-style-access"] = "true"
    return found


def told(call: Call) -> dict[str, str]:
    """The configuration of a table, with the keys when they are asked for.

    pyiceberg before 0.12 looks for them nowhere else, and 0.12 does not for a table that is staged.
    """
    return config(call) | lent_keys(call)


def lent(call: Call, metadata: bytes) -> list[dict[str, Any]]:
    """The keys, when they are asked for: for the folder of the table of this metadata, and for all of the warehouse,
    for files of a table may lie elsewhere, by its properties or from before it had this folder.

    Two of them, because DuckDB takes the prefix of a single one for the folder of the table, whatever it is.
    """
    if not (keys := lent_keys(call)):
        return []
    prefixes = (orjson.loads(metadata)["location"], f"{call.catalog.properties[WAREHOUSE_LOCATION]}/")
    return [{"prefix": prefix, "config": config(call) | keys} for prefix in prefixes]


def lent_keys(call: Call) -> dict[str, str]:
    """Those for writers when the caller may write, else those for readers."""
    settings, grant = call.settings, call.grant
    asked = {word.strip() for word in call.headers.get(DELEGATION, "").lower().split(",")}
    if VENDED not in asked or grant.namespaces != ANY or not _is_in_a_bucket(call):
        return {}
    key, secret = settings.reader_s3_access_key_id, settings.reader_s3_secret_access_key
    if ADMIN in grant.scopes and settings.writer_s3_access_key_id:
        key, secret = settings.writer_s3_access_key_id, settings.writer_s3_secret_access_key
    return {S3_ACCESS_KEY_ID: key, S3_SECRET_ACCESS_KEY: secret} if key else {}


def _is_in_a_bucket(call: Call) -> bool:
    return scheme_of(call.settings.resolved_warehouse) == "s3"
