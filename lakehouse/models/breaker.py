"""The breaker around the object store: one row, so that every process of the installation sees the same."""

from __future__ import annotations

from django.db import models


class StoreBreaker(models.Model):
    """Whether the object store is asked at all. No row yet means closed.

    `turn` rises with every change, and a change names the turn it saw; so of two that want the probe one gets it.
    """

    state = models.CharField(max_length=9, default="closed", help_text="closed, open or half_open.")
    turn = models.PositiveBigIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0, help_text="In a row; a flush that gets through ends the row.")
    opened_total = models.PositiveBigIntegerField(default=0, help_text="An outage counts once, however long it is.")
    open_until_ms = models.BigIntegerField(default=0)
    probe_owner = models.CharField(max_length=200, default="", blank=True)
    probe_until_ms = models.BigIntegerField(default=0, help_text="A probe that is silent for so long is dead.")
    changed_ms = models.BigIntegerField(default=0)
    last_error = models.TextField(default="", blank=True)
    outage_until_ms = models.BigIntegerField(
        default=0, help_text="A drill: until then every flush finds the store away, though it is not."
    )

    def __str__(self) -> str:
        return f"breaker: {self.state}"
