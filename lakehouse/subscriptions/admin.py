"""Subscriptions, which an operator decides about, and what became of telling the subscribers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from lakehouse import clock
from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment
from lakehouse.subscriptions.models import Attempt, Delivery, Subscription


@admin.register(Subscription)
class SubscriptionAdmin(EditableAdmin):
    list_display = (
        "name",
        "parent",
        "pattern",
        "target_kind",
        "target",
        "active",
        "commit_number",
        moment("created_ms"),
    )
    list_filter = ("active", "target_kind", "parent")
    list_select_related = ("parent",)
    search_fields = ("name", "pattern", "target")
    autocomplete_fields = ("parent",)
    readonly_fields = (moment("created_ms"),)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never here: it would take the record of its deliveries along. Inactive is as quiet."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.created_ms = clock.now_ms()
        super().save_model(request, obj, form, change)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("id", "subscription", "commit_number", "entry_key", "state", moment("next_attempt_ms"))
    list_filter = ("state", "subscription")
    list_select_related = ("subscription",)
    search_fields = ("entry_key", "=commit_number", "subscription__name")


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ("id", "delivery", moment("started_ms"), "duration_ms", "status", "error")
    list_filter = ("status",)
    list_select_related = ("delivery",)
    search_fields = ("error", "=delivery__id", "delivery__entry_key")
