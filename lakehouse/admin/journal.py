"""The journal: what was accepted, and the bytes that wait to be rows."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import content, moment, size
from lakehouse.models import Batch, BatchPayload, EventExport, EventHour, EventId, EventSchema


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "parent",
        "child",
        "epoch",
        "sequence",
        "entries",
        size("size_bytes"),
        "encoding",
        "state",
        "flush",
        moment("received_ms"),
    )
    list_filter = ("state", "encoding", "parent")
    list_select_related = ("parent", "child", "flush")
    search_fields = ("=id", "child__name")
    search_help_text = "Number of the batch, or name of its child"


@admin.register(BatchPayload)
class BatchPayloadAdmin(ReadOnlyAdmin):
    list_display = ("batch", content("payload"))
    list_filter = ("batch__state", "batch__parent")
    list_select_related = ("batch",)
    search_fields = ("=batch__id", "batch__child__name")
    search_help_text = "Number of the batch, or name of its child"


@admin.register(EventId)
class EventIdAdmin(ReadOnlyAdmin):
    list_display = ("id", "parent", content("digest"), moment("received_ms"))
    list_filter = ("parent",)
    list_select_related = ("parent",)
    search_fields = ("=id", "parent__name")
    search_help_text = "Number of the row, or name of its parent"


@admin.register(EventExport)
class EventExportAdmin(ReadOnlyAdmin):
    list_display = ("parent", "commit_number")
    list_select_related = ("parent",)
    search_fields = ("parent__name",)
    search_help_text = "Name of the parent"


@admin.register(EventHour)
class EventHourAdmin(ReadOnlyAdmin):
    list_display = ("hour", "parent", moment("due_ms"), "file")
    list_select_related = ("parent",)
    search_fields = ("hour", "parent__name")
    search_help_text = "How the hour begins (2026/01/31), or name of the parent"


@admin.register(EventSchema)
class EventSchemaAdmin(ReadOnlyAdmin):
    """A namespace's own, changed through PUT /schemas/<type>, which checks what a schema may cost."""

    list_display = ("type", "parent", moment("changed_ms"))
    list_filter = ("parent",)
    list_select_related = ("parent",)
    search_fields = ("type", "parent__name")
    search_help_text = "Type of the events, or name of the parent"
