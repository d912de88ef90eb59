"""What an operator says of the columns of a table, and what its children send beside them."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction

from lakehouse import declared
from lakehouse.models.parents import Parent, schemas_changed
from rpc.names import is_table, table_complaint


def validate_fields(fields: object) -> None:
    try:
        declared.read(fields)
    except ValueError as exc:
        raise ValidationError(str(exc)) from None


def validate_table(name: str) -> None:
    if not is_table(name.encode(errors="replace")):
        raise ValidationError(table_complaint(name.encode(errors="replace")))


class SchemaMode(models.TextChoices):
    OFF = "off", "off: columns come as values do"
    STRICT = "strict", "strict: a batch with anything else is refused"
    INBOX = "inbox", "inbox: anything else waits in _rest and is listed"


class NestedValues(models.TextChoices):
    PARENT = "", "as the parent's setting nested_values"
    JSON = "json", "JSON text"
    STRUCT = "struct", "structs and lists"


class TableSchema(models.Model):
    """The schema of one table of one parent. Whoever changes one changes `Parent.schema_version`, so all notice."""

    parent = models.ForeignKey(Parent, on_delete=models.CASCADE, related_name="schemas")
    table = models.CharField(max_length=255, validators=[validate_table])
    mode = models.CharField(max_length=6, choices=SchemaMode.choices, default=SchemaMode.OFF)
    nested = models.CharField(
        max_length=6,
        choices=NestedValues.choices,
        default=NestedValues.PARENT,
        blank=True,
        help_text="New columns of objects and arrays.",
    )
    fields = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_fields],
        help_text='Types of columns: {"id": "long not null", "price": "decimal(12,2)", "tags": ["string"]}.',
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["parent", "table"], name="schema_once_per_table")]

    def __str__(self) -> str:
        return f"{self.parent}/{self.table}"

    def clean(self) -> None:
        """An emptied form field is None; it means no types."""
        self.fields = self.fields or {}
        if self.mode == SchemaMode.STRICT and not self.fields:
            raise ValidationError({"fields": "a strict schema without fields would refuse every row; name its columns"})

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():
            schemas_changed(self.parent_id)
            super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        with transaction.atomic():
            schemas_changed(self.parent_id)
            return super().delete(*args, **kwargs)


class DriftKind(models.TextChoices):
    NEW = "new", "no column"
    MISFIT = "misfit", "does not fit its column"


class DriftField(models.Model):
    """A key whose values went to `_rest` of a table in inbox mode."""

    parent = models.ForeignKey(Parent, on_delete=models.CASCADE, related_name="drift")
    table = models.CharField(max_length=255)
    field = models.CharField(max_length=255)
    kind = models.CharField(max_length=6, choices=DriftKind.choices)
    type = models.CharField(max_length=50, help_text="Of the values of the last flush that had any.")
    example = models.CharField(max_length=200)
    values = models.PositiveBigIntegerField(default=0, help_text="How many there were.")
    first_ms = models.BigIntegerField()
    last_ms = models.BigIntegerField()
    said = models.TextField(default="", blank=True, help_text="What came of the last attempt to make it a column.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["parent", "table", "field"], name="drift_once_per_field")]

    def __str__(self) -> str:
        return f"{self.parent}/{self.table}: {self.field}"
