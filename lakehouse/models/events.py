"""Events: which ids a namespace has stored already."""

from __future__ import annotations

from django.db import models

from lakehouse.models.parents import Parent


class EventId(models.Model):
    """An id that an event brought along, known for `history_days`. `digest` is xxh3-128 of it."""

    id = models.BigAutoField(primary_key=True)
    parent = models.ForeignKey(Parent, on_delete=models.CASCADE, related_name="event_ids", db_index=False)
    digest = models.BinaryField(max_length=16)
    received_ms = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["parent", "digest"], name="event_once")]
        indexes = [models.Index(fields=["parent", "received_ms"], name="event_id_by_age")]

    def __str__(self) -> str:
        return bytes(self.digest).hex()
