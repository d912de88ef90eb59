"""What could not become rows yet: waiting for the object store, or unreadable."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db.models import QuerySet
from django.http import HttpRequest

from lakehouse import broker, clock
from lakehouse.admin.base import ReadOnlyAdmin
from lakehouse.admin.shown import content, moment
from lakehouse.flush import breaker_row, letters
from lakehouse.models import DeadLetter, FallbackBatch, StoreBreaker
from lakehouse.tasks import recover_fallback


@admin.register(StoreBreaker)
class StoreBreakerAdmin(ReadOnlyAdmin):
    """One row, or none before the store was ever away."""

    list_display = (
        "state",
        "failures",
        "opened_total",
        moment("open_until_ms"),
        "probe_owner",
        moment("probe_until_ms"),
        moment("changed_ms"),
        moment("outage_until_ms"),
        "last_error",
    )
    search_fields = ("state", "last_error")


@admin.register(FallbackBatch)
class FallbackBatchAdmin(ReadOnlyAdmin):
    actions = ("recover_now",)  # type: ignore[assignment]
    list_display = (
        "id",
        "parent",
        "namespace",
        "table",
        "rows",
        content("payload"),
        "attempts",
        moment("next_attempt_ms"),
        "last_error",
        moment("created_ms"),
    )
    list_filter = ("parent",)
    list_select_related = ("parent",)
    search_fields = ("table", "last_error")

    def has_recover_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("lakehouse.change_fallbackbatch")

    @admin.action(description="Recover now: ask workers for the parents of these rows", permissions=["recover"])
    def recover_now(self, request: HttpRequest, queryset: QuerySet[FallbackBatch]) -> None:
        """What was tried too often is tried again, and nobody waits for the breaker."""
        breaker_row.hurry(now_ms=clock.now_ms())
        parents = sorted(set(queryset.order_by().values_list("parent", flat=True)))
        for parent_id in parents:
            FallbackBatch.objects.filter(parent=parent_id, flush__isnull=False).update(attempts=0, next_attempt_ms=0)
        try:
            with broker.asked():
                for parent_id in parents:
                    recover_fallback.delay(parent_id)
        except broker.BrokerAway as exc:
            self.message_user(request, f"{exc}; the rows are tried when the beat asks next.", messages.ERROR)
            return
        self.message_user(request, f"A worker was asked to recover {len(parents)} parents.", messages.SUCCESS)


class PurgeForm(ActionForm):
    """What is purged is gone for ever, so it takes a tick beside the action."""

    for_ever = forms.BooleanField(required=False, label="for ever (purge)")


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "parent",
        "child",
        "batch",
        "entry_index",
        "table",
        "reason",
        content("payload"),
        moment("created_ms"),
        "state",
        "replays",
        moment("replayed_ms"),
    )
    list_filter = ("state", "parent", "encoding")
    list_select_related = ("parent", "child", "batch")
    search_fields = ("table", "reason", "child__name", "=batch__id")
    actions = ("replay", "purge")  # type: ignore[assignment]
    action_form = PurgeForm

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("lakehouse.change_deadletter")

    def has_purge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("lakehouse.delete_deadletter")

    @admin.action(description="Replay: the next flush reads them with the code as it is now", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        done = letters.replay(queryset, now_ms=clock.now_ms())
        self.message_user(request, f"{done.letters} dead letters are in the journal again.", messages.SUCCESS)
        if done.full:
            text = "Not all: a buffer is full. Let it be flushed (manage.py flush_buffers), then replay the rest."
            self.message_user(request, text, messages.WARNING)

    @admin.action(description="Purge: delete them for ever", permissions=["purge"])
    def purge(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> None:
        if not request.POST.get("for_ever"):
            text = f"Nothing was deleted: tick 'for ever' beside the action to delete {queryset.count()} dead letters."
            self.message_user(request, text, messages.WARNING)
            return
        self.message_user(request, f"{letters.purge(queryset)} dead letters deleted.", messages.SUCCESS)
