"""Where the lake lies: the catalog our settings describe, and how its files are reached.

A folder is named by its plain absolute path, which every reader understands; an object store by s3://bucket/prefix.
"""

from __future__ import annotations

import os

from pyiceberg.catalog import WAREHOUSE_LOCATION
from pyiceberg.io import S3_ACCESS_KEY_ID, S3_ENDPOINT, S3_REGION, S3_SECRET_ACCESS_KEY
from pyiceberg.typedef import Properties

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.conf import Settings

FILE_IO = "lakehouse.catalog.files.DurableFileIO"


def from_settings(settings: Settings) -> DjangoCatalog:
    """This installation's catalog. Make it after a worker has forked: connections to a store do not survive that."""
    if settings.s3_endpoint:
        # By itself the AWS library behind PyArrow sends checksums after the body, in chunks, and stores that are not
        # AWS answer 411 Length Required. It can be told so by the environment only.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    return DjangoCatalog("evodb", **properties(settings))


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
    }
    return {name: value for name, value in given.items() if value}
