"""The catalog: namespaces, and pointers that only a commit may move."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.models import IcebergTable, Namespace


@admin.register(Namespace)
class NamespaceAdmin(EditableAdmin):
    list_display = ("__str__", "properties")
    search_fields = ("name",)
    ordering = ("name",)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """A namespace keeps its name: parents and queries say it."""
        return ("name",) if obj else ()


@admin.register(IcebergTable)
class IcebergTableAdmin(ReadOnlyAdmin):
    list_display = ("name", "namespace", "version", "metadata_location")
    list_filter = ("namespace",)
    list_select_related = ("namespace",)
    ordering = ("namespace__name", "name")
    search_fields = ("name", "metadata_location")
