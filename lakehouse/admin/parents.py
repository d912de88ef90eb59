"""Parents, which an operator names and tunes, and their children, whose numbers only the journal may move."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from lakehouse import clock
from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment, size
from lakehouse.events import namespaces
from lakehouse.flush import fuse_box
from lakehouse.models import Child, ConnectionState, Parent
from lakehouse.models.parents import Holder, PastFlushes
from lakehouse.parent import leases


class ParentForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean(self) -> dict[str, Any]:
        """What `events.acme` takes is read in `acme`; anywhere else its tenant would not see it, and others might."""
        fields: dict[str, Any] = super().clean() or {}
        home = namespaces.home_of(fields.get("name", ""))
        if home is not None and fields.get("namespace") != home:
            self.add_error("namespace", f"parent {fields['name']} takes events, and is in the namespace {home}")
        return fields


@admin.register(Parent)
class ParentAdmin(EditableAdmin):
    form = ParentForm
    list_display = (
        "name",
        "namespace",
        "pending_batches",
        "pending_entries",
        size("pending_bytes"),
        "commit_number",
        moment("last_flush_ms"),
        "lease_owner",
        moment("fuse_blown_ms"),
    )
    actions = ("reset_fuse", "accept_letters")
    search_fields = ("name", "namespace")
    fieldsets = (
        (None, {"fields": ("name", "namespace", "config")}),
        ("Buffer", {"fields": ("pending_batches", "pending_entries", size("pending_bytes"))}),
        ("Flush lease", {"fields": ("lease_owner", "lease_epoch", moment("lease_until_ms"))}),
        ("Fuse", {"fields": (moment("fuse_blown_ms"), "fuse_reason", "fuse_accepted")}),
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

    @admin.action(description="Reset fuse: what was wrong is mended", permissions=["change"])
    def reset_fuse(self, request: HttpRequest, queryset: QuerySet[Parent]) -> None:
        self._mend(request, queryset, accept=False)

    @admin.action(description="Reset fuse and accept the dead letters this time", permissions=["change"])
    def accept_letters(self, request: HttpRequest, queryset: QuerySet[Parent]) -> None:
        self._mend(request, queryset, accept=True)

    def _mend(self, request: HttpRequest, queryset: QuerySet[Parent], *, accept: bool) -> None:
        mended = fuse_box.mend(queryset.values_list("name", flat=True), accept=accept)
        text = f"Flushed again: {', '.join(mended)}." if mended else "None of these fuses is blown."
        self.message_user(request, text, messages.SUCCESS if mended else messages.WARNING)


class StateFilter(admin.SimpleListFilter):
    """By the state that is shown."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[Any]:
        return list(ConnectionState.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state_now=self.value()) if self.value() else queryset


@admin.register(Child)
class ChildAdmin(ReadOnlyAdmin):
    list_display = (
        "name",
        "parent",
        "shard",
        "state_shown",
        "sequence",
        "batches",
        "entries",
        "duplicates",
        moment("last_seen_ms"),
    )
    list_filter = (StateFilter, "parent")
    list_select_related = ("parent",)
    search_fields = ("name", "shard")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        children: QuerySet[Any] = super().get_queryset(request)
        shown: QuerySet[Any] = children.annotate(state_now=leases.state(now_ms=clock.now_ms()))
        return shown

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        return ["state_shown" if field == "state" else field for field in super().get_fields(request, obj)]

    @admin.display(description="state", ordering="state_now")
    def state_shown(self, child: Any) -> str:
        """What a process said that was killed does not count."""
        return str(child.state_now)


@admin.register(Holder)
class HolderAdmin(ReadOnlyAdmin):
    list_display = ("name", moment("lease_until_ms"))
    search_fields = ("name",)


@admin.register(PastFlushes)
class PastFlushesAdmin(ReadOnlyAdmin):
    list_display = ("parent", "commit_number", "took_ms")
    list_select_related = ("parent",)
    search_fields = ("parent__name",)
