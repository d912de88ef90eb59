"""What came of each child into each table, as `manage.py verify` compares it with the lake."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.models import ChildTable


@admin.register(ChildTable)
class ChildTableAdmin(ReadOnlyAdmin):
    list_display = ("child", "table", "epoch", "entries", "digest", "unreadable", "entry_sequence_last")
    list_filter = ("child__parent",)
    list_select_related = ("child",)
    search_fields = ("child__name", "table")
    search_help_text = "Name of the child or of the table"
