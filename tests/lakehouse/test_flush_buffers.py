import dataclasses
import io
import threading

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from lakehouse import tasks
from lakehouse.catalog.lakes import chosen
from lakehouse.clock import now_ms
from lakehouse.flush import claim
from lakehouse.flush.claim import Terms
from lakehouse.flush.flow import Flusher
from lakehouse.flush.policy import FlushTrigger
from lakehouse.journal.accept import accept
from lakehouse.management.commands import flush_buffers
from lakehouse.models import Batch, BatchState, Flush, Parent
from rpc.batch import Encoding
from rpc.entries import RawEntry
from tests.builders import NOW_MS, entry, frame, parent, run, source

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def lake(settings, tmp_path):
    """A lake of this test's own."""
    settings.EVODB = dataclasses.replace(settings.EVODB, data_dir=tmp_path)
    tasks.flusher.cache_clear()
    yield settings.EVODB
    tasks.flusher.cache_clear()


def put(name, *batches):
    home = Parent.objects.filter(name=name).first() or parent(name)
    accept([(source(home), batch) for batch in batches], now_ms=NOW_MS)
    return home


def command(*arguments):
    said = io.StringIO()
    call_command("flush_buffers", *arguments, stdout=said)
    return said.getvalue().splitlines()


def pending():
    return dict(Parent.objects.order_by("name").values_list("name", "pending_entries"))


def test_everything_that_waits_is_flushed_parent_by_parent():
    put("north", frame(1, run(1, 3)))
    put("south", frame(1, run(1, 5)))
    assert command() == ["north: 3 entries flushed", "south: 5 entries flushed"]
    assert pending() == {"north": 0, "south": 0}
    assert set(Flush.objects.values_list("trigger", flat=True)) == {"manual"}


def test_nothing_waits_and_nothing_happens():
    parent("north")
    assert command() == ["north: 0 entries flushed"]
    assert command("--wait") == ["north: 0 entries flushed"]


def test_only_the_parent_that_was_named_is_flushed():
    put("north", frame(1, run(1, 3)))
    put("south", frame(1, run(1, 5)))
    assert command("--parent", "south") == ["south: 5 entries flushed"]
    assert pending() == {"north": 3, "south": 0}


def test_a_parent_nobody_knows_is_refused_with_the_names_that_are_known():
    put("north", frame(1, run(1, 3)))
    parent("south")
    with pytest.raises(CommandError, match="there is no parent 'west'; known are: north, south"):
        command("--parent", "west")
    assert pending() == {"north": 3, "south": 0}


def test_a_table_of_which_nothing_waits_is_said_so():
    put("north", frame(1, run(1, 3)))
    (said,) = command("--table", "ordrs")
    assert said.startswith("no change of a table 'ordrs' waits")
    assert pending() == {"north": 3}


def test_without_any_parent_an_unknown_one_is_refused_as_well():
    with pytest.raises(CommandError, match="there is no parent 'west'; known are: none yet"):
        command("--parent", "west")


@pytest.mark.parametrize("encoding", Encoding)
def test_only_parents_that_hold_a_change_of_the_table_are_flushed(encoding):
    metadata = b'{"by": "ann"}' if encoding is Encoding.BINARY_METADATA else b""
    order, item = (entry(1, table=table)._replace(metadata=metadata) for table in ("orders", "items"))
    put("north", frame(1, [order, item._replace(sequence=2)], encoding=encoding))
    put("south", frame(1, [order], encoding=encoding))
    parent("empty")
    assert command("--table", "items") == ["north: 2 entries flushed"]
    assert pending() == {"empty": 0, "north": 0, "south": 1}


def test_a_table_is_meant_by_its_whole_name():
    put("north", frame(1, [entry(1, table="orders_archive")]))
    assert command("--table", "orders")[0].startswith("no change of a table 'orders' waits")


def test_a_table_that_is_only_mentioned_in_a_row_is_not_one_that_waits():
    put("north", frame(1, [RawEntry(1, NOW_MS, 0, b"orders", b"items", b"", b'{"items": "items"}')]))
    assert command("--table", "items")[0].startswith("no change of a table 'items' waits")


def test_a_table_that_is_in_the_lake_already_waits_nowhere():
    put("north", frame(1, [entry(1, table="items")]))
    command()
    assert command("--table", "items")[0].startswith("no change of a table 'items' waits")


def terms(lake, owner="worker-2"):
    return Terms(owner=owner, trigger=FlushTrigger.AGE, lease_ms=lake.lease_ms, entries_max=10**6, bytes_max=2**30)


def test_without_wait_it_returns_while_another_worker_is_at_it(lake):
    home = put("north", frame(1, run(1, 3)))
    claim.take(home.pk, terms(lake), now_ms=now_ms())
    assert command() == ["north: 0 entries flushed"]
    assert pending() == {"north": 3}


def test_with_wait_it_returns_when_the_other_worker_has_done_it(lake, monkeypatch):
    home = put("north", frame(1, run(1, 3)))
    claimed = claim.take(home.pk, terms(lake), now_ms=now_ms())
    other = Flusher("worker-2", lake, chosen(lake), now_ms)
    waiting = looking_at_the_lease(monkeypatch)
    thread, said = in_background("--wait")
    assert waiting.wait(20)
    assert thread.is_alive()
    other._persist(claimed)
    thread.join(20)
    assert said == [["north: 0 entries flushed"]]
    assert pending() == {"north": 0}
    assert Parent.objects.get().commit_number == 1


def test_with_wait_it_takes_over_from_a_worker_that_died(lake, monkeypatch):
    home = put("north", frame(1, run(1, 3)))
    claim.take(home.pk, terms(lake), now_ms=now_ms())
    waiting = looking_at_the_lease(monkeypatch)
    thread, said = in_background("--wait")
    assert waiting.wait(20)
    Parent.objects.update(lease_until_ms=now_ms() - 1)
    thread.join(20)
    assert said == [["north: 0 entries flushed"]]
    assert pending() == {"north": 0}
    assert sorted(Flush.objects.values_list("state", flat=True)) == ["abandoned", "committed"]


def looking_at_the_lease(monkeypatch):
    """Set when the command has found the lease taken and looks again."""
    seen = threading.Event()
    flush = flush_buffers.flush_parent
    calls = []

    def count(*asked):
        calls.append(asked)
        entries = flush(*asked)
        if len(calls) == 2:
            seen.set()
        return entries

    monkeypatch.setattr(flush_buffers, "flush_parent", count)
    monkeypatch.setattr(flush_buffers, "LOOK_EVERY_S", 0.01)
    return seen


def in_background(*arguments):
    said = []

    def work():
        try:
            said.append(command(*arguments))
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread, said


def test_who_waits_for_a_parent_whose_fuse_is_blown_hears_what_to_type():
    home = parent()
    accept([(source(home), frame(1, run(1, 3)))], now_ms=NOW_MS)
    Parent.objects.filter(pk=home.pk).update(fuse_blown_ms=NOW_MS, fuse_reason="too many")
    with pytest.raises(CommandError, match=f"the fuse of parent {home.name} is blown; look with .*--reset"):
        call_command("flush_buffers", "--wait", stdout=io.StringIO())


def test_who_waits_for_tables_while_the_object_store_is_away_hears_where_the_rows_are():
    home = parent()
    accept([(source(home), frame(1, run(1, 3)))], now_ms=NOW_MS)
    Batch.objects.update(state=BatchState.FALLBACK)
    with pytest.raises(CommandError, match=f"{home.name}: the object store is away; .*recover_fallback"):
        call_command("flush_buffers", "--wait", stdout=io.StringIO())


def test_a_warehouse_that_cannot_be_written_is_said_in_a_line_and_keeps_no_other_parent_waiting(lake):
    put("north", frame(1, run(1, 3)))
    put("south", frame(1, run(1, 5)))
    Parent.objects.filter(name="north").update(namespace="north")
    (lake.data_dir / "lake").mkdir()
    (lake.data_dir / "lake" / "north").write_text("no folder")
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError, match="1 of 2 parents are not flushed; what waits is durable"):
        call_command("flush_buffers", stdout=out, stderr=err)
    assert err.getvalue().startswith("north: the warehouse cannot be read or written: ")
    assert out.getvalue() == "south: 5 entries flushed\n"
    assert pending() == {"north": 3, "south": 0}
