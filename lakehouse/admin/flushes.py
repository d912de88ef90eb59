"""Flushes: every attempt to turn batches into rows, and what it did to each table."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import moment, size
from lakehouse.models import Flush, FlushTable, ForeignCommit, Installation


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


@admin.register(ForeignCommit)
class ForeignCommitAdmin(ReadOnlyAdmin):
    """What is on its way into somebody else's catalog; with a question, `manage.py in_doubt` takes the answer."""

    list_display = ("flush", "namespace", "table", "rows", "is_landed", "question")
    list_filter = ("is_landed", "flush__parent")
    list_select_related = ("flush",)
    search_fields = ("table", "=flush__id", "question")
    search_help_text = "Name of the table, number of the flush, or words of the question"


@admin.register(Installation)
class InstallationAdmin(ReadOnlyAdmin):
    list_display = ("key",)
