"""The snapshot: what was there before capture arrives once, whoever writes or dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpc import columns
from rpc.capture import snapshot
from rpc.capture import sqlite as capture_module
from rpc.capture.sqlite import SqliteCapture
from rpc.entries import RawEntry

MIB = 1024 * 1024
SNAPSHOT = {"snapshot": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user.db"


@pytest.fixture
def user(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None, timeout=20, check_same_thread=False)
    connection.execute("PRAGMA synchronous = OFF")
    yield connection
    connection.close()


def taken(capture: SqliteCapture) -> list[RawEntry]:
    """Every entry there is and the snapshot writes, acknowledged."""
    found: list[RawEntry] = []
    while capture.uncut_entries():
        batch = capture.cut(entries_max=1000, bytes_max=4 * MIB)
        assert batch is not None
        found += columns.decode(batch.payload).entries()
        capture.ack(batch.sequence)
    assert not capture.changed()
    return found


def told(entry: RawEntry) -> tuple[str, Any, Any]:
    return entry.row_id.decode(), json.loads(entry.after), json.loads(entry.metadata)


def fold(held: dict[str, Any], entries: list[RawEntry]) -> dict[str, Any]:
    """The rows that are left for somebody who takes an INSERT as "the row is now"."""
    for entry in entries:
        if entry.operation == 2:
            held.pop(entry.row_id.decode(), None)
        else:
            held[entry.row_id.decode()] = json.loads(entry.after)
    return held


def numbers(user: sqlite3.Connection, count: int) -> None:
    user.execute("CREATE TABLE numbers (id INTEGER PRIMARY KEY, text TEXT)")
    user.execute("BEGIN")
    user.executemany("INSERT INTO numbers VALUES (?, 'x')", [(number,) for number in range(1, count + 1)])
    user.execute("COMMIT")


def test_the_rows_that_were_there_are_written_as_inserts_that_say_so(path: Path, user: sqlite3.Connection) -> None:
    user.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, photo, n)")
    user.execute("INSERT INTO t VALUES (1, x'00FF', 9007199254740993), (-5, 'text', 0.1)")
    with SqliteCapture(path) as capture:
        assert capture.attach(snapshot=True) == ["t"]
        entries = taken(capture)
        assert {(entry.operation, entry.table, entry.before) for entry in entries} == {(0, b"t", b"")}
        assert [told(entry) for entry in entries] == [
            ("-5", {"id": -5, "photo": "text", "n": 0.1}, SNAPSHOT),
            ("1", {"id": 1, "photo": "AP8=", "n": 2**53 + 1}, {"snapshot": True, "blobs": ["photo"]}),
        ]
        assert capture.acked_entries == 2
        assert capture.snapshot_progress() == [snapshot.Progress("t", rows=2, total=2, done=True)]


SHAPES = {
    "no key": "CREATE TABLE t (a, b, c)",
    "nullable key": "CREATE TABLE t (a, b, c, PRIMARY KEY (a, b))",
    "all rowid names but one": "CREATE TABLE t (rowid, _rowid_, c)",
    "composite": "CREATE TABLE t (a, b, c, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "reordered": "CREATE TABLE t (a TEXT, b INT, c, PRIMARY KEY (b, a)) WITHOUT ROWID",
    "descending": "CREATE TABLE t (a, b, c, PRIMARY KEY (a DESC, b)) WITHOUT ROWID",
    "loose columns, strict key": """CREATE TABLE t (a TEXT COLLATE NOCASE, b, c,
        PRIMARY KEY (a COLLATE BINARY, b)) WITHOUT ROWID""",
    "strict columns, loose key": "CREATE TABLE t (a TEXT, b, c, PRIMARY KEY (a COLLATE NOCASE, b)) WITHOUT ROWID",
}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_any_table_come_once_each(path: Path, user: sqlite3.Connection, shape: str, encoding: str) -> None:
    user.execute(f"PRAGMA encoding = '{encoding}'")
    user.execute(SHAPES[shape])
    pick = random.Random(shape)
    values: list[Any] = [0, 1, -3, 2.5, "a", "A", "ä", "b ", "1", b"", b"\x00", b"a", 2**60, None]
    with_null = "WITHOUT ROWID" not in SHAPES[shape]
    choices = values if with_null else values[:-1]
    for _ in range(120):
        user.execute("INSERT OR IGNORE INTO t VALUES (?, ?, ?)", [pick.choice(choices) for _ in range(3)])
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        found = written_by(capture, rows_max=7)
    assert Counter(found) == Counter(rows_as_json(user))
    assert len(found) == user.execute("SELECT count(*) FROM t").fetchone()[0] > 30


def written_by(capture: SqliteCapture, *, rows_max: int) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_module, "CHUNK_ROWS_MAX", rows_max)
        return [entry.after.decode() for entry in taken(capture)]


def rows_as_json(user: sqlite3.Connection) -> list[str]:
    """As the triggers write them: an update that changes nothing says what a row is."""
    with SqliteCapture(user.execute("PRAGMA database_list").fetchone()[2]) as capture:
        capture.attach()
        column = user.execute("SELECT name FROM pragma_table_info('t') WHERE name IN ('c')").fetchone()[0]
        user.execute(f"UPDATE t SET {column} = {column}")
        return [entry.after.decode() for entry in taken(capture)]


def test_a_snapshot_is_taken_once_and_goes_on_after_a_restart(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 3000)
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        capture.uncut_entries()
        first = capture.pending_entries
        assert 0 < first <= 3000
    with SqliteCapture(path) as capture:
        capture.attach()  # what was promised is kept, asked for again or not
        rows = [entry.row_id for entry in taken(capture)]
        capture.attach(snapshot=True)
        assert taken(capture) == []
    assert [int(row) for row in rows] == list(range(1, 3001))


TAKER = """
import sys
from rpc.capture import sqlite
sqlite.CHUNK_ROWS_MAX = 20
with sqlite.SqliteCapture(sys.argv[1]) as capture:
    capture.attach(snapshot=True)
    while True:
        print(capture.uncut_entries(), flush=True)
"""


def test_a_killed_snapshot_doubles_and_loses_no_row(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 2000)
    waiting = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", TAKER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        while (seen := int(child.stdout.readline())) <= waiting and seen < 2000:
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.stdout.read()
        child.stdout.close()
        child.wait()
        waiting = seen
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        rows = [int(entry.row_id) for entry in taken(capture)]
    assert rows == list(range(1, 2001))


@pytest.mark.parametrize("kind", ["", "WITHOUT ROWID"])
def test_what_is_written_meanwhile_is_never_overtaken(path: Path, user: sqlite3.Connection, kind: str) -> None:
    user.execute("PRAGMA journal_mode = WAL")
    user.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER) {kind}")
    user.executemany("INSERT INTO t VALUES (?, 0)", [(number,) for number in range(0, 4000, 2)])
    stopping, pick, written = threading.Event(), random.Random(7), Counter[str]()

    def write() -> None:
        while not stopping.wait(0.0005) or written.total() < 200:  # SQLite's locks are not fair to who waits
            number = pick.randrange(4200)
            statement = pick.choice(["REPLACE INTO t VALUES (?, 1)", "DELETE FROM t WHERE id = ?"])
            statement = pick.choice([statement, "UPDATE t SET n = n + 1 WHERE id = ?"])
            user.execute(statement, (number,))
            written[statement] += 1

    held: dict[str, Any] = {}
    with SqliteCapture(path) as capture, pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_module, "CHUNK_ROWS_MAX", 50)
        capture.attach(snapshot=True)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            while not all(progress.done for progress in capture.snapshot_progress()):
                capture.uncut_entries()
                batch = capture.cut(entries_max=1000, bytes_max=MIB)
                assert batch is not None
                fold(held, columns.decode(batch.payload).entries())
                capture.ack(batch.sequence)
        finally:
            stopping.set()
            writer.join()
        fold(held, taken(capture))
    assert held == {str(number): {"id": number, "n": n} for number, n in user.execute("SELECT id, n FROM t")}
    assert len(held) > 1000


def test_rows_behind_the_plan_are_left_to_their_triggers(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 3)
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        user.execute("INSERT INTO numbers VALUES (4, 'new')")
        assert [(int(entry.row_id), entry.metadata) for entry in taken(capture)] == [
            (4, b""),
            *((number, b'{"snapshot": true}') for number in (1, 2, 3)),
        ]


def test_a_snapshot_waits_while_enough_waits(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 600)
    with SqliteCapture(path) as capture, pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_module, "CHUNK_ROWS_MAX", 10)
        patch.setattr(capture_module, "SNAPSHOT_WAITING_MAX", 100)
        patch.setattr(capture_module, "SNAPSHOT_CALL_S", 60)
        capture.attach(snapshot=True)
        assert [capture.uncut_entries() for _ in range(3)] == [100, 100, 100]
        assert len(taken(capture)) == 600


def test_a_chunk_is_bounded_in_bytes(path: Path, user: sqlite3.Connection) -> None:
    user.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, photo)")
    user.execute("INSERT INTO t VALUES (1, zeroblob(600000)), (2, zeroblob(300000)), (3, zeroblob(3000000)), (4, 1)")
    with SqliteCapture(path) as capture, pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture_module, "SNAPSHOT_CALL_S", 0.0001)
        capture.attach(snapshot=True)
        seen = []
        while not all(progress.done for progress in capture.snapshot_progress()):
            capture.uncut_entries()
            seen.append(capture.snapshot_progress()[0].rows)
    assert list(dict.fromkeys(seen)) == [2, 3, 4]


def test_a_wide_table_is_written(path: Path, user: sqlite3.Connection) -> None:
    names = [f"c{number}" for number in range(1500)]
    user.execute(f"CREATE TABLE wide ({', '.join(names)})")
    user.execute("INSERT INTO wide (c7) VALUES (7)")
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        (entry,) = taken(capture)
    assert json.loads(entry.after) == {name: 7 if name == "c7" else None for name in names}


def test_a_large_table_is_not_counted_for_long(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 300)
    with SqliteCapture(path) as capture, pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot, "COUNT_INSTRUCTIONS_MAX", 20)
        user.execute("DELETE FROM numbers WHERE id BETWEEN 2 AND 299")
        user.execute(
            "INSERT INTO numbers WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i+1 FROM n LIMIT 500)"
            " SELECT i, '' FROM n"
        )
        capture.attach(snapshot=True)
        assert capture.snapshot_progress()[0].total in (502, 1499)


def test_a_table_that_is_dropped_meanwhile_ends_its_snapshot(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 10)
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        user.execute("DROP TABLE numbers")
        assert taken(capture) == []
        assert capture.snapshot_progress() == []


# What went by before a new schema was noticed


def test_rows_of_a_new_table_are_not_missed(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 2)
    with SqliteCapture(path) as capture:
        capture.attach()
        user.execute("CREATE TABLE late AS SELECT 1 AS a UNION SELECT 2")
        rows = [(entry.table, entry.row_id) for entry in taken(capture)]
        assert rows == [(b"late", b"1"), (b"late", b"2")]
        user.execute("INSERT INTO late VALUES (3)")
        assert [entry.metadata for entry in taken(capture)] == [b""]


def test_a_table_made_while_nobody_looked_is_not_missed(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 2)
    with SqliteCapture(path) as capture:
        capture.attach()
    user.execute("CREATE TABLE late AS SELECT 1 AS a")
    with SqliteCapture(path) as capture:
        capture.attach()
        assert [entry.table for entry in taken(capture)] == [b"late"]


def test_a_table_named_only_now_is_captured_from_now_on(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 2)
    user.execute("CREATE TABLE other AS SELECT 1 AS a")
    with SqliteCapture(path, tables=["other"]) as capture:
        capture.attach()
    with SqliteCapture(path, tables=["other", "numbers"]) as capture:
        capture.attach()
        assert taken(capture) == []


def test_a_table_made_anew_is_written_whole(path: Path, user: sqlite3.Connection) -> None:
    """As Django alters a table of SQLite: a new one is filled and takes the name, and the triggers are gone."""
    numbers(user, 2)
    with SqliteCapture(path) as capture:
        capture.attach()
        user.executescript(
            "BEGIN; CREATE TABLE new (id INTEGER PRIMARY KEY, text, more); INSERT INTO new SELECT *, 0 FROM numbers;"
            "DROP TABLE numbers; ALTER TABLE new RENAME TO numbers; COMMIT; INSERT INTO numbers VALUES (3, 'y', 1)"
        )
        assert [int(entry.row_id) for entry in taken(capture)] == [1, 2, 3]
        user.execute("DELETE FROM numbers WHERE id = 2")
        assert [entry.operation for entry in taken(capture)] == [2]


def test_values_of_a_new_column_are_not_missed(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 3)
    with SqliteCapture(path) as capture:
        capture.attach()
        user.execute("ALTER TABLE numbers ADD COLUMN gate TEXT DEFAULT 'B7'")
        user.execute("UPDATE numbers SET gate = 'C1' WHERE id = 2")
        held = fold({}, taken(capture))
        assert held == {"2": {"id": 2, "text": "x", "gate": "C1"}}
        user.execute("ALTER TABLE numbers RENAME COLUMN gate TO door")
        assert taken(capture) == []


def test_after_a_snapshot_a_new_column_with_a_default_is_news_of_every_row(
    path: Path, user: sqlite3.Connection
) -> None:
    numbers(user, 3)
    with SqliteCapture(path) as capture:
        capture.attach(snapshot=True)
        held = fold({}, taken(capture))
        user.execute("ALTER TABLE numbers ADD COLUMN note TEXT")
        assert taken(capture) == []
        user.execute("ALTER TABLE numbers ADD COLUMN gate TEXT DEFAULT 'B7'")
        fold(held, taken(capture))
    assert held == {str(n): {"id": n, "text": "x", "note": None, "gate": "B7"} for n in (1, 2, 3)}


# Leaving


def schema(user: sqlite3.Connection) -> list[Any]:
    return user.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY rowid").fetchall()


def test_removing_leaves_no_trace(path: Path, user: sqlite3.Connection) -> None:
    numbers(user, 3)
    before, folder = schema(user), sorted(path.parent.iterdir())
    capture = SqliteCapture(path)
    capture.attach(snapshot=True)
    taken(capture)
    assert Path(f"{path}.lock").exists()
    capture.remove()
    assert schema(user) == before
    assert sorted(path.parent.iterdir()) == folder
    assert user.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    user.execute("CREATE TABLE later (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    user.execute("INSERT INTO later DEFAULT VALUES")
    assert user.execute("SELECT * FROM sqlite_sequence").fetchall() == [("later", 1)]


@pytest.mark.parametrize("rows", [0, 1])
def test_numbers_of_the_users_own_tables_stay(path: Path, user: sqlite3.Connection, rows: int) -> None:
    user.execute("CREATE TABLE own (id INTEGER PRIMARY KEY autoincrement)")
    user.executemany("INSERT INTO own VALUES (?)", [(41,)][:rows])
    before = schema(user)
    capture = SqliteCapture(path)
    capture.attach()
    capture.remove()
    assert schema(user) == before
    assert user.execute("SELECT * FROM sqlite_sequence").fetchall() == [("own", 41)][:rows]
