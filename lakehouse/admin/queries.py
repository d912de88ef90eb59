"""Queries with an id that run just now."""

from __future__ import annotations

from django.contrib import admin

from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import moment
from lakehouse.models import NamedQuery


@admin.register(NamedQuery)
class NamedQueryAdmin(ReadOnlyAdmin):
    list_display = ("name", "is_cancelled", moment("until_ms"))
    search_fields = ("name",)
