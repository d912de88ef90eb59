"""Rows that wait for an object store: bounded, durable, in order, and the same stamp when they come again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pytest
from django.db import connection, transaction

from lakehouse.fallback.config import DEFAULT_RECOVERY_CONFIG, RecoveryConfig
from lakehouse.fallback.objects import TableName
from lakehouse.fallback.recovery import FallbackRecoveryManager
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.storage import FALLBACK_BYTES_MAX, FallbackDamaged, FallbackStorage
from lakehouse.models import FallbackBatch, Parent
from rpc.errors import BufferOverflowError
from tests.builders import NOW_MS, parent

ORDERS, ITEMS = TableName("lake", "orders"), TableName("lake", "items")


@dataclass
class Lake:
    """A writer that keeps stamps with the rows, as one commit would; `away` holds errors it raises, one per call."""

    tables: dict = field(default_factory=dict)
    stamps: list = field(default_factory=list)
    away: list = field(default_factory=list)

    def write(self, namespace, table, rows, stamp):
        self.stamps.append(stamp)
        if self.away and (error := self.away.pop(0)):
            raise error
        self.tables.setdefault(table, {})[stamp] = rows["id"].to_pylist()

    def ids(self, table):
        return [number for stamp in sorted(self.tables.get(table, {})) for number in self.tables[table][stamp]]


class Memory:
    """The same storage without a database."""

    def __init__(self):
        self.kept, self.last = {}, 0

    def transaction(self):
        return contextlib.nullcontext()

    def total_bytes(self):
        return sum(len(one.payload) for one in self.kept.values())

    def tables(self):
        return list(dict.fromkeys(one.name for one in self.kept.values()))

    def list(self, name, *, after, limit):
        return [key for key, one in self.kept.items() if one.name == name and key > after][:limit]

    def get(self, key):
        return self.kept.get(key)

    def put(self, stored):
        self.last += 1
        self.kept[self.last] = stored
        return self.last

    def delete(self, key):
        return self.kept.pop(key, None) is not None

    def note(self, key, *, seen, attempts, next_attempt_ms, error):
        if key not in self.kept or self.kept[key].attempts != seen:
            return False
        stored = self.kept[key]
        self.kept[key] = replace(stored, attempts=attempts, next_attempt_ms=next_attempt_ms, last_error=error)
        return True


@pytest.fixture(params=["database", "memory"])
def objects(request, transactional_db):
    return DatabaseStorage(parent().pk) if request.param == "database" else Memory()


@pytest.fixture
def storage(objects, clock):
    return FallbackStorage(objects, now_ms=clock)


def rows(*numbers):
    return pa.table({"id": pa.array(numbers, pa.int64())})


def recovery(storage, lake, clock, **config):
    return FallbackRecoveryManager(storage, lake.write, RecoveryConfig(**config), now_ms=clock)


def test_what_is_stored_comes_back_as_it_was(storage):
    kept = pa.table({"id": [1, 2], "name": ["a", None], "at": pa.array([0, 1], pa.timestamp("us", tz="UTC"))})
    assert not storage.has_data()
    assert storage.store("lake", "orders", kept) is True
    assert storage.has_data()
    found = storage.oldest(ORDERS)
    assert found.read().equals(kept)
    assert (found.stored.rows, found.stored.created_ms) == (2, NOW_MS)
    assert storage.total_bytes() == len(found.stored.payload)


def test_the_payload_is_compressed(storage):
    storage.store("lake", "orders", rows(*[7] * 10_000))
    assert storage.total_bytes() < 8_000


def test_it_may_be_exactly_full_and_gives_up_nothing_for_what_is_newer(objects, storage, clock):
    storage.store("lake", "orders", rows(1))
    size = storage.total_bytes()
    tight = FallbackStorage(objects, max_bytes=2 * size, now_ms=clock)
    assert tight.store("lake", "orders", rows(2)) is True
    with pytest.raises(BufferOverflowError, match=rf"holds {2 * size} bytes, {size} more of lake.items"):
        tight.store("lake", "items", rows(3))
    assert [one.read()["id"].to_pylist() for one in tight.oldest_first(ORDERS)] == [[1], [2]]
    assert tight.pending_tables() == [ORDERS]
    assert FALLBACK_BYTES_MAX == 1024**3
    with pytest.raises(ValueError, match="max_bytes is 0, wanted at least 1"):
        FallbackStorage(objects, max_bytes=0, now_ms=clock)


def test_more_rows_than_one_look_come_in_order(storage, monkeypatch):
    monkeypatch.setattr("lakehouse.fallback.storage.KEYS_PER_LOOK", 2)
    for number in range(5):
        storage.store("lake", "orders", rows(number))
        storage.store("lake", "items", rows(number))
    found = [one.read()["id"][0].as_py() for one in storage.oldest_first(ORDERS)]
    assert found == [0, 1, 2, 3, 4]
    assert storage.pending_tables() == [ORDERS, ITEMS]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("names", [("", "orders"), ("lake", ""), ("n" * 201, "orders"), ("lake", "t" * 501)])
def test_a_name_that_does_not_fit_is_refused_and_nothing_is_kept(names, clock):
    storage = FallbackStorage(DatabaseStorage(parent().pk), now_ms=clock)
    with pytest.raises(ValueError, match=r"(namespace|table) has \d+ characters, wanted 1 to"):
        storage.store(*names, rows(1))
    assert not storage.has_data()


@pytest.mark.django_db(transaction=True)
def test_every_parent_has_a_fallback_of_its_own(clock):
    north = FallbackStorage(DatabaseStorage(parent("north").pk), now_ms=clock)
    south = FallbackStorage(DatabaseStorage(parent("south").pk), now_ms=clock)
    north.store("lake", "orders", rows(1))
    assert not south.has_data()
    assert south.total_bytes() == 0
    assert not south.remove(north.oldest(ORDERS).stamp)
    with pytest.raises(Parent.DoesNotExist, match="there is no parent -1"):
        FallbackStorage(DatabaseStorage(-1), now_ms=clock).store("lake", "orders", rows(1))


@pytest.mark.django_db(transaction=True)
def test_a_store_that_is_rolled_back_keeps_nothing(clock):
    storage = FallbackStorage(DatabaseStorage(parent().pk), now_ms=clock)
    with transaction.atomic():
        storage.store("lake", "orders", rows(1))
        transaction.set_rollback(True)
    assert not storage.has_data()


@pytest.mark.django_db(transaction=True)
def test_two_who_store_at_once_do_not_fill_it_over_its_bound(clock):
    home = parent()
    FallbackStorage(DatabaseStorage(home.pk), now_ms=clock).store("lake", "orders", rows(0))
    size = FallbackStorage(DatabaseStorage(home.pk), now_ms=clock).total_bytes()
    storage = FallbackStorage(DatabaseStorage(home.pk), max_bytes=3 * size, now_ms=clock)

    def fill(number):
        try:
            return storage.store("lake", "orders", rows(number))
        except BufferOverflowError:
            return False
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(fill, range(1, 9)))
    assert kept.count(True) == 2
    assert storage.total_bytes() == 3 * size


@pytest.mark.django_db(transaction=True)
def test_a_stamp_is_never_given_twice(clock):
    storage = FallbackStorage(DatabaseStorage(parent().pk), now_ms=clock)
    storage.store("lake", "orders", rows(1))
    first = storage.oldest(ORDERS).stamp
    assert storage.remove(first)
    assert not storage.remove(first)
    storage.store("lake", "orders", rows(2))
    assert storage.oldest(ORDERS).stamp > first


def test_when_the_store_is_back_everything_is_written_in_order(storage, clock):
    for number in range(3):
        storage.store("lake", "orders", rows(number))
        storage.store("lake", "items", rows(number, number))
    lake = Lake()
    done = recovery(storage, lake, clock).recover()
    assert (done.batches, done.rows, done.later, done.stuck) == (6, 9, {}, {})
    assert lake.ids("orders") == [0, 1, 2]
    assert not storage.has_data()
    assert storage.total_bytes() == 0


def test_a_table_ends_at_its_first_failure_and_the_others_go_on(storage, clock):
    for number in range(2):
        storage.store("lake", "orders", rows(number))
        storage.store("lake", "items", rows(number))
    lake = Lake(away=[OSError("the bucket is gone")])
    done = recovery(storage, lake, clock).recover()
    assert (lake.ids("orders"), lake.ids("items")) == ([], [0, 1])
    assert done.later == {ORDERS: NOW_MS + 1000}
    stored = storage.oldest(ORDERS).stored
    assert (stored.attempts, stored.next_attempt_ms) == (1, NOW_MS + 1000)
    assert stored.last_error == "OSError: the bucket is gone"


def test_nothing_is_tried_before_its_time_and_then_with_the_same_stamp(storage, clock):
    storage.store("lake", "orders", rows(1))
    lake = Lake(away=[OSError("away")])
    manager = recovery(storage, lake, clock)
    manager.recover()
    clock.ms += 999
    assert manager.recover().later == {ORDERS: NOW_MS + 1000}
    assert len(lake.stamps) == 1
    clock.ms += 1
    assert manager.recover().batches == 1
    assert lake.stamps[0] == lake.stamps[1]


def test_rows_that_a_worker_whose_clock_was_an_hour_ahead_left_behind_are_tried_now(storage, clock):
    storage.store("lake", "orders", rows(1))
    lake, hour_ms = Lake(), 3_600_000
    lake.away = [OSError("the worker dies")]
    clock.ms += hour_ms
    assert recovery(storage, lake, clock).recover().later
    clock.ms -= hour_ms
    assert recovery(storage, lake, clock).recover().rows == 1


def test_delays_grow_to_their_bound():
    config = DEFAULT_RECOVERY_CONFIG
    assert [config.delay_ms(attempts) for attempts in (1, 2, 3, 6, 7, 8, 10_000)] == [
        *(1000, 2000, 4000, 32_000, 60_000, 60_000, 60_000)
    ]
    assert (config.max_retries, config.max_delay_ms) == (10, 60_000)
    assert RecoveryConfig(backoff_multiplier=100).delay_ms(10_000) == 60_000


@pytest.mark.parametrize(
    "wrong",
    [{"max_retries": 0}, {"retry_delay_ms": -1}, {"max_delay_ms": True}, {"backoff_multiplier": 0.5}],
    ids=str,
)
def test_a_patience_that_cannot_work_names_the_field(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*, wanted"):
        RecoveryConfig(**wrong)


def test_rows_that_were_tried_too_often_stay_and_are_told_until_somebody_resets_them(storage, clock):
    storage.store("lake", "orders", rows(1))
    storage.store("lake", "orders", rows(2))
    lake = Lake(away=[OSError("away")] * 3)
    manager = recovery(storage, lake, clock, max_retries=3)
    for _ in range(3):
        done = manager.recover()
        clock.ms += 60_000
    assert done.stuck == {ORDERS: "OSError: away"}
    assert manager.recover().stuck == {ORDERS: "OSError: away"}
    assert len(lake.stamps) == 3
    assert [one.stored.rows for one in storage.oldest_first(ORDERS)] == [1, 1]
    assert manager.reset() == 1
    assert manager.recover().batches == 2
    assert lake.ids("orders") == [1, 2]
    assert manager.reset() == 0


def test_rows_that_cannot_be_read_are_kept_and_told(objects, storage, clock):
    storage.store("lake", "orders", rows(1))
    objects.put(replace(storage.oldest(ORDERS).stored, payload=b"no arrow"))
    storage.remove(storage.oldest(ORDERS).stamp)
    with pytest.raises(FallbackDamaged, match=r"of lake\.orders cannot be read"):
        storage.oldest(ORDERS).read()
    done = recovery(storage, Lake(), clock, max_retries=1).recover()
    assert done.stuck[ORDERS].startswith("FallbackDamaged: rows ")
    assert storage.has_data()


def test_another_worker_at_the_same_rows_is_left_alone(storage, clock):
    storage.store("lake", "orders", rows(1))
    lake, other = Lake(), Lake()
    seen = []

    def slowly(*asked):
        seen.append(recovery(storage, other, clock).recover())
        lake.write(*asked)

    done = FallbackRecoveryManager(storage, slowly, now_ms=clock).recover()
    assert (done.batches, other.stamps) == (1, [])
    assert seen[0].later == {ORDERS: NOW_MS + 1000}


def test_rows_another_worker_took_since_they_were_seen_are_left_alone(objects, storage, clock):
    storage.store("lake", "orders", rows(1))
    lake = Lake()
    read = objects.get

    def taken_meanwhile(key):
        found = read(key)
        objects.note(key, seen=0, attempts=1, next_attempt_ms=clock.ms + 5, error="")
        return found

    objects.get = taken_meanwhile
    assert recovery(storage, lake, clock).recover().later == {ORDERS: NOW_MS + 1000}
    assert lake.stamps == []


def test_the_loop_may_turn_faster_than_the_interval(storage, clock):
    manager = FallbackRecoveryManager(storage, Lake().write, now_ms=clock, interval_ms=60_000)
    assert manager.recover_if_due().batches == 0
    storage.store("lake", "orders", rows(1))
    clock.ms += 59_999
    assert manager.recover_if_due() is None
    clock.ms += 1
    assert manager.recover_if_due().batches == 1
    with pytest.raises(ValueError, match="interval_ms is -1"):
        FallbackRecoveryManager(storage, Lake().write, now_ms=clock, interval_ms=-1)


@pytest.mark.parametrize("step", ["note", "get", "write before", "write after", "delete"])
def test_a_recovery_that_dies_at_any_step_is_taken_up_with_the_same_stamp(step, objects, storage, clock, monkeypatch):
    for number in range(3):
        storage.store("lake", "orders", rows(number))
    stamps = objects.list(ORDERS, after=0, limit=10)
    lake = Lake()

    def die(*_, **__):
        raise KeyboardInterrupt

    def die_after(*asked):
        lake.write(*asked)
        die()

    with monkeypatch.context() as patch:
        if not step.startswith("write"):
            patch.setattr(objects, step, die)
        write = {"write before": die, "write after": die_after}.get(step, lake.write)
        with pytest.raises(KeyboardInterrupt):
            FallbackRecoveryManager(storage, write, now_ms=clock).recover()
    assert objects.list(ORDERS, after=0, limit=10) == stamps
    clock.ms += 1000
    assert recovery(storage, lake, clock).recover().batches == 3
    assert lake.ids("orders") == [0, 1, 2]
    assert lake.stamps == (stamps[:1] if step in ("write after", "delete") else []) + stamps
    assert not storage.has_data()


KILLED = """
import os, signal, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "evodb_site.settings"
import django
django.setup()
import pyarrow as pa
from django.core.management import call_command
from django.db import connection
from lakehouse.clock import now_ms
from lakehouse.fallback.recovery import FallbackRecoveryManager
from lakehouse.fallback.rows import DatabaseStorage
from lakehouse.fallback.storage import FallbackStorage
from lakehouse.models import Parent

call_command("migrate", verbosity=0)
home = Parent.objects.create(name="north")
storage = FallbackStorage(DatabaseStorage(home.pk), now_ms=now_ms)
for number in range(3):
    storage.store("lake", "orders", pa.table({"id": [number]}))
connection.close()

def write(namespace, table, rows, stamp):
    print("wrote", stamp, rows["id"][0].as_py(), flush=True)
    if dying and rows["id"][0].as_py() == 1:
        os.kill(os.getpid(), signal.SIGKILL)

dying = True
pid = os.fork()
if not pid:
    FallbackRecoveryManager(storage, write, now_ms=now_ms).recover()
print("died of", os.waitpid(pid, 0)[1], flush=True)
dying = False
later = FallbackRecoveryManager(storage, write, now_ms=lambda: now_ms() + 60_000)
print("recovered", later.recover().batches, storage.has_data(), flush=True)
"""


def test_killed_between_the_write_and_the_removal_the_same_stamp_comes_again(tmp_path, monkeypatch):
    for name in ("EVODB_DATABASE_URL", "EVODB_TEST_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("EVODB_DATA_DIR", str(tmp_path))
    heard = subprocess.run(
        [sys.executable, "-c", KILLED], check=True, timeout=120, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    assert heard == [
        *("wrote 1 0", "wrote 2 1", "died of 9"),
        *("wrote 2 1", "wrote 3 2", "recovered 2 False"),
    ]


@pytest.mark.django_db(transaction=True)
def test_attempts_are_seen_by_everybody_who_shows_the_rows(clock):
    storage = FallbackStorage(DatabaseStorage(parent().pk), now_ms=clock)
    storage.store("lake", "orders", rows(1))
    recovery(storage, Lake(away=[OSError("x" * 5000)]), clock).recover()
    row = FallbackBatch.objects.get()
    assert (row.rows, row.attempts, row.next_attempt_ms, len(row.last_error)) == (1, 1, NOW_MS + 1000, 2000)
    assert str(row) == "1 rows of lake.orders"
    assert not connection.in_atomic_block


@pytest.mark.django_db(transaction=True)
def test_the_database_holds_the_names_that_the_storage_allows():
    from lakehouse.fallback import rows as door

    found = {name: FallbackBatch._meta.get_field(name).max_length for name in door.CHARS_MAX}
    assert found == door.CHARS_MAX
