"""Flushes: every attempt to turn batches into rows, and what it did to each table."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import moment, size
from lakehouse.models import Flush, FlushTable


@admin.register(Flush)
class FlushAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "parent",
        "state",
        "trigger",
        "commit_number",
        "batches",
        "entries",
        "rows",
        size("size_bytes"),
        "dead_letters",
        moment("started_ms"),
        moment("finished_ms"),
        "error",
    )
    list_filter = ("state", "trigger", "parent")
    list_select_related = ("parent",)
    search_fields = ("=id", "=commit_number", "error")
    search_help_text = "Number of the flush or of its commit, or words of its error"


@admin.register(FlushTable)
class FlushTableAdmin(ReadOnlyAdmin):
    list_display = ("flush", "namespace", "table", "rows", "files", size("size_bytes"), "snapshot_id")
    list_filter = ("namespace", "flush__parent")
    list_select_related = ("flush",)
    search_fields = ("table", "=flush__id", "=snapshot_id")
    search_help_text = "Name of the table, number of the flush or of the snapshot"
