from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rpc import columns
from rpc.capture.sqlite import SqliteCapture
from rpc.capture.values import travelling
from rpc.documents import Document
from rpc.entries import RawEntry
from rpc.errors import CaptureError, OutboxCorruptError
from rpc.outbox import Outbox
from rpc.outbox_file import OutboxBusyError
from rpc.rebuilding import rebuild

MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user.db"


@pytest.fixture
def user(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE flights (id INTEGER PRIMARY KEY, carrier TEXT, delay REAL)")
    connection.execute("CREATE TABLE planes (tailnum TEXT PRIMARY KEY, photo)")
    yield connection
    connection.close()


@pytest.fixture
def capture(path: Path, user: sqlite3.Connection) -> Iterator[SqliteCapture]:
    with SqliteCapture(path) as opened:
        opened.attach()
        yield opened


def taken(capture: SqliteCapture) -> list[RawEntry]:
    """Every uncut entry, acknowledged."""
    found = []
    while (batch := capture.cut(entries_max=1000, bytes_max=4 * MIB)) is not None:
        assert [again.payload for again in capture.unacked(after=batch.sequence - 1)] == [batch.payload]
        found += columns.decode(batch.payload).entries()
        capture.ack(batch.sequence)
    return found


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM sqlite_schema ORDER BY name")]


def tables_of(capture: SqliteCapture) -> list[bytes]:
    return [entry.table for entry in taken(capture)]


def test_every_writer_is_captured_without_knowing(capture: SqliteCapture, path: Path) -> None:
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()"
    subprocess.run([sys.executable, "-c", program, path, "INSERT INTO flights VALUES (1, 'UA', 2.5)"], check=True)
    (entry,) = taken(capture)
    assert (entry.sequence, entry.operation, entry.table, entry.row_id) == (1, 0, b"flights", b"1")
    assert (entry.before, entry.after) == (b"", b'{"id":1,"carrier":"UA","delay":2.5}')


def test_the_time_of_a_change_is_when_it_was_made(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    clock = "SELECT CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    (before,) = user.execute(clock).fetchone()
    user.execute("INSERT INTO flights VALUES (1, 'UA', 2.5)")
    (after,) = user.execute(clock).fetchone()
    assert before - 1 <= taken(capture)[0].timestamp_ms <= after


def test_attaching_again_changes_nothing(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
    version, epoch = user.execute("PRAGMA schema_version").fetchone(), capture.epoch
    assert capture.attach() == ["flights", "planes"]
    assert user.execute("PRAGMA schema_version").fetchone() == version
    assert (capture.epoch, capture.uncut_entries()) == (epoch, 1)


def test_detaching_leaves_the_database_as_it_was(path: Path, user: sqlite3.Connection) -> None:
    before = names(user)
    with SqliteCapture(path) as capture:
        capture.attach()
        user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
        taken(capture)
        capture.detach()
        capture.detach()
        assert names(user) == before
        user.execute("DELETE FROM flights")


def test_detaching_is_refused_while_changes_wait_unless_they_are_given_up(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0), (2, 'AA', 2.0)")
    batch = capture.cut(entries_max=1, bytes_max=MIB)
    assert batch is not None
    capture.reject(batch.sequence, "no")
    with pytest.raises(CaptureError, match="2 changes"):
        capture.detach()
    capture.detach(force=True)
    assert not any(name.startswith("_evodb") for name in names(user))
    assert user.execute("SELECT count(*) FROM flights").fetchone() == (2,)


def test_a_capture_can_be_attached_again(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
    capture.detach(force=True)
    with pytest.raises(CaptureError, match=r"attach\(\)"):
        capture.uncut_entries()
    capture.attach()
    user.execute("INSERT INTO flights VALUES (2, 'UA', 1.0)")
    assert [entry.row_id for entry in taken(capture)] == [b"2"]


def test_only_the_named_tables_are_captured_whatever_their_case(path: Path, user: sqlite3.Connection) -> None:
    with SqliteCapture(path, tables=["PLANES"]) as capture:
        assert capture.attach() == ["planes"]
        user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
        user.execute("INSERT INTO planes VALUES ('N1', NULL)")
        assert tables_of(capture) == [b"planes"]


def test_dropping_a_table_from_the_list_stops_its_capture(path: Path, user: sqlite3.Connection) -> None:
    with SqliteCapture(path) as all_tables, SqliteCapture(path, tables=["planes"]) as fewer:
        all_tables.attach()
        fewer.attach()
        user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
        assert fewer.uncut_entries() == 0


def test_an_unknown_table_is_refused_with_those_there_are(path: Path, user: sqlite3.Connection) -> None:
    user.execute("CREATE VIEW late AS SELECT * FROM flights WHERE delay > 60")
    with SqliteCapture(path, tables=["late"]) as capture, pytest.raises(CaptureError, match="'flights', 'planes'"):
        capture.attach()


@pytest.mark.parametrize("name", ["my table", "flüge", "../escape", 'quo"te', "it's"])
def test_a_table_whose_name_cannot_travel_is_refused_and_nothing_is_attached(
    path: Path, user: sqlite3.Connection, name: str
) -> None:
    user.execute('CREATE TABLE "{}" (x)'.format(name.replace('"', '""')))
    before = names(user)
    with SqliteCapture(path) as capture, pytest.raises(CaptureError, match=r"tables=\[") as caught:
        capture.attach()
    assert repr(name) in str(caught.value)
    assert names(user) == before


def test_views_virtual_and_shadow_tables_are_passed_over(path: Path, user: sqlite3.Connection) -> None:
    user.execute("CREATE VIRTUAL TABLE notes USING fts5(body)")
    user.execute("CREATE VIEW late AS SELECT * FROM flights")
    with SqliteCapture(path) as capture:
        assert capture.attach() == ["flights", "planes"]
        user.execute("INSERT INTO notes VALUES ('hello')")
        assert capture.uncut_entries() == 0


def test_a_table_whose_triggers_do_not_compile_is_refused(path: Path, user: sqlite3.Connection) -> None:
    user.create_function("secret", 1, lambda value: value, deterministic=True)
    user.execute("CREATE UNIQUE INDEX own ON flights (secret(carrier))")
    before = names(user)
    with SqliteCapture(path) as capture, pytest.raises(CaptureError, match="secret"):
        capture.attach()
    assert names(user) == before


def test_a_missing_database_is_not_created(path: Path) -> None:
    with pytest.raises(CaptureError, match="there is no database"):
        SqliteCapture(path)
    assert not path.exists()


def test_a_file_that_is_no_database_is_said(path: Path) -> None:
    path.write_bytes(b"hello, I am a text file\n" * 50)
    with pytest.raises(OutboxCorruptError, match="not a database"):
        SqliteCapture(path)


def test_a_captured_database_is_not_opened_as_a_plain_outbox(capture: SqliteCapture, path: Path) -> None:
    with pytest.raises(OutboxCorruptError, match="SqliteCapture"):
        Outbox(path)


def test_the_journal_mode_of_the_user_stays(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    assert user.execute("PRAGMA journal_mode").fetchone() == ("delete",)


# The schema changes while it is captured


def test_changed_tells_of_waiting_changes(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    assert not capture.changed()
    user.execute("BEGIN")
    user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
    assert not capture.changed()
    user.execute("COMMIT")
    assert capture.changed()
    assert capture.changed()
    taken(capture)
    assert not capture.changed()
    capture.append([RawEntry(0, 1, 0, b"t", b"1", b"", b"{}")])
    assert capture.changed()


def test_a_new_column_is_captured_once_it_was_noticed(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("ALTER TABLE flights ADD COLUMN gate TEXT DEFAULT 'B7'")
    user.execute("ALTER TABLE flights RENAME COLUMN carrier TO airline")
    capture.changed()
    user.execute("INSERT INTO flights (airline) VALUES ('UA')")
    assert json.loads(taken(capture)[0].after) == {"id": 1, "airline": "UA", "delay": None, "gate": "B7"}


def test_new_renamed_and_dropped_tables_are_followed(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("CREATE TABLE airports (code PRIMARY KEY)")
    user.execute("ALTER TABLE flights RENAME TO legs")
    user.execute("DROP TABLE planes")
    capture.changed()
    user.execute("INSERT INTO airports VALUES ('EWR')")
    user.execute("INSERT INTO legs (carrier) VALUES ('UA')")
    assert tables_of(capture) == [b"airports", b"legs"]


def test_a_new_table_that_cannot_be_captured_stops_nothing_and_is_logged_once(
    capture: SqliteCapture, user: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    user.execute('CREATE TABLE "my table" (x)')
    user.execute("INSERT INTO flights (carrier) VALUES ('UA')")
    assert capture.changed()
    assert capture.changed()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "my table" in caplog.text
    assert tables_of(capture) == [b"flights"]


def test_beside_a_table_that_cannot_be_captured_new_tables_and_columns_are_followed_all_the_same(
    capture: SqliteCapture, user: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    user.execute('CREATE TABLE "my table" (x)')
    assert not capture.changed()
    user.execute("CREATE TABLE later (x)")
    user.execute("ALTER TABLE flights ADD COLUMN gate")
    user.execute("INSERT INTO later VALUES (1)")
    user.execute("INSERT INTO flights (gate) VALUES (7)")
    capture.uncut_entries()
    user.execute("INSERT INTO flights (gate) VALUES (8)")
    found = [(entry.table, json.loads(entry.after)) for entry in taken(capture)]
    assert (b"later", {"x": 1}) in found
    assert {7, 8} <= {after.get("gate") for _, after in found}
    assert len(caplog.records) == 1


def test_after_one_of_the_named_tables_is_dropped_the_others_are_followed_and_it_is_when_it_is_back(
    path: Path, user: sqlite3.Connection
) -> None:
    with SqliteCapture(path, tables=["flights", "planes"]) as capture:
        capture.attach()
        capture.changed()
        user.execute("DROP TABLE planes")
        user.execute("ALTER TABLE flights ADD COLUMN gate")
        capture.uncut_entries()
        user.execute("INSERT INTO flights (gate) VALUES (8)")
        user.execute("CREATE TABLE planes (tailnum PRIMARY KEY)")
        user.execute("INSERT INTO planes VALUES ('N1')")
        capture.uncut_entries()
        user.execute("INSERT INTO planes VALUES ('N2')")
        found = [(entry.table, json.loads(entry.after)) for entry in taken(capture)]
    assert found[0][1]["gate"] == 8
    assert found[1:] == [(b"planes", {"tailnum": "N1"}), (b"planes", {"tailnum": "N2"})]


def test_a_table_whose_new_triggers_do_not_compile_keeps_those_it_has_and_holds_up_no_other(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.create_function("shout", 1, str.upper, deterministic=True)
    user.execute("CREATE UNIQUE INDEX loud ON planes (shout(tailnum))")
    user.execute("CREATE TABLE later (x)")
    user.execute("INSERT INTO later VALUES (1)")
    capture.uncut_entries()
    user.execute("INSERT INTO planes (tailnum) VALUES ('n1')")
    assert sorted(tables_of(capture)) == [b"later", b"planes"]
    capture.uncut_entries()
    version = user.execute("PRAGMA schema_version").fetchone()
    user.execute("DELETE FROM later")
    capture.uncut_entries()
    assert user.execute("PRAGMA schema_version").fetchone() == version  # two who follow do not keep each other busy


def test_a_new_column_whose_default_is_a_mere_name_stops_nothing(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("INSERT INTO flights (carrier) VALUES ('UA')")
    capture.changed()
    taken(capture)
    user.execute("ALTER TABLE flights ADD COLUMN state TEXT DEFAULT open")
    user.execute('ALTER TABLE flights ADD COLUMN gate TEXT DEFAULT "it\'s ""A"""')
    user.execute("INSERT INTO flights (carrier, state) VALUES ('AA', 'closed'), ('BA', 'open')")
    capture.uncut_entries()
    found = [json.loads(entry.after) for entry in taken(capture)]
    assert [row["carrier"] for row in found if "state" in row] == ["AA"]  # the others are as the default has them
    assert (found[-1]["state"], found[-1]["gate"]) == ("closed", 'it\'s "A"')


def last_of(found: list[RawEntry]) -> dict[str, dict[str, object] | None]:
    """Each row as its last entry left it."""
    return {entry.row_id.decode(): json.loads(entry.after) if entry.after else None for entry in found}


def test_what_is_written_between_a_rename_of_a_column_and_the_next_look_comes_under_the_new_name(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("INSERT INTO flights (id, carrier) VALUES (1, 'UA'), (2, 'AA'), (3, 'DL')")
    taken(capture)
    user.execute("ALTER TABLE flights RENAME COLUMN carrier TO airline")
    user.execute("UPDATE flights SET airline = 'BA' WHERE id = 1")
    user.execute("DELETE FROM flights WHERE id = 2")
    batch = capture.cut(entries_max=1, bytes_max=MIB)  # even what is cut in between
    assert batch is not None
    capture.ack(batch.sequence)
    assert capture.changed()
    found = last_of(taken(capture))
    assert found == {"1": {"id": 1, "airline": "BA", "delay": None}, "2": None}


def test_columns_that_swap_their_names_under_a_snapshot_swap_their_values(path: Path, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO flights VALUES (1, 'UA', 0.5)")
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        capture.uncut_entries()
        taken(capture)
        for before, after in (("carrier", "c"), ("delay", "carrier"), ("c", "delay")):
            user.execute(f"ALTER TABLE flights RENAME COLUMN {before} TO {after}")
        capture.uncut_entries()
        assert last_of(taken(capture)) == {"1": {"id": 1, "delay": "UA", "carrier": 0.5}}


def test_what_a_new_trigger_of_the_user_does_before_the_next_look_is_told_as_it_ended(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute(
        "CREATE TRIGGER mark AFTER INSERT ON FLIGHTS BEGIN UPDATE flights SET delay = 1.5 WHERE id = NEW.id; END"
    )
    user.execute(
        "CREATE TRIGGER sieve AFTER INSERT ON planes BEGIN DELETE FROM planes WHERE tailnum = NEW.tailnum; END"
    )
    user.execute("INSERT INTO flights (id, carrier) VALUES (1, 'UA')")
    user.execute("INSERT INTO planes VALUES ('N1', NULL)")
    assert capture.changed()
    found = last_of(taken(capture))
    assert found == {"1": {"id": 1, "carrier": "UA", "delay": 1.5}, "N1": None}


def test_a_sqlite_that_trusts_no_schema_is_refused_before_a_write_fails_or_captures(
    path: Path, user: sqlite3.Connection
) -> None:
    with SqliteCapture(path) as capture:
        capture._file.connection.execute("PRAGMA trusted_schema = OFF")
        if (3, 38) <= sqlite3.sqlite_version_info < (3, 41):
            with pytest.raises(CaptureError, match=r"built to trust no schema, which wants 3\.41"):
                capture.attach()
        else:
            capture.attach()
    user.execute("PRAGMA trusted_schema = OFF")
    user.execute("INSERT INTO flights (carrier) VALUES ('UA')")


def test_after_a_unique_index_is_dropped_no_row_is_taken_for_replaced(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("CREATE TABLE kept (key TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID")
    user.execute("CREATE UNIQUE INDEX once ON kept (number)")
    capture.attach()
    user.execute("INSERT INTO kept VALUES ('a', 1), ('b', 2)")
    user.execute("DROP INDEX once")
    user.execute("UPDATE OR REPLACE kept SET number = 3")
    capture.changed()
    found = last_of(taken(capture))
    assert found == {"a": {"key": "a", "number": 3}, "b": {"key": "b", "number": 3}}


KEYS = [1, "1", b"1", 1.5, "1.5", "AB", b"\xab", "", b"", '""', '"1"', "x", -7, "-7", "1e999"]


def test_rows_of_a_key_without_a_type_are_apart_where_their_keys_look_alike(
    path: Path, capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("CREATE TABLE kept (key PRIMARY KEY, value INTEGER)")
    user.execute("CREATE TABLE strict (key ANY PRIMARY KEY) STRICT, WITHOUT ROWID")
    capture.attach()
    user.executemany("INSERT INTO kept VALUES (?, ?)", [(key, number) for number, key in enumerate(KEYS)])
    user.executemany("INSERT INTO strict VALUES (?)", [("1",), (1,)])
    found = [entry for entry in taken(capture) if entry.table == b"kept"]
    names = [entry.row_id.decode() for entry in found]
    assert len(set(names)) == len(KEYS)
    assert [names[KEYS.index(key)] for key in (1, "1", b"1", "x", 1.5)] == ["1", '"1"', "31", "x", "1.5"]
    documents = [
        Document(name, entry.after.decode(), '["key"]' if entry.metadata else None)
        for name, entry in zip(names, found, strict=True)
    ]
    with closing(sqlite3.connect(":memory:")) as made:
        rebuild(made, "kept", documents, {})
        assert made.execute("SELECT key FROM kept ORDER BY value").fetchall() == [(key,) for key in KEYS]
        assert "PRIMARY KEY" in made.execute("SELECT sql FROM sqlite_schema").fetchone()[0]


def test_a_database_that_an_earlier_version_attached_goes_on_naming_its_rows_as_the_lake_has_them(
    path: Path, capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("DELETE FROM _evodb_meta WHERE key = 'names_apart'")
    user.execute("CREATE TABLE kept (key PRIMARY KEY)")
    capture.attach()
    user.execute("INSERT INTO kept VALUES ('1')")
    assert [entry.row_id for entry in taken(capture)] == [b"1"]


# Values that cannot travel as they are


def test_a_blob_is_base64_and_the_metadata_names_its_column(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    photo = bytes(range(256))
    user.execute("INSERT INTO planes VALUES ('N1', ?), ('N2', '{\"$blob\":\"00\"}'), ('N3', x'')", (photo,))
    user.execute("UPDATE planes SET photo = NULL WHERE tailnum = 'N1'")
    first, text, empty, update = taken(capture)
    coded = {"tailnum": "N1", "photo": base64.b64encode(photo).decode()}
    assert (json.loads(first.after), json.loads(first.metadata)) == (coded, {"blobs": ["photo"]})
    assert (json.loads(text.after)["photo"], text.metadata) == ('{"$blob":"00"}', b"")
    assert (json.loads(empty.after)["photo"], json.loads(empty.metadata)) == ("", {"blobs": ["photo"]})
    assert (json.loads(update.before), json.loads(update.metadata)) == (coded, {"blobs": ["photo"]})


def test_a_text_in_a_column_called_as_the_marker_of_a_blob_stops_no_capture(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute('CREATE TABLE names ("$blob" TEXT)')
    capture.attach()
    user.execute("INSERT INTO names VALUES ('A'), ('00'), (x'41')")
    *texts, blob = taken(capture)
    assert [json.loads(entry.after) for entry in texts] == [{"$blob": "A"}, {"$blob": "00"}]
    assert [entry.metadata for entry in texts] == [b"", b""]
    assert (json.loads(blob.after), json.loads(blob.metadata)) == ({"$blob": "QQ=="}, {"blobs": ["$blob"]})


def test_what_is_appended_by_hand_is_never_taken_for_a_blob(capture: SqliteCapture) -> None:
    given = RawEntry(1, 1, 0, b"t", b"1", b"", b'{"x":{"$blob":"00"}}')
    capture.append([given])
    assert [entry.after for entry in taken(capture)] == [given.after]


def test_a_dead_letter_with_blobs_comes_back_as_it_was(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO planes VALUES ('N1', x'00FF')")
    batch = capture.cut(entries_max=1, bytes_max=MIB)
    assert batch is not None
    capture.reject(batch.sequence, "no")
    assert capture.revive(batch.sequence) == 1
    (before,), (after,) = columns.decode(batch.payload).entries(), taken(capture)
    assert after == before._replace(sequence=2)


def test_text_that_is_not_utf8_is_repaired(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO flights (carrier) VALUES (CAST(x'41FF42' AS TEXT))")
    user.execute("INSERT INTO planes (tailnum) VALUES (CAST(x'C3' AS TEXT))")
    flight, plane = taken(capture)
    assert json.loads(flight.after)["carrier"] == "A\ufffdB"
    assert (plane.row_id.decode(), json.loads(plane.after)["tailnum"]) == ("\ufffd", "\ufffd")


def test_a_key_longer_than_the_wire_allows_is_its_digest(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("INSERT INTO planes (tailnum) VALUES (?), (?)", ("n" * 70_000, "n" * 65_535))
    long, fits = taken(capture)
    assert (long.row_id[:7], len(long.row_id)) == (b"sha256:", 71)
    assert len(json.loads(long.after)["tailnum"]) == 70_000
    assert fits.row_id == b"n" * 65_535


def test_a_change_too_large_for_any_message_becomes_a_dead_letter_and_blocks_nobody(
    capture: SqliteCapture, user: sqlite3.Connection
) -> None:
    user.execute("INSERT INTO planes VALUES ('big', zeroblob(13000000)), ('small', 1)")
    assert [entry.row_id for entry in taken(capture)] == [b"small"]
    (letter,) = capture.dead_letters()
    assert "at most" in letter.reason
    assert columns.decode(letter.payload).entries()[0].row_id == b"big"


def test_a_database_in_utf16_is_captured(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA encoding = 'UTF-16'")
    connection.execute("CREATE TABLE streets (x)")
    with SqliteCapture(path) as capture:
        capture.attach()
        assert not capture.changed()
        connection.execute("INSERT INTO streets VALUES ('naïve 🦆')")
        capture.append([RawEntry(0, 1, 0, b"t", "ü".encode(), b"", '{"a":"ü"}'.encode())])
        triggered, appended = taken(capture)
    connection.close()
    assert json.loads(triggered.after) == {"x": "naïve 🦆"}
    assert (triggered.table, appended.row_id, appended.after) == (b"streets", "ü".encode(), '{"a":"ü"}'.encode())


def test_clean_entries_pass_untouched() -> None:
    entries = [RawEntry(1, 1, 0, b"t", b"1", b"", b'{"a":"\xc3\xbc"}')]
    assert travelling(entries) is entries


# Living with the user's writers


def test_pending_bytes_grow_with_the_changes_and_triggers_never_refuse(path: Path, user: sqlite3.Connection) -> None:
    with SqliteCapture(path, bytes_max=100) as capture:
        capture.attach()
        user.executemany("INSERT INTO flights VALUES (?, 'UA', 1.0)", [(number,) for number in range(20)])
        grown = capture.pending_bytes
        assert grown > 100
        assert capture.pending_entries == 20
        user.execute("DELETE FROM flights")
        assert capture.pending_bytes > grown
        assert len(taken(capture)) == 40
        assert capture.pending_bytes == 0


def test_a_busy_database_is_an_error_to_try_again(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    capture._file.connection.execute("PRAGMA busy_timeout = 1")
    user.execute("INSERT INTO flights VALUES (1, 'UA', 1.0)")
    user.execute("BEGIN IMMEDIATE")
    with pytest.raises(CaptureError, match="try again") as caught:
        capture.cut(entries_max=1, bytes_max=MIB)
    assert caught.value.retryable
    user.execute("ROLLBACK")
    assert len(taken(capture)) == 1


def test_our_calls_leave_no_lock_behind(capture: SqliteCapture, user: sqlite3.Connection) -> None:
    user.execute("PRAGMA busy_timeout = 0")
    calls: list[Any] = [capture.changed, capture.attach, capture.dead_letters, capture.renew_epoch, capture.unacked]
    calls += [lambda: capture.pending_bytes, lambda: capture.cut(entries_max=1, bytes_max=MIB), lambda: capture.ack(1)]
    for call in calls:
        call()
        user.execute("BEGIN EXCLUSIVE")
        user.execute("INSERT INTO flights (carrier) VALUES ('UA')")
        user.execute("COMMIT")


def test_only_one_capture_drains_while_others_may_look_and_attach(capture: SqliteCapture, path: Path) -> None:
    assert capture.unacked() == []
    with SqliteCapture(path) as second:
        assert second.attach() == ["flights", "planes"]
        assert second.pending_entries == 0
        with pytest.raises(OutboxBusyError, match=r"user\.db\.lock"):
            second.cut(entries_max=1, bytes_max=MIB)
        with pytest.raises(OutboxBusyError):
            second.detach()


WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
number = 0
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO flights (id, carrier) VALUES (?, 'UA')", (number,))
    if number % 3 == 1:
        connection.execute("DELETE FROM flights WHERE id = ?", (number - 1,))
    connection.execute("COMMIT")
    print(number, flush=True)
    number += 1
    time.sleep(0.001)  # SQLite's lock is not fair; who never rests keeps everybody out
"""


def test_after_a_killed_writer_the_log_replays_to_the_table(path: Path, user: sqlite3.Connection) -> None:
    user.execute("PRAGMA journal_mode = WAL")
    with SqliteCapture(path) as capture:
        capture.attach()
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        seen: list[RawEntry] = []
        for _ in range(30):
            child.stdout.readline()
            seen += taken(capture)
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.read()
        child.stdout.close()
        child.wait()
        seen += taken(capture)
    held: set[int] = set()
    for entry in seen:
        (held.add if entry.operation == 0 else held.remove)(int(entry.row_id))
    assert held == {number for (number,) in user.execute("SELECT id FROM flights")}
    assert len(held) >= 20
    assert [entry.sequence for entry in seen] == list(range(1, len(seen) + 1))
