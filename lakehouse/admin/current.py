"""Tables of now, and how far each source is in them."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import moment
from lakehouse.models import CurrentSource, CurrentTable


@admin.register(CurrentTable)
class CurrentTableAdmin(ReadOnlyAdmin):
    list_display = ("table", "namespace", "positions", "turn", moment("refreshed_ms"))
    list_filter = ("namespace",)
    search_fields = ("table",)


@admin.register(CurrentSource)
class CurrentSourceAdmin(ReadOnlyAdmin):
    list_display = ("source", "current", "epoch", "seq")
    list_select_related = ("current",)
    search_fields = ("source", "current__table")
