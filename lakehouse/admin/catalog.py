"""The catalog: namespaces, and pointers that only a commit may move."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment, size
from lakehouse.models import ForgottenSnapshot, IcebergTable, Namespace, TableToMake, TableUpkeep


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


@admin.register(TableToMake)
class TableToMakeAdmin(ReadOnlyAdmin):
    list_display = ("name", "namespace", "uuid", "table")
    list_select_related = ("table__namespace",)
    search_fields = ("name", "uuid")


@admin.register(ForgottenSnapshot)
class ForgottenSnapshotAdmin(ReadOnlyAdmin):
    list_display = ("snapshot_id", "table", moment("forgotten_ms"))
    list_select_related = ("table__namespace",)
    search_fields = ("table__name",)


@admin.register(TableUpkeep)
class TableUpkeepAdmin(ReadOnlyAdmin):
    list_display = ("table", moment("looked_ms"), moment("swept_ms"), "orphans", size("orphan_bytes"))
    list_select_related = ("table__namespace",)
    search_fields = ("table__name",)
