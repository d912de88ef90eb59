"""What could not become rows yet: waiting for the object store, or unreadable."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import content, moment
from lakehouse.models import DeadLetter, FallbackBatch


@admin.register(FallbackBatch)
class FallbackBatchAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "parent",
        "namespace",
        "table",
        "rows",
        content("payload"),
        "attempts",
        moment("next_attempt_ms"),
        "last_error",
        moment("created_ms"),
    )
    list_filter = ("parent",)
    list_select_related = ("parent",)
    search_fields = ("table", "last_error")


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "parent",
        "child",
        "batch",
        "entry_index",
        "table",
        "reason",
        content("payload"),
        moment("created_ms"),
    )
    list_filter = ("parent", "encoding")
    list_select_related = ("parent", "child", "batch")
    search_fields = ("table", "reason", "child__name", "=batch__id")
