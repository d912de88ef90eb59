"""What came of each child into each table, counted as it is committed: what `verify` compares the lake with."""

from __future__ import annotations

from django.db import models

from lakehouse.models.parents import Child


class ChildTable(models.Model):
    """Entries of one table that flushes have committed, and the sums of their digests (rpc.entry_digest) in hex.

    `epoch` is one the child keeps itself; all others of it, those counted by the parent, are in one row with 0.
    The unreadable ones are dead letters and no rows; what the child had acknowledged is both together.
    """

    child = models.ForeignKey(Child, on_delete=models.CASCADE, related_name="tables")
    epoch = models.BigIntegerField()
    table = models.CharField(max_length=500)
    entries = models.PositiveBigIntegerField(default=0)
    digest = models.CharField(max_length=16, default="0" * 16)
    entry_sequence_first = models.BigIntegerField()
    entry_sequence_last = models.BigIntegerField()
    unreadable = models.PositiveBigIntegerField(default=0)
    unreadable_digest = models.CharField(max_length=16, default="0" * 16)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["child", "epoch", "table"], name="child_table_once")]

    def __str__(self) -> str:
        return f"{self.entries} entries of {self.child} in {self.table}"
