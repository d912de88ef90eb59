"""An append that merges small manifests, as the library's does, but for those that it cannot write anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _ManifestMergeManager, _MergeAppendFiles

from lakehouse.catalog import fetching, partitioning


class Merging(_ManifestMergeManager[Any]):
    """Small manifests become one, as in the library, which asks for one after the other."""

    def _create_manifest(self, spec_id: int, manifest_bin: list[ManifestFile]) -> ManifestFile:
        fetching.remember(self._snapshot_producer._io, manifest_bin)
        return super()._create_manifest(spec_id, manifest_bin)


class Append(_MergeAppendFiles):
    def __init__(self, change: Transaction, summary: Mapping[str, str]) -> None:
        super().__init__(Operation.APPEND, change, change._table.io, snapshot_properties=dict(summary))

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        fixed = partitioning.fixed(self._transaction.table_metadata)
        moving, stay = list[ManifestFile](), list[ManifestFile]()
        for one in manifests:
            stays = one.partition_spec_id in fixed or one.content != ManifestContent.DATA
            (stay if stays else moving).append(one)
        merging = Merging(self._target_size_bytes, self._min_count_to_merge, self._merge_enabled, self)
        return merging.merge_manifests(moving) + stay
