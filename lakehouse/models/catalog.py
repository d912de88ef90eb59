"""The Iceberg catalog: a table is a pointer to its newest metadata file, in the same database as the journal."""

from __future__ import annotations

import uuid

from django.db import models

VERSION_BITS = 32


class Namespace(models.Model):
    """`name` holds the levels joined by U+001F, as the Iceberg REST specification joins them."""

    name = models.CharField(max_length=500, unique=True)
    properties = models.JSONField(default=dict, blank=True)

    def __str__(self) -> str:
        return self.name.replace("\x1f", ".")


class IcebergTable(models.Model):
    """A commit is one UPDATE of `metadata_location` that also names the location it replaces."""

    namespace = models.ForeignKey(Namespace, on_delete=models.PROTECT, related_name="tables")
    name = models.CharField(max_length=500)
    metadata_location = models.TextField()
    previous_metadata_location = models.TextField(default="", blank=True)
    version = models.PositiveBigIntegerField(default=0, help_text="How many commits moved the pointer.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["namespace", "name"], name="table_once_per_namespace")]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"

    @property
    def mark(self) -> int:
        """One number for which table this is and how often it was changed."""
        return self.pk << VERSION_BITS | self.version

    def is_another_than(self, mark: int) -> bool:
        """Whether this is not the table that had that mark. An older one says how often only, and of which nothing."""
        return mark >> VERSION_BITS not in {0, self.pk}


class TableToMake(models.Model):
    """The UUID of a table that a flush, a refresh or a client makes: the same for all who try, until it is gone.

    So the metadata of one who lost, or died, is of this table, and not of one that nobody knows and may register.
    """

    namespace = models.CharField(max_length=500)
    name = models.CharField(max_length=500)
    uuid = models.UUIDField(default=uuid.uuid4)
    table = models.OneToOneField(
        IcebergTable, null=True, on_delete=models.CASCADE, related_name="made_as", help_text="Once it is there."
    )

    class Meta:
        verbose_name_plural = "tables to make"
        constraints = [models.UniqueConstraint(fields=["namespace", "name"], name="table_to_make_once")]

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}".replace("\x1f", ".")
