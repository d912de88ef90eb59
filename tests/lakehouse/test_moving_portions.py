"""Rows in portions that fit into memory: all of them, once, in the order of their keys."""

from __future__ import annotations

import pytest
from django.db import DEFAULT_DB_ALIAS

from lakehouse.models import Batch, BatchPayload, Child
from lakehouse.moving import portions
from tests.lakehouse.test_admin import everything


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([], []),
        ([1, 1], [(0, 1)]),
        ([1, 1, 1, 1], [(0, 2), (3, 3)]),
        ([6, 4, 1], [(0, 1), (2, 2)]),
        ([99, 1, 99, 99], [(0, 0), (1, 1), (2, 2), (3, 3)]),
    ],
)
def test_a_portion_ends_where_the_next_row_would_be_too_much(sizes: list[int], wanted: list[tuple[int, int]]) -> None:
    assert list(portions.cut(enumerate(sizes), rows_max=3, bytes_max=10)) == wanted


@pytest.mark.django_db
def test_payloads_that_are_large_are_not_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "BYTES_AT_ONCE", 100)
    for number, size in enumerate((60, 40, 1, 300)):
        everything(number, payload=bytes(size))
    found = [[len(row.payload) for row in rows] for rows in portions.of(BatchPayload, DEFAULT_DB_ALIAS)]
    assert found == [[60, 40], [1], [300]]
    assert [len(rows) for rows in portions.of(Batch, DEFAULT_DB_ALIAS)] == [4]


@pytest.mark.django_db
def test_children_with_many_gaps_are_not_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "BYTES_AT_ONCE", 2500)
    for number, gaps in enumerate((1, 40, 1)):
        child = everything(number)[Child]
        Child.objects.filter(pk=child.pk).update(islands=[[1, 2]] * gaps)
    assert [len(rows) for rows in portions.of(Child, DEFAULT_DB_ALIAS)] == [1, 1, 1]
