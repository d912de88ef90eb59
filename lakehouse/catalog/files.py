"""PyArrow's FileIO with three differences: files that survive a power cut, deletes that only delete, writes that wait.

The pointer is committed with an fsync and the journal's payload is deleted in the same transaction, so every file
behind the pointer has to be on the disk before. An object store promises that when a write returns; a folder does not.
`settle` syncs the files one stage wrote and their folders: 3 ms for a flush of one day, 140 ms for one of 365 (ext4).

PyArrow deletes an object and then writes an empty one named like its folder; a store that keeps folders (rclone) loses
the other files of that folder by it. So objects are deleted by boto3, which a lake in a folder never imports.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyarrow.fs import FileSystem
from pyiceberg.catalog import WAREHOUSE_LOCATION
from pyiceberg.io import (
    S3_ACCESS_KEY_ID,
    S3_ENDPOINT,
    S3_REGION,
    S3_SECRET_ACCESS_KEY,
    S3_SESSION_TOKEN,
    InputFile,
    OutputFile,
)
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.typedef import EMPTY_DICT, Properties


class DurableFileIO(PyArrowFileIO):
    """One per loaded table: `written` is what this table's writer has not settled yet."""

    def __init__(self, properties: Properties = EMPTY_DICT) -> None:
        super().__init__(properties)
        self.written: list[str] = []

    def fresh(self) -> DurableFileIO:
        """Another one with nothing written, over the same connections to the store."""
        other = DurableFileIO(self.properties)
        other.fs_by_scheme = self.fs_by_scheme
        return other

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        """Parts leave one after the other: in the background Arrow keeps all that a slow store has not taken yet."""
        made: Any = super()._initialize_s3_fs(netloc)
        rebuild, (options,) = made.__reduce__()
        filesystem: FileSystem = rebuild({**options, "background_writes": False})
        return filesystem

    def new_output(self, location: str) -> PyArrowFile:
        self.written.append(location)
        return super().new_output(location)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        """Raises OSError. A missing object is no error, as everywhere with S3."""
        path = location if isinstance(location, str) else location.location
        scheme, bucket, key = self.parse_location(path, self.properties)
        if scheme == "file":
            super().delete(path)
            return
        wanted = (S3_ENDPOINT, S3_REGION, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY, S3_SESSION_TOKEN)
        _delete_object(bucket, key.removeprefix(f"{bucket}/"), *(self.properties.get(name) for name in wanted))

    def settle(self) -> None:
        """Make everything written so far durable. Raises OSError."""
        written, self.written = self.written, []
        parsed = (self.parse_location(location, self.properties) for location in written)
        files = [Path(path) for scheme, _, path in parsed if scheme == "file"]
        for file in files:
            _sync(file)
        # A folder made on the way is an entry of its own parent: all of them up to the warehouse's, the deepest first.
        warehouse = Path(self.properties.get(WAREHOUSE_LOCATION, "/"))
        top = warehouse.parent if warehouse.is_absolute() else Path("/")  # to a REST catalog it is a name
        folders = {folder for file in files for folder in file.parents if folder.is_relative_to(top)}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with suppress(PermissionError):  # Somebody else's folder, which was there before.
                _sync(folder)


def _delete_object(bucket: str, key: str, *access: str | None) -> None:
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

    try:
        _objects(*access).delete_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError) as exc:
        raise OSError(f"cannot delete s3://{bucket}/{key}: {exc}") from exc


@lru_cache(maxsize=4)
def _objects(endpoint: str | None, region: str | None, key: str | None, secret: str | None, token: str | None) -> Any:
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        aws_session_token=token,
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
