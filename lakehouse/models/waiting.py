"""What could not become rows yet: rows that wait for the object store, and entries nobody can read."""

from __future__ import annotations

from django.db import models

from lakehouse.models.batches import Batch
from lakehouse.models.flushes import Flush
from lakehouse.models.parents import Child, Parent


class FallbackBatch(models.Model):
    """Rows of one table (Arrow IPC, zstd) that wait for the object store."""

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="fallback")
    namespace = models.CharField(max_length=200)
    table = models.CharField(max_length=500)
    rows = models.PositiveIntegerField()
    payload = models.BinaryField()
    flush = models.ForeignKey(Flush, on_delete=models.PROTECT, null=True, related_name="kept")
    moving = models.ForeignKey(
        Flush,
        on_delete=models.SET_NULL,
        null=True,
        related_name="moved",
        help_text="The recovery that has these rows on their way into a catalog that is not ours.",
    )
    batches = models.BinaryField(default=b"", help_text="The batches these rows came in, n times u64, little-endian.")
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_ms = models.BigIntegerField(default=0)
    last_error = models.TextField(default="", blank=True)
    created_ms = models.BigIntegerField()

    class Meta:
        verbose_name_plural = "fallback batches"
        indexes = [models.Index(fields=["parent", "table", "id"], name="fallback_in_order")]

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.namespace}.{self.table}"


class DeadLetterState(models.TextChoices):
    WAITING = "waiting"
    """For somebody who replays or purges it."""
    REPLAYED = "replayed"
    """It is in the journal again, as the batch `replay`."""
    COMMITTED = "committed"
    """Everything of it is a row, or a dead letter of its own."""


class DeadLetter(models.Model):
    """An acked entry that cannot be a row, whole and with the reason. One that cannot even be cut is a whole batch.

    `batch` is the one it was acked in; the row it may become has the source, epoch and sequences of that one. `reason`
    is that of the latest attempt.
    """

    parent = models.ForeignKey(Parent, on_delete=models.PROTECT, related_name="dead_letters")
    child = models.ForeignKey(Child, on_delete=models.PROTECT, related_name="dead_letters")
    batch = models.ForeignKey(Batch, on_delete=models.PROTECT, related_name="dead_letters")
    entry_index = models.PositiveIntegerField(null=True, help_text="Empty when the whole batch is unreadable.")
    table = models.CharField(max_length=500, default="", blank=True)
    encoding = models.CharField(max_length=16)
    payload = models.BinaryField()
    reason = models.TextField()
    created_ms = models.BigIntegerField()
    state = models.CharField(max_length=9, choices=DeadLetterState.choices, default=DeadLetterState.WAITING)
    replays = models.PositiveIntegerField(default=0, help_text="How often it was put into the journal again.")
    replayed_ms = models.BigIntegerField(null=True)
    replay = models.OneToOneField(Batch, on_delete=models.SET_NULL, null=True, related_name="replayed_letter")

    class Meta:
        indexes = [models.Index(fields=["parent", "state", "id"], name="dead_letter_by_state")]

    def __str__(self) -> str:
        return f"dead letter {self.pk}"
