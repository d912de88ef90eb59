"""The journal: accepted batches, and their bytes until they are in a table."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from lakehouse.models.flushes import Flush
from lakehouse.models.parents import Child, Parent


class BatchState(models.TextChoices):
    PENDING = "pending"
    FLUSHING = "flushing"
    PERSISTED = "persisted"
    FALLBACK = "fallback"


class Batch(models.Model):
    """An accepted batch. Outlives its payload, as the memory that recognises repeats and as history.

    `digest` is xxh3-128 over the payload as it was offered. `entry_digests` (n times u64, little-endian) identify the
    entries for finding repeats in a batch that was cut anew; empty when the child keeps an epoch and the entry
    sequences run without a gap from `entry_sequence_first` to `entry_sequence_last`, which says as much.
    """

    id = models.BigAutoField(primary_key=True)
    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="batches", db_index=False)
    child = models.ForeignKey(Child, on_delete=models.PROTECT, related_name="journal", db_index=False)
    epoch = models.BigIntegerField()
    sequence = models.BigIntegerField()
    digest = models.BinaryField(max_length=16)
    entry_digests = models.BinaryField(default=b"")
    entry_sequence_first = models.BigIntegerField()
    entry_sequence_last = models.BigIntegerField()
    entries = models.PositiveIntegerField()
    size_bytes = models.PositiveIntegerField()
    encoding = models.CharField(max_length=16)
    received_ms = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=BatchState.choices, default=BatchState.PENDING)
    flush = models.ForeignKey(Flush, on_delete=models.PROTECT, null=True, related_name="claimed", db_index=False)

    class Meta:
        verbose_name_plural = "batches"
        constraints = [models.UniqueConstraint(fields=["child", "epoch", "sequence"], name="batch_once")]
        indexes = [
            models.Index(fields=["parent", "state", "id"], name="batch_by_state"),
            models.Index(fields=["child", "entry_sequence_last"], name="batch_by_entries"),
            # Of those that have a flush: what is taken in has none, and costs 1 us less for it (SQLite).
            models.Index(fields=["flush"], name="batch_by_flush", condition=Q(flush__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"batch {self.pk}"


class BatchPayload(models.Model):
    """The entries of a batch that were not stored before, in the layout `encoding`; deleted when they are in tables."""

    batch = models.OneToOneField(Batch, on_delete=models.CASCADE, primary_key=True, related_name="stored")
    payload = models.BinaryField()

    def __str__(self) -> str:
        return f"payload of batch {self.pk}"
