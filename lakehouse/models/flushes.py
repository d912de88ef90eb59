"""Flushes: each is one attempt to move waiting batches into tables, and what came of it."""

from __future__ import annotations

from django.db import models

from lakehouse.models.parents import Parent

RECOVERY = "recovery"
"""The trigger of a flush that needs no lease: it moves what was kept in the fallback, not batches that wait."""


class FlushState(models.TextChoices):
    OPEN = "open"
    COMMITTED = "committed"
    ABANDONED = "abandoned"
    """Its worker went silent or failed; what it had waits on, as batches or in the fallback."""
    KEPT = "kept"
    """The object store was away; its rows wait in the fallback for a recovery, which is a flush of its own."""


class Flush(models.Model):
    id = models.BigAutoField(primary_key=True)
    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="flushes")
    trigger = models.CharField(max_length=16)
    lease_epoch = models.PositiveBigIntegerField()
    state = models.CharField(max_length=9, choices=FlushState.choices, default=FlushState.OPEN)
    started_ms = models.BigIntegerField()
    finished_ms = models.BigIntegerField(null=True)
    batches = models.PositiveIntegerField(default=0)
    entries = models.PositiveIntegerField(default=0)
    rows = models.PositiveIntegerField(default=0)
    size_bytes = models.PositiveBigIntegerField(default=0, help_text="Bytes of the files written.")
    dead_letters = models.PositiveIntegerField(default=0)
    commit_number = models.PositiveBigIntegerField(
        null=True, help_text="Position in the parent's line of commits, without gaps."
    )
    error = models.TextField(default="", blank=True)

    class Meta:
        verbose_name_plural = "flushes"
        constraints = [models.UniqueConstraint(fields=["parent", "commit_number"], name="commit_once")]
        indexes = [models.Index(fields=["parent", "state"], name="flush_by_state")]

    def __str__(self) -> str:
        return f"flush {self.pk}"


class FlushTable(models.Model):
    """What one flush did to one table."""

    flush = models.ForeignKey(Flush, on_delete=models.CASCADE, related_name="tables")
    namespace = models.CharField(max_length=200)
    table = models.CharField(max_length=500)
    snapshot_id = models.BigIntegerField()
    metadata_location = models.TextField()
    rows = models.PositiveIntegerField()
    files = models.PositiveIntegerField()
    size_bytes = models.PositiveBigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["flush", "namespace", "table"], name="table_once_per_flush")]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.table}"
