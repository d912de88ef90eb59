"""Queries with an id, as rows that every process of the parent sees: one may ask that the query of another ends."""

from __future__ import annotations

from collections.abc import Collection

from django.db import IntegrityError, transaction
from django.db.models import Q

from lakehouse.errors import InvalidQuery
from lakehouse.models import NamedQuery


def begin(name: str, *, term_ms: int, now_ms: int) -> int:
    """The row of a query that ends within this term. Raises InvalidQuery when one of this name runs already."""
    # One that ends so late is of a clock that was wrong.
    is_over = Q(until_ms__lt=now_ms) | Q(until_ms__gt=now_ms + 2 * term_ms)
    NamedQuery.objects.filter(is_over).delete()
    try:
        with transaction.atomic():
            return NamedQuery.objects.create(name=name, until_ms=now_ms + term_ms).pk
    except IntegrityError:
        raise InvalidQuery(f"a query with the id {name.partition(' ')[0]!r} is running already") from None


def end(pk: int) -> None:
    NamedQuery.objects.filter(pk=pk).delete()


def cancelled(rows: Collection[int]) -> list[int]:
    """Those of these that somebody wants to end."""
    return list(NamedQuery.objects.filter(pk__in=rows, is_cancelled=True).values_list("pk", flat=True))


def cancel(name: str, *, now_ms: int) -> int | None:
    """The row of the query that is to end; None when no such query runs."""
    row = NamedQuery.objects.filter(name=name, until_ms__gte=now_ms).first()
    if row is None or not NamedQuery.objects.filter(pk=row.pk).update(is_cancelled=True):
        return None
    return row.pk


def is_there(pk: int) -> bool:
    return NamedQuery.objects.filter(pk=pk).exists()
