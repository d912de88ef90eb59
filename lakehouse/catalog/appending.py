"""An append that merges small manifests, as the library's does, but for those that it cannot write anew."""

from __future__ import annotations

from collections.abc import Mapping

from pyiceberg.manifest import ManifestFile
from pyiceberg.table import Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _MergeAppendFiles

from lakehouse.catalog import partitioning


class Append(_MergeAppendFiles):
    def __init__(self, change: Transaction, summary: Mapping[str, str]) -> None:
        super().__init__(Operation.APPEND, change, change._table.io, snapshot_properties=dict(summary))

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        fixed = partitioning.fixed(self._transaction.table_metadata)
        stay = [one for one in manifests if one.partition_spec_id in fixed]
        return super()._process_manifests([one for one in manifests if one.partition_spec_id not in fixed]) + stay
