"""The inbox of drift, and how what is in it becomes columns."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IntegerType

from lakehouse.catalog.upkeep import backfill
from lakehouse.clock import now_ms
from lakehouse.conf import Settings
from lakehouse.errors import LakehouseError
from lakehouse.flush import drift
from lakehouse.models import DriftField, Flush, IcebergTable, Parent, TableUpkeep
from lakehouse.promotion import Promoter
from lakehouse.query import verify
from lakehouse.query.verify import Verdict, Wanted
from tests.builders import NOW_MS
from tests.lakehouse import others_site as others
from tests.lakehouse.schema_site import Street

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def street(tmp_path: Path) -> Street:
    return Street(Settings(data_dir=tmp_path))


def promoter(street: Street, pause: Any = lambda ms: None) -> Promoter:
    return Promoter(street.lake.catalog, street.settings, now_ms, pause)


def inbox() -> dict[str, tuple[Any, ...]]:
    rows = DriftField.objects.order_by("pk")
    return {row.field: (row.kind, row.type, row.example, row.values) for row in rows}


def assert_green(street: Street) -> None:
    [report] = verify.verify(street.settings, Wanted())
    assert [one.verdict for one in report.tables] == [Verdict.GREEN]


@pytest.mark.both
def test_new_and_misfit_keys_are_listed_and_stay_in_rest(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"id": 1, "new": 1.5}, {"id": "x", "new": 2, "": 1})
    street.flush({"id": 2, "new": None, "in": {"a": [1]}})
    assert street.columns() == {"id": "long"}
    assert street.rest() == [{"new": 1.5}, {"id": "x", "new": 2, "": 1}, {"in": {"a": [1]}, "new": None}]
    assert inbox() == {
        "new": ("new", "double", "1.5", 2),
        "id": ("misfit", "string", '"x"', 1),
        "": ("new", "long", "1", 1),
        "in": ("new", "json", '{"a": [1]}', 1),
    }
    assert set(DriftField.objects.values_list("first_ms", "last_ms")) == {(NOW_MS, NOW_MS)}


def test_a_table_in_inbox_mode_begins_with_the_columns_of_its_first_flush(street: Street) -> None:
    street.schema(mode="inbox")
    street.flush({"id": 1})
    street.flush({"id": 2, "new": 1})
    assert street.columns() == {"id": "long"}
    assert list(inbox()) == ["new"]


@pytest.mark.both
def test_the_inbox_is_bounded_and_takes_any_key(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    odd = {"k" * 10_000: 1, "nul\0": 2, "x": "y" * 10_000}
    street.flush(odd, b'{"half \\ud800": "\\ud800"}', *({f"k{at}": at} for at in range(drift.FIELDS_MAX + 10)))
    assert DriftField.objects.count() == drift.FIELDS_MAX
    street.flush({"one more": 1, "x": "z"})
    assert DriftField.objects.count() == drift.FIELDS_MAX
    assert inbox()["x"] == ("new", "string", '"z"', 2)


def test_without_an_inbox_a_flush_asks_nothing_of_it(street: Street) -> None:
    street.flush({"id": 1})
    with CaptureQueriesContext(connection) as queries:
        street.flush({"id": "x", "new": 1})
    asked = " ".join(query["sql"] for query in queries)
    assert "drift" not in asked
    assert "tableschema" not in asked


@pytest.mark.both
def test_a_key_becomes_a_column_with_what_was_stored_already(lake_settings: Settings) -> None:
    street = Street(lake_settings)
    street.schema(mode="inbox", fields={"id": "long"})
    for at in range(3):
        street.flush({"id": at, "new": at + 0.5, "other": "x"}, {"id": "odd", "new": "soon"}, {"id": 9})
    assert str(promoter(street).promote(street.home, "orders", "new", "double")) == (
        "3 values moved from _rest in 3 files; 3 values do not fit and stay in _rest"
    )
    assert street.rows("id", "new") == [pair for at in range(3) for pair in ((at, at + 0.5), (None, None), (9, None))]
    assert street.rest() == [{"other": "x"}, {"id": "odd", "new": "soon"}, None] * 3
    assert inbox()["new"][0] == "misfit"
    street.flush({"id": 1, "new": 7})
    assert street.rows("new")[-1] == (7.0,)
    assert_green(street)


def test_a_key_becomes_a_column_in_files_of_every_partitioning_its_table_ever_had(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long", "gone": "string"})
    street.flush({"id": 1, "new": "a"}, {"id": 2})
    others.partitions(street.settings, lambda update: update.add_field("id", IdentityTransform(), "by_id"))
    street.flush({"id": 3, "new": "b"}, {"id": 4, "gone": "x", "new": "c"})
    others.partitions(street.settings, lambda update: update.add_field("gone", IdentityTransform(), "by_gone"))
    street.flush({"id": 5, "gone": "y", "new": "d"})
    others.partitions(street.settings, lambda update: update.remove_field("by_gone"))
    street.flush({"id": 6, "new": "e"})
    assert str(promoter(street).promote(street.home, "orders", "new")) == "5 values moved from _rest in 5 files"
    assert street.rows("id", "new") == [(1, "a"), (2, None), (3, "b"), (4, "c"), (5, "d"), (6, "e")]
    assert inbox() == {}
    assert_green(street)


def test_files_in_partitions_by_a_column_that_somebody_dropped_keep_what_they_have_in_rest(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long", "gone": "string"})
    street.flush({"id": 1, "gone": "x", "new": "a"})
    others.partitions(street.settings, lambda update: update.add_field("gone", IdentityTransform(), "by_gone"))
    street.flush({"id": 2, "gone": "y", "new": "b"})
    others.partitions(street.settings, lambda update: update.remove_field("by_gone"))
    others.schema(street.settings, lambda update: update.delete_column("gone"))
    assert str(promoter(street).promote(street.home, "orders", "new")) == "1 values moved from _rest in 1 files"
    found = street.table.scan().to_arrow().sort_by("id").select(["new", "_rest"]).to_pylist()
    assert found == [{"new": "a", "_rest": None}, {"new": None, "_rest": '{"new":"b"}'}]


def test_a_promotion_with_nothing_left_empties_its_row_of_the_inbox(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"new": '"quoted" ünï', "in": {"a": 1}}, {"in": [None]})
    for key in ("new", "in"):
        promoter(street).promote(street.home, "orders", key)
    assert inbox() == {}
    assert street.rows("new", "in") == [('"quoted" ünï', '{"a": 1}'), (None, "[null]")]
    assert street.rest() == [None, None]
    schemas, version = len(street.table.metadata.schemas), IcebergTable.objects.get().version
    assert str(promoter(street).promote(street.home, "orders", "in", "json")) == "0 values moved from _rest in 0 files"
    assert (len(street.table.metadata.schemas), IcebergTable.objects.get().version) == (schemas, version)


def test_a_key_is_promoted_beside_one_with_half_a_character(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush(b'{"new": 1, "half \\ud800": "\\udfff"}', {"new": 2})
    promoter(street).promote(street.home, "orders", "new")
    assert street.rows("new") == [(1,), (2,)]
    assert street.rows("_rest") == [('{"half \\ud800":"\\udfff"}',), (None,)]


def test_a_misfit_column_is_promoted_when_it_can_be_wider(street: Street) -> None:
    street.foreign_table(i=IntegerType())
    street.schema(mode="inbox")
    street.flush({"i": 1}, {"i": 1.5})
    with pytest.raises(LakehouseError, match="column 'i' is double, its table has int"):
        promoter(street).promote(street.home, "orders", "i")
    assert "its table has int" in DriftField.objects.get().said
    promoter(street).promote(street.home, "orders", "i", "long")
    assert street.columns() == {"i": "long"}
    assert street.rest() == [None, {"i": 1.5}]


@pytest.mark.parametrize(
    ("key", "kind", "said"),
    [
        ("", "long", "cannot be a column"),
        ("_mine", "long", "cannot be a column"),
        ("ID", "long", "cannot be a column"),
        ("k" * 256, "long", "cannot be a column"),
        ("new", "", "found '', wanted one of boolean.*say which one with --type"),
        ("new", "int", "found 'int', wanted"),
    ],
)
def test_what_cannot_be_a_column_is_told_and_nothing_changes(street: Street, key: str, kind: str, said: str) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"id": 1, "new": None, "ID": 5})
    before = IcebergTable.objects.get().metadata_location
    with pytest.raises(LakehouseError, match=said):
        promoter(street).promote(street.home, "orders", key, kind)
    assert IcebergTable.objects.get().metadata_location == before


def test_a_table_that_is_not_there_or_kept_by_somebody_else_is_told(street: Street) -> None:
    with pytest.raises(LakehouseError, match=r"there is no table lake\.orders"):
        promoter(street).promote(street.home, "orders", "x", "long")
    street.flush({"id": 1})
    TableUpkeep.objects.create(table=IcebergTable.objects.get(), lease_epoch=1, lease_until_ms=now_ms() + 30_000)
    with pytest.raises(LakehouseError, match="try again in a minute"):
        promoter(street).promote(street.home, "orders", "x", "long")


@pytest.mark.both
def test_a_flush_that_did_not_know_the_column_is_waited_for(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"id": 1, "new": 1})
    late = Flush.objects.create(parent=street.home, trigger="manual", lease_epoch=1, started_ms=NOW_MS)

    def land(_: int) -> None:
        """What its rows look like: the key is in `_rest` still."""
        street.schema(mode="inbox", fields={"id": "long"})
        known = street.lake.known_schemas
        wide = known("lake", ["orders"])[0]["orders"]
        narrow = {"orders": wide.remove(wide.names.index("new"))}
        street.lake.known_schemas = lambda namespace, names: (narrow, [])  # type: ignore[method-assign]
        street.flush({"id": 2, "new": 2})
        street.lake.known_schemas = known  # type: ignore[method-assign]
        Flush.objects.filter(pk=late.pk).update(state="committed")

    assert promoter(street, land).promote(street.home, "orders", "new").values == 2
    assert street.rows("id", "new") == [(1, 1), (2, 2)]
    assert street.rest() == [None, None]
    assert_green(street)


@pytest.mark.both
def test_flushes_and_a_promotion_at_the_same_time_keep_every_row(street: Street) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    for at in range(6):
        street.flush({"id": at, "new": at})
    failed = list[BaseException]()

    def promote() -> None:
        try:
            promoter(street).promote(street.home, "orders", "new")
        except BaseException as exc:
            failed.append(exc)
        finally:
            connection.close()

    worker = threading.Thread(target=promote)
    worker.start()
    while worker.is_alive() and street.sent < 40:
        street.flush({"id": street.sent, "new": street.sent})
    worker.join()
    assert failed == []
    promoter(street).promote(street.home, "orders", "new", "long")
    assert street.rows("id", "new") == [(at, at) for at in range(street.sent)]
    assert_green(street)


def test_a_rewrite_holds_a_few_rows_at_a_time(street: Street, monkeypatch: pytest.MonkeyPatch) -> None:
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush(*({"id": at, "new": at} for at in range(200)))
    seen = list[int]()
    change = backfill._Filler.change
    monkeypatch.setattr("lakehouse.catalog.upkeep.rewriting.READ_BYTES", 1024)
    monkeypatch.setattr(backfill._Filler, "change", lambda self, batch: seen.append(len(batch)) or change(self, batch))
    promoter(street).promote(street.home, "orders", "new")
    assert sum(seen) == 200
    assert max(seen) < 100
    assert sorted(street.rows("new")) == [(at,) for at in range(200)]


def manage(*args: str) -> str:
    out = io.StringIO()
    call_command("schema", *args, stdout=out)
    return out.getvalue()


def test_the_command_registers_lists_and_promotes(street: Street, settings: Any) -> None:
    settings.EVODB = street.settings
    assert "No schema is registered" in manage("list")
    said = manage("set", "default", "orders", "--mode", "inbox", "--fields", '{"id": "long"}', "--nested", "struct")
    assert said == "default/orders: inbox, 1 fields; it counts from the next batch and flush on\n"
    assert manage("list", "default") == "default/orders: inbox, nested values as struct\n    id: long\n"
    assert manage("inbox") == "The inbox is empty.\n"
    street.flush({"id": 1, "new": 1.5})
    assert manage("inbox", "default").startswith("default/orders: new (no column): 1 values, double, last 2023-11-14")
    said = manage("promote", "default", "orders", "new")
    assert said == "default/orders has a column new: 1 values moved from _rest in 1 files\n"
    manage("set", "default", "orders", "--mode", "off", "--nested", "parent")
    assert manage("list") == "default/orders: off\n    id: long\n"


def test_a_key_moves_no_cursor_of_the_terminal_that_shows_the_inbox(street: Street, settings: Any) -> None:
    settings.EVODB = street.settings
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"\x1b[2J": "\u202etxt.exe"})
    first, example = manage("inbox").splitlines()
    assert first.startswith(r"default/orders: \x1b[2J (no column): 1 values")
    assert example == r'    "\u202etxt.exe"'


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("list", "nobody"), "there is no parent 'nobody'; known are: default"),
        (("set", "default", "../x"), "table name '../x', wanted"),
        (("set", "default", "orders", "--mode", "strict"), "without fields would refuse every row"),
        (("set", "default", "orders", "--fields", "{"), "--fields is not JSON"),
        (("set", "default", "orders", "--fields", '{"a": "int"}'), "a: found 'int', wanted one of"),
        (("promote", "default", "orders", "x"), "there is no table lake.orders"),
    ],
)
def test_the_command_says_what_is_wrong(street: Street, settings: Any, args: tuple[str, ...], said: str) -> None:
    settings.EVODB = street.settings
    with pytest.raises(CommandError, match=said):
        manage(*args)


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(get_user_model().objects.create(username="operator", is_staff=True, is_superuser=True))
    return client


def test_a_schema_is_made_changed_and_deleted_in_the_admin(operator: Client, street: Street) -> None:
    form = {"parent": street.home.pk, "table": "orders", "mode": "strict", "nested": "", "fields": '{"id": "int"}'}
    add = reverse("admin:lakehouse_tableschema_add")
    assert "found &#x27;int&#x27;, wanted one of" in operator.post(add, form).content.decode()
    versions = [Parent.objects.get().schema_version]
    assert operator.post(add, form | {"fields": '{"id": "long"}'}).status_code == 302
    versions.append(Parent.objects.get().schema_version)
    row = street.home.schemas.get()
    page = reverse("admin:lakehouse_tableschema_change", args=[row.pk])
    assert operator.post(page, {"mode": "inbox", "nested": "", "fields": ""}).status_code == 302
    versions.append(Parent.objects.get().schema_version)
    row.refresh_from_db()
    assert (row.mode, row.table, row.fields) == ("inbox", "orders", {})
    chosen = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    operator.post(reverse("admin:lakehouse_tableschema_changelist"), chosen)
    versions.append(Parent.objects.get().schema_version)
    assert not street.home.schemas.exists()
    assert versions[0] == 0
    assert len(set(versions)) == 4


@pytest.fixture
def eager() -> Iterator[None]:
    """What a worker is asked to do is done at once."""
    current_app.conf.task_always_eager = True
    yield
    current_app.conf.task_always_eager = False


@pytest.mark.both
def test_the_admin_promotes_what_is_chosen_as_the_type_that_is_said(
    operator: Client, street: Street, settings: Any, eager: None
) -> None:
    settings.EVODB = street.settings
    street.schema(mode="inbox", fields={"id": "long"})
    street.flush({"id": 1, "price": "12.50", "bad": "x"})
    place = reverse("admin:lakehouse_driftfield_changelist")
    for key, kind in (("price", "decimal(9,2)"), ("bad", "")):
        row = DriftField.objects.get(field=key)
        chosen = {"action": "promote", "_selected_action": [row.pk], "type": kind}
        assert "A worker was asked for 1 columns" in operator.post(place, chosen, follow=True).content.decode()
    assert street.columns() == {"id": "long", "price": "decimal(9, 2)", "bad": "string"}
    assert inbox() == {}
    street.flush({"id": 1, "again": 1})
    chosen = {"action": "forget", "_selected_action": [DriftField.objects.get().pk]}
    assert "1 rows forgotten." in operator.post(place, chosen, follow=True).content.decode()
