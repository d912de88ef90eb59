"""How a client reaches the files: what it may know of the store, and the keys that the settings lend.

Such a key opens the whole bucket. So it is lent to who may see all namespaces, and to nobody bound to some of them. An
open house lends the writer's to everybody.
"""

from __future__ import annotations

from typing import Any

import orjson
from pyiceberg.io import S3_ACCESS_KEY_ID, S3_ENDPOINT, S3_REGION, S3_SECRET_ACCESS_KEY

from lakehouse.catalog.rest.calls import Call
from lakehouse.parent.grants import ADMIN, ANY

DELEGATION = "x-iceberg-access-delegation"
VENDED = "vended-credentials"


def config(call: Call) -> dict[str, str]:
    """Where the store is, in the words of Iceberg's clients. Nothing of it is a secret."""
    known = call.catalog.properties
    if not call.settings.resolved_warehouse.startswith("s3://"):
        return {}
    found = {name: known[name] for name in (S3_ENDPOINT, S3_REGION) if name in known}
    if S3_REGION in found:
        found["client.region"] = found[S3_REGION]
    if S3_ENDPOINT in found:
        found["s3.path-style-access"] = "true"
    return found


def lent(call: Call, metadata: bytes) -> list[dict[str, Any]]:
    """The keys for the table of this metadata, when they are asked for."""
    asked = {word.strip() for word in call.headers.get(DELEGATION, "").lower().split(",")}
    keys = _keys(call)
    if VENDED not in asked or not keys:
        return []
    return [{"prefix": orjson.loads(metadata)["location"], "config": config(call) | keys}]


def _keys(call: Call) -> dict[str, str]:
    """Those for writers when the caller may write, else those for readers."""
    settings, grant = call.settings, call.grant
    if grant.namespaces != ANY or not config(call):
        return {}
    key, secret = settings.reader_s3_access_key_id, settings.reader_s3_secret_access_key
    if ADMIN in grant.scopes and settings.writer_s3_access_key_id:
        key, secret = settings.writer_s3_access_key_id, settings.writer_s3_secret_access_key
    return {S3_ACCESS_KEY_ID: key, S3_SECRET_ACCESS_KEY: secret} if key else {}
