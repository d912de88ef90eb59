"""Capture on a real PostgreSQL: what anybody changes is cut once, in an order that holds for every row."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from lakehouse.models import BatchPayload
from rpc import columns, entry_digest
from rpc.capture import postgres_digest
from rpc.capture.postgres import PostgresCapture
from rpc.client import LakehouseRpcClient
from rpc.entries import RawEntry
from rpc.entry_digest import Sums
from rpc.errors import BufferOverflowError, CaptureError, LakehouseRpcError, OutboxClosedError
from rpc.outbox import Outbox, OutboxBatch, OutboxBusyError
from rpc.verification import Delivered
from tests.lakehouse.test_intake import in_thread
from tests.server import serving

MIB = 1024 * 1024
INSERT, UPDATE, DELETE = 0, 1, 2


@pytest.fixture
def url(postgres_url: str) -> str:
    name = f"captured_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return urlsplit(postgres_url)._replace(path=f"/{name}").geturl()


@pytest.fixture
def user(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint PRIMARY KEY, item text, photo bytea, total numeric)")
        yield connection


@pytest.fixture
def capture(url: str, user: psycopg.Connection[Any]) -> Iterator[PostgresCapture]:
    with PostgresCapture(url, tables=["orders"]) as opened:
        assert opened.attach() == ["orders"]
        yield opened


def taken(capture: PostgresCapture) -> list[RawEntry]:
    """Every entry that is visible, acknowledged."""
    found = []
    while (batch := capture.cut(entries_max=1000, bytes_max=4 * MIB)) is not None:
        assert capture.unacked(after=batch.sequence - 1) == [batch]
        found += columns.decode(batch.payload).entries()
        capture.ack(batch.sequence)
    return found


def told(entry: RawEntry) -> tuple[int, str, Any, Any]:
    before, after = (json.loads(text) if text else None for text in (entry.before, entry.after))
    return entry.operation, entry.row_id.decode(), before, after


def tea(**more: Any) -> dict[str, Any]:
    return {"id": 1, "item": "tea", "photo": None, "total": None} | more


def test_every_statement_is_captured_with_before_and_after(
    capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    user.execute("INSERT INTO orders VALUES (1, 'tea')")
    user.execute("INSERT INTO orders VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET total = 4.50")
    user.execute("UPDATE orders SET id = 2")
    user.execute("DELETE FROM orders")
    entries = taken(capture)
    assert [told(entry) for entry in entries] == [
        (INSERT, "1", None, tea()),
        (UPDATE, "1", tea(), tea(total=4.5)),
        (DELETE, "1", tea(total=4.5), None),
        (INSERT, "2", None, tea(id=2, total=4.5)),
        (DELETE, "2", tea(id=2, total=4.5), None),
    ]
    assert [entry.sequence for entry in entries] == [1, 2, 3, 4, 5]
    assert {entry.table for entry in entries} == {b"orders"}
    assert capture.acked_entries == 5


def test_copy_and_truncate_are_captured_and_a_rollback_leaves_nothing(
    capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    with user.cursor() as cursor, cursor.copy("COPY orders (id) FROM STDIN") as copy:
        copy.write("1\n2\n")
    with user.transaction(force_rollback=True):
        user.execute("INSERT INTO orders VALUES (9)")
    user.execute("TRUNCATE orders")
    found = [told(entry) for entry in taken(capture)]
    assert [(operation, row) for operation, row, *_ in found] == [
        (INSERT, "1"),
        (INSERT, "2"),
        (DELETE, "1"),
        (DELETE, "2"),
    ]
    assert found[2][2]["id"] == 1


def test_large_numbers_are_exact_and_bytes_are_base64(capture: PostgresCapture, user: psycopg.Connection[Any]) -> None:
    photo = bytes(range(256))
    user.execute("SET bytea_output = 'escape'")
    user.execute("INSERT INTO orders VALUES (%s, NULL, %s, 12345678901234567890.123456789)", (2**62 + 1, photo))
    user.execute("UPDATE orders SET photo = NULL")
    first, second = taken(capture)
    assert b"12345678901234567890.123456789" in first.after
    assert json.loads(first.after)["id"] == 2**62 + 1
    assert base64.b64decode(json.loads(first.after)["photo"]) == photo
    assert [json.loads(entry.metadata) for entry in (first, second)] == [{"blobs": ["photo"]}] * 2
    assert json.loads(second.before)["photo"] == json.loads(first.after)["photo"]


def test_moments_do_not_depend_on_the_session(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute("CREATE TABLE visits (day date PRIMARY KEY, at timestamptz, took interval)")
    with PostgresCapture(url, tables=["visits"]) as capture:
        capture.attach()
        user.execute("SET timezone = 'Asia/Tokyo'; SET datestyle = 'German'; SET intervalstyle = 'sql_standard'")
        user.execute("INSERT INTO visits VALUES ('2024-02-01', '2024-01-01 09:00', '1 day 2 hours')")
        (entry,) = taken(capture)
    assert told(entry)[1:] == (
        "2024-02-01",
        None,
        {"day": "2024-02-01", "at": "2024-01-01T00:00:00+00:00", "took": "P1DT2H"},
    )


def test_composite_keys_odd_names_and_new_columns(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute(
        """CREATE TABLE "Line-Items" ("it's" text, "quo""te" int, "a,{b" bytea, PRIMARY KEY ("quo""te", "it's"))"""
    )
    with PostgresCapture(url, tables=["Line-Items"]) as capture:
        capture.attach()
        user.execute("""INSERT INTO "Line-Items" VALUES ('x"y', 7, 'z')""")
        user.execute("""ALTER TABLE "Line-Items" ADD COLUMN more int DEFAULT 3""")
        user.execute("""UPDATE "Line-Items" SET more = 4""")
        first, second = taken(capture)
    assert (first.table, first.row_id) == (b"Line-Items", b'[7,"x\\"y"]')
    assert json.loads(first.metadata) == {"blobs": ["a,{b"]}
    assert (json.loads(second.before)["more"], json.loads(second.after)["more"]) == (3, 4)


def test_writes_go_on_and_are_named_after_the_key_was_renamed(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute("CREATE TABLE lines (shop text, at bigint, item text, PRIMARY KEY (shop, at))")
    with PostgresCapture(url, tables=["orders", "lines"]) as capture:
        capture.attach()
        user.execute("ALTER TABLE orders RENAME COLUMN id TO number")
        user.execute("ALTER TABLE lines RENAME COLUMN at TO place")
        user.execute("INSERT INTO orders (number, photo) VALUES (1, 'abc')")
        user.execute("UPDATE orders SET number = 2")
        user.execute("INSERT INTO lines VALUES ('a', 7)")
        user.execute("ALTER TABLE lines DROP CONSTRAINT lines_pkey")
        user.execute("UPDATE lines SET item = 'tea'")
        user.execute("TRUNCATE orders")
        entries = taken(capture)
    names = [(entry.operation, entry.row_id) for entry in entries]
    assert names[:4] == [(INSERT, b"1"), (DELETE, b"1"), (INSERT, b"2"), (INSERT, b'["a", 7]'.replace(b" ", b""))]
    line = {"shop": "a", "place": 7, "item": None}
    assert [(operation, json.loads(name)) for operation, name in names[4:6]] == [
        (DELETE, line),  # without a key a row is named by all it holds
        (INSERT, line | {"item": "tea"}),
    ]
    assert names[6] == (DELETE, b"2")
    photo = base64.b64encode(b"abc").decode()
    assert [json.loads(entry.before)["photo"] for entry in (entries[1], entries[6])] == [photo] * 2
    assert [json.loads(entries[at].metadata) for at in (0, 1, 2, 6)] == [{"blobs": ["photo"]}] * 4


@pytest.mark.parametrize("text", [r'{"a": "\u0000"}', r'{"a": "\ud800"}', '{"a": 1e999999}'])
def test_json_that_jsonb_cannot_hold_fails_no_write_of_the_application(
    url: str, user: psycopg.Connection[Any], text: str
) -> None:
    user.execute("CREATE TABLE documents (id text PRIMARY KEY, document json)")
    with PostgresCapture(url, tables=["documents"]) as capture:
        capture.attach()
        user.execute("INSERT INTO documents VALUES ('x', %s)", (text,))
        user.execute("UPDATE documents SET id = 'y'")
        user.execute("TRUNCATE documents")
        entries = taken(capture)
    assert [(e.operation, e.row_id) for e in entries] == [
        (INSERT, b"x"),
        (DELETE, b"x"),
        (INSERT, b"y"),
        (DELETE, b"y"),
    ]
    assert all(text.encode() in entry.before + entry.after for entry in entries)


def test_bytes_of_a_column_that_is_new_or_of_a_domain_are_base64(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute("CREATE DOMAIN picture AS bytea")
    user.execute("CREATE TABLE people (id bigint PRIMARY KEY, face picture, name text)")
    with PostgresCapture(url, tables=["people"]) as capture:
        capture.attach()
        user.execute("INSERT INTO people VALUES (1, 'abc', '\\x61')")
        user.execute("ALTER TABLE people ADD COLUMN voice bytea")
        user.execute("UPDATE people SET voice = 'def'")
        first, second = taken(capture)
    assert (json.loads(first.after), json.loads(first.metadata)) == (
        {"id": 1, "face": "YWJj", "name": "\\x61"},
        {"blobs": ["face"]},
    )
    assert (json.loads(second.before)["voice"], json.loads(second.after)["voice"]) == (None, "ZGVm")
    assert json.loads(second.metadata) == {"blobs": ["face", "voice"]}


def test_a_key_longer_than_the_wire_allows_is_its_digest_and_stops_nobody(
    url: str, user: psycopg.Connection[Any]
) -> None:
    user.execute("CREATE TABLE pages (address text PRIMARY KEY)")
    with PostgresCapture(url, tables=["pages"]) as capture:
        capture.attach()
        user.execute("INSERT INTO pages VALUES (repeat('a', 100000)), ('b')")
        entries = taken(capture)
    digest = b"sha256:" + hashlib.sha256(b"a" * 100_000).hexdigest().encode()
    assert [entry.row_id for entry in entries] == [digest, b"b"]
    assert len(json.loads(entries[0].after)["address"]) == 100_000


def test_a_table_in_partitions_can_be_attached_again_and_detached(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute("CREATE TABLE visits (id bigint, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)")
    for name, month in (("january", 1), ("february", 2)):
        user.execute(
            f"CREATE TABLE {name} PARTITION OF visits FOR VALUES FROM ('2024-0{month}-01') TO ('2024-0{month + 1}-01')"
        )
    with PostgresCapture(url, tables=["visits"]) as capture:
        capture.attach()
        assert capture.attach() == ["visits"]
        user.execute("INSERT INTO visits VALUES (1, '2024-01-05')")
        user.execute("UPDATE visits SET day = '2024-02-05'")
        user.execute("TRUNCATE visits")
        entries = taken(capture)
        capture.detach()
    january, february = b'[1,"2024-01-05"]', b'[1,"2024-02-05"]'
    assert [(entry.operation, entry.row_id) for entry in entries] == [
        (INSERT, january),
        (DELETE, january),
        (INSERT, february),
        (DELETE, february),
    ]
    assert {entry.table for entry in entries} == {b"visits"}


def test_what_replication_and_restores_write_is_captured_and_disabled_triggers_are_mended(
    url: str, user: psycopg.Connection[Any]
) -> None:
    user.execute("CREATE TABLE visits (id bigint PRIMARY KEY) PARTITION BY RANGE (id)")
    user.execute("CREATE TABLE low PARTITION OF visits FOR VALUES FROM (0) TO (5)")
    with PostgresCapture(url, tables=["orders", "visits"]) as capture:
        capture.attach()
        user.execute("CREATE TABLE high PARTITION OF visits FOR VALUES FROM (5) TO (9)")
        user.execute("SET session_replication_role = replica")
        user.execute("INSERT INTO orders (id) VALUES (1); TRUNCATE orders; INSERT INTO visits VALUES (1), (7)")
        user.execute("RESET session_replication_role")
        found = [(entry.operation, entry.table, entry.row_id) for entry in taken(capture)]
        orders, visits = [(INSERT, b"orders", b"1"), (DELETE, b"orders", b"1")], b"visits"
        assert found == [*orders, (INSERT, visits, b"1"), (INSERT, visits, b"7")]
        for after in ("", "ALTER TABLE orders ENABLE TRIGGER ALL"):  # as pg_restore --disable-triggers leaves it
            user.execute(f"ALTER TABLE orders DISABLE TRIGGER ALL; {after}")
            capture.attach()
            user.execute(
                "SET session_replication_role = replica; INSERT INTO orders (id) VALUES (2); DELETE FROM orders"
            )
            user.execute("RESET session_replication_role")
            assert [entry.operation for entry in taken(capture)] == [INSERT, DELETE]


def test_a_database_without_an_encoding_is_captured(postgres_url: str) -> None:
    name = f"captured_{uuid.uuid4().hex[:8]}"
    how = "ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {how}")
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(url, autocommit=True) as user, PostgresCapture(url, tables=["t"]) as capture:
        user.execute('CREATE TABLE t ("\u00fc" text PRIMARY KEY, item text)'.encode())
        capture.attach()
        user.execute("INSERT INTO t VALUES ('1', convert_from('\\xff41'::bytea, 'SQL_ASCII')), (E'\\303\\274', 'tea')")
        assert [told(entry) for entry in taken(capture)] == [
            (INSERT, "1", None, {"\u00fc": "1", "item": "\ufffdA"}),
            (INSERT, "\u00fc", None, {"\u00fc": "\u00fc", "item": "tea"}),
        ]
        capture.detach()


def test_a_column_that_a_key_only_includes_is_no_part_of_it(url: str, user: psycopg.Connection[Any]) -> None:
    user.execute("CREATE TABLE stock (id bigint, amount bigint, PRIMARY KEY (id) INCLUDE (amount))")
    with PostgresCapture(url, tables=["stock"]) as capture:
        capture.attach()
        user.execute("INSERT INTO stock VALUES (1, 5)")
        user.execute("UPDATE stock SET amount = 4")
        found = [(entry.operation, entry.row_id) for entry in taken(capture)]
    assert found == [(INSERT, b"1"), (UPDATE, b"1")]


def test_an_entry_is_written_before_a_trigger_of_the_user_changes_the_row_again(
    capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    user.execute("""CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN UPDATE orders SET item = 'second' WHERE id = NEW.id; RETURN NULL; END $$""")
    user.execute('CREATE TRIGGER "A" AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION again()')
    user.execute("INSERT INTO orders VALUES (1, 'first')")
    assert [told(entry)[0] for entry in taken(capture)] == [INSERT, UPDATE]


def test_what_commits_late_is_cut_late_and_never_skipped(
    capture: PostgresCapture, user: psycopg.Connection[Any], url: str
) -> None:
    with psycopg.connect(url) as slow:
        slow.execute("INSERT INTO orders VALUES (1)")
        user.execute("INSERT INTO orders VALUES (2)")
        assert [(entry.sequence, entry.row_id) for entry in taken(capture)] == [(1, b"2")]
        slow.commit()
    assert [(entry.sequence, entry.row_id) for entry in taken(capture)] == [(2, b"1")]


def test_many_writers_lose_nothing_and_rows_keep_their_order(
    capture: PostgresCapture, user: psycopg.Connection[Any], url: str
) -> None:
    user.execute("INSERT INTO orders SELECT n, '0' FROM generate_series(1, 10) n")
    taken(capture)

    def write(seed: int) -> None:
        pick = random.Random(seed)
        with psycopg.connect(url) as connection:
            for _ in range(40):
                for row in sorted(pick.sample(range(1, 11), 3)):  # in order, or they would wait for each other
                    connection.execute("UPDATE orders SET item = (item::int + 1)::text WHERE id = %s", (row,))
                pick.choice([connection.commit, connection.commit, connection.rollback])()

    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for writer in writers:
        writer.start()
    entries = []
    while any(writer.is_alive() for writer in writers):
        batch = capture.cut(entries_max=7, bytes_max=MIB)
        if batch is not None:
            entries += columns.decode(batch.payload).entries()
            capture.ack(batch.sequence)
    entries += taken(capture)
    assert [entry.sequence for entry in entries] == list(range(11, 11 + len(entries)))
    seen = dict.fromkeys(range(1, 11), "0")
    for entry in entries:
        assert json.loads(entry.before)["item"] == seen[int(entry.row_id)]
        seen[int(entry.row_id)] = json.loads(entry.after)["item"]
    assert seen == dict(user.execute("SELECT id, item FROM orders").fetchall())
    assert len(entries) > 200


# As an outbox


def test_it_keeps_entries_given_by_hand_and_refuses_more_than_it_may_hold(url: str, user: Any) -> None:
    entry = RawEntry(0, 5, INSERT, b"t", "ü".encode(), b"", '{"a":"ü"}'.encode(), b'{"x":1}')
    with PostgresCapture(url, bytes_max=300) as capture:
        assert isinstance(capture, Outbox)
        capture.attach()
        assert capture.append([]) == 0
        assert capture.append([entry]) == 1
        assert (capture.pending_entries, capture.pending_batches, capture.changed()) == (1, 0, True)
        with pytest.raises(BufferOverflowError, match="bytes_max"):
            capture.append([entry] * 10)
        assert taken(capture) == [entry._replace(sequence=1)]
        assert (capture.pending_entries, capture.pending_bytes) == (0, 0)


def test_a_batch_is_bounded_in_entries_and_bytes_and_survives_a_restart(url: str, capture: PostgresCapture) -> None:
    capture.append([RawEntry(0, 1, INSERT, b"t", b"1", b"", b'"' + b"x" * 1000 + b'"') for _ in range(6)])
    first = capture.cut(entries_max=2, bytes_max=MIB)
    second = capture.cut(entries_max=9, bytes_max=2500)
    third = capture.cut(entries_max=9, bytes_max=10)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [batch.entries for batch in (first, second, third)] == [2, 2, 1]
    epoch = capture.epoch
    capture.close()
    with PostgresCapture(url, tables=["orders"]) as again:
        assert again.unacked() == [first, second, third]
        assert (again.epoch, again.last_sequence, again.pending_entries) == (epoch, 3, 6)
        again.ack_through(2)
        assert again.unacked() == [third]


def test_rejected_batches_become_dead_letters_and_come_back(capture: PostgresCapture) -> None:
    capture.append([RawEntry(0, 1, INSERT, b"t", b"1", b"", b"{}")])
    batch = capture.cut(entries_max=9, bytes_max=MIB)
    assert batch is not None
    capture.reject(batch.sequence, "no")
    (letter,) = capture.dead_letters()
    assert (letter.sequence, letter.reason, letter.entries, letter.payload) == (1, "no", 1, batch.payload)
    assert (capture.revive(1), capture.dead_letters()) == (1, [])
    assert [entry.sequence for entry in taken(capture)] == [2]


def test_a_new_epoch_numbers_the_batches_there_are_from_the_start(capture: PostgresCapture) -> None:
    capture.append([RawEntry(0, 1, INSERT, b"t", str(n).encode(), b"", b"{}") for n in range(4)])
    cut = [capture.cut(entries_max=1, bytes_max=MIB) for _ in range(3)]
    capture.ack(1)
    before = capture.epoch
    assert capture.renew_epoch(resume_after=1) > before
    assert [(batch.sequence, batch.payload) for batch in capture.unacked()] == [
        (number, batch.payload) for number, batch in enumerate(cut[1:], 2) if batch is not None
    ]
    assert capture.last_sequence == 3


def delivered(url: str) -> Delivered:
    return postgres_digest.look(url, schema="public")


def sums_of(batches: list[OutboxBatch], epoch: int) -> Sums:
    return entry_digest.merged(*(entry_digest.of_payload(b.payload, b.encoding, epoch=epoch) for b in batches))


def test_what_was_acknowledged_is_counted_and_what_was_refused_is_not(
    url: str, capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    user.execute("INSERT INTO orders SELECT n, 'tea ' || n FROM generate_series(1, 9) AS n")
    batches = [capture.cut(entries_max=3, bytes_max=4 * MIB) for _ in range(3)]
    epoch, made = capture.epoch, [batch for batch in batches if batch is not None]
    capture.ack(2)
    capture.reject(3, "no")
    found = delivered(url)
    assert found.sums == {epoch: sums_of([made[1]], epoch)}
    assert found.unacked == {1: sums_of([made[0]], epoch)}
    assert (found.uncut, found.dead_letters, found.summed_after) == (0, 3, None)
    capture.revive(3)
    assert sum(entry.operation == INSERT for entry in taken(capture)) == 3
    capture.ack(1)
    assert entry_digest.total(delivered(url).sums[epoch]).entries == 9


def test_a_batch_of_before_a_new_epoch_is_counted_in_the_new_one(url: str, capture: PostgresCapture, user: Any) -> None:
    user.execute("INSERT INTO orders VALUES (1, 'tea')")
    assert capture.cut(entries_max=3, bytes_max=4 * MIB) is not None
    epoch = capture.renew_epoch()
    [batch] = capture.unacked()
    capture.ack(1)
    assert delivered(url).sums == {epoch: sums_of([batch], epoch)}


def test_a_database_of_before_there_were_sums_says_behind_which_entry_they_begin(
    url: str, capture: PostgresCapture, user: Any
) -> None:
    user.execute("INSERT INTO orders SELECT n FROM generate_series(1, 6) AS n")
    for _ in range(2):
        assert capture.cut(entries_max=3, bytes_max=4 * MIB) is not None
    capture.ack(1)
    user.execute("DROP TABLE _evodb_delivered")
    assert (delivered(url).sums, delivered(url).summed_after) == ({}, 6)
    capture.attach()
    capture.ack(2)
    found = delivered(url)
    assert (found.summed_after, found.summed_epoch) == (3, capture.epoch)
    assert entry_digest.total(found.sums[capture.epoch]).entries == 3


def test_only_one_process_drains(capture: PostgresCapture, url: str) -> None:
    capture.unacked()
    with PostgresCapture(url, tables=["orders"]) as second:
        assert second.pending_entries == 0
        with pytest.raises(OutboxBusyError, match="somebody else"):
            second.cut(entries_max=1, bytes_max=MIB)
        capture.close()
        assert second.unacked() == []


def test_a_call_that_comes_after_close_opens_no_connection_and_keeps_nobody_from_draining(
    capture: PostgresCapture, url: str
) -> None:
    capture.close()
    for late in (lambda: capture.pending_entries, capture.unacked):
        with pytest.raises(OutboxClosedError, match="Open them again"):
            late()
    with PostgresCapture(url, tables=["orders"]) as second:
        assert second.unacked() == []


def test_a_lost_connection_is_an_error_to_try_again_and_then_a_new_one(
    capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    user.execute("INSERT INTO orders VALUES (1)")
    capture.unacked()
    user.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database()"
    )
    with pytest.raises(LakehouseRpcError) as caught:
        capture.unacked()
    assert caught.value.retryable
    assert len(taken(capture)) == 1


# Coming and going


def test_attaching_again_changes_nothing_and_fewer_tables_lose_their_triggers(
    capture: PostgresCapture, user: psycopg.Connection[Any], url: str
) -> None:
    triggers = "SELECT oid, tgname FROM pg_trigger ORDER BY oid"
    before = user.execute(triggers).fetchall()
    assert len(before) == 2
    capture.attach()
    assert user.execute(triggers).fetchall() == before
    with PostgresCapture(url, tables=[]) as fewer:
        fewer.attach()
    assert user.execute(triggers).fetchall() == []


def test_detaching_leaves_nothing(capture: PostgresCapture, user: psycopg.Connection[Any]) -> None:
    user.execute("INSERT INTO orders VALUES (1)")
    with pytest.raises(CaptureError, match="1 changes"):
        capture.detach()
    capture.detach(force=True)
    capture.detach()
    names = "SELECT relname AS name FROM pg_class UNION SELECT proname FROM pg_proc UNION SELECT tgname FROM pg_trigger"
    assert user.execute(f"SELECT name FROM ({names}) AS n WHERE name LIKE '%evodb%'").fetchall() == []
    user.execute("DELETE FROM orders")
    with pytest.raises(CaptureError, match=r"attach\(\)"):
        capture.cut(entries_max=1, bytes_max=1)


@pytest.mark.parametrize(
    ("table", "said"),
    [("nope", "there is no table 'nope'"), ("keyless", "no primary key"), ("ü", "wanted 1 to 255 letters")],
)
def test_a_table_that_cannot_be_captured_is_said_and_nothing_is_attached(
    url: str, user: psycopg.Connection[Any], table: str, said: str
) -> None:
    user.execute('CREATE TABLE keyless (x int); CREATE TABLE "ü" (x int PRIMARY KEY)')
    with PostgresCapture(url, tables=["orders", table]) as capture, pytest.raises(CaptureError, match=said):
        capture.attach()
    assert user.execute("SELECT to_regclass('_evodb_meta'), count(*) FROM pg_trigger").fetchone() == (None, 0)


def test_whoever_may_write_the_table_needs_no_rights_on_ours(
    capture: PostgresCapture, user: psycopg.Connection[Any]
) -> None:
    user.execute(f"CREATE ROLE clerk_{(role := uuid.uuid4().hex)}; GRANT INSERT ON orders TO clerk_{role}")
    user.execute(f"SET ROLE clerk_{role}")
    user.execute("INSERT INTO orders VALUES (1)")
    user.execute("RESET ROLE")
    assert len(taken(capture)) == 1


@pytest.mark.django_db(transaction=True)
async def test_a_client_streams_it_as_any_outbox(capture: PostgresCapture, user: psycopg.Connection[Any]) -> None:
    async with serving() as server:
        async with LakehouseRpcClient(server.url, "shop", outbox=capture) as client:
            await in_thread(lambda: user.execute("INSERT INTO orders SELECT n FROM generate_series(1, 2500) n"))
            await client.drain()
            payloads = await in_thread(lambda: [bytes(row.payload) for row in BatchPayload.objects.order_by("pk")])
        rows = [entry.row_id for payload in payloads for entry in columns.decode(payload).entries()]
        assert rows == [str(number).encode() for number in range(1, 2501)]
