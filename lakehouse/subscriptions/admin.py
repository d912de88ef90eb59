"""Subscriptions, which an operator decides about, and what became of telling the subscribers."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse

from lakehouse import clock
from lakehouse.admin.base import EditableAdmin, ReadOnlyAdmin
from lakehouse.admin.shown import moment
from lakehouse.subscriptions import desk
from lakehouse.subscriptions.models import Attempt, Delivery, DeliveryTotal, Subscription

EVENTS_BYTES_SHOWN = 4096
_STANDING = ("state", "state_reason", "commit_number", "delivered_events", "dead_events")


class SubscriptionForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean(self) -> dict[str, Any]:
        """Refuse what the API refuses."""
        fields: dict[str, Any] = super().clean() or {}
        for name, text in desk.complaints(fields).items():
            self.add_error(name if name in self.fields else None, text)
        parent = fields.get("parent") or getattr(self.instance, "parent", None)
        full = None if parent is None else desk.crowded(parent, fields.get("pattern", ""), but=self.instance.pk or 0)
        if full is not None:
            self.add_error("pattern", full)
        return fields


@admin.register(Subscription)
class SubscriptionAdmin(EditableAdmin):
    form = SubscriptionForm
    change_form_template = "admin/subscriptions/subscription/change_form.html"
    list_display = (
        "name",
        "parent",
        "pattern",
        "table",
        "target_kind",
        "target",
        *_STANDING,
        moment("last_delivered_ms"),
    )
    list_filter = ("state", "target_kind", "parent")
    list_select_related = ("parent",)
    search_fields = ("name", "pattern", "target")
    autocomplete_fields = ("parent",)
    readonly_fields = (*_STANDING, "secret", moment("last_delivered_ms"), moment("created_ms"))
    actions = ("pause", "resume", "test_fire")

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Whoever knows the secret signs in our name, so it is for those who may change who hears us."""
        may_sign = self.has_change_permission(request, obj)
        return [name for name in super().get_fields(request, obj) if name != "secret" or may_sign]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Never here: it would take the record of its deliveries along. Paused is as quiet."""
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if not change:
            obj.created_ms = clock.now_ms()
            desk.place_now(obj)
        super().save_model(request, obj, form, change)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        if "_test_fire" in request.POST:
            self.test_fire(request, Subscription.objects.filter(pk=obj.pk))
        return super().response_change(request, obj)

    @admin.action(description="Pause: keep the place, send nothing", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        self._say(request, desk.pause(queryset), "paused")

    @admin.action(description="Resume: go on from the place, or from now where there is none", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        try:
            self._say(request, desk.resume(queryset), "resumed")
        except desk.TooMany as exc:
            self.message_user(request, f"None was resumed: {exc}.", messages.ERROR)

    @admin.action(description="Test: send an event of type subscription.test", permissions=["change"])
    def test_fire(self, request: HttpRequest, queryset: QuerySet[Subscription]) -> None:
        made = [desk.test_fire(one, now_ms=clock.now_ms()) for one in queryset]
        text = f"{len(made)} test events are on their way; what became of them is in the deliveries and attempts."
        self.message_user(request, text, messages.SUCCESS)

    def _say(self, request: HttpRequest, count: int, done: str) -> None:
        self.message_user(request, f"{count} subscriptions {done}.", messages.SUCCESS if count else messages.WARNING)


class LetterFilter(admin.SimpleListFilter):
    title = "dead letters"
    parameter_name = "letter"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[Any]:
        return [("yes", "dead letters")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(dead_ms__isnull=False) if self.value() else queryset


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    head_bytes = EVENTS_BYTES_SHOWN
    list_display = (
        "id",
        "subscription",
        "commit_number",
        "event_count",
        "state",
        "attempts_made",
        moment("next_attempt_ms"),
        moment("dead_ms"),
        "reason",
        "last_error",
    )
    list_filter = ("state", LetterFilter, "subscription")
    list_select_related = ("subscription",)
    search_fields = ("=uid", "=commit_number", "subscription__name", "last_error")
    actions = ("retry",)  # type: ignore[assignment]

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("subscriptions.change_delivery")

    @admin.action(description="Retry dead letters: the same message again", permissions=["retry"])
    def retry(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        count = desk.retry(queryset, now_ms=clock.now_ms())
        self.message_user(
            request, f"{count} dead letters are queued again.", messages.SUCCESS if count else messages.WARNING
        )


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ("id", "delivery", moment("started_ms"), "duration_ms", "status", "error")
    list_filter = ("status",)
    list_select_related = ("delivery",)
    search_fields = ("error", "=delivery__id", "=delivery__uid")


@admin.register(DeliveryTotal)
class DeliveryTotalAdmin(ReadOnlyAdmin):
    list_display = ("parent", "delivered_events", "dead_events", "failed_attempts")
    list_select_related = ("parent",)
    search_fields = ("parent__name",)
