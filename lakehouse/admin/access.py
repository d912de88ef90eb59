"""Access keys: made here and shown once, narrowed, rotated, revoked. Never deleted: it stays on record."""

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
from lakehouse.models.access import KeyState
from lakehouse.parent import access, key_changes
from lakehouse.parent.key_bindings import bindings

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[AccessKey]
else:
    ModelForm = forms.ModelForm

PATTERNS = ("source_pattern", "parents", "namespaces")
OPTIONAL = (*PATTERNS, "priority", "limits")
RECORDED = ("prefix", "rotated_from", moment("created_ms"), moment("last_used_ms"), moment("revoked_ms"))


class AccessKeyForm(ModelForm):
    """Times as people write them; the row keeps milliseconds."""

    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in access.SCOPES], widget=forms.CheckboxSelectMultiple
    )
    expires = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime, help_text="UTC. Empty: never.")

    class Meta:
        model = AccessKey
        fields = ("name", "scopes", *OPTIONAL)
        widgets = {name: forms.Textarea(attrs={"rows": 3, "cols": 60}) for name in PATTERNS}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in OPTIONAL:
            if name in self.fields:  # who may only look has none
                self.fields[name].required = False  # `clean` says more than "required"
        if self.instance.expires_ms:
            self.initial["expires"] = datetime.fromtimestamp(self.instance.expires_ms // 1000, UTC)

    def clean_expires(self) -> datetime | None:
        expires: datetime | None = self.cleaned_data["expires"]
        if "expires" in self.changed_data and expires and expires <= datetime.fromtimestamp(clock.now_ms() / 1000, UTC):
            raise ValidationError("This moment is past; to end a key now, revoke it.")
        return expires

    def clean(self) -> dict[str, Any]:
        """One check for every way in. A field that was not sent stays as it is; one that was emptied is no pattern."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if not self.errors:
            given = {name: cleaned[name] if name in self.data else getattr(self.instance, name) for name in OPTIONAL}
            given["limits"] = {} if given["limits"] is None else given["limits"]
            try:
                cleaned |= bindings(name=cleaned["name"], scopes=cleaned["scopes"], **given)
            except ValueError as exc:
                raise ValidationError(str(exc)) from None
        return cleaned

    def expires_ms(self) -> int | None:
        expires: datetime | None = self.cleaned_data["expires"]
        return int(expires.timestamp() * 1000) if expires else None


class StateFilter(admin.SimpleListFilter):
    title, parameter_name = "state", "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        return list(KeyState.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[AccessKey]) -> QuerySet[AccessKey]:
        live = access.alive(now_ms=clock.now_ms()).values("pk")
        if self.value() == KeyState.LIVE:
            return queryset.filter(pk__in=live)
        if self.value() == KeyState.EXPIRED:
            return queryset.filter(revoked_ms=None).exclude(pk__in=live)
        return queryset.filter(revoked_ms__isnull=False) if self.value() == KeyState.REVOKED else queryset


@admin.register(AccessKey)
class AccessKeyAdmin(EditableAdmin):
    form = AccessKeyForm
    fields = ("name", "scopes", *OPTIONAL, "expires", "state", *RECORDED)
    readonly_fields = ("state", *RECORDED)
    list_display = (
        "name",
        "prefix",
        "state",
        "scopes",
        *PATTERNS,
        "priority",
        moment("created_ms"),
        moment("expires_ms"),
        moment("last_used_ms"),
    )
    list_filter = (StateFilter, "priority")
    search_fields = ("name", "prefix", "source_pattern")
    actions = ("revoke", "rotate")

    @admin.display(description="state")
    def state(self, key: AccessKey) -> str:
        return key.state(now_ms=clock.now_ms()).label if key.pk else "-"

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: AccessKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            if "expires" in form.changed_data:
                AccessKey.objects.filter(pk=obj.pk).update(expires_ms=form.expires_ms())
            return
        columns = {name: getattr(obj, name) for name in ("scopes", *OPTIONAL)}
        made, key = access.new_key(obj.name, **columns, now_ms=clock.now_ms(), expires_ms=form.expires_ms())
        obj.pk = made.pk
        self._show(request, made, key)

    def has_rotate_permission(self, request: HttpRequest) -> bool:
        """It shows a new key, as adding one does, and ends the old one."""
        return self.has_add_permission(request) and self.has_change_permission(request)

    @admin.action(description="Revoke: the key opens nothing from now on", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[AccessKey]) -> None:
        now_ms = clock.now_ms()
        count = sum(key_changes.revoke(key, now_ms=now_ms) for key in queryset)
        self.message_user(request, f"{count} keys revoked.", messages.SUCCESS)

    @admin.action(
        description="Rotate: a new key with the same bindings; the old one is good for 24 h more",
        permissions=["rotate"],
    )
    def rotate(self, request: HttpRequest, queryset: QuerySet[AccessKey]) -> None:
        """One at a time: every key has to be copied, and only a few fit into a cookie; the rest would be stored."""
        if len(keys := list(queryset[:2])) != 1:
            self.message_user(request, "Rotate one key at a time, to copy the new one.", messages.ERROR)
            return
        try:
            self._show(request, *key_changes.rotate(keys[0], now_ms=clock.now_ms()))
        except ValueError as exc:
            self.message_user(request, f"Nothing was changed: {exc}", messages.ERROR)

    def _show(self, request: HttpRequest, made: AccessKey, key: str) -> None:
        text = f"The key of {made.name} is {key} - copy it now, it is not shown again."
        self.message_user(request, text, messages.WARNING)
