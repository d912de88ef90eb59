"""What could not become rows yet: rows that wait for the object store, and entries nobody can read."""

from __future__ import annotations

from django.db import models

from lakehouse.models.batches import Batch
from lakehouse.models.parents import Child, Parent


class FallbackBatch(models.Model):
    """Rows of one table (Arrow IPC, zstd) that wait for the object store."""

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="fallback")
    namespace = models.CharField(max_length=200)
    table = models.CharField(max_length=500)
    rows = models.PositiveIntegerField()
    payload = models.BinaryField()
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_ms = models.BigIntegerField(default=0)
    last_error = models.TextField(default="", blank=True)
    created_ms = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "fallback batches"
        indexes = [models.Index(fields=["parent", "table", "id"], name="fallback_in_order")]

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.namespace}.{self.table}"


class DeadLetter(models.Model):
    """An acked entry that cannot be a row, whole and with the reason. One that cannot even be cut is a whole batch."""

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="dead_letters")
    child = models.ForeignKey(Child, on_delete=models.PROTECT, related_name="dead_letters")
    batch = models.ForeignKey(Batch, on_delete=models.PROTECT, related_name="dead_letters")
    entry_index = models.PositiveIntegerField(null=True, help_text="Empty when the whole batch is unreadable.")
    table = models.CharField(max_length=500, default="", blank=True)
    encoding = models.CharField(max_length=16)
    payload = models.BinaryField()
    reason = models.TextField()
    created_ms = models.BigIntegerField()

    def __str__(self) -> str:
        return f"dead letter {self.pk}"
