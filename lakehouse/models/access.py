"""Access keys. The key itself is shown once and never stored."""

from __future__ import annotations

from django.db import models


class AccessKey(models.Model):
    """`digest` is the SHA-256 of the key in hex; a key has 256 random bits, so a slow hash would add nothing."""

    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    scopes = models.JSONField(default=list, help_text='Any of "ingest", "query", "subscribe", "admin".')
    source_pattern = models.CharField(
        max_length=500, default="*", help_text="Child ids it may write as; * matches any."
    )
    created_ms = models.BigIntegerField(default=0, editable=False)
    expires_ms = models.BigIntegerField(null=True, blank=True)
    revoked_ms = models.BigIntegerField(null=True, blank=True)

    def __str__(self) -> str:
        return self.name
