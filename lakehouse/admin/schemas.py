"""Schemas of tables, which an operator decides about, and the inbox of what children send beside them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import Model, QuerySet
from django.forms import CharField
from django.http import HttpRequest

from lakehouse import broker
from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment
from lakehouse.models import DriftField, TableSchema
from lakehouse.tasks import promote_field


@admin.register(TableSchema)
class TableSchemaAdmin(EditableAdmin):
    list_display = ("table", "parent", "mode", "nested")
    list_filter = ("mode", "parent")
    list_select_related = ("parent",)
    search_fields = ("table",)
    ordering = ("parent__name", "table")

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> tuple[str, ...]:
        """A schema stays with its table."""
        return ("parent", "table") if obj else ()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """One by one, because each tells its parent."""
        for row in queryset:
            row.delete()


class TypeForm(ActionForm):
    """A type other than the one that was seen."""

    type = CharField(required=False, max_length=50, label="as type (empty: as seen)")


@admin.register(DriftField)
class DriftFieldAdmin(ReadOnlyAdmin):
    list_display = (
        "field",
        "parent",
        "table",
        "kind",
        "type",
        "example",
        "values",
        moment("first_ms"),
        moment("last_ms"),
        "said",
    )
    list_filter = ("kind", "parent", "table")
    list_select_related = ("parent",)
    search_fields = ("field", "table", "example")
    actions = ("promote", "forget")  # type: ignore[assignment]
    action_form = TypeForm

    def has_promote_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("lakehouse.change_driftfield")

    @admin.action(description="Promote to column, with what is in _rest already", permissions=["promote"])
    def promote(self, request: HttpRequest, queryset: QuerySet[DriftField]) -> None:
        try:
            with broker.asked():
                for row in queryset:
                    promote_field.delay(row.parent_id, row.table, row.field, request.POST.get("type", ""))
        except broker.BrokerAway as exc:
            self.message_user(request, f"{exc}; try again when it is back.", messages.ERROR)
            return
        text = f"A worker was asked for {len(queryset)} columns; a row leaves the inbox when its column is there."
        self.message_user(request, text, messages.SUCCESS)

    @admin.action(description="Forget: it comes again with the next such value", permissions=["promote"])
    def forget(self, request: HttpRequest, queryset: QuerySet[DriftField]) -> None:
        self.message_user(request, f"{queryset.delete()[0]} rows forgotten.", messages.SUCCESS)
