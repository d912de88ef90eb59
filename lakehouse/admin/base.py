"""What the pages of our admin share: pages nobody can edit, and pages that save only what was edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import BinaryField, Field, Model, QuerySet
from django.db.models.functions import Length, Substr
from django.http import HttpRequest

from lakehouse.admin.shown import HEAD_BYTES, content, moment

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


DURATIONS = ("batch_ms", "duration_ms", "took_ms")
"""How long something takes; all other milliseconds are moments."""


class ReadOnlyAdmin(ModelAdmin):
    """Rows that record what happened. Payloads stay in the database; their size and first bytes are asked for."""

    show_full_result_count = False
    head_bytes = HEAD_BYTES
    ordering: ClassVar[tuple[str, ...]] = ("-pk",)
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        binary = [field.name for field in self.model._meta.concrete_fields if isinstance(field, BinaryField)]
        looks: dict[str, Any] = {f"{name}_length": Length(name) for name in binary}
        looks |= {f"{name}_head": Substr(name, 1, self.head_bytes, output_field=BinaryField()) for name in binary}
        rows: QuerySet[Any] = super().get_queryset(request).defer(*binary)
        return rows.annotate(**looks) if looks else rows

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        return [_readable(field) for field in self.model._meta.concrete_fields]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        return self.get_fields(request, obj)


class EditableAdmin(ModelAdmin):
    """Rows an operator decides about. Saving writes the columns of the form only: the counters beside them move."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            columns = {field.name for field in self.model._meta.concrete_fields}
            obj.save(update_fields=columns & set(form.cleaned_data))
        else:
            obj.save()


def _readable(field: Field[Any, Any]) -> Any:
    if isinstance(field, BinaryField):
        return content(field.name)
    is_moment = field.name.endswith("_ms") and field.name not in DURATIONS
    return moment(field.name) if is_moment else field.name
