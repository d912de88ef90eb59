"""Access keys: made here and shown once, narrowed, revoked. Never deleted: who could come in stays on record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from lakehouse import clock
from lakehouse.admin.base import EditableAdmin
from lakehouse.admin.shown import moment
from lakehouse.models import AccessKey
from lakehouse.parent import access

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[AccessKey]
else:
    ModelForm = forms.ModelForm


class AccessKeyForm(ModelForm):
    """Times as people write them; the row keeps milliseconds."""

    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in access.SCOPES], widget=forms.CheckboxSelectMultiple
    )
    expires = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime, help_text="UTC. Empty: never.")

    class Meta:
        model = AccessKey
        fields = ("name", "scopes", "source_pattern")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.expires_ms:
            self.initial["expires"] = datetime.fromtimestamp(self.instance.expires_ms // 1000, UTC)

    def clean_expires(self) -> datetime | None:
        expires: datetime | None = self.cleaned_data["expires"]
        if "expires" in self.changed_data and expires and expires <= datetime.fromtimestamp(clock.now_ms() / 1000, UTC):
            raise ValidationError("This moment is past; to end a key now, revoke it.")
        return expires

    def expires_ms(self) -> int | None:
        expires: datetime | None = self.cleaned_data["expires"]
        return int(expires.timestamp() * 1000) if expires else None


@admin.register(AccessKey)
class AccessKeyAdmin(EditableAdmin):
    form = AccessKeyForm
    fields = ("name", "scopes", "source_pattern", "expires", moment("created_ms"), moment("revoked_ms"))
    readonly_fields = (moment("created_ms"), moment("revoked_ms"))
    list_display = (
        "name",
        "scopes",
        "source_pattern",
        moment("created_ms"),
        moment("expires_ms"),
        moment("revoked_ms"),
    )
    list_filter = (("revoked_ms", admin.EmptyFieldListFilter),)
    search_fields = ("name", "source_pattern")
    actions = ("revoke",)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: AccessKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            if "expires" in form.changed_data:
                AccessKey.objects.filter(pk=obj.pk).update(expires_ms=form.expires_ms())
            return
        made, key = access.new_key(
            obj.name,
            scopes=obj.scopes,
            source_pattern=obj.source_pattern,
            now_ms=clock.now_ms(),
            expires_ms=form.expires_ms(),
        )
        obj.pk = made.pk
        self.message_user(request, f"The key is {key} - copy it now, it is not shown again.", messages.WARNING)

    @admin.action(description="Revoke: the key opens nothing from now on")
    def revoke(self, request: HttpRequest, queryset: QuerySet[AccessKey]) -> None:
        count = queryset.filter(revoked_ms=None).update(revoked_ms=clock.now_ms())
        self.message_user(request, f"{count} keys revoked.", messages.SUCCESS)
