"""What is on its way into a catalog that is not ours (docs/decisions/0012): written before that catalog is asked."""

from __future__ import annotations

import uuid

from django.db import models

from lakehouse.models.flushes import Flush


def new_key() -> str:
    return uuid.uuid4().hex[:12]


class Installation(models.Model):
    """Who we are among all who write to the same tables; one row."""

    key = models.CharField(max_length=32, default=new_key)

    def __str__(self) -> str:
        return self.key


class ForeignCommit(models.Model):
    """One table's share of a flush that was announced and is not marked yet; deleted with the marking.

    An open flush that has one is in doubt: its batches belong to it until every table was looked up.
    """

    flush = models.ForeignKey(Flush, on_delete=models.CASCADE, related_name="foreign")
    namespace = models.CharField(max_length=200)
    table = models.CharField(max_length=500)
    table_uuid = models.CharField(max_length=36)
    base_snapshot_id = models.BigIntegerField(null=True, help_text="Where main stood when this was announced.")
    marker_before = models.TextField(default="", blank=True, help_text="The property of the table then.")
    stamp = models.CharField(max_length=100, help_text="What the commit carries; nothing else ever carries it.")
    rows = models.PositiveIntegerField()
    digest = models.CharField(max_length=16, help_text="The sum of the digests of its entries.")
    files = models.PositiveIntegerField()
    size_bytes = models.PositiveBigIntegerField()
    snapshot_id = models.BigIntegerField(help_text="The one that has the rows, or would have had them at first.")
    metadata_location = models.TextField(default="", blank=True)
    is_landed = models.BooleanField(default=False, help_text="The rows are in the table, as far as anybody knows yet.")
    question = models.TextField(default="", blank=True, help_text="Why nobody can tell; an operator has to answer.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["flush", "namespace", "table"], name="foreign_table_once")]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.table} of flush {self.flush_id}"
