"""What upkeep remembers of a table: what is to be deleted, who is at it, and what was done when."""

from __future__ import annotations

from django.db import models

from lakehouse.models.catalog import IcebergTable


class ForgottenSnapshot(models.Model):
    """A snapshot its table names no more; deleted with its files, when no reader can hold it any more.

    Written in the transaction that moves the pointer. With a dropped table it goes, and the files stay as all of its.
    """

    table = models.ForeignKey(IcebergTable, on_delete=models.CASCADE, related_name="forgotten")
    snapshot_id = models.BigIntegerField()
    manifest_list = models.TextField()
    statistics = models.JSONField(default=list)
    forgotten_ms = models.BigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["table", "forgotten_ms"], name="forgotten_by_time")]

    def __str__(self) -> str:
        return f"{self.table}@{self.snapshot_id}"


class TableUpkeep(models.Model):
    """The lease: whoever holds the highest epoch may commit and sweep, however late everybody else wakes up."""

    table = models.OneToOneField(IcebergTable, on_delete=models.CASCADE, primary_key=True, related_name="upkeep")
    lease_epoch = models.PositiveBigIntegerField(default=0)
    lease_until_ms = models.BigIntegerField(default=0)
    version = models.PositiveBigIntegerField(null=True, help_text="Of the table, when it was looked at last.")
    compacted_version = models.PositiveBigIntegerField(default=0, help_text="When small files were looked for last.")
    looked_ms = models.BigIntegerField(default=0)
    swept_ms = models.BigIntegerField(default=0)
    orphans = models.PositiveBigIntegerField(
        default=0, help_text="Files in no snapshot, when they were looked for last."
    )
    orphan_bytes = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "table upkeep"

    def __str__(self) -> str:
        return f"upkeep of {self.table}"
