"""Parents, which an operator names and tunes, and their children, whose numbers only the journal may move."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from lakehouse import clock
from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment, size
from lakehouse.models import Child, Parent


@admin.register(Parent)
class ParentAdmin(EditableAdmin):
    list_display = (
        "name",
        "namespace",
        "pending_batches",
        "pending_entries",
        size("pending_bytes"),
        "commit_number",
        moment("last_flush_ms"),
        "lease_owner",
    )
    search_fields = ("name", "namespace")
    fieldsets = (
        (None, {"fields": ("name", "namespace", "config")}),
        ("Buffer", {"fields": ("pending_batches", "pending_entries", size("pending_bytes"))}),
        ("Flush lease", {"fields": ("lease_owner", "lease_epoch", moment("lease_until_ms"))}),
        ("History", {"fields": ("commit_number", moment("last_flush_ms"), moment("created_ms"))}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        return [field for _, section in self.fieldsets[1:] for field in section["fields"]]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never here: the confirmation page would load every batch the parent ever took."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.created_ms = clock.now_ms()
        super().save_model(request, obj, form, change)


@admin.register(Child)
class ChildAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "parent",
        "shard",
        "state",
        "sequence",
        "batches",
        "entries",
        "duplicates",
        moment("last_seen_ms"),
    )
    list_filter = ("state", "parent")
    list_select_related = ("parent",)
    search_fields = ("name", "shard")
