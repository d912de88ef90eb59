"""Events: their schemas, which ids a namespace has stored, how far they are written as JSON lines, hours to merge."""

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


class EventExport(models.Model):
    """The commits of a parent up to `commit_number` are written as JSON lines."""

    parent = models.OneToOneField(Parent, on_delete=models.CASCADE, primary_key=True, related_name="event_export")
    commit_number = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"JSON lines up to commit {self.commit_number}"


class EventHour(models.Model):
    """An hour of a namespace in which there may be files of JSON lines to merge, until nothing is left to do.

    Who works at it has its epoch. Lines of the files in `gone` are in `file`, so none of them may be there any more.
    """

    parent = models.ForeignKey(Parent, on_delete=models.CASCADE, related_name="event_hours")
    hour = models.CharField(max_length=13, help_text="YYYY/MM/DD/HH, which is its folder.")
    due_ms = models.BigIntegerField()
    epoch = models.PositiveIntegerField(default=0)
    file = models.CharField(max_length=32, default="", blank=True)
    planned = models.CharField(max_length=32, default="", blank=True, help_text="Is being written, or was at a death.")
    gone = models.JSONField(default=list, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["parent", "hour"], name="event_hour_once")]
        indexes = [models.Index(fields=["due_ms"], name="event_hour_by_due")]

    def __str__(self) -> str:
        return f"{self.parent}/{self.hour}"


class EventSchema(models.Model):
    """What events of one type have to be like: JSON Schema. Whoever changes one changes `Parent.schema_version`, so
    every process notices with the next batch.
    """

    parent = models.ForeignKey(Parent, on_delete=models.CASCADE, related_name="event_schemas")
    type = models.CharField(max_length=128)
    schema = models.TextField(help_text="JSON Schema 2020-12, as it was sent.")
    changed_ms = models.BigIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["parent", "type"], name="event_schema_once_per_type")]

    def __str__(self) -> str:
        return f"{self.parent}/{self.type}"
