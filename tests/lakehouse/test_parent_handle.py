"""LakehouseParent: a parent in the hands of a script."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pytest

from lakehouse import LakehouseParent, LakehouseParentEnv, tasks
from lakehouse.conf import Settings
from lakehouse.fallback.objects import TableName
from lakehouse.journal.accept import accept
from lakehouse.models import Batch, Child, ConnectionState, Flush, Parent
from lakehouse.parent_handle import ParentBufferStats
from rpc.errors import BufferOverflowError, LakehouseRpcError
from rpc.messages import UNSET, ParentState
from tests.builders import NOW_MS, frame, parent, run, source

MIB = 1024 * 1024
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def lake(settings, tmp_path):
    """A lake of this test's own."""
    settings.EVODB = dataclasses.replace(settings.EVODB, data_dir=tmp_path)
    tasks.flusher.cache_clear()
    yield settings.EVODB
    tasks.flusher.cache_clear()


def put(home, *batches):
    accept([(source(Parent.objects.get(name=home.name)), batch) for batch in batches], now_ms=NOW_MS)


def handle(name="north", **options):
    return LakehouseParent(name, now_ms=lambda: NOW_MS + 15_000, **options)


def test_a_parent_begins_to_exist_when_it_is_used():
    home = handle()
    assert not Parent.objects.exists()
    assert home.get_buffer_stats() == ParentBufferStats(entries=0, bytes=0, oldest_entry_age=0, child_connections=0)
    row = Parent.objects.get()
    assert (row.name, row.config, row.created_ms) == ("north", {}, NOW_MS + 15_000)
    assert LakehouseParent().name == "default"


def test_a_parent_that_is_there_keeps_what_nobody_spoke_of():
    row = parent("north", flush_interval_ms=7)
    assert handle().parent_id == row.pk
    assert Parent.objects.get().config == {"flush_interval_ms": 7}
    handle(config={"flush_threshold_ms": 9}).status()
    assert Parent.objects.get().config == {"flush_interval_ms": 7, "flush_threshold_ms": 9}


def test_the_groups_of_the_readme_are_understood():
    home = handle(buffer={"max_bytes": 50_000_000, "max_entries": 100_000, "flush_threshold": 10_000})
    assert home.parent_id
    config = Parent.objects.get().settings
    assert (config.max_buffer_bytes, config.max_buffer_entries) == (50_000_000, 100_000)
    assert (config.flush_threshold_entries, config.flush_threshold_bytes) == (10_000, 25_000_000)


def test_more_settings_may_be_stored_later():
    home = handle()
    assert home.apply_config(buffer={"max_entries": 1_000_000}, flush_interval_ms=5).max_buffer_entries == 1_000_000
    assert home.apply_config(flush_threshold_entries=500_000).flush_interval_ms == 5
    assert Parent.objects.get().settings.flush_threshold_entries == 500_000


def test_settings_that_cannot_work_together_change_nothing():
    home = handle(config={"flush_interval_ms": 5})
    home.status()
    with pytest.raises(ValueError, match="max_buffer_entries is 100, wanted at least twice flush_threshold_entries"):
        home.apply_config(max_buffer_entries=100, flush_threshold_entries=90)
    assert Parent.objects.get().config == {"flush_interval_ms": 5}
    assert home.apply_config(flush_interval_ms=6).flush_interval_ms == 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": {"max_bytes": 1}}, "config has 'max_bytes', known are flush_threshold_entries"),
        ({"buffer": {"size": 1}}, "buffer has 'size', known are max_bytes, max_entries, flush_threshold"),
        ({"fallback": {"on": True}}, "fallback has 'on', known are enabled, max_local_bytes"),
        ({"fallback": {"enabled": 1}}, "fallback enabled is 1, wanted True or False"),
        ({"fallback": {"max_local_bytes": 0}}, "fallback max_local_bytes is 0, wanted a whole number"),
        ({"name": "no/slash"}, "parent is 'no/slash', wanted letters"),
    ],
    ids=str,
)
def test_what_nobody_knows_is_refused_before_anything_is_stored(options, said):
    with pytest.raises((TypeError, ValueError), match=said):
        LakehouseParent(**options)
    assert not Parent.objects.exists()


def test_the_buffer_is_what_is_durable_and_in_no_table():
    home = handle()
    home.status()
    put(home, frame(1, run(1, 3)), frame(2, run(4, 5)))
    Child.objects.update(state=ConnectionState.HIBERNATING)
    Child.objects.create(parent_id=home.parent_id, name="shop-2", state=ConnectionState.GONE)
    stats = home.get_buffer_stats()
    assert (stats.entries, stats.oldest_entry_age, stats.child_connections) == (5, 15_000, 1)
    assert stats.bytes == Parent.objects.get().pending_bytes > 0
    status = home.status()
    assert (status.state, status.connected_children, status.buffer.entry_count) == (ParentState.RECEIVING, 1, 5)
    assert (status.buffer.oldest_batch_time, status.next_flush_time) == (NOW_MS, NOW_MS + 30_000)


def test_a_flush_moves_what_waits_into_tables():
    home = handle()
    home.status()
    put(home, frame(1, run(1, 3)))
    assert home.flush() == 3
    assert home.flush() == 0
    assert home.get_buffer_stats().entries == 0
    assert (Flush.objects.get().trigger, Batch.objects.get().state) == ("manual", "persisted")
    status = home.status()
    assert (status.state, status.next_flush_time) == (ParentState.IDLE, UNSET)
    assert status.last_flush_time is not UNSET


def test_a_flush_under_way_is_a_state():
    home = handle()
    Flush.objects.create(parent_id=home.parent_id, trigger="manual", lease_epoch=1, started_ms=1)
    Parent.objects.update(lease_until_ms=NOW_MS + 20_000)
    assert home.status().state is ParentState.FLUSHING


def test_rows_wait_in_the_fallback_until_recovery_writes_them():
    written = []
    home = handle(fallback={"max_local_bytes": 10_000, "recovery_interval_ms": 20_000})
    home.fallback_storage().store("lake", "orders", pa.table({"id": [1]}))
    assert home.status().state is ParentState.RECOVERING
    manager = home.recovery(lambda *asked: written.append(asked[:2]))
    assert manager.recover_if_due().batches == 1
    assert manager.recover_if_due() is None
    assert written == [TableName("lake", "orders")]
    assert home.status().state is ParentState.IDLE


def test_the_bound_and_the_switch_of_the_fallback_hold():
    with pytest.raises(BufferOverflowError, match=r"beyond max_bytes \(10\)"):
        handle(fallback={"max_local_bytes": 10}).fallback_storage().store("lake", "orders", pa.table({"id": [1]}))
    with pytest.raises(LakehouseRpcError, match="the fallback of parent north is off"):
        handle(fallback={"enabled": False}).recovery(print)


def test_the_environment_is_what_the_settings_say_and_hides_passwords(lake):
    assert handle().env.warehouse == str(lake.data_dir / "lake")
    settings = Settings(database_url="postgresql://u:secret@db/x", redis_url="redis://:secret@r", warehouse="s3://b/p/")
    env = LakehouseParentEnv.of(settings)
    assert (env.warehouse, env.database_url, env.redis_url) == ("s3://b/p", settings.database_url, settings.redis_url)
    assert "secret" not in repr(env)
