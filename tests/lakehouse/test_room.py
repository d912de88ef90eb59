"""Tables that children name without end."""

from __future__ import annotations

import pytest

from lakehouse.catalog.catalog import DjangoCatalog
from lakehouse.catalog.own import OwnLake
from lakehouse.flush import raw, room, shred
from lakehouse.flush.shred import Shredded, StoredBatch
from lakehouse.models import IcebergTable, Namespace
from rpc import columns
from rpc.batch import Encoding
from rpc.entries import RawEntry
from tests.builders import NOW_MS, entry

pytestmark = pytest.mark.django_db
OWN = OwnLake(DjangoCatalog())


def lake(*tables: str, namespace: str = "lake") -> set[str]:
    of, _ = Namespace.objects.get_or_create(name=namespace)
    IcebergTable.objects.bulk_create(IcebergTable(namespace=of, name=name, metadata_location=name) for name in tables)
    return set(tables)


def bounded(entries: list[RawEntry], known: set[str], tables_max: int) -> Shredded:
    batch = StoredBatch(7, "shop-1", "", 1, 1, NOW_MS, Encoding.COLUMNS, columns.encode(entries))
    read = room.within(OWN, raw.read([batch]), known, namespace="lake", tables_max=tables_max)
    return shred.typed_of(read, {})


def rows(shredded: Shredded) -> dict[str, int]:
    return {name: table.num_rows for name, table in shredded.tables.items()}


ENTRIES = [entry(n, table=table) for n, table in enumerate(["a", "b", "new", "a", "newer", "newest", "newer"], 1)]


def test_a_child_made_tables_without_end() -> None:
    found = bounded(ENTRIES, lake("a", "b", "elsewhere"), 4)
    assert rows(found) == {"a": 2, "b": 1, "new": 1}
    assert [(letter.table, letter.entry_index) for letter in found.unreadable] == [
        ("newer", 4),
        ("newest", 5),
        ("newer", 6),
    ]
    assert found.unreadable[0].reason == (
        "a new table, and lake has its 4 tables (tables_max); raise it in the settings of the parent, or delete tables"
    )
    assert found.entries == len(ENTRIES)


@pytest.mark.parametrize("tables_max", [5, 6])
def test_tables_there_is_room_for_begin_to_exist(tables_max: int) -> None:
    found = bounded(ENTRIES, lake("a", "b"), tables_max)
    assert (len(found.tables), found.unreadable) == (5, [])


def test_tables_there_are_go_on_when_there_are_too_many() -> None:
    found = bounded(ENTRIES, lake("a", "b", "c", "d"), 1)
    assert (rows(found), len(found.unreadable)) == ({"a": 2, "b": 1}, 4)


def test_another_namespace_counts_for_itself() -> None:
    lake("x", "y", "z", namespace="gold")
    assert len(bounded(ENTRIES, lake("a", "b"), 5).tables) == 5


def test_a_flush_into_tables_that_exist_counts_nothing(django_assert_num_queries: object) -> None:
    known = lake("a", "b", "new", "newer", "newest")
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert len(bounded(ENTRIES, known, 1).tables) == 5
