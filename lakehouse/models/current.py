"""Tables of now, and how far they are: moved in the transaction that moves their pointer."""

from __future__ import annotations

from django.db import models


class CurrentTable(models.Model):
    """The table of now of a table of changes.

    `positions` has for each parent of the namespace the commit up to which everything is in it ({id: number}). Every
    change of the row names the turn it saw.
    """

    namespace = models.CharField(max_length=200, help_text="Of the changes.")
    table = models.CharField(max_length=500)
    turn = models.PositiveBigIntegerField(default=0)
    positions = models.JSONField(default=dict)
    version = models.PositiveBigIntegerField(
        null=True,
        help_text="The mark of the table of changes, when it was read last: which table, and how often changed.",
    )
    refreshed_ms = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["namespace", "table"], name="current_table_once")]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.table} as it is now"


class CurrentSource(models.Model):
    """The last change of a source that is in a table of now. What is not behind it came late."""

    current = models.ForeignKey(CurrentTable, on_delete=models.CASCADE, related_name="sources")
    source = models.CharField(max_length=500)
    epoch = models.BigIntegerField()
    seq = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["current", "source"], name="current_source_once")]

    def __str__(self) -> str:
        return f"{self.source} in {self.current}"
