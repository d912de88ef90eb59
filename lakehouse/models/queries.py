"""Queries that run, as far as another process of the parent has to know them."""

from __future__ import annotations

from django.db import models


class NamedQuery(models.Model):
    """A query with an id, from its asking to its end. Its process looks whether it is to end.

    A row whose process died stays until `until_ms`, by which no query runs any more.
    """

    name = models.CharField(max_length=200, unique=True, help_text="The id, and whose it is.")
    until_ms = models.BigIntegerField()
    is_cancelled = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "named queries"

    def __str__(self) -> str:
        return self.name
