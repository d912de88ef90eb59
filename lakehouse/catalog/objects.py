"""Objects of S3 are deleted by boto3: a thousand with a request, or one by one where the store has no such request.

PyArrow deletes an object and then writes an empty one named like its folder; a store that keeps folders (rclone) loses
the other files of that folder by it. A lake in a folder never imports boto3.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lakehouse.catalog import side_by_side

log = logging.getLogger(__name__)
AT_ONCE = 1000
"""S3 takes no more."""
Access = tuple[str | None, ...]
"""Endpoint, region, key, secret and session token."""


def delete(bucket: str, keys: Sequence[str], access: Access) -> dict[str, OSError]:
    """What could not be deleted, and why. A missing object is no error."""
    client, failed = _client(*access), dict[str, OSError]()
    for start in range(0, len(keys), AT_ONCE):
        left = list(keys[start : start + AT_ONCE])
        try:
            if len(left) > 1:
                left = _refused(client, bucket, left)
        except OSError as exc:
            failed |= dict.fromkeys(left, exc)
            continue
        room = side_by_side.THREADS if len(left) > 1 else 1
        found, error = side_by_side.each(lambda key: _error(client, bucket, key), left, room)
        if error is not None:
            raise error
        failed |= {key: why for key, why in zip(left, found, strict=True) if why is not None}
    return failed


def _refused(client: Any, bucket: str, keys: list[str]) -> list[str]:
    """Those that one request does not delete. Raises OSError when nobody answers."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    asked = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
    try:
        answer = client.delete_objects(Bucket=bucket, Delete=asked)
    except ClientError as exc:
        log.info("objects of %s are deleted one by one: %s", bucket, exc)
        return keys
    except BotoCoreError as exc:
        raise OSError(f"cannot delete {len(keys)} objects of s3://{bucket}: {exc}") from exc
    return [one["Key"] for one in answer.get("Errors", ())]


def _error(client: Any, bucket: str, key: str) -> OSError | None:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as exc:
        found = OSError(f"cannot delete s3://{bucket}/{key}: {exc}")
        found.__cause__ = exc
        return found
    return None


@lru_cache(maxsize=4)
def _client(endpoint: str | None, region: str | None, key: str | None, secret: str | None, token: str | None) -> Any:
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
    )
